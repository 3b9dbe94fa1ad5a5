"""lock → load → save → unlock of a `Container`, beside the same system calls made raw with orjson alone between them.

The raw side makes the calls of the statefile side, each of them and as often (`--syscalls` shows both under strace), on the
same bytes, and checks nothing. So the ratio is what the model, the checks and the promises cost.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from benchmarks._benchmark import Benchmark, Result, count, figure, table
from benchmarks._rounds import interleave, ratio
from statefile import Container, Durability, StateFile

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from benchmarks._rounds import Progress

DATA = Path(__file__).parent / "data" / "runsc.state"
"""A state that runsc wrote."""

F_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", 36)
ONE_BYTE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1, 1, 0)  # a struct flock


class Raw:
    """A state file by the system calls alone."""

    def __init__(self, file: StateFile) -> None:
        self.root = str(file.root_dir)
        self.state = str(file.state_path)
        self.lock_file = str(file.lock_path)
        self.durable = file.durability is Durability.FULL
        self.fd = -1

    def lock(self) -> None:
        os.lstat(self.root)
        self.fd = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC)
        os.fstat(self.fd)
        fcntl.fcntl(self.fd, F_OFD_GETLK, ONE_BYTE)
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.lstat(self.lock_file)
        os.lstat(self.state)

    def load(self) -> Any:  # noqa: ANN401  # a JSON object
        fd = os.open(self.state, os.O_RDONLY | os.O_CLOEXEC)
        data = os.read(fd, os.fstat(fd).st_size + 1)
        os.close(fd)
        return orjson.loads(data)

    def save(self, state: Any) -> None:  # noqa: ANN401  # a JSON object
        data = orjson.dumps(state)
        os.lstat(self.lock_file)
        os.lstat(self.state)
        temporary = f"{self.state}.{os.urandom(6).hex()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fstat(fd)
        os.fchmod(fd, 0o600)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        os.rename(temporary, self.state)
        if self.durable:
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.fsync(fd)
            os.close(fd)

    def unlock(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)

    def cycle(self) -> None:
        self.lock()
        state = self.load()
        state["revision"] += 1
        self.save(state)
        self.unlock()


def cycle(file: StateFile) -> None:
    file.lock()
    container = file.load(Container)
    file.save_locked(container)  # as the next revision
    file.unlock()


def transaction(file: StateFile) -> None:
    with file.transaction(Container):
        pass


def prepare(folder: str, name: str, durability: Durability) -> StateFile:
    """A state file that runsc wrote and statefile has saved once, so that both sides find the same keys."""
    file = StateFile(root_dir=folder, id=name, durability=durability)
    state = orjson.loads(DATA.read_bytes())
    state["id"] = name
    with file.hold_for_new():
        file.save_locked(state)
        file.save_locked(file.load(Container))
    return file


def tasks_for(folder: str, durability: Durability) -> dict[str, Callable[[], object]]:
    """Each part, by statefile and raw."""
    file = prepare(folder, f"cycle-{durability}", durability)
    raw = Raw(prepare(folder, f"raw-{durability}", durability))
    kept = prepare(folder, f"kept-{durability}", durability)  # stays locked, for the part that only saves
    kept.lock()
    container, state = kept.load(Container), raw.load()

    def lock_and_unlock() -> None:
        file.lock()
        file.unlock()

    def raw_lock_and_unlock() -> None:
        raw.lock()
        raw.unlock()

    return {
        "cycle": lambda: cycle(file),
        "cycle, raw": raw.cycle,
        "as a transaction": lambda: transaction(file),
        "as a transaction, raw": raw.cycle,
        "lock + unlock": lock_and_unlock,
        "lock + unlock, raw": raw_lock_and_unlock,
        "load": lambda: file.load(Container),
        "load, raw": raw.load,
        "save": lambda: kept.save_locked(container),
        "save, raw": lambda: raw.save(state),
    }


def run(options: argparse.Namespace, progress: Progress) -> Result:
    if options.syscalls:
        return {"syscalls": [traced(options.folder, durability) for durability in Durability]}
    tasks = {durability: tasks_for(options.folder, durability) for durability in Durability}
    progress.begin(options.rounds * sum(map(len, tasks.values())))
    rows = []
    for durability, each in tasks.items():
        seconds = interleave(each, rounds=options.rounds, progress=progress)
        rows += [
            {
                "durability": str(durability),
                "part": part,
                "statefile_us": statistics.median(seconds[part]) * 1e6,
                "raw_us": statistics.median(seconds[f"{part}, raw"]) * 1e6,
                "ratio": ratio(seconds[part], seconds[f"{part}, raw"]),
            }
            for part in each
            if not part.endswith(", raw")
        ]
    return {"rounds": options.rounds, "bytes": DATA.stat().st_size, "results": rows}


def show(found: Result) -> None:
    if "syscalls" in found:
        show_syscalls(found["syscalls"])
        return
    print(f"a Container in a state of {found['bytes']:,} bytes that runsc wrote; medians of {found['rounds']} rounds\n")
    rows = [
        [f"{row['part']}, {row['durability']}", figure(row["statefile_us"]), figure(row["raw_us"]), f"{row['ratio']:.2f}x"]
        for row in found["results"]
    ]
    print(table(["part, durability", "statefile µs", "raw µs", "ratio"], rows))


# -- proof that both sides ask the same of the system ------------------------------------------------------------------

_NOT_ABOUT_FILES = {"brk", "madvise", "mmap", "mremap", "munmap"}
_MARK = "mark-of-the-benchmark-"


def trace(folder: str, durability: str) -> None:
    """What runs under strace: one cycle of each side after a first one, between marks."""
    file = prepare(folder, f"traced-{durability}", Durability(durability))
    for name, one in {"statefile": lambda: cycle(file), "raw": Raw(file).cycle}.items():
        one()
        os.access(f"{folder}/{_MARK}{name}", os.F_OK)
        one()
        os.access(f"{folder}/{_MARK}end", os.F_OK)


def traced(folder: str, durability: Durability) -> dict[str, Any]:
    """The system calls of one cycle, by side, in order."""
    strace = shutil.which("strace")
    if strace is None:
        raise SystemExit("--syscalls needs strace")
    program = f"from benchmarks.cycle import trace; trace({folder!r}, {str(durability)!r})"
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as log:
        path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
        subprocess.run(
            [strace, "-o", log.name, sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path}
        )
        calls: dict[str, list[str]] = {}
        side: list[str] = []
        for line in log:
            if mark := re.search(rf"{_MARK}(\w+)", line):
                side = calls.setdefault(mark[1], [])
            elif (call := re.match(r"\w+", line)) and call[0] not in _NOT_ABOUT_FILES:
                side.append(call[0])
    return {
        "durability": str(durability),
        "statefile": calls["statefile"],
        "raw": calls["raw"],
        "same": sorted(calls["statefile"]) == sorted(calls["raw"]),
    }


def show_syscalls(found: list[dict[str, Any]]) -> None:
    for each in found:
        print(f"{each['durability']}: {'the same calls' if each['same'] else 'NOT the same calls'}")
        for side in ("statefile", "raw"):
            print(f"  {side:<9} {len(each[side])}: {' '.join(each[side])}")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=count, default=51, help="rounds in which all parts take turns (default: %(default)s)")
    parser.add_argument("--syscalls", action="store_true", help="show the system calls of one cycle of both sides instead")


BENCHMARK = Benchmark(
    "cycle", "lock, load, save, unlock of a Container beside the same system calls made raw", run, show, options, {"rounds": 2}
)
