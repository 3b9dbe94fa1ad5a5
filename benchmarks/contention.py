"""Many processes that loop on one lock: who gets it, how often, and after how long a wait.

All processes of a round begin at the same moment and end at the same moment. A wait that is still going on then counts with
what it has lasted: who starves to the end is not forgotten.
"""

from __future__ import annotations

import array
import mmap
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import _locks
from benchmarks._benchmark import Benchmark, Result, count, duration, figure, table
from benchmarks._crew import crew, sleep_until
from benchmarks._rounds import quantile
from benchmarks._strips import STARVED, Strip, draw

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from benchmarks._benchmark import Machine
    from benchmarks._rounds import Progress

CONTENDERS = (
    _locks.FLOCK,
    _locks.STATEFILE,
    _locks.STATEFILE_TIMED,
    _locks.FILELOCK,
    _locks.PORTALOCKER_TIMED,
    _locks.FASTENERS,
    _locks.SQLITE_TIMED,
)


@dataclass(frozen=True)
class Outcome:
    """What one process went through.

    Attributes:
        waits: (since when, until when) for each wait, in seconds from the start; the last may have ended with the round.
        got: when it got the lock, in seconds from the start.
        cpu: seconds of processor time.
        intruders: how often it found another process inside.
    """

    waits: list[tuple[float, float]]
    got: list[float]
    cpu: float
    intruders: int

    @property
    def longest(self) -> float:
        """Its longest wait."""
        return max((until - since for since, until in self.waits), default=0.0)

    @property
    def starved(self) -> bool:
        """Whether it once waited for very long."""
        return self.longest >= STARVED


def contend(pipe: Connection, contender: _locks.Contender, folder: str, hold: float, inside: mmap.mmap) -> None:
    """What each process does: take, hold, release, until the time is up."""
    lock = contender.lock(folder)
    pipe.send("ready")
    begin, end = pipe.recv()
    log = array.array("d")
    intruders = 0
    clock, acquire, release, note, sleep = time.monotonic, lock.acquire, lock.release, log.append, time.sleep
    sleep_until(begin)
    cpu = time.process_time()
    asked = clock()
    while asked < end:
        acquire()
        note(asked)
        note(clock())
        intruders += inside[0]
        inside[0] = 1
        sleep(hold)
        inside[0] = 0
        release()
        asked = clock()
    pipe.send((log, time.process_time() - cpu, intruders))


def one_round(options: argparse.Namespace, contender: _locks.Contender, progress: Progress) -> list[Outcome]:
    """All processes on one lock, once."""
    folder = Path(options.folder, contender.name.replace(" ", "-"))
    folder.mkdir(exist_ok=True)
    lock = contender.lock(str(folder))  # makes the files, and loads what is loaded when first used
    lock.acquire()
    lock.release()
    lock.close()
    with (
        mmap.mmap(-1, 1) as inside,
        crew(contend, [(contender, str(folder), options.hold / 1e3, inside)] * options.processes) as workers,
    ):
        for worker in workers:
            worker.hear()
        begin = time.monotonic() + 0.05
        end = begin + options.seconds
        for worker in workers:
            worker.tell((begin, end))
        while (left := end - time.monotonic()) > 0:
            slept = min(left, 0.25 if progress.shown else left)
            time.sleep(slept)
            progress.step(contender.name, by=slept)
        return [outcome_of(worker.hear(), begin, end) for worker in workers]


def outcome_of(said: tuple[Sequence[float], float, int], begin: float, end: float) -> Outcome:
    log, cpu, intruders = said
    asked, got = log[0::2], log[1::2]
    return Outcome(
        waits=[(since - begin, min(until, end) - begin) for since, until in zip(asked, got, strict=True)],
        got=[moment - begin for moment in got if moment < end],
        cpu=cpu,
        intruders=intruders,
    )


