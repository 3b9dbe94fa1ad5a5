"""The pytest plugin, in inner runs of pytest: what its fixtures give, what they clean up, and what a run without them pays."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from statefile import Presence, ProcessRef
from tests.pages import the_plugin

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["pytester"]

INSTALLED = bool(importlib.metadata.entry_points(group="pytest11", name="statefile"))
OPTIONS = [*the_plugin(), "-p", "no:cacheprovider", "-W", "error"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the outer run is for an inner one; in CI, pytest would repeat whole messages in its summary."""
    for name in [name for name in os.environ if name.startswith("PYTEST_") or name in {"CI", "BUILD_NUMBER"}]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Runs pytest on the text of one test file, in a process of its own: an inner run in ours would unload what it loaded."""

    def run_text(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_inner=PREAMBLE + text)
        return pytester.runpytest_subprocess(*OPTIONS, *options)

    return run_text


PREAMBLE = """
import os, signal, subprocess, sys, threading
from pathlib import Path
import pytest
from statefile import Container, ProcessRef, ProcessRuntime, StateDir, StateFile, Status, testing

SLEEP = {"process": {"args": ["/bin/sleep", "100"]}}
"""


def left_in(result: pytest.RunResult) -> list[str]:
    """What the run says that a test left behind; the run has one test, and it failed for nothing else."""
    result.assert_outcomes(passed=1, errors=1)
    said = result.stdout.str()
    assert said.count("the test left something behind, which is cleaned up now:") == 1
    return re.findall(r"^(?:E +)?- (.+)$", said, re.MULTILINE)


def assert_gone(pid: int | str) -> None:
    """No such process lives."""
    with contextlib.suppress(ProcessLookupError):
        assert ProcessRef.of(int(pid)).presence() is Presence.GONE


# -- what the fixtures give --------------------------------------------------------------------------------------------


def test_each_test_has_its_own(run: Callable[..., pytest.RunResult]) -> None:
    """Each test gets an empty root, a runtime without calls and containers that are its own; afterwards all are gone."""
    result = run("""
seen = []

@pytest.mark.parametrize("turn", [1, 2])
def test_all(statefile_root, fake_runtime, container_factory, turn):
    assert list(statefile_root.iterdir()) == []
    assert not fake_runtime.calls
    one, two, named = container_factory(), container_factory(), container_factory("web", status=Status.RUNNING)
    assert [full.container_id for full in StateDir(statefile_root).ids()] == ["c1", "c2", "web"] == [one.id, two.id, named.id]
    named.pause()
    assert Container.load(statefile_root, "web", runtime=fake_runtime).status == "paused"
    assert fake_runtime.calls
    seen.append((statefile_root, named.init))

def test_after():
    assert len({root for root, _ in seen}) == 2
    for root, init in seen:
        assert not root.exists()
        assert init.presence().value == "gone"
""")
    result.assert_outcomes(passed=3)


def test_a_runtime_of_ones_own_for_one_container(run: Callable[..., pytest.RunResult]) -> None:
    """A container that the factory makes with another runtime is driven, and destroyed, by that one."""
    result = run("""
def test_it(container_factory, fake_runtime):
    with testing.FakeRuntime() as other:
        one = container_factory(runtime=other)
        one.pause()
        assert other.calls
        assert not fake_runtime.calls
        one.destroy()
""")
    result.assert_outcomes(passed=1)


def test_what_a_test_destroyed_itself_is_left_alone(run: Callable[..., pytest.RunResult]) -> None:
    """A container of the factory's may be destroyed by the test, and its ID taken anew by the code under test."""
    result = run("""
def test_it(container_factory, statefile_root, fake_runtime):
    container_factory("web").destroy()
    container_factory("web", status=Status.RUNNING)
""")
    result.assert_outcomes(passed=1)


