"""Fair comparison: tasks take turns in many short rounds, and what counts is the median. A bar shows how far it is."""

from __future__ import annotations

import gc
import shutil
import statistics
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SLICE = 0.02
"""Seconds that a task runs at a time: long beside the clock's own cost, short beside what else the machine does."""


class Progress:
    """A bar on stderr while something runs; nothing at all where stderr is no terminal."""

    def __init__(self, title: str) -> None:
        self.shown = sys.stderr.isatty()
        self._title = title
        self._done = 0.0
        self._total = 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def begin(self, total: float) -> None:
        """`total` steps are to come."""
        self._done, self._total = 0.0, total

    def step(self, note: str = "", by: float = 1.0) -> None:
        """`by` more steps are done."""
        self._done += by
        if self.shown:
            share = min(1.0, self._done / self._total)
            bar = ("█" * round(share * 24)).ljust(24, "░")
            line = f"{self._title} {bar} {share:4.0%} {note}"[: shutil.get_terminal_size().columns - 1]
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)


def interleave(
    tasks: Mapping[str, Callable[[], object]], *, rounds: int, progress: Progress, length: float = SLICE
) -> dict[str, list[float]]:
    """Seconds per call of each task, one entry a round.

    Every round runs each task for about `length` seconds (once, if it takes longer), and begins with another one, so that
    what else the machine does falls on all alike. The garbage collector is on, as it is for users, but each task only pays
    for what it makes itself: older objects are frozen, and every slice begins collected.
    """
    calls = {name: _calls_in(task, length) for name, task in tasks.items()}
    names = list(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()
    try:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                gc.collect()
                seconds[name].append(_time(tasks[name], calls[name]))
                progress.step(name)
    finally:
        gc.unfreeze()
    return seconds


def _time(task: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        task()
    return (time.perf_counter() - begin) / calls


def _calls_in(task: Callable[[], object], length: float) -> int:
    task()  # whatever is done the first time only
    once = _time(task, 1)
    if once < length / 100:
        once = _time(task, 20)
    return max(1, int(length / once))


def ratio(seconds: Sequence[float], beside: Sequence[float]) -> float:
    """The median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(seconds, beside, strict=True))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0