def jain(counts: Sequence[int]) -> float:
    """Jain's fairness index: 1 when all have the same, 1/n when one has everything."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


def run(options: argparse.Namespace, progress: Progress) -> Result:
    contenders, missing = _locks.those_installed(CONTENDERS, options.only)
    if options.plot:
        claim(options.plot)
    progress.begin(options.rounds * len(contenders) * options.seconds)
    rounds: dict[str, list[list[Outcome]]] = {each.name: [] for each in contenders}
    for turn in range(options.rounds):
        first = turn % len(contenders)
        for each in contenders[first:] + contenders[:first]:
            rounds[each.name].append(one_round(options, each, progress))
    plain = [acquisitions(outcomes) for outcomes in rounds.get(_locks.FLOCK.name, [])]
    found: Result = {
        **{name: getattr(options, name) for name in ("processes", "hold", "seconds", "rounds")},
        "results": [row_of(name, each, plain, options.seconds) for name, each in rounds.items()],
        "skipped": missing,
    }
    if options.plot:
        Path(options.plot).write_text(plot(found, rounds, options.about), encoding="utf-8")
    return found


def claim(path: str) -> None:
    """See to it before the work, not after, that a file can be written."""
    try:
        Path(path).touch()
    except OSError as error:
        raise SystemExit(f"cannot write {path}: {error.strerror}") from error


def acquisitions(outcomes: Sequence[Outcome]) -> int:
    return sum(len(outcome.got) for outcome in outcomes)


def row_of(name: str, rounds: Sequence[Sequence[Outcome]], plain: Sequence[int], seconds: float) -> dict[str, Any]:
    """The figures of one lock: waits over all rounds, the rest as the median of the rounds."""
    waits = [(until - since) * 1e3 for outcomes in rounds for outcome in outcomes for since, until in outcome.waits]
    median = statistics.median
    counts = [acquisitions(outcomes) for outcomes in rounds]
    return {
        "lock": name,
        "per_second": median(counts) / seconds,
        "of_flock": median(n / p for n, p in zip(counts, plain, strict=True)) if plain and all(plain) else None,
        "wait_p50_ms": quantile(waits, 0.5),
        "wait_p99_ms": quantile(waits, 0.99),
        "wait_max_ms": max(waits, default=0.0),
        "starved": median(sum(outcome.starved for outcome in outcomes) for outcomes in rounds),
        "jain": median(jain([len(outcome.got) for outcome in outcomes]) for outcomes in rounds),
        "cpu_seconds": median(sum(outcome.cpu for outcome in outcomes) for outcomes in rounds),
        "intruders": sum(outcome.intruders for outcomes in rounds for outcome in outcomes),
    }


def show(found: Result) -> None:
    print(
        f"{found['processes']} processes, each holds the lock for {found['hold']:g} ms, in a loop for {found['seconds']:g} s; "
        f"{found['rounds']} rounds\n"
    )
    rows = [
        [
            row["lock"],
            figure(row["per_second"]),
            "" if row["of_flock"] is None else f"{row['of_flock']:.0%}",
            *(figure(row[f"wait_{name}_ms"]) for name in ("p50", "p99", "max")),
            f"{row['starved']:g} of {found['processes']}",
            f"{row['jain']:.2f}",
            figure(row["cpu_seconds"]),
        ]
        for row in found["results"]
    ]
    print(f"starved: processes that once waited for {STARVED:g} s or longer\n")
    print(table(["lock", "locks/s", "of flock", "wait p50 ms", "p99 ms", "max ms", "starved", "Jain", "CPU s"], rows))
    for row in found["results"]:
        if row["intruders"]:  # then its other figures mean nothing
            print(f"\nBROKEN: {row['lock']} let two processes in at once, {row['intruders']} times")
    _locks.say_who_is_missing(found["skipped"])


def plot(found: Result, rounds: dict[str, list[list[Outcome]]], about: Machine) -> str:
    """A strip for each lock, of its round with the median Jain index."""
    strips = []
    for row in found["results"]:
        ranked = sorted(rounds[row["lock"]], key=lambda outcomes: jain([len(outcome.got) for outcome in outcomes]))
        outcomes = ranked[len(ranked) // 2]
        longest = max(outcome.longest for outcome in outcomes)
        fairness = jain([len(outcome.got) for outcome in outcomes])
        strips.append(
            Strip(
                title=row["lock"],
                figures=f"{acquisitions(outcomes) / found['seconds']:,.0f} locks/s · longest wait {longest * 1e3:,.0f} ms · "
                f"Jain {fairness:.2f}",
                rows=[(outcome.waits, outcome.got) for outcome in outcomes],
            )
        )
    return draw(
        strips,
        seconds=found["seconds"],
        title=f"{found['processes']} processes loop on one lock, each holds it for {found['hold']:g} ms",
        about=", ".join(about.values()),
    )


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=count, default=16, help="processes that want the lock (default: %(default)s)")
    parser.add_argument(
        "--hold", type=duration, default=1.0, metavar="MS", help="how long each holds it, asleep (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=duration, default=5.0, help="length of a round of one lock (default: %(default)s)")
    parser.add_argument("--rounds", type=count, default=3, help="rounds in which the locks take turns (default: %(default)s)")
    _locks.add_option(parser)
    parser.add_argument("--plot", metavar="FILE.svg", help="draw who waited when")


BENCHMARK = Benchmark(
    "contention",
    "many processes that loop on one lock: throughput, waits, fairness; --plot draws them",
    run,
    show,
    options,
    {"processes": 3, "seconds": 0.1, "rounds": 1},
    packages=("portalocker", "filelock", "fasteners"),
)
