"""The pytest plugin, in inner runs of pytest: what its fixtures give, what they clean up, and what a run without them pays."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import ClassVar, NamedTuple
from xml.etree import ElementTree as ET

import pytest

from statefile import Presence, ProcessRef
from tests.pages import the_plugin

pytest_plugins = ["pytester"]

INSTALLED = bool(importlib.metadata.entry_points(group="pytest11", name="statefile"))
OPTIONS = [*the_plugin(), "-p", "no:cacheprovider", "-W", "error"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the outer run is for an inner one; in CI, pytest would repeat whole messages in its summary."""
    for name in [name for name in os.environ if name.startswith("PYTEST_") or name in {"CI", "BUILD_NUMBER"}]:
        monkeypatch.delenv(name)


PREAMBLE = """
import multiprocessing, os, signal, subprocess, sys, threading
from pathlib import Path
import pytest
from statefile import Container, ProcessRef, ProcessRuntime, StateDir, StateFile, Status, testing

HERE = Path(__file__).parent
SLEEP = {"process": {"args": ["/bin/sleep", "100"]}}
"""


class Said(NamedTuple):
    """What the inner run said of one test: how many reports of each kind, and what went wrong."""

    outcomes: Counter[str]
    messages: list[str]


class InnerRun:
    """One run of pytest for all the small test files here, each in a directory of its own, in a process of its own."""

    files: ClassVar[dict[str, tuple[str, str]]] = {}

    def __init__(self, where: Path) -> None:
        self.where = where
        for name, (text, conftest) in self.files.items():
            (where / name).mkdir()
            (where / name / f"test_{name}.py").write_text(PREAMBLE + text)
            (where / name / "conftest.py").write_text(PREAMBLE + conftest if conftest else "")
        report = where / "report.xml"
        options = ["--rootdir=.", f"--junitxml={report}", f"--basetemp={where}/.tmp", *OPTIONS]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
        for name in [name for name in environment if name.startswith("PYTEST_") or name in {"CI", "BUILD_NUMBER"}]:
            del environment[name]
        command = [sys.executable, "-m", "pytest", *options]
        done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False, timeout=50)
        assert report.exists(), done.stdout + done.stderr
        self.said: dict[str, Said] = {name: Said(Counter(), []) for name in self.files}
        for case in ET.parse(report).iter("testcase"):
            said = self.said[(case.get("classname") or "").split(".")[0]]
            trouble = [part for part in case if part.tag in {"failure", "error", "skipped"}]
            if not any(part.tag in {"failure", "skipped"} or "setup" in (part.get("message") or "") for part in trouble):
                said.outcomes["passed"] += 1
            said.outcomes.update(part.tag for part in trouble)
            said.messages.extend(part.text or "" for part in trouble)

    def passed(self, name: str, count: int = 1) -> None:
        """Assert that the tests of that file passed, so many, and left nothing."""
        assert self.said[name].outcomes == {"passed": count}, self.said[name].messages

    def left(self, name: str) -> list[str]:
        """What the one test in that file left behind: it is said once, and went wrong in no other way."""
        outcomes, messages = self.said[name]
        assert {**outcomes} == {"passed": 1, "error": 1}, messages
        assert messages[0].count("the test left something behind, which is cleaned up now:") == 1
        return re.findall(r"^- (.+)$", messages[0], re.MULTILINE)

    def noted(self, name: str) -> str:
        """What the test wrote down."""
        return (self.where / name / "noted").read_text()


def inner(name: str, text: str, *, conftest: str = "") -> str:
    """A test file for the inner run; its name."""
    assert name not in InnerRun.files
    InnerRun.files[name] = (text, conftest)
    return name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> InnerRun:
    """The inner run."""
    return InnerRun(tmp_path_factory.mktemp("inner"))


def assert_gone(pid: int | str) -> None:
    """No such process lives."""
    with contextlib.suppress(ProcessLookupError):
        assert ProcessRef.of(int(pid)).presence() is Presence.GONE


