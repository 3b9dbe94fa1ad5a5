"""The programs in examples/ and in the README, run for real: what they say holds, and nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import harness, pages

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent.parent
EXAMPLES = HERE / "examples"
README = HERE / "README.md"

PATIENCE = 100
"""Seconds for a demo that needs 5, on a machine that has much else to do."""


class Playground:
    """A directory for temporary files, and the processes that have to do with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def environment(self) -> dict[str, str]:
        """Temporary files go here; a warning is an error, in the children too."""
        return os.environ | {
            "TMPDIR": str(self.directory),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONWARNINGS": "error",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, *command: str | Path, user: int | None = None) -> subprocess.Popen[str]:
        """Run Python with these arguments, as another user if need be; what it says goes to one pipe."""
        return subprocess.Popen(
            [sys.executable, *command],
            env=self.environment(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run it to its end, which has to be this exit code; what it said."""
        said, found = finish(self.start(*command))
        assert found == code, said
        return said

    def processes(self) -> list[str]:
        """The command lines of those that have this directory in their environment, or something open below it."""
        return [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in os.listdir("/proc") if self._has(pid)]

    def _has(self, pid: str) -> bool:
        place = str(self.directory)
        if not pid.isdecimal() or int(pid) == os.getpid():
            return False
        with contextlib.suppress(OSError):
            links = [f"/proc/{pid}/cwd", *map(str, Path(f"/proc/{pid}/fd").iterdir())]
            if place.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                return True
            return any(os.readlink(link).startswith(place) for link in links)
        return False


def finish(process: subprocess.Popen[str]) -> tuple[str, int]:
    """What it said, and its exit code."""
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.terminate()  # it cleans up then
        said, _ = process.communicate(timeout=PATIENCE)
    return said, process.returncode


@pytest.fixture
def playground(tmp_path: Path) -> Iterator[Playground]:
    """Where an example runs; afterwards no process and no file of it may be there."""
    directory = tmp_path / "playground"
    directory.mkdir()
    found = Playground(directory)
    yield found
    with contextlib.suppress(AssertionError):  # what is still there after that is named below
        harness.until(lambda: not found.processes(), timeout=5)
    assert found.processes() == []
    assert harness.names(directory) == []


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The examples, to be damaged."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__")))


def replace(path: Path, old: str, new: str) -> None:
    """Replace the only `old` in a file."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


# -- the demo ----------------------------------------------------------------------------------------------------------

SECTIONS = (
    "Several processes at once",
    "Killed in the middle of an action",
    "The state directory that runsc wrote",
    "Rewritten, and every key kept",
    "One bad file",
    "In the end",
)


@pytest.mark.timeout(240)
def test_demo_shows_what_it_says(playground: Playground) -> None:
    """Two demos at once show all that they promise, check each claim, and use no colours where no terminal is."""
    for said, code in map(finish, [playground.start(EXAMPLES / "demo.py") for _ in range(2)]):
        assert code == 0, said
        assert re.findall(r"^== (.*) ==$", said, re.MULTILINE) == list(SECTIONS)
        checks = re.findall(r"^ok  \S.*$", said, re.MULTILINE)
        assert re.search(rf"^All {len(checks)} checks passed in \d+\.\d s\.$", said, re.MULTILINE), said
        for verb, error in (
            ("create", "AlreadyExistsError"),
            *((v, "InvalidTransitionError") for v in ("start", "pause", "resume")),
        ):
            assert re.search(rf"^    {verb} +1 +2 x {error} ", said, re.MULTILINE), said
        assert "AlreadyExistsError: container 'web' exists already" in said
        assert "InvalidTransitionError: container 'web' is running: cannot `start`;" in said
        assert re.search(r"^    7f3c0 +container 7f3c0b44e19d in sandbox 7f3c9a5d21be4c0e8d6f$", said, re.MULTILINE)
        assert re.search(r"^    batch-1 +container batch-1 in sandbox batch-1$", said, re.MULTILINE)
        assert re.search(r"^    batch-17 +CorruptStateError: truncated$", said, re.MULTILINE)
        assert "18446744073709551615" in said
        assert "\033" not in said


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (("one_verb.py", "        return 1\n", "        return 0\n"), "FAILED: exactly one could create it"),
        (("demo.py", '"exitStatus", ', ""), "FAILED: 7f3c0b44e19d: all kept"),
        (("demo.py", '"sleep 300 & wait"', '"exit 3"'), "FAILED: "),
    ],
)
def test_demo_fails_when_something_does_not_hold(
    playground: Playground, copied: Path, damage: tuple[str, str, str], complaint: str
) -> None:
    """A demo in which one claim is false ends with exit code 1, names the claim, and leaves nothing behind."""
    file, old, new = damage
    replace(copied / file, old, new)
    replace(copied / "demo.py", "PATIENCE = 10\n", "PATIENCE = 2\n")
    said = playground.run(copied / "demo.py", code=1)
    assert complaint in said, said
    assert "checks passed" not in said


@pytest.mark.timeout(240)
def test_demo_cleans_up_at_ctrl_c(playground: Playground) -> None:
    """Ctrl-C at a terminal, where it is coloured, ends the demo in the middle with exit code 130 and nothing left."""
    ours, theirs = os.openpty()
    # Whoever leads a session and opens a terminal has it as its own: then Ctrl-C is a signal.
    command = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(theirs), sys.executable, str(EXAMPLES / "demo.py")]
    environment = playground.environment() | {"TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, env=environment, cwd=playground.directory, start_new_session=True)
    said = b""
    while b"was killed" not in said:  # one is killed, and its container is there
        said += os.read(ours, 4096)
    os.write(ours, b"\x03")
    code = process.wait(PATIENCE)
    said += os.read(ours, 65536)
    assert code == 128 + signal.SIGINT, said.decode()
    for descriptor in (ours, theirs):
        os.close(descriptor)
    assert b"SIGINT: all is cleaned up" in said
    assert b"\033[32mok\033[0m  exactly one could create it" in said


@pytest.mark.timeout(240)
def test_demo_cleans_up_when_nobody_reads(playground: Playground) -> None:
    """A reader that goes away, such as `head`, ends the demo without a traceback and without a rest."""
    process = playground.start(EXAMPLES / "demo.py")
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["\n", "== Several processes at once ==\n"]
    process.stdout.close()
    assert process.wait(PATIENCE) == 1


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_demo_needs_no_root(root: Path, copied: Path) -> None:
    """The demo works for an ordinary user as it does for root."""
    playground = Playground(root / "playground")
    playground.directory.mkdir()
    examples = Path(shutil.copytree(copied, root / "examples"))
    for path in (playground.directory, examples, *examples.rglob("*")):
        shutil.chown(path, harness.NOBODY, harness.NOBODY)
    try:
        said, code = finish(playground.start("-c", "import statefile", user=harness.NOBODY))
    except PermissionError:
        code = 1
    if code:
        pytest.skip("an ordinary user cannot reach this interpreter or what is installed")
    said, code = finish(playground.start(examples / "demo.py", user=harness.NOBODY))
    assert code == 0, said
    assert "checks passed" in said
    harness.until(lambda: not playground.processes(), timeout=5)
    assert harness.names(playground.directory) == []


# -- the others --------------------------------------------------------------------------------------------------------

QUICKSTART_SAYS = """\
refused to start: it is running
refused to start: it is running
refused to start: it is running
started
killed by SIGTERM
left: []
"""


def test_quickstart(playground: Playground) -> None:
    """The first program that a reader sees fits into 25 lines, and says the same each time."""
    assert len((EXAMPLES / "quickstart.py").read_text().splitlines()) <= 25
    assert playground.run(EXAMPLES / "quickstart.py") == QUICKSTART_SAYS


def test_toy_runtime(playground: Playground) -> None:
    """A container is driven by a runtime of somebody else's, and an action that this one lacks is refused by name."""
    lines = playground.run(EXAMPLES / "toy_runtime.py").splitlines()
    assert [line.split()[0] for line in lines] == [
        "created", "running", "InvalidTransitionError:", "UnsupportedActionError:", "stopped", "left",
    ]  # fmt: skip
    assert lines[-1] == "left under the root: []"


def test_one_verb(playground: Playground, tmp_path: Path) -> None:
    """One process a verb makes a whole life; what is refused has a name and exit code 1, and no ID stands for another."""
    (tmp_path / "config.json").write_text('{"process": {"args": ["/bin/sleep", "100"]}}')
    program, root, bundle = EXAMPLES / "one_verb.py", playground.directory / "root", f"--bundle={tmp_path}"
    assert playground.run(program, root, "web", "create", bundle) == "created\n"
    assert playground.run(program, root, "web", "create", bundle, code=1).startswith("AlreadyExistsError: ")
    assert playground.run(program, root, "we", "destroy", code=1).startswith("NotFoundError: ")
    for verb, status in (("start", "running"), ("pause", "paused"), ("recover", "paused"), ("resume", "running")):
        assert playground.run(program, root, "web", verb) == f"{status}\n"
    assert playground.run(program, root, "web", "destroy") == "destroyed\n"
    assert playground.run(program, root, "b*", "start", code=1).startswith("InvalidIDError: ")
    assert playground.run(program, root, "x", "create", f"--bundle={root}", code=1).startswith("FileNotFoundError: ")
    root.rmdir()


def run_tests(playground: Playground, path: Path) -> tuple[str, int]:
    """Run pytest on a file, with our plugin: what it said, and its exit code."""
    options = ["-q", "--color=no", "-p", "no:cacheprovider", f"--rootdir={path.parent}", *pages.the_plugin()]
    return finish(playground.start("-m", "pytest", *options, path))


def test_tests_of_a_tool(playground: Playground) -> None:
    """Another tool and its unit tests fit into a screen, pass, and leave nothing behind."""
    path = EXAMPLES / "test_my_tool.py"
    assert len(path.read_text().splitlines()) <= 65
    said, code = run_tests(playground, path)
    assert code == 0, said
    assert "3 passed in" in said


@pytest.mark.parametrize(
    ("old", "new", "failed"),
    [
        ('== "running":', '== "created":', "test_what_runs_is_paused"),
        ("(StateFileError, OSError)", "OSError", "test_accidents_hold_nobody_up"),
        ("container.pause(timeout=0.1)", "container.refresh()", "test_a_runtime_that_fails_is_reported"),
    ],
    ids=["pauses the wrong ones", "stops at the first accident", "pauses none"],
)
def test_tests_of_a_tool_find_its_faults(playground: Playground, copied: Path, old: str, new: str, failed: str) -> None:
    """A mistake in that tool fails a test of it, which leaves nothing behind either."""
    replace(copied / "test_my_tool.py", old, new)
    said, code = run_tests(playground, copied / "test_my_tool.py")
    assert code == 1, said
    assert f"::{failed} " in said


# -- the README --------------------------------------------------------------------------------------------------------


def text_of_readme() -> str:
    """What the README says: nothing, as long as there is none."""
    return README.read_text() if README.exists() else ""


def check(program: pages.Block, playground: Playground, directory: Path) -> None:
    """Run it, and compare."""
    path = directory / "program.py"
    path.write_text(program.code)
    said = playground.run(path)
    assert program.prints in {None, said}, said
    for left in playground.directory.iterdir():
        left.rmdir()  # a short program may leave its temporary directory, if there is nothing in it


@pytest.mark.parametrize("program", pages.blocks(text_of_readme()), ids=lambda program: f"line {program.line}")
def test_readme_program_runs(program: pages.Block, playground: Playground, tmp_path: Path) -> None:
    """Each program of the README runs as it is, and prints what the README says."""
    check(program, playground, tmp_path)


@pytest.mark.skipif(not text_of_readme(), reason="no README yet")
def test_readme_shows_the_quickstart() -> None:
    """The README's first program is the quickstart, word for word, with what it prints."""
    first = pages.blocks(text_of_readme())[0]
    assert first.code == (EXAMPLES / "quickstart.py").read_text()
    assert first.prints == QUICKSTART_SAYS


def test_readme_check_finds_a_lie(playground: Playground, tmp_path: Path) -> None:
    """A program that fails, or prints something else than the text says, is found; other languages are left alone."""
    true, lie, crash = pages.blocks(
        "```python\nprint(1)\n```\nsays\n```text\n1\n```\n"
        "```sh\nexit 1\n```\n```text\nno program's\n```\n"
        "```python\nprint(1)\n```\n\n```text\n2\n```\n"
        "```python\n1 / 0\n```\n```sh\nls\n```\n"
    )
    assert (true.line, true.prints, crash.prints) == (1, "1\n", None)
    check(true, playground, tmp_path)
    for program in (lie, crash):
        with pytest.raises(AssertionError):
            check(program, playground, tmp_path)
