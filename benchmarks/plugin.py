"""A run of pytest that finds the plugin and does not use it, beside one with `-p no:statefile`: what everybody else pays.

Both collect one empty test, in processes of their own that take turns; each round compares a pair. pytest finds the plugin as
it does where the package is installed, by its entry point; all others are turned off, so that theirs do not hide what ours
takes. Every module is found compiled: a first round fills one directory with byte code.
"""

from __future__ import annotations

import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import statefile
from benchmarks._benchmark import Benchmark, Result, count, figure, table
from benchmarks.imports import cpu_of_children

if TYPE_CHECKING:
    import argparse

    from benchmarks._rounds import Progress

ENTRY_POINT = "[pytest11]\nstatefile = statefile.pytest_plugin\n"
WITHOUT, WITH, USED = "without the plugin", "with it, unused", "with it, used once"
WHAT = ("process", "cpu")


class Runs:
    """Runs pytest on one empty test, and on one that uses a fixture."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONDONT"))
        }
        self._environment |= {
            "PYTHONPYCACHEPREFIX": str(self._folder / "byte-code"),
            # The entry point comes first, wherever else one may be.
            "PYTHONPATH": os.pathsep.join([folder, str(Path(statefile.__file__).parent.parent), *filter(None, sys.path)]),
        }
        found = {entry.name for entry in importlib.metadata.entry_points(group="pytest11")} - {"statefile"}
        self._others_off = [option for name in sorted(found) for option in ("-p", f"no:{name}")]
        installed = self._folder / "statefile-0.dist-info"
        installed.mkdir()
        (installed / "METADATA").write_text("Metadata-Version: 2.4\nName: statefile\nVersion: 0\n")
        (installed / "entry_points.txt").write_text(ENTRY_POINT)
        for name, text in (("empty", "def test_empty(): pass"), ("using", "def test_using(statefile_root): pass")):
            (self._folder / f"test_{name}.py").write_text(f"{text}\n")

    def run(self, what: str) -> None:
        options = {
            WITHOUT: ["--collect-only", "-p", "no:statefile", "test_empty.py"],
            WITH: ["--collect-only", "test_empty.py"],
            USED: ["test_using.py"],
        }[what]
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *self._others_off, *options]
        subprocess.run(command, env=self._environment, cwd=self._folder, check=True, stdout=subprocess.PIPE)

    def time(self, what: str) -> dict[str, float]:
        """Seconds of the whole process, and of processor time in it."""
        cpu, begin = cpu_of_children(), time.perf_counter()
        self.run(what)
        return {"process": time.perf_counter() - begin, "cpu": cpu_of_children() - cpu}


def run(options: argparse.Namespace, progress: Progress) -> Result:
    seconds: dict[str, dict[str, list[float]]] = {name: {what: [] for what in WHAT} for name in (WITHOUT, WITH, USED)}
    progress.begin((options.rounds + 1) * len(seconds))
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder)
        for name in seconds:
            runs.run(name)
            progress.step("byte code")
        for turn in range(options.rounds):
            order = [WITHOUT, WITH, USED] if turn % 2 else [USED, WITH, WITHOUT]
            for name in order:
                for what, value in runs.time(name).items():
                    seconds[name][what].append(value)
                progress.step(name)
    rows = [
        {
            "run": name,
            **{f"{what}_ms": statistics.median(seconds[name][what]) * 1e3 for what in WHAT},
            **{f"{what}_more_ms": more(seconds[name][what], seconds[WITHOUT][what]) * 1e3 for what in WHAT},
        }
        for name in seconds
    ]
    return {"rounds": options.rounds, "results": rows}


def more(seconds: list[float], beside: list[float]) -> float:
    """The median of the differences, pair by pair: below 0 where there is less to see than noise."""
    return statistics.median(a - b for a, b in zip(seconds, beside, strict=True))


def show(found: Result) -> None:
    print(f"separate processes that take turns; medians of {found['rounds']} rounds, differences pair by pair\n")
    rows = [
        [row["run"], *(figure(row[f"{what}{more}_ms"]) for what in WHAT for more in ("", "_more"))] for row in found["results"]
    ]
    print(table(["pytest", "process ms", "more", "its CPU ms", "more"], rows))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=count, default=41, help="rounds in which all runs take turns (default: %(default)s)")


BENCHMARK = Benchmark(
    "plugin",
    "a run of pytest with the plugin and without it",
    run,
    show,
    options,
    {"rounds": 1},
    rooted=False,
    packages=("pytest", "pluggy"),
)