# -- what the fixtures give --------------------------------------------------------------------------------------------

inner(
    "own",
    """
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
""",
)


def test_each_test_has_its_own(run: InnerRun) -> None:
    """Each test gets an empty root, a runtime without calls and containers that are its own; afterwards all are gone."""
    run.passed("own", 3)


inner(
    "ids",
    """
def test_it(container_factory, statefile_root, fake_runtime):
    assert container_factory("c1").id == "c1"
    Container.new(statefile_root, "c3", spec=SLEEP, runtime=testing.FakeRuntime())
    assert [container_factory().id, container_factory().id] == ["c2", "c4"]
    Container.remove(statefile_root, "c3", runtime=fake_runtime)
""",
)


def test_ids_are_the_next_that_are_free(run: InnerRun) -> None:
    """A container without an ID gets the next one that no container has, whoever made that."""
    run.passed("ids")


inner(
    "misspelt",
    """
def test_it(container_factory, statefile_root):
    with pytest.raises(TypeError, match="no field 'stauts' of Container: did you mean status?"):
        container_factory(stauts="paused")
    assert StateDir(statefile_root).ids() == []
""",
)


def test_a_misspelt_keyword_is_refused(run: InnerRun) -> None:
    """A keyword of the factory that nobody knows is an error that says what was meant, and nothing is made."""
    run.passed("misspelt")


inner(
    "other",
    """
def test_it(container_factory, fake_runtime):
    with testing.FakeRuntime() as other:
        one = container_factory(runtime=other)
        one.pause()
        assert other.calls
        assert not fake_runtime.calls
        one.destroy()
""",
)


def test_a_runtime_of_ones_own_for_one_container(run: InnerRun) -> None:
    """A container that the factory makes with another runtime is driven, and destroyed, by that one."""
    run.passed("other")


inner(
    "destroyed",
    """
def test_it(container_factory, statefile_root, fake_runtime):
    container_factory("web").destroy()
    container_factory("web", status=Status.RUNNING)
""",
)


def test_what_a_test_destroyed_itself_is_left_alone(run: InnerRun) -> None:
    """A container of the factory's may be destroyed by the test, and its ID taken anew by the factory."""
    run.passed("destroyed")


inner(
    "factory",
    """
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
""",
)


def test_what_the_factory_made_is_no_leak(run: InnerRun) -> None:
    """A container of the factory's may be left in any status and after any accident, also if it cannot be destroyed."""
    run.passed("factory", 12)


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
        return testing.make_container(statefile_root, *args, runtime=fake_runtime, **kwargs)
    mine.name = "mine"
    return mine
""",
}


def slug(name: str) -> str:
    """As a module is called."""
    return "_".join(re.findall(r"\w+", name))


for _override, _conftest in OVERRIDES.items():
    _fixture = _override.partition(",")[0]
    inner(
        slug("override " + _override),
        f"""
def test_it(statefile_root, fake_runtime, container_factory, request):
    assert getattr(request.getfixturevalue({_fixture!r}), "name", "") == "mine"
    container = container_factory()
    assert container.saver.state_path.parent == statefile_root
    container.pause()
    assert fake_runtime.calls
    container.destroy()
""",
        conftest=_conftest,
    )


@pytest.mark.parametrize("override", OVERRIDES)
def test_each_fixture_can_be_overridden(override: str, run: InnerRun) -> None:
    """What a conftest has in the place of a fixture, or on top of it, is what the other fixtures use."""
    run.passed(slug("override " + override))


# -- what a test leaves ------------------------------------------------------------------------------------------------

inner(
    "records",
    """
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
""",
)


def test_a_record_is_no_leak(run: InnerRun) -> None:
    """Containers without a living process, states without a container and files of the test's own may stay."""
    run.passed("records")


