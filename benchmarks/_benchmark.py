"""What every benchmark is: a name, its options, a run that returns plain values, and tables that show them."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks._rounds import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Result = dict[str, Any]
"""What a run found, ready for JSON."""

Machine = dict[str, str]
"""What it was found on: each entry as it is to be read."""

_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: what it is called by.
        summary: one line.
        run: measures, and returns what it found.
        show: prints that.
        options: adds its own options to a parser.
        quick: values of the options for a run of a second or two that only shows that everything works.
        rooted: whether it needs a directory for files.
        packages: whose versions are worth a mention.
    """

    name: str
    summary: str
    run: Callable[[argparse.Namespace, Progress], Result]
    show: Callable[[Result], None]
    options: Callable[[argparse.ArgumentParser], None]
    quick: Mapping[str, Any]
    rooted: bool = True
    packages: Sequence[str] = field(default=("pydantic", "orjson", "portalocker"))

    def main(self, arguments: Sequence[str]) -> None:
        """Parse, run, and print tables or JSON."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks {self.name}", description=self.summary)
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
        parser.add_argument("--quick", action="store_true", help="a second or two: shows that it works, measures nothing")
        if self.rooted:
            parser.add_argument("--root", metavar="DIR", help=f"where to make the files (default: {_MEMORY}, in memory)")
        self.options(parser)
        options = parser.parse_args(arguments)
        if options.quick:
            parser.set_defaults(**self.quick)  # what was given explicitly stays
            options = parser.parse_args(arguments)
        with folder(options.root) if self.rooted else contextlib.nullcontext() as options.folder:
            options.about = machine(options.folder, self.packages)
            with Progress(self.name) as progress:
                found = self.run(options, progress)
        if options.json:
            print(json.dumps({"benchmark": self.name, "quick": options.quick, "machine": options.about, **found}, indent=2))
        else:
            print(", ".join(options.about.values()), end="\n\n")
            self.show(found)


@contextlib.contextmanager
def folder(root: str | None) -> Iterator[str]:
    """A new directory for files, gone afterwards: in `root` or, without one, in memory."""
    if root is None and os.path.isdir(_MEMORY) and os.access(_MEMORY, os.W_OK):
        root = _MEMORY
    try:
        path = tempfile.mkdtemp(prefix="statefile-benchmark-", dir=root)
    except OSError as error:
        raise SystemExit(f"cannot make a directory in {root}: {error.strerror}") from error
    try:
        yield path
    finally:
        shutil.rmtree(path)


def machine(path: str | None, packages: Iterable[str]) -> Machine:
    """The machine's size and the versions that matter."""
    system = platform.uname()
    cores = len(os.sched_getaffinity(0))
    about = {
        "cores": f"{cores} core{'s' * (cores != 1)}",
        "kernel": f"{system.system} {system.release} {system.machine}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    if path is not None:
        about["file_system"] = f"files on {file_system(path)}"
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            about[name] = f"{name} {importlib.metadata.version(name)}"
    return about


def file_system(path: str) -> str:
    """The type of the file system that `path` is on."""
    device = os.stat(path).st_dev
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            place, _, kind = line.partition(" - ")
            if place.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                return kind.split()[0]
    return "a file system of an unknown type"


def count(text: str) -> int:
    """An option that is a number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def duration(text: str) -> float:
    """An option that is a finite time above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no time above 0")
    return number


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows below a head, the first column to the left and the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in text)


def figure(value: float) -> str:
    """`value` with three digits that mean something."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
