"""`StateDir` beside the bare directory: `ids()` beside a sorted listing, `resolve` at three sizes, `load_all` beside reading.

The directory is what a container runtime leaves: for every container a state file and a lock file, one container in four the
first of a sandbox and the others within it. `ids()` is measured with and without the lock files.
"""

from __future__ import annotations

import os
import random
import statistics
from typing import TYPE_CHECKING, Any

import orjson

from benchmarks._benchmark import Benchmark, Result, count, figure, table
from benchmarks._rounds import interleave, ratio
from benchmarks.cycle import DATA
from statefile import Container, FullID, StateDir

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from benchmarks._rounds import Progress

IN_A_SANDBOX = 4
RESOLVE_AMONG = (1_000, 10, 1)
"""A tenth of a percent of all containers, a tenth, and all."""


def names(how_many: int) -> list[FullID]:
    """That many containers with IDs like those that engines give, the same ones every time."""
    chance = random.Random(1)
    made: list[FullID] = []
    for number in range(how_many):
        container = f"{chance.getrandbits(80):020x}"
        sandbox = made[-1].sandbox_id if number % IN_A_SANDBOX else container
        made.append(FullID(sandbox, container))
    return made


def stem(folder: str, full_id: FullID) -> str:
    return f"{folder}/{full_id.container_id}_sandbox:{full_id.sandbox_id}"


def fill(folder: str, full_ids: Sequence[FullID], suffix: str, content: Callable[[FullID], bytes] = lambda _: b"") -> None:
    os.makedirs(folder, exist_ok=True)
    for full_id in full_ids:
        fd = os.open(f"{stem(folder, full_id)}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(fd, content(full_id))
        os.close(fd)


def compare(what: str, seconds: dict[str, list[float]], name: str = "statefile", beside: str | None = "raw") -> dict[str, Any]:
    """A row of the result."""
    return {
        "what": what,
        "statefile_ms": statistics.median(seconds[name]) * 1e3,
        "raw_ms": statistics.median(seconds[beside]) * 1e3 if beside else None,
        "ratio": ratio(seconds[name], seconds[beside]) if beside else None,
    }


def ids_and_resolve(options: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """`ids()` of all containers, and `resolve` among some, more and all of them."""
    everyone = names(options.containers)
    folder = f"{options.folder}/all"
    state_dir = StateDir(folder)
    listing = {"statefile": state_dir.ids, "raw": lambda: sorted(os.listdir(folder))}
    rows: list[dict[str, Any]] = []
    resolved: list[dict[str, Any]] = []
    done = 0
    for part in RESOLVE_AMONG:
        upto = max(done + 1, options.containers // part)
        fill(folder, everyone[done:upto], ".state")
        done = upto
        resolved += resolving(state_dir, everyone[:upto], options, progress)
    rows.append(compare(f"ids() of {done:,}", interleave(listing, rounds=options.rounds, progress=progress)))
    fill(folder, everyone, ".lock")
    rows.append(compare(f"ids() of {done:,} beside their locks", interleave(listing, rounds=options.rounds, progress=progress)))
    return rows + resolved


def resolving(
    state_dir: StateDir, there: Sequence[FullID], options: argparse.Namespace, progress: Progress
) -> list[dict[str, Any]]:
    """`resolve` of an ID that is exact, of one within another's sandbox, and of a beginning."""
    alone = there[0].container_id
    tasks: dict[str, Callable[[], object]] = {"exact ID": lambda: state_dir.resolve(alone)}
    if len(there) > 1:
        member = there[1]
        tasks["full ID in a sandbox"] = lambda: state_dir.resolve(member)
        tasks["exact ID in a sandbox"] = lambda: state_dir.resolve(member.container_id)
        tasks["beginning"] = lambda: state_dir.resolve(alone[:-1])
    seconds = interleave(tasks, rounds=options.rounds, progress=progress)
    return [compare(f"resolve, {name}, among {len(there):,}", seconds, name, None) for name in tasks]


def loading(options: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """`load_all` beside the plainest loop that reads and parses the same files in the same order."""
    folder = f"{options.folder}/states"
    everyone = names(options.states)
    template = orjson.loads(DATA.read_bytes())
    fill(folder, everyone, ".state", lambda full_id: orjson.dumps({**template, "id": full_id.container_id}))
    fill(folder, everyone, ".lock")
    state_dir = StateDir(folder)

    def raw() -> None:
        for name in sorted(os.listdir(folder)):
            if name.endswith(".state"):
                fd = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
                data = os.read(fd, os.fstat(fd).st_size + 1)
                os.close(fd)
                orjson.loads(data)

    def load_all(type_: type[Any]) -> None:
        for _, state in state_dir.load_all(type_):
            if isinstance(state, Exception):
                raise state

    tasks: dict[str, Callable[[], object]] = {
        "dict": lambda: load_all(dict),
        "Container": lambda: load_all(Container),
        "raw": raw,
    }
    seconds = interleave(tasks, rounds=options.rounds, progress=progress)
    return [compare(f"load_all({name}) of {options.states:,}", seconds, name) for name in ("dict", "Container")]


def run(options: argparse.Namespace, progress: Progress) -> Result:
    progress.begin(options.rounds * (2 * 2 + 4 * len(RESOLVE_AMONG) + 3))
    return {
        "rounds": options.rounds,
        "bytes": DATA.stat().st_size,
        "results": ids_and_resolve(options, progress) + loading(options, progress),
    }


def show(found: Result) -> None:
    print(
        f"beside sorted(os.listdir), and beside reading with os and orjson.loads of states of {found['bytes']:,} bytes; "
        f"medians of {found['rounds']} rounds\n"
    )
    rows = [
        [
            row["what"],
            f"{row['statefile_ms']:,.3f}" if row["raw_ms"] is None else figure(row["statefile_ms"]),
            "" if row["raw_ms"] is None else figure(row["raw_ms"]),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}x",
        ]
        for row in found["results"]
    ]
    print(table(["what", "statefile ms", "raw ms", "ratio"], rows))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--containers", type=count, default=100_000, metavar="N", help="containers for ids and resolve (default: %(default)s)"
    )
    parser.add_argument("--states", type=count, default=10_000, metavar="N", help="states for load_all (default: %(default)s)")
    parser.add_argument("--rounds", type=count, default=9, help="rounds in which both sides take turns (default: %(default)s)")


BENCHMARK = Benchmark(
    "listing",
    "ids, resolve and load_all of many containers beside the bare directory",
    run,
    show,
    options,
    {"containers": 10_000, "states": 50, "rounds": 1},
)