inner(
    "fixtures",
    """
@pytest.fixture
def web(statefile_root, fake_runtime):
    container = Container.new(statefile_root, "web", runtime=fake_runtime)
    yield container
    container.destroy()

@pytest.fixture
def real(statefile_root):
    container = Container.new(statefile_root, "real", spec=SLEEP, runtime=ProcessRuntime())
    yield container
    container.destroy()

@pytest.fixture
def lock(statefile_root):
    with StateFile(root_dir=statefile_root, id="lock").hold_for_new():
        yield

@pytest.mark.parametrize("turn", [1, 2])
def test_it(web, real, lock, fake_runtime, turn):
    web.start()
    real.start()

def test_runtime_goes_first(statefile_root, real, fake_runtime):
    real.start()
""",
)


def test_what_a_fixture_cleans_up_is_no_leak(run: InnerRun) -> None:
    """What a test's own fixture made with ours, and ends after the test, is there until then, and is no leak."""
    run.passed("fixtures", 3)


inner(
    "real",
    """
def test_it(statefile_root):
    container = Container.new(statefile_root, "web", spec=SLEEP, runtime=ProcessRuntime())
    container.start()
    (HERE / "noted").write_text(f"{container.init.pid} {container.helpers['monitor'].pid}")
""",
)


def test_a_process_left_running_is_named_and_ended(run: InnerRun) -> None:
    """A real process of a container that the code under test made and left fails that test, with its name, status and PID."""
    (said,) = run.left("real")
    first, monitor = run.noted("real").split()
    assert said == (
        f"container web, running: pid {first} (/bin/sleep 100), pid {monitor} (its monitor) still run; "
        "destroy it, or make it with container_factory"
    )
    assert_gone(first)
    assert_gone(monitor)


# How the fixtures are named, and what stands in their place.
FAKES = {
    "root first": ("statefile_root, fake_runtime", ""),
    "runtime first": ("fake_runtime, statefile_root", ""),
    "root first, runtime overridden": ("statefile_root, fake_runtime", OVERRIDES["fake_runtime"]),
    "runtime first, runtime overridden": ("fake_runtime, statefile_root", OVERRIDES["fake_runtime"]),
    "root first, root overridden": ("statefile_root, fake_runtime", OVERRIDES["statefile_root"]),
    "runtime first, root overridden": ("fake_runtime, statefile_root", OVERRIDES["statefile_root"]),
    "all of the module": (
        "statefile_root, fake_runtime",
        """
@pytest.fixture(scope="module")
def statefile_root(tmp_path_factory):
    return tmp_path_factory.mktemp("mine")

@pytest.fixture(scope="module")
def fake_runtime():
    with testing.FakeRuntime() as runtime:
        yield runtime
""",
    ),
}
MAKERS = {
    "here": "make()",
    "in a child": "child = multiprocessing.get_context('fork').Process(target=make); child.start(); child.join()",
    "in a child that crashed": "testing.run_to_crash('result saved', make)",
}
for _way, (_fixtures, _conftest) in FAKES.items():
    for _maker, _code in MAKERS.items():
        inner(
            slug(f"fake {_way} {_maker}"),
            f"""
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

def test_it({_fixtures}):
    def make():
        container = Container.new(statefile_root, "web", spec=SLEEP, runtime=fake_runtime)
        (HERE / "noted").write_text(str(container.init.pid))
    make_and_note = make
    if {_maker!r} == "in a child that crashed":
        def make():
            runtime = fake_runtime
            Container.new(statefile_root, "web", spec=SLEEP, runtime=runtime)
    {_code}
    if make is not make_and_note:
        (HERE / "noted").write_text(str(Container.load(statefile_root, "web", skip_check=True).init.pid))
""",
            conftest=_conftest,
        )


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("way", FAKES)
def test_a_process_of_the_fake_runtime_is_named_and_ended(run: InnerRun, way: str, maker: str) -> None:
    """A container left with the fake runtime fails the test, whoever made it, whichever fixture is first or overridden."""
    name = slug(f"fake {way} {maker}")
    said = [line for line in run.left(name) if not line.startswith("file ")]
    pid = run.noted(name)
    assert said == [f"container web, created: pid {pid} (cat) still runs; destroy it, or make it with container_factory"]
    assert_gone(pid)