def test_what_the_factory_made_is_no_leak(run: Callable[..., pytest.RunResult]) -> None:
    """A container of the factory's may be left in any status and after any accident, also if it cannot be destroyed."""
    result = run("""
@pytest.mark.parametrize("status", ["creating", "created", "running", "paused", "stopped"])
def test_status(container_factory, status):
    container_factory(status=status)

@pytest.mark.parametrize("fate", ["live", "dead", "reused", "rebooted", "unknown"])
def test_fate(container_factory, fate):
    container_factory(process=fate)

def test_root_goes_first(fake_runtime, statefile_root, container_factory):
    container_factory()

def test_script(container_factory, fake_runtime):
    fake_runtime.fail("destroy", OSError("a bad day"), times=None)
    container = container_factory()
    container.execute(["sh"])
    with testing.held_lock(container):
        testing.corrupt(container, "truncated")
""")
    result.assert_outcomes(passed=12)


OVERRIDES = {
    "statefile_root": """
@pytest.fixture
def statefile_root(tmp_path):
    return tmp_path / "mine"
""",
    "statefile_root, extended": """
@pytest.fixture
def statefile_root(statefile_root):
    (statefile_root / "mine").mkdir()
    return statefile_root / "mine"
""",
    "fake_runtime": """
@pytest.fixture
def fake_runtime():
    with testing.FakeRuntime() as runtime:
        runtime.name = "mine"
        yield runtime
""",
    "fake_runtime, extended": """
@pytest.fixture
def fake_runtime(fake_runtime):
    fake_runtime.name = "mine"
    return fake_runtime
""",
    "container_factory": """
@pytest.fixture
def container_factory(statefile_root, fake_runtime):
    def mine(*args, **kwargs):
        return testing.make_container(statefile_root, *args, runtime=fake_runtime, annotations={}, **kwargs)
    mine.name = "mine"
    return mine
""",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_each_fixture_can_be_overridden(override: str, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    """What a conftest has in the place of a fixture, or on top of it, is what the other fixtures use."""
    pytester.makeconftest(PREAMBLE + OVERRIDES[override])
    fixture = override.partition(",")[0]
    result = run(f"""
def test_it(statefile_root, fake_runtime, container_factory, request):
    found = request.getfixturevalue({fixture!r})
    assert getattr(found, "name", "") == "mine"
    if {fixture!r} == "container_factory":
        return
    container = container_factory()
    assert container.saver.state_path.parent == statefile_root
    container.pause()
    assert fake_runtime.calls
""")
    result.assert_outcomes(passed=1)


# -- what a test leaves ------------------------------------------------------------------------------------------------


def test_a_record_is_no_leak(run: Callable[..., pytest.RunResult]) -> None:
    """Containers without a living process, states without a container and files of the test's own may stay."""
    result = run("""
def test_it(statefile_root, fake_runtime):
    gone = Container.new(statefile_root, "gone", spec=SLEEP, runtime=fake_runtime)
    gone.start()
    gone.signal(signal.SIGKILL)
    gone.wait(timeout=10)
    real = Container.new(statefile_root, "real", spec={"process": {"args": ["/bin/true"]}}, runtime=ProcessRuntime())
    real.start()
    real.wait(timeout=10)
    file = StateFile(root_dir=statefile_root, id="plain")
    with file.hold_for_new():
        file.save_locked({"a": 1})
    (statefile_root / "notes.txt").write_text("mine")
""")
    result.assert_outcomes(passed=1)


def test_a_process_left_running_is_named_and_ended(run: Callable[..., pytest.RunResult], pytester: pytest.Pytester) -> None:
    """A real process of a container that the code under test made and left fails that test, with its name, status and PID."""
    result = run("""
def test_it(statefile_root):
    container = Container.new(statefile_root, "web", spec=SLEEP, runtime=ProcessRuntime())
    container.start()
    Path("pids").write_text(f"{container.init.pid} {container.helpers['monitor'].pid}")
""")
    (said,) = left_in(result)
    first, monitor = (pytester.path / "pids").read_text().split()
    assert said.startswith("container web, running: ")
    assert f"pid {first} (/bin/sleep 100)" in said
    assert said.endswith("destroy it, or make it with container_factory")
    assert_gone(first)
    assert_gone(monitor)


@pytest.mark.parametrize("fixtures", ["statefile_root, fake_runtime", "fake_runtime, statefile_root"])
def test_a_process_of_the_fake_runtime_is_named_and_ended(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester, fixtures: str
) -> None:
    """A container that the code under test left with the fake runtime fails that test, whichever fixture it names first."""
    result = run(f"""
def test_it({fixtures}):
    container = Container.new(statefile_root, "web", spec=SLEEP, runtime=fake_runtime)
    Path("pid").write_text(str(container.init.pid))
""")
    (said,) = left_in(result)
    pid = (pytester.path / "pid").read_text()
    assert re.match(rf"container web, created: pid {pid} \(.+\) still runs; ", said)
    assert_gone(pid)


def test_a_process_under_a_root_of_ones_own_is_found(run: Callable[..., pytest.RunResult], pytester: pytest.Pytester) -> None:
    """What the fake runtime still runs fails the test wherever its record is, also if no record names the process."""
    result = run("""
def test_it(tmp_path, fake_runtime):
    container = Container.new(tmp_path / "mine", "web", spec=SLEEP, runtime=fake_runtime)
    Path("pid").write_text(str(container.init.pid))
    with container.saver.transaction(Container) as record:
        record.status, record.init = "creating", None
""")
    (said,) = left_in(result)
    pid = (pytester.path / "pid").read_text()
    assert said.startswith(f"container web, creating: pid {pid} (cat) still runs; ")
    assert_gone(pid)


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        ("container.saver.state_path.unlink()", "without a readable record"),
        ("container.saver.state_path.write_text('{')", "without a readable record"),
    ],
    ids=["no record", "a torn record"],
)
def test_a_process_without_a_record_is_named_and_ended(
    damage: str, status: str, run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """A process whose record is gone, or can no longer be read, is found all the same."""
    result = run(f"""
def test_it(statefile_root):
    container = Container.new(statefile_root, "web", spec=SLEEP, runtime=ProcessRuntime())
    container.start()
    Path("pid").write_text(str(container.init.pid))
    {damage}
""")
    said = left_in(result)[-1]
    assert said.startswith(f"container web, {status}: ")
    assert_gone((pytester.path / "pid").read_text())


def test_what_is_older_than_the_test_is_left_alone(run: Callable[..., pytest.RunResult]) -> None:
    """Neither a process of the whole session nor pytest itself, which a record may name, is taken for a leak."""
    result = run("""
@pytest.fixture(scope="module")
def server():
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process
        process.kill()

def test_it(server, statefile_root):
    for id, pid in (("server", server.pid), ("pytest", os.getpid())):
        file = StateFile(root_dir=statefile_root, id=id)
        container = Container(id=id, status=Status.RUNNING, saver=file, init=ProcessRef.of(pid))
        with file.hold_for_new():
            file.save_locked(container)

def test_after(server):
    assert server.poll() is None
""")
    result.assert_outcomes(passed=2)


def test_a_lock_left_held_is_named_and_let_go(run: Callable[..., pytest.RunResult], pytester: pytest.Pytester) -> None:
    """A lock that the test's own process still holds is let go, so that nobody hangs, and fails the test by name."""
    result = run("""
held = []

def test_it(statefile_root):
    file = StateFile(root_dir=statefile_root, id="web")
    file.lock_for_new()
    held.append(file)
    Path("pid").write_text(str(os.getpid()))

@pytest.fixture(scope="module", autouse=True)
def _after():
    yield
    assert [file.locked for file in held] == [False]
""")
    (said,) = left_in(result)
    assert re.match(rf"lock of container web: pid {(pytester.path / 'pid').read_text()} \(.+\) holds it; release it", said)


def test_a_lock_held_by_another_process_is_named_and_freed(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """A process that the test left with a lock is named, and killed, which frees the lock."""
    result = run("""
PROGRAM = '''
import sys
from statefile import StateFile
file = StateFile(root_dir=sys.argv[1], id="web")
with file.hold_for_new():
    print("held", flush=True)
    sys.stdin.read()
'''

@pytest.fixture(scope="module")
def children():
    made = []
    yield made
    for process in made:
        with process:
            assert process.wait(10) == -signal.SIGKILL

def test_it(children, statefile_root):
    pipe = subprocess.PIPE
    children.append(subprocess.Popen([sys.executable, "-c", PROGRAM, statefile_root], stdin=pipe, stdout=pipe))
    assert children[0].stdout.readline() == b"held\\n"
    Path("pid").write_text(str(children[0].pid))
""")
    said = left_in(result)
    assert said[0].startswith(f"lock of container web: pid {(pytester.path / 'pid').read_text()} (")


def test_files_of_killed_processes_are_named(run: Callable[..., pytest.RunResult]) -> None:
    """A temporary file and a lock file without a state fail the test that left them, each by name."""
    result = run("""
def test_it(statefile_root):
    (statefile_root / "web_sandbox:web.lock").touch()
    (statefile_root / ".db_sandbox:db.state.0123456789ab.tmp").touch()
""")
    found = [re.match(r"file (\S+): a killed process leaves such; ", said) for said in left_in(result)]
    assert [match[1] for match in found if match] == [".db_sandbox:db.state.0123456789ab.tmp", "web_sandbox:web.lock"]


def test_only_the_test_that_leaks_fails(run: Callable[..., pytest.RunResult]) -> None:
    """The tests before and after a leak pass."""
    result = run("""
def test_before(container_factory):
    container_factory(status=Status.RUNNING)

def test_leak(statefile_root, fake_runtime):
    Container.new(statefile_root, "c1", spec=SLEEP, runtime=fake_runtime)

def test_after(container_factory, statefile_root):
    container_factory(status=Status.RUNNING)
""")
    result.assert_outcomes(passed=3, errors=1)
    assert "ERROR at teardown of test_leak" in result.stdout.str()


# -- the run around it -------------------------------------------------------------------------------------------------


def test_with_xdist(pytester: pytest.Pytester) -> None:
    """Workers of pytest-xdist test side by side, and each leak is reported from where it happened."""
    text = (
        PREAMBLE
        + """
@pytest.mark.parametrize("turn", range(6))
def test_fine(container_factory, turn):
    container_factory("web", status=Status.RUNNING).pause()

def test_leak(statefile_root, fake_runtime):
    Container.new(statefile_root, "leaked", spec=SLEEP, runtime=fake_runtime)
"""
    )
    pytester.makepyfile(test_inner=text)
    result = pytester.runpytest_subprocess(*OPTIONS, "-n", "2")
    result.assert_outcomes(passed=7, errors=1)
    result.stdout.fnmatch_lines(["*container leaked, created: pid * still runs;*"])


@pytest.mark.skipif(not INSTALLED, reason="the package is not installed here: pytest cannot find its plugin by name")
def test_the_plugin_can_be_turned_off(pytester: pytest.Pytester) -> None:
    """An installed package is a plugin by itself, and `-p no:statefile` turns it off."""
    pytester.makepyfile(test_inner="def test_it(statefile_root): pass")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    result = pytester.runpytest_subprocess("-p", "no:statefile")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'statefile_root' not found"])


def test_the_entry_point_leads_to_the_plugin() -> None:
    """What pyproject.toml tells pytest to load is there."""
    from statefile import pytest_plugin

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"statefile": pytest_plugin.__name__}


def test_who_does_not_use_it_loads_nothing(pytester: pytest.Pytester) -> None:
    """A run in which no test uses a fixture of ours has loaded the plugin's own file, and no other module for it."""
    pytester.makeconftest("""
import sys
def pytest_unconfigure(config):
    print()
    print("loaded:", *sorted(name for name in sys.modules if name.partition(".")[0] in OURS))

OURS = {"statefile", "pydantic", "pydantic_core", "orjson", "portalocker", "psutil", "gc", "asyncio"}
""")
    pytester.makepyfile(test_inner="def test_it(): pass")
    # hypothesis has a plugin of its own, which may load what it likes.
    result = pytester.runpytest_subprocess(*OPTIONS, "-s", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)
    (loaded,) = [line for line in result.outlines if line.startswith("loaded: ")]
    assert set(loaded.split()[1:]) - {"gc"} == {"statefile", "statefile.pytest_plugin"}
