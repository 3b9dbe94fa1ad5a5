"""The import of `Container`, which a command needs, beside `import pydantic` with one model defined.

`import statefile` alone loads nothing, so that it says little; `StateFile` is for programs that keep states of their own.

Each import happens in a process of its own. All of them run the same interpreter with the same search path, and find every
module compiled: the byte code of the standard library, of site-packages and of the package goes to one temporary directory,
which a first round fills. Processor time is shown as well, as it says more where other programs run.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import statefile
from benchmarks._benchmark import Benchmark, Result, count, figure, table
from benchmarks._rounds import ratio

if TYPE_CHECKING:
    import argparse

    from benchmarks._rounds import Progress

BARE = "pass"
MODEL = "import pydantic\nclass Model(pydantic.BaseModel):\n    name: str"
PROGRAMS = {
    "python": BARE,
    "pydantic, one model": MODEL,
    "Container": "from statefile import Container",
    "StateFile": "from statefile import StateFile",
    "statefile alone": "import statefile",
}
WHOLE = "Container"
BESIDE = "pydantic, one model"
WHAT = ("import", "process", "cpu")

_TIMED = "import time\nbegin = time.perf_counter()\n{}\nprint(time.perf_counter() - begin)"


class Children:
    """Runs programs in fresh interpreters that differ in nothing else."""

    def __init__(self, cache: str) -> None:
        package = Path(statefile.__file__).parent
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH", "")]))
        self._environment = environment
        self._cache = cache
        self._package = package.name

    def run(self, program: str, *flags: str) -> subprocess.CompletedProcess[str]:
        # -P: the directory that the child starts in is not searched.
        command = [sys.executable, "-P", *flags, "-c", program]
        return subprocess.run(command, env=self._environment, cwd=self._cache, check=True, capture_output=True, text=True)

    def time(self, program: str) -> dict[str, float]:
        """Seconds of the import, of the whole process around it, and of processor time in that process."""
        cpu = cpu_of_children()
        begin = time.perf_counter()
        done = self.run(_TIMED.format(program))
        process = time.perf_counter() - begin
        return {"import": float(done.stdout), "process": process, "cpu": cpu_of_children() - cpu}

    def compile(self) -> None:
        """Run everything once, which leaves the byte code behind."""
        for program in PROGRAMS.values():
            self.run(program)
        if not any(Path(self._cache).rglob(f"{self._package}/__init__.*.pyc")):
            raise SystemExit("no byte code was left behind, so that this would measure the compiler")

    def modules(self, program: str) -> dict[str, float]:
        """The modules that a program imports, with the seconds that each took by itself.

        What a module asks `importlib` for, as pydantic's does for its parts, counts with it.
        """
        lines = self.run(program, "-X", "importtime").stderr.splitlines()
        found = (re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)", line) for line in lines)
        return {match[2]: int(match[1]) / 1e6 for match in found if match}


def cpu_of_children() -> float:
    """Seconds of processor time that all children together have used so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(options: argparse.Namespace, progress: Progress) -> Result:
    names = list(PROGRAMS)
    seconds: dict[str, dict[str, list[float]]] = {name: {what: [] for what in WHAT} for name in names}
    progress.begin((options.rounds + 1) * len(names))
    with tempfile.TemporaryDirectory() as cache:
        children = Children(cache)
        children.compile()
        progress.step("byte code", by=len(names))
        for turn in range(options.rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                for what, value in children.time(PROGRAMS[name]).items():
                    seconds[name][what].append(value)
                progress.step(name)
        more = [children.modules(PROGRAMS[WHOLE]) for _ in range(3)]
        known = children.modules(MODEL)
    rows = [
        {
            "program": name,
            **{f"{what}_ms": statistics.median(seconds[name][what]) * 1e3 for what in WHAT},
            **{f"{what}_ratio": ratio(seconds[name][what], seconds[BESIDE][what]) for what in WHAT},
        }
        for name in names
    ]
    return {"rounds": options.rounds, "results": rows, "modules": beyond(known, more)}


def beyond(known: dict[str, float], runs: list[dict[str, float]]) -> list[dict[str, Any]]:
    """What was imported that is not `known`, the costliest first."""
    extra = {name: statistics.median(run.get(name, 0.0) for run in runs) for name in runs[0] if name not in known}
    return [{"module": name, "self_ms": extra[name] * 1e3} for name in sorted(extra, key=lambda name: -extra[name])]


def show(found: Result) -> None:
    print(f"separate processes that take turns; medians of {found['rounds']} rounds, ratios to {BESIDE}\n")
    rows = [
        [
            row["program"],
            *(cell for what in WHAT for cell in (figure(row[f"{what}_ms"]), f"{row[f'{what}_ratio']:.2f}x")),
        ]
        for row in found["results"]
    ]
    print(table(["program", "import ms", "ratio", "process ms", "ratio", "its CPU ms", "ratio"], rows))
    modules = found["modules"]
    total = sum(row["self_ms"] for row in modules)
    print(f"\n{WHOLE} loads {len(modules)} modules more than {BESIDE}, {total:.0f} ms under -X importtime; the costliest:\n")
    print(table(["module", "self ms"], [[row["module"], figure(row["self_ms"])] for row in modules[:12]]))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=count, default=31, help="rounds in which all programs take turns (default: %(default)s)"
    )


BENCHMARK = Benchmark(
    "import",
    "import of Container beside import pydantic with one model",
    run,
    show,
    options,
    {"rounds": 1},
    rooted=False,
    packages=("pydantic", "orjson"),
)