inner(
    "elsewhere",
    """
def test_it(tmp_path, fake_runtime):
    container = Container.new(tmp_path / "mine", "web", spec=SLEEP, runtime=fake_runtime)
    (HERE / "noted").write_text(str(container.init.pid))
    with container.saver.transaction(Container) as record:
        record.status, record.init = "creating", None
""",
)


def test_a_process_under_a_root_of_ones_own_is_found(run: InnerRun) -> None:
    """What the fake runtime still runs fails the test wherever its record is, also if no record names the process."""
    (said,) = run.left("elsewhere")
    assert said.startswith(f"container web, creating: pid {run.noted('elsewhere')} (cat) still runs; ")
    assert_gone(run.noted("elsewhere"))


inner(
    "overridden_real",
    """
def test_it(statefile_root):
    container = Container.new(statefile_root, "web", spec=SLEEP, runtime=ProcessRuntime())
    (HERE / "noted").write_text(str(container.init.pid))
""",
    conftest=OVERRIDES["statefile_root"],
)


def test_an_overridden_root_is_watched(run: InnerRun) -> None:
    """A real process under a root that a conftest has put in the place of ours fails the test too, and is ended."""
    (said,) = run.left("overridden_real")
    assert said.startswith(f"container web, created: pid {run.noted('overridden_real')} (")
    assert_gone(run.noted("overridden_real"))


inner(
    "replaced",
    """
def test_it(container_factory, statefile_root, fake_runtime):
    container_factory("web").destroy()
    container = Container.new(statefile_root, "web", spec=SLEEP, runtime=fake_runtime)
    (HERE / "noted").write_text(str(container.init.pid))
""",
)


def test_another_container_of_the_same_id_is_a_leak(run: InnerRun) -> None:
    """What the code under test made under an ID that the factory once had is its own, and is named when it is left."""
    (said,) = run.left("replaced")
    assert said.startswith(f"container web, created: pid {run.noted('replaced')} (")
    assert_gone(run.noted("replaced"))


