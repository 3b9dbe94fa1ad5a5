"""How soon a waiter has the lock once it is released, what waiting costs, and whom a stopped waiter delays.

- After a hold of 100 ms (and up to 50 ms more, so that no poller is in step with it): the time from just before the release
  until one waiter has the lock.
- `--long`: the processor time of a waiter that waits 10 s.
- A waiter that SIGSTOP stops while it waits, and two others that loop on the lock: how long nobody is inside, and how many
  locks they take, beside the same without it.
"""

from __future__ import annotations

import array
import contextlib
import random
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import _locks
from benchmarks._benchmark import Benchmark, Result, count, duration, figure, table
from benchmarks._crew import Worker, crew
from benchmarks._rounds import quantile

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from benchmarks._rounds import Progress

CONTENDERS = (
    _locks.FLOCK,
    _locks.STATEFILE,
    _locks.STATEFILE_TIMED,
    _locks.FILELOCK,
    _locks.FILELOCK_TIMED,
    _locks.PORTALOCKER,
    _locks.PORTALOCKER_TIMED,
    _locks.FASTENERS,
    _locks.FASTENERS_TIMED,
    _locks.SQLITE_TIMED,
)
JITTER = 0.05
LONG_WAIT = 10.0
HELD_BY_OTHERS = 0.001
TO_QUEUE = 0.05
"""Seconds in which a process that was told to take the lock has surely begun to wait for it."""


class Scene:
    """One lock, held by this process when it likes, and a directory for it."""

    def __init__(self, contender: _locks.Contender, folder: str) -> None:
        self.contender = contender
        self.folder = str(Path(folder, contender.name.replace(" ", "-")))
        Path(self.folder).mkdir(exist_ok=True)
        warm = contender.lock(self.folder)
        warm.acquire()
        warm.release()
        warm.close()

    @property
    def job(self) -> tuple[_locks.Contender, str]:
        """For a process that is to wait here."""
        return self.contender, self.folder

    def take(self) -> _locks.Lock:
        """The lock, held by this process. Taken after a fork, never before: no child may share it."""
        lock = self.contender.lock(self.folder)
        lock.acquire()
        return lock


def give(lock: _locks.Lock) -> None:
    lock.release()
    lock.close()


# -- from release to acquisition ---------------------------------------------------------------------------------------


def wait_when_told(pipe: Connection, contender: _locks.Contender, folder: str) -> None:
    """Take the lock, give it back, and say when it was taken and what the wait cost."""
    lock = contender.lock(folder)
    while True:
        pipe.recv()
        cpu = time.process_time()
        lock.acquire()
        got = time.monotonic()
        cpu = time.process_time() - cpu
        lock.release()
        pipe.send((got, cpu))


def hand_over(scene: Scene, waiter: Worker, hold: float) -> tuple[float, float]:
    """Seconds from the release until the waiter has the lock, and its processor time."""
    lock = scene.take()
    waiter.tell()
    time.sleep(hold)
    released = time.monotonic()
    give(lock)
    got, cpu = waiter.hear()
    return got - released, cpu


