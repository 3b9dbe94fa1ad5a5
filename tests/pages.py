"""The Python in a page of Markdown, block by block, and what runs it: programs as programs, tests through pytest.

A block whose first line is `# NAME.py` is a file: the blocks after it find it beside them, up to the next heading of the second
level or, on a page whose files grow, to the end. One with a test in it, or called `test_…`, is run by pytest, unless it runs
its tests itself; every other one without a name is a program. A block of `text` that follows next is what the program prints,
word for word; for tests, it is lines of pytest's output, in their order, `...` standing for anything.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PATIENCE = 50
"""Seconds for a block that needs one, on a machine that has much else to do."""


class Block(NamedTuple):
    """A block that can be run.

    Attributes:
        line: where it begins in its page.
        code: what it says.
        prints: the block of `text` after it, if one follows next.
        files: the named blocks before it in its section, by name.
    """

    line: int
    code: str
    prints: str | None
    files: Mapping[str, str]

    @property
    def name(self) -> str | None:
        """What its first line calls it."""
        return name_of(self.code)

    @property
    def is_test(self) -> bool:
        """Whether it is for pytest."""
        has_tests = re.search(r"^\s*(async )?def test_", self.code, re.MULTILINE) is not None
        return (has_tests or (self.name or "").startswith("test_")) and "unittest.main(" not in self.code


def name_of(code: str) -> str | None:
    """What the first line of a block calls it."""
    found = re.match(r"# ([\w/]+\.py)\n", code)
    return found[1] if found else None


def blocks(markdown: str, *, growing: bool = False) -> list[Block]:
    """Find the blocks of Python that can be run; a named one that none of these follows could never be seen to work."""
    # A block, or a heading outside of one.
    found = list(re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$|^## ", markdown, re.MULTILINE | re.DOTALL))
    runnable: list[Block] = []
    files: dict[str, str] = {}
    waiting: set[str] = set()
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block[0] == "## " and not growing:
            files = {}
        if block[1] != "python":
            continue
        one = Block(
            line=markdown[: block.start()].count("\n") + 1,
            code=block[2],
            prints=after[2] if after and after[1] == "text" else None,
            files=dict(files),
        )
        if one.name and not one.is_test:
            files[one.name] = one.code
            waiting.add(one.name)
        else:
            runnable.append(one)
            waiting.clear()
    assert not waiting, f"nothing is run after {sorted(waiting)}"
    return runnable


def run(block: Block, directory: Path, *, patience: float = PATIENCE) -> str:
    """Run it in an empty directory, see that it does what the page says, and return its output."""
    for name, code in block.files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(code, encoding="utf-8")
    path = directory / (block.name or ("test_block.py" if block.is_test else "block.py"))
    path.write_text(block.code, encoding="utf-8")
    if not block.is_test:
        said, status = python(directory, path.name, patience=patience)
        assert status == 0, said
        assert block.prints in {None, said}, said
        return said
    said, status = pytest(directory, path.name, patience=patience)
    expected = (block.prints or "").splitlines()
    assert status == any(re.search(r"(\d|\.\.\.) (failed|error)", line) for line in expected), said
    lines = iter(said.splitlines())
    for line in expected:
        assert any(_matches(one, line) for one in lines), f"not in the output, or not here: {line}\n{said}"
    return said


def _matches(said: str, line: str) -> bool:
    """Whether that is what the page's line shows; it may have fewer blanks."""
    pattern = line.replace("[", "[[]").replace("...", "*")
    return any(fnmatch.fnmatchcase(*pair) for pair in ((said, pattern), (" ".join(said.split()), " ".join(pattern.split()))))


def python(directory: Path, *arguments: str, patience: float = PATIENCE) -> tuple[str, int]:
    """Run Python there: what it said, and its exit code. This package is found, and a warning is an error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONWARNINGS": "error",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=patience,
    )
    return done.stdout, done.returncode


def pytest(directory: Path, *arguments: str, patience: float = PATIENCE) -> tuple[str, int]:
    """Run pytest there, with our plugin."""
    options = ["--rootdir=.", "-p", "no:cacheprovider", "--color=no", f"--basetemp={directory}/.pytest"]
    return python(directory, "-m", "pytest", *options, *the_plugin(), *arguments, patience=patience)


def the_plugin() -> list[str]:
    """What a pytest has to be told to load our plugin: nothing where the package is installed, its module elsewhere."""
    installed = importlib.metadata.entry_points(group="pytest11", name="statefile")
    return [] if installed else ["-p", "statefile.pytest_plugin"]