DAMAGES = {"no_record": "container.saver.state_path.unlink()", "a_torn_record": "container.saver.state_path.write_text('{')"}
for _name, _damage in DAMAGES.items():
    inner(
        _name,
        f"""
def test_it(statefile_root):
    container = Container.new(statefile_root, "web", spec=SLEEP, runtime=ProcessRuntime())
    container.start()
    (HERE / "noted").write_text(str(container.init.pid))
    {_damage}
""",
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_process_without_a_record_is_named_and_ended(run: InnerRun, damage: str) -> None:
    """A process whose record is gone, or can no longer be read, is found all the same."""
    assert run.left(damage)[-1].startswith("container web, without a readable record: ")
    assert_gone(run.noted(damage))


inner(
    "older",
    """
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
""",
)


def test_what_is_older_than_the_test_is_left_alone(run: InnerRun) -> None:
    """Neither a process of the whole session nor pytest itself, which a record may name, is taken for a leak."""
    run.passed("older", 2)


inner(
    "larger",
    """
@pytest.fixture(scope="module")
def web(statefile_root, fake_runtime):
    container = Container.new(statefile_root, "web", runtime=fake_runtime)
    yield container
    container.destroy()

@pytest.mark.parametrize("turn", [1, 2])
def test_it(web, tmp_path, turn):
    web.start() if turn == 1 else web.pause()
""",
    conftest=FAKES["all of the module"][1],
)


def test_a_container_of_a_whole_module_is_no_leak(run: InnerRun) -> None:
    """What a fixture of a larger scope made, under a root of that scope, is older than each test, and is left alone."""
    run.passed("larger", 2)


inner(
    "lock",
    """
held = []

def test_it(statefile_root):
    file = StateFile(root_dir=statefile_root, id="web")
    file.lock_for_new()
    held.append(file)
    (HERE / "noted").write_text(str(os.getpid()))

@pytest.fixture(scope="module", autouse=True)
def _after():
    yield
    assert [file.locked for file in held] == [False]
""",
)


def test_a_lock_left_held_is_named_and_let_go(run: InnerRun) -> None:
    """A lock that the test's own process still holds is let go, so that nobody hangs, and fails the test by name."""
    (said,) = run.left("lock")
    assert re.match(rf"lock of container web: pid {run.noted('lock')} \(.+\) holds it; release it", said)


inner(
    "lock_elsewhere",
    """
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
    (HERE / "noted").write_text(str(children[0].pid))
""",
)


def test_a_lock_held_by_another_process_is_named_and_freed(run: InnerRun) -> None:
    """A process that the test left with a lock is named, and killed, which frees the lock."""
    said = run.left("lock_elsewhere")
    assert said[0].startswith(f"lock of container web: pid {run.noted('lock_elsewhere')} (")


inner(
    "files",
    """
def test_it(statefile_root):
    (statefile_root / "web_sandbox:web.lock").touch()
    (statefile_root / ".db_sandbox:db.state.0123456789ab.tmp").touch()
""",
)


def test_files_of_killed_processes_are_named(run: InnerRun) -> None:
    """A temporary file and a lock file without a state fail the test that left them, each by name."""
    dropped = ", or a lock_for_new that was neither saved nor released"
    assert run.left("files") == [
        "file .db_sandbox:db.state.0123456789ab.tmp: a killed process leaves such; StateDir(root).sweep() removes it",
        f"file web_sandbox:web.lock: a killed process leaves such{dropped}; StateDir(root).sweep() removes it",
    ]


inner(
    "one_list",
    """
def test_it(statefile_root, fake_runtime):
    Container.new(statefile_root, "here", spec=SLEEP, runtime=fake_runtime)
    Container.new(statefile_root.parent / (statefile_root.name + "-2"), "there", spec=SLEEP, runtime=fake_runtime)
    (statefile_root / "web_sandbox:web.lock").touch()
""",
    conftest="""
@pytest.fixture
def statefile_root(tmp_path):
    return tmp_path / "mine"
""",
)


def test_all_that_is_left_is_one_list(run: InnerRun) -> None:
    """What is left of the runtime and of the root fails the test once, with one list."""
    said = [line.split(":")[0] for line in run.left("one_list")]
    assert sorted(said) == ["container here, created", "container there, created", "file web_sandbox"]


inner(
    "both",
    """
@pytest.fixture
def bad(statefile_root):
    yield
    raise OSError("a bad day")

def test_it(bad, statefile_root):
    (statefile_root / "web_sandbox:web.lock").touch()
""",
)


def test_a_leak_hides_no_other_failure(run: InnerRun) -> None:
    """When a fixture of the test fails in its own clean-up, that is said beside what the test left."""
    (message,) = run.said["both"].messages
    assert "OSError: a bad day" in message
    assert "file web_sandbox:web.lock: a killed process leaves such" in message


inner(
    "neighbours",
    """
def test_before(container_factory):
    container_factory(status=Status.RUNNING)

def test_leak(statefile_root, fake_runtime):
    Container.new(statefile_root, "c1", spec=SLEEP, runtime=fake_runtime)

def test_after(container_factory, statefile_root):
    container_factory(status=Status.RUNNING)
""",
)


def test_only_the_test_that_leaks_fails(run: InnerRun) -> None:
    """The tests before and after a leak pass."""
    assert run.said["neighbours"].outcomes == {"passed": 3, "error": 1}


inner(
    "asked_for",
    """
def test_it(request):
    Container.new(request.getfixturevalue("statefile_root"), "web", runtime=request.getfixturevalue("fake_runtime"))
""",
)


def test_a_fixture_that_is_asked_for_in_the_test_is_watched(run: InnerRun) -> None:
    """A fixture that a test gets while it runs is looked at as one that it names."""
    (said,) = run.left("asked_for")
    assert said.startswith("container web, created: pid ")


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