def delays(scenes: Sequence[Scene], options: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    chance = random.Random(1)
    found: dict[str, list[float]] = {scene.contender.name: [] for scene in scenes}
    with crew(wait_when_told, [scene.job for scene in scenes]) as waiters:
        for _ in range(options.rounds):
            for scene, waiter in zip(scenes, waiters, strict=True):
                hold = options.hold / 1e3 + chance.uniform(0, JITTER)
                found[scene.contender.name].append(hand_over(scene, waiter, hold)[0])
                progress.step(scene.contender.name, by=hold)
    return [
        {"lock": name, "median_ms": statistics.median(each) * 1e3, "p99_ms": quantile(each, 0.99) * 1e3}
        for name, each in found.items()
    ]


def long_waits(scenes: Sequence[Scene], progress: Progress) -> list[dict[str, Any]]:
    """Every lock has one waiter, and all wait at once: they wait for different things, and do nothing meanwhile."""
    with crew(wait_when_told, [scene.job for scene in scenes]) as waiters:
        held = [scene.take() for scene in scenes]
        for waiter in waiters:
            waiter.tell()
        for _ in range(int(LONG_WAIT)):
            time.sleep(1)
            progress.step("a long wait")
        for lock in held:
            give(lock)
        return [
            {"lock": scene.contender.name, "cpu_ms": waiter.hear()[1] * 1e3}
            for scene, waiter in zip(scenes, waiters, strict=True)
        ]


# -- beside a stopped waiter -------------------------------------------------------------------------------------------


def loop_when_told(pipe: Connection, contender: _locks.Contender, folder: str) -> None:
    """Take, hold, give back until the moment that is told, and say when this process was inside."""
    lock = contender.lock(folder)
    end = pipe.recv()
    inside = array.array("d")
    while time.monotonic() < end:
        lock.acquire()
        inside.append(time.monotonic())
        time.sleep(HELD_BY_OTHERS)
        inside.append(time.monotonic())
        lock.release()
    pipe.send(inside)


def beside(scene: Scene, seconds: float, *, stopped: bool) -> tuple[float, int] | None:
    """The longest time that nobody was inside, and how often somebody was; `None` if the others were blocked for good."""
    with crew(loop_when_told, [scene.job] * 2) as others, crew(wait_when_told, [scene.job] * stopped) as victims:
        lock = scene.take()
        for victim in victims:
            victim.tell()
            time.sleep(TO_QUEUE)
            victim.stop()
        end = time.monotonic() + TO_QUEUE + seconds
        for other in others:
            other.tell(end)
        time.sleep(TO_QUEUE)
        released = time.monotonic()
        give(lock)
        with contextlib.suppress(TimeoutError):
            logs = [other.hear(seconds + 5) for other in others]
            spans = sorted((log[i], log[i + 1]) for log in logs for i in range(0, len(log), 2))
            gaps = [after[0] - before[1] for before, after in pairwise([(released, released), *spans])]
            return max(gaps), len(spans)
    return None


def beside_the_stopped(scenes: Sequence[Scene], options: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    found: dict[tuple[str, bool], list[tuple[float, int] | None]] = {}
    for _ in range(options.stops):
        for scene in scenes:
            for stopped in (False, True):
                outcome = beside(scene, options.seconds, stopped=stopped)
                found.setdefault((scene.contender.name, stopped), []).append(outcome)
                progress.step(f"{scene.contender.name}, a stopped waiter", by=options.seconds)
    return [
        {
            "lock": scene.contender.name,
            "blocked": sum(outcome is None for outcome in found[scene.contender.name, True]),
            **{
                f"{key}_{'stopped' if stopped else 'alone'}": statistics.median([each[place] for each in known])
                if known
                else None
                for stopped in (False, True)
                for known in [[each for each in found[scene.contender.name, stopped] if each is not None]]
                for place, key in enumerate(("idle_seconds", "locks"))
            },
        }
        for scene in scenes
    ]


# -- all of it ---------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace, progress: Progress) -> Result:
    contenders, missing = _locks.those_installed(CONTENDERS, options.only)
    scenes = [Scene(each, options.folder) for each in contenders]
    progress.begin(
        len(scenes) * (options.rounds * (options.hold / 1e3 + JITTER / 2) + options.stops * 2 * options.seconds)
        + LONG_WAIT * options.long
    )
    return {
        **{name: getattr(options, name) for name in ("rounds", "hold", "stops", "seconds")},
        "results": delays(scenes, options, progress),
        "stopped": beside_the_stopped(scenes, options, progress),
        "long": long_waits(scenes, progress) if options.long else None,
        "skipped": missing,
    }


def show(found: Result) -> None:
    print(
        f"from the release to the acquisition by one waiter, after a hold of {found['hold']:g} ms; {found['rounds']} rounds\n"
    )
    rows = [[row["lock"], figure(row["median_ms"]), figure(row["p99_ms"])] for row in found["results"]]
    print(table(["lock", "median ms", "p99 ms"], rows))
    print(
        f"\ntwo processes loop on the lock for {found['seconds']:g} s, alone and beside a waiter that SIGSTOP has stopped; "
        f"medians of {found['stops']} rounds\n"
    )
    print(table(["lock", "nobody inside for ms", "beside it", "locks", "beside it"], map(row_of_stopped, found["stopped"])))
    if found["long"] is not None:
        print(f"\nprocessor time of a waiter that waits {LONG_WAIT:g} s\n")
        print(table(["lock", "CPU ms"], [[row["lock"], figure(row["cpu_ms"])] for row in found["long"]]))
    _locks.say_who_is_missing(found["skipped"])


def row_of_stopped(row: dict[str, Any]) -> list[str]:
    cells = [row["lock"]]
    for key, factor in (("idle_seconds", 1e3), ("locks", 1)):
        for case in ("alone", "stopped"):
            value = row[f"{key}_{case}"]
            cells.append("BLOCKED" if value is None else figure(value * factor))
    if row["blocked"] and row["locks_stopped"] is not None:
        cells[0] += f" (BLOCKED in {row['blocked']} rounds)"
    return cells


def options(parser: argparse.ArgumentParser) -> None:
    _locks.add_option(parser)
    parser.add_argument("--rounds", type=count, default=50, help="rounds in which the locks take turns (default: %(default)s)")
    parser.add_argument(
        "--hold", type=duration, default=100.0, metavar="MS", help="how long the lock is held (default: %(default)s)"
    )
    parser.add_argument("--stops", type=count, default=5, help="rounds beside a stopped waiter (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=duration, default=0.5, help="how long two others loop beside it (default: %(default)s)"
    )
    parser.add_argument("--long", action="store_true", help=f"also the processor time of a wait of {LONG_WAIT:g} s")


BENCHMARK = Benchmark(
    "handover",
    "from release to acquisition by a waiter, what waiting costs, whom a stopped waiter delays",
    run,
    show,
    options,
    {"rounds": 1, "hold": 10.0, "stops": 1, "seconds": 0.05},
    packages=("portalocker", "filelock", "fasteners"),
)
