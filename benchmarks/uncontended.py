"""lock + unlock when nobody else is there: what every command pays."""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING

from benchmarks import _locks
from benchmarks._benchmark import Benchmark, Result, count, figure, table
from benchmarks._rounds import interleave, ratio

if TYPE_CHECKING:
    import argparse

    from benchmarks._rounds import Progress

CONTENDERS = (
    _locks.Contender("flock, descriptor kept", _locks.flock),
    _locks.Contender("flock, open and close", _locks.flock_opened_each_time),
    _locks.STATEFILE,
    _locks.STATEFILE_TIMED,
    _locks.PORTALOCKER_TIMED,
    _locks.FILELOCK,
    _locks.FASTENERS,
    _locks.SQLITE_TIMED,
)
BESIDE = "portalocker.Lock"
SLICE = 0.005
"""Seconds of one lock at a time: with so little to do, what else the machine does is best met by many short slices."""


def once(lock: _locks.Lock) -> None:
    lock.acquire()
    lock.release()


def run(options: argparse.Namespace, progress: Progress) -> Result:
    contenders, missing = _locks.those_installed(CONTENDERS, options.only)
    locks = {each.name: each.lock(options.folder) for each in contenders}
    progress.begin(options.rounds * len(locks))
    try:
        seconds = interleave(
            {name: functools.partial(once, lock) for name, lock in locks.items()},
            rounds=options.rounds,
            progress=progress,
            length=SLICE,
        )
    finally:
        for lock in locks.values():
            lock.close()
    beside = seconds.get(_locks.PORTALOCKER_TIMED.name)
    rows = [
        {"lock": name, "median_us": statistics.median(each) * 1e6, "ratio": None if beside is None else ratio(each, beside)}
        for name, each in seconds.items()
    ]
    return {"rounds": options.rounds, "results": rows, "skipped": missing}


def show(found: Result) -> None:
    print(f"lock + unlock with nobody else there; medians of {found['rounds']} rounds, ratios to {BESIDE}\n")
    rows = [
        [row["lock"], figure(row["median_us"]), "" if row["ratio"] is None else f"{row['ratio']:.2f}x"]
        for row in found["results"]
    ]
    print(table(["lock", "µs", "ratio"], rows))
    _locks.say_who_is_missing(found["skipped"])


def options(parser: argparse.ArgumentParser) -> None:
    _locks.add_option(parser)
    parser.add_argument("--rounds", type=count, default=151, help="rounds in which all locks take turns (default: %(default)s)")


BENCHMARK = Benchmark(
    "uncontended",
    "lock + unlock with nobody else there, beside other locks",
    run,
    show,
    options,
    {"rounds": 2},
    packages=("portalocker", "filelock", "fasteners"),
)
