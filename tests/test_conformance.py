"""The conformance kit: sound runtimes pass it, and each of these broken ones fails the tests that are about its fault."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from examples.toy_runtime import ToyRuntime, family_of, mark_of
from statefile import Container, Created, ExitStatus, Presence, ProcessRef, ProcessRuntime, Status
from statefile.process_runtime._family import is_stopped
from statefile.runtime import REQUIRED
from statefile.testing import FakeRuntime, _conformance_faults, conformance
from statefile.testing._conformance_room import Room
from statefile.testing._fake_runtime import OPTIONAL
from statefile.testing.conformance import RuntimeConformance
from tests import harness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from statefile.runtime import Runtime


# -- the sound ---------------------------------------------------------------------------------------------------------


class TestProcessRuntime(RuntimeConformance):
    """`ProcessRuntime` keeps what a runtime promises."""

    def make_runtime(self) -> Runtime:
        return ProcessRuntime()


class TestFakeRuntime(RuntimeConformance):
    """`FakeRuntime` keeps what a runtime promises, but for what only a program can show."""

    runs_programs = False
    knows_exit_status = False  # only the process that made it knows

    def setup_method(self) -> None:
        self._fake = FakeRuntime()

    def teardown_method(self) -> None:
        self._fake.close()

    def make_runtime(self) -> Runtime:
        return self._fake  # its processes end with it


class TestToyRuntime(RuntimeConformance):
    """The runtime in examples/ keeps what a runtime promises."""

    moments = 5

    def make_runtime(self) -> Runtime:
        return ToyRuntime()


class FirstOfItsNamespace(ToyRuntime):
    """The program is PID 1 of a namespace: of what it does not catch, only SIGKILL ends it."""

    def create(self, container: Container) -> Created:
        gate = gate_of(container)
        os.mkfifo(gate)
        args = [*UNSHARE, "sh", "-c", 'read -r _ <"$0"; exec "$@"', str(gate), *container.spec["process"]["args"]]
        outside = ProcessRef.of(os.posix_spawnp("unshare", args, os.environ | {"TOY": mark_of(container)}, setsid=True))
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        init = ProcessRef.of(int(harness.until(children.read_text)))
        line = Path(f"/proc/{init.pid}/cmdline")
        harness.until(lambda: line.read_bytes().startswith(b"sh\0"))  # its next `exec` is the program's
        return Created(init=init, helpers={"unshare": outside})

    def start(self, container: Container) -> None:
        while self.probe(container) == Status.CREATED:
            with contextlib.suppress(OSError):  # nobody reads yet, or no longer
                os.close(os.open(gate_of(container), os.O_WRONLY | os.O_NONBLOCK))

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        assert container.init
        within = [ref for ref in family_of(container) if ref not in container.helpers.values()]
        for ref in within if all else [container.init]:
            ref.send_signal(number)

    def destroy(self, container: Container) -> None:
        super().destroy(container)
        gate_of(container).unlink(missing_ok=True)

    def probe(self, container: Container) -> Status | str:
        found = super().probe(container)
        if found != Status.RUNNING or container.init is None:
            return found
        with contextlib.suppress(OSError):  # it has just ended: it did run
            if os.fsencode(gate_of(container)) in Path(f"/proc/{container.init.pid}/cmdline").read_bytes().split(b"\0"):
                return Status.CREATED
        return Status.RUNNING

    def wait(self, container: Container, timeout: float | None) -> ExitStatus | None:
        assert container.init
        if container.init.wait(timeout) is Presence.ALIVE:
            raise TimeoutError
        return None


UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")


def gate_of(container: Container) -> Path:
    """The FIFO that a created process of `FirstOfItsNamespace` waits at."""
    return container.saver.root_dir / f".{container.id}.gate"


@pytest.mark.root
class TestFirstOfItsNamespace(RuntimeConformance):
    """A runtime whose programs are PID 1 of a namespace of their own passes."""

    knows_exit_status = False
    moments = 2

    @pytest.fixture(autouse=True)
    def _namespaces(self) -> None:
        if subprocess.run([*UNSHARE, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
            pytest.skip("needs the right to make PID namespaces")

    def make_runtime(self) -> Runtime:
        return FirstOfItsNamespace()


# -- the broken --------------------------------------------------------------------------------------------------------


class EndsItsSessionOnly(ToyRuntime):
    """A daemon leaves the session."""

    def destroy(self, container: Container) -> None:
        init = container.init
        if init is None:
            super().destroy(container)
            return
        while left := [ref for ref in family_of(container) if session_of(ref) == init.pid]:
            kill(*left)


class EndsTheFirstOnly(ToyRuntime):
    """Children are forgotten."""

    def destroy(self, container: Container) -> None:
        if container.init is None:
            super().destroy(container)
        else:
            kill(container.init)


class EndsWhatIsOnRecord(ToyRuntime):
    """An interrupted creation has nothing on record."""

    def destroy(self, container: Container) -> None:
        if container.init is not None:
            super().destroy(container)


class EndsItsNamesakes(ToyRuntime):
    """The name of one container is the beginning of another's."""

    def destroy(self, container: Container) -> None:
        super().destroy(container)
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if f"/{container.id}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    kill(ProcessRef.of(int(pid)))


class EndsOnce(ToyRuntime):
    """Nothing there is an error."""

    def destroy(self, container: Container) -> None:
        if container.init and container.init.presence() is Presence.GONE:
            raise ProcessLookupError("there is no such process")
        super().destroy(container)


class RunsAtOnce(ToyRuntime):
    """The program does not wait to be started."""

    def create(self, container: Container) -> Created:
        args = container.spec["process"]["args"]
        return Created(init=ProcessRef.of(os.posix_spawnp(args[0], args, {"TOY": mark_of(container)}, setsid=True)))


class StartsAnother(ToyRuntime):
    """The first process is not the one that becomes the program."""

    def start(self, container: Container) -> None:
        args = container.spec["process"]["args"]
        os.waitpid(os.posix_spawnp("setsid", ["setsid", "--fork", *args], {"TOY": mark_of(container)}), 0)
        super().start(container)


class RepeatsTheRecord(ToyRuntime):
    """What somebody wrote before it was killed is taken for the truth."""

    def probe(self, container: Container) -> Status | str:
        return container.status


class TellsAliveOnly(ToyRuntime):
    """Created and running are not told apart."""

    def probe(self, container: Container) -> Status | str:
        found = super().probe(container)
        return Status.CREATED if found == Status.RUNNING else found


class Remembers(ToyRuntime):
    """What it has made is known to one process alone."""

    def __init__(self) -> None:
        self.made: dict[Path, ProcessRef] = {}

    def create(self, container: Container) -> Created:
        created = super().create(container)
        self.made[container.saver.state_path] = created.init
        return created

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        self.made[container.saver.state_path].send_signal(number)
        super().signal(container, number, all=all)


class SignalsTheLivingOnly(ToyRuntime):
    """What has just gone is an error."""

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        if container.init is None or container.init.presence() is Presence.GONE:
            raise ProcessLookupError("there is no such process")
        super().signal(container, number, all=all)


class SignalsTheFirstOnly(ToyRuntime):
    """All are one."""

    def signal(self, container: Container, number: int, *, all: bool) -> None:  # noqa: ARG002  # that is its fault
        super().signal(container, number, all=False)


class PausesTheFirstOnly(ProcessRuntime):
    """Children go on."""

    def pause(self, container: Container) -> None:
        assert container.init
        pid = container.init.pid
        container.init.send_signal(signal.SIGSTOP)
        harness.until(lambda: is_stopped(pid))


class GuessesZero(ProcessRuntime):
    """Whatever has happened, all is well."""

    def wait(self, container: Container, timeout: float | None) -> ExitStatus | None:
        super().wait(container, timeout)
        return ExitStatus(code=0)


class KeepsAnEndForItsName(ProcessRuntime):
    """The next run of a name is told how the former one has ended."""

    ends: ClassVar[dict[Path, ExitStatus | None]] = {}

    def wait(self, container: Container, timeout: float | None) -> ExitStatus | None:
        key = container.saver.state_path
        if key not in self.ends:
            self.ends[key] = super().wait(container, timeout)
        return self.ends[key]


class ReturnsWhenTheTimeIsUp(ProcessRuntime):
    """Time that is up looks like an end."""

    def wait(self, container: Container, timeout: float | None) -> ExitStatus | None:
        with contextlib.suppress(TimeoutError):
            return super().wait(container, timeout)
        return None


class WaitsForGood(ProcessRuntime):
    """A timeout is taken for milliseconds."""

    def wait(self, container: Container, timeout: float | None) -> ExitStatus | None:
        return super().wait(container, timeout and timeout * 1000)


class SaysNumbers(ProcessRuntime):
    """What `subprocess` would say is no `ExitStatus`."""

    def wait(self, container: Container, timeout: float | None) -> Any:
        found = super().wait(container, timeout)
        return found and (found.code if found.code is not None else -(found.signal or 0))


class NamesNoHelpers(ProcessRuntime):
    """A monitor that no record names is taken for a part of the program."""

    def create(self, container: Container) -> Created:
        return Created(init=super().create(container).init)


class StopsLater(ProcessRuntime):
    """`pause` returns before anything has stopped."""

    def pause(self, container: Container) -> None:
        """Whoever is asked to does it some day."""


class CreatesNothing(ToyRuntime):
    """What `create` has to return is forgotten."""

    def create(self, container: Container) -> Any:  # noqa: ARG002  # nothing is made
        return None


class HasNoSignal:
    """A method is missing."""

    create, start, destroy, probe = ToyRuntime.create, ToyRuntime.start, ToyRuntime.destroy, ToyRuntime.probe


class LeavesAll(ToyRuntime):
    """Nothing is ended."""

    def destroy(self, container: Container) -> None:
        pass


class NeedsAProcess(ToyRuntime):
    """What was never made cannot be destroyed."""

    def destroy(self, container: Container) -> None:
        if container.init is None:
            raise ProcessLookupError("there is no process")
        super().destroy(container)


class LeavesThePaused(ProcessRuntime):
    """What is stopped is not ended."""

    def destroy(self, container: Container) -> None:
        if self.probe(container) != Status.PAUSED:
            super().destroy(container)


class CreatesTheDead(ToyRuntime):
    """The first process has ended when it is returned."""

    def create(self, container: Container) -> Created:
        created = super().create(container)
        kill(created.init)
        return created


class Replaces(ToyRuntime):
    """The program runs in another process than the first one."""

    def start(self, container: Container) -> None:
        assert container.init
        kill(container.init)
        self.create(container)
        for ref in family_of(container):
            ref.send_signal(signal.SIGCONT)


class Deaf(ToyRuntime):
    """A signal reaches nobody."""

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        pass


class CallsItRunning(ToyRuntime):
    """What was never made is called running."""

    def probe(self, container: Container) -> Status | str:
        return super().probe(container) if container.init else Status.RUNNING


class CallsPausedRunning(ProcessRuntime):
    """A process that is stopped is there all the same."""

    def probe(self, container: Container) -> Status | str:
        found = super().probe(container)
        return Status.RUNNING if found == Status.PAUSED else found


class CannotGoOn(ProcessRuntime):
    """Paused is paused for good."""

    resume = None  # type: ignore[assignment]


class AnswersNonsense(ProcessRuntime):
    """Nothing that is asked is answered."""

    def processes(self, container: Container) -> list[ProcessRef]:
        return [ref for ref in super().processes(container) if ref != container.init]

    def execute(self, container: Container, args: Sequence[str]) -> ProcessRef:  # noqa: ARG002  # nothing is executed
        assert container.init
        return container.init

    def events(self, container: Container) -> Any:  # noqa: ARG002  # nothing is looked at
        return None

    def update(self, container: Container, resources: Mapping[str, object]) -> None:  # noqa: ARG002
        raise ValueError("no")


class WritesNoImage(FakeRuntime):
    """Nothing is where it was to be written."""

    def checkpoint(self, container: Container, path: str) -> None:
        pass


def session_of(ref: ProcessRef) -> int:
    """The session that a process is in; 0 if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(ref.pid)
    return 0


def kill(*refs: ProcessRef) -> None:
    """End them."""
    for ref in refs:
        ref.send_signal(signal.SIGKILL)
    for ref in refs:
        ref.wait(5)


def failures(runtime: Callable[[], Any], pattern: str, *, patience: float = 2.0) -> dict[str, str]:
    """The tests of the kit, of those that match, that a runtime fails, and what they say."""

    class Kit(RuntimeConformance):
        grace = 0.05
        moments = 5

        def make_runtime(self) -> Runtime:
            made: Runtime = runtime()
            return made

    kit = Kit()
    kit.patience = patience
    found: dict[str, str] = {}
    for name in names_of_tests():
        if re.search(pattern, name):
            try:
                getattr(kit, name)()
            except AssertionError as error:
                found[name.removeprefix("test_")] = str(error)
            except unittest.SkipTest:
                continue
    return found


def names_of_tests() -> list[str]:
    """The names of the kit's tests."""
    return [name for name in dir(RuntimeConformance) if name.startswith("test_")]


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The directories that tests of the kit have made: afterwards none is there, nor a process of one."""
    made: list[Path] = []
    real = tempfile.mkdtemp

    def mkdtemp(**options: Any) -> str:
        made.append(Path(real(**options)))
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    yield made
    assert made
    assert [room for room in made if room.exists()] == []
    tokens = [room.name.split("-")[1].encode() for room in made]
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            shown = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
            assert not any(token in shown for token in tokens), shown


BROKEN: list[tuple[type[Any], str, dict[str, str]]] = [
    (EndsItsSessionOnly, "", {"destroy_ends_daemons": "after destroy of a program with a daemon, still running: "}),
    (
        EndsTheFirstOnly,
        "destroy_(ends|of|never)",
        {
            "destroy_ends_children": "after destroy of a program with children, still running: ",
            "destroy_ends_daemons": "after destroy of a program with a daemon, still running: ",
            "destroy_ends_what_has_lost_its_parents": "whose first process had been killed, still running: ",
        },
    ),
    (
        EndsWhatIsOnRecord,
        "without|interrupted_creation",
        {
            "destroy_without_a_record": "after destroy of a container whose record is unreadable, still running: ",
            "interrupted_creation_is_found": "and a destroy by another process, still running: ",
        },
    ),
    (EndsItsNamesakes, "destroy", {"destroy_never_touches_another": "another container, whose name begins like it"}),
    (
        EndsOnce,
        "idempotent|stopped|never_was",
        {
            "destroy_is_idempotent": "a second destroy raised ProcessLookupError: there is no such process",
            "destroy_of_a_stopped_container": "destroy of a stopped container raised ProcessLookupError",
        },
    ),
    (
        LeavesAll,
        "destroy_of_a_running|at_once$",
        {
            "destroy_of_a_running_container": "destroy of a running container raised StillRunningError",
            "destroyers_at_once": 'three destroys at once said ["StillRunningError',
            "start_and_destroy_at_once": "against a start, destroy said StillRunningError",
        },
    ),
    (
        NeedsAProcess,
        "never_was",
        {"destroy_of_what_never_was": "of which nothing was made yet raised ProcessLookupError"},
    ),
    (LeavesThePaused, "paused", {"destroy_of_a_paused_container": "destroy of a paused container raised StillRunningError"}),
    (
        RunsAtOnce,
        "destroy_of_a_created|another_process|created_from_running|before_the_start",
        {
            "destroy_of_a_created_container": "destroy of a created container has run its program",
            "every_method_works_from_another_process": "probe said 'running', not 'created'",
            "probe_tells_created_from_running": "after create, while the record said created, probe said running, not created",
            "program_does_not_run_before_the_start": "create has run the user's program at once",
        },
    ),
    (CreatesTheDead, "create_makes", {"create_makes_a_living_process": "is not alive after create"}),
    (Replaces, "first_process_stays", {"first_process_stays_the_same": "is gone after start, though the program runs"}),
    (
        StartsAnother,
        "start(?!_and)",
        {
            "interrupted_start_is_not_repeated": "and another start, the program has run twice",
            "one_of_many_starters_starts": "4 processes have started a container, and its program has run more than once",
            "program_does_not_run_before_the_start": "start has run the user's program twice",
        },
    ),
    (
        RepeatsTheRecord,
        "probe|exist",
        {
            "probe_tells_created_from_running": "after create, while the record said running, probe said running, not created",
            "probe_tells_what_was_killed_from_outside": "while the record said created, probe said created, not stopped",
            "program_that_does_not_exist_leaves_nothing": "the program does not exist, and the container is not stopped",
        },
    ),
    (TellsAliveOnly, "probe", {"probe_tells_created_from_running": "while the record said running, probe said created"}),
    (
        CallsItRunning,
        "probe",
        {"probe_knows_a_container_that_was_never_made": "said running of a container that is still creating"},
    ),
    (
        Remembers,
        "another_process|signal",
        {"every_method_works_from_another_process": 'in another process than the one before, signal said "KeyError'},
    ),
    (
        SignalsTheLivingOnly,
        "signal",
        {"signal_to_what_is_gone_is_no_error": "that is gone (all=False) raised ProcessLookupError"},
    ),
    (SignalsTheFirstOnly, "signal", {"signal_to_all_reaches_every_process": "with all=True has not reached every process"}),
    (Deaf, "signal_reaches", {"signal_reaches_the_first_process": "SIGTERM did not reach the first process"}),
    (PausesTheFirstOnly, "pause", {"pause_stops_every_process": "while paused, a process of the container has run"}),
    (
        CallsPausedRunning,
        "paused",
        {
            "created_container_can_be_paused": "after pause, while the record said paused, probe said running, not paused",
            "probe_tells_paused": "after pause, while the record said paused, probe said running, not paused",
        },
    ),
    (CannotGoOn, "pause_goes", {"pause_goes_with_resume": "the runtime has pause and no resume"}),
    (
        AnswersNonsense,
        "events|executed|update|processes_are",
        {
            "events_are_a_mapping": "events returned None",
            "executed_process_belongs_to_the_container": "execute returned ProcessRef",
            "processes_are_the_living_ones": "processes does not name the first process",
            "update_changes_no_status": "update to {} raised ValueError: no",
        },
    ),
    (WritesNoImage, "checkpoint", {"checkpoint_writes_an_image": "after checkpoint, there is no image at its path"}),
    (
        GuessesZero,
        "wait",
        {
            "any_number_of_processes_may_wait": "wait said exit code 0, not killed by SIGKILL",
            "wait_tells_of_this_run": "exit 5 of the next of its name, wait said exit code 0, not exit code 5",
            "wait_tells_the_exit_code": "after exit 7, wait said exit code 0, not exit code 7",
            "wait_tells_the_signal": "after SIGKILL, wait said exit code 0, not killed by SIGKILL",
        },
    ),
    (
        KeepsAnEndForItsName,
        "wait",
        {"wait_tells_of_this_run": "wait said exit code 3; one of its name before had said exit code 3"},
    ),
    (
        ReturnsWhenTheTimeIsUp,
        "wait",
        {
            "wait_ends_when_its_time_is_up": "of a container that runs, wait(0) said None",
            "wait_tells_of_this_run": "of a container that runs, wait said None",
        },
    ),
    (WaitsForGood, "its_time", {"wait_ends_when_its_time_is_up": "wait did not return within 2 s, in a process of its own"}),
    (
        SaysNumbers,
        "wait",
        {
            "any_number_of_processes_may_wait": "asked by several processes and threads, wait returned an int (-9)",
            "wait_tells_of_this_run": "exit 5 of the next of its name, wait returned an int (5)",
            "wait_tells_the_exit_code": "after exit 7, wait returned an int (7)",
            "wait_tells_the_signal": "after SIGKILL, wait returned an int (-9)",
        },
    ),
    (
        NamesNoHelpers,
        "children|daemons|lost|all_reaches|processes_are",
        dict.fromkeys(
            (
                "destroy_ends_children",
                "destroy_ends_daemons",
                "destroy_ends_what_has_lost_its_parents",
                "processes_are_the_living_ones",
                "signal_to_all_reaches_every_process",
            ),
            "1 processes of the container are more than its program made: ",
        ),
    ),
    (
        StopsLater,
        "tells_paused",
        {"probe_tells_paused": "after pause, while the record said paused, probe said running, not paused"},
    ),
    (
        CreatesNothing,
        "exist",
        {"program_that_does_not_exist_leaves_nothing": "create raised InvalidRuntimeError: "},
    ),
    (
        HasNoSignal,
        "required|exist",
        {
            "every_required_method_is_there": "HasNoSignal has no method signal",
            "program_that_does_not_exist_leaves_nothing": "create raised UnsupportedActionError: ",
        },
    ),
]
"""A runtime, the tests that it is given (those whose names match), and those that it fails, with what they say."""


@pytest.mark.parametrize(
    ("runtime", "given", "expected"), BROKEN, ids=[f"{one.__name__}-{given or 'all'}" for one, given, _ in BROKEN]
)
@pytest.mark.usefixtures("rooms")
def test_broken_runtime_fails_what_it_breaks(runtime: type[Any], given: str, expected: dict[str, str]) -> None:
    """A broken runtime fails the tests about its fault and no others, is told promise and remedy, and nothing of it is left."""
    found = failures(runtime, given)
    assert sorted(found) == sorted(expected), found
    for name, said in found.items():
        wrong, promised, remedy = said.splitlines()
        assert expected[name] in wrong
        assert re.fullmatch(r"  Promised by Runtime\.\w+: \w.*\.", promised), promised
        assert re.fullmatch(r"  What to do: \w.*", remedy), remedy


# -- the kit itself ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rooms")
def test_process_that_is_no_part_of_the_program_is_named_at_once() -> None:
    """Who has not named a helper is shown it, and told where to name it, without waiting for the patience."""
    began, patience = time.monotonic(), 10.0
    said = failures(NamesNoHelpers, "signal_to_all", patience=patience)["signal_to_all_reaches_every_process"]
    assert time.monotonic() - began < patience
    assert re.search(r"than its program made: \d+ \([^,]*python[^,]*\)$", said, re.MULTILINE), said
    assert "What to do: name those that are yours in Created(helpers=…)" in said


def test_process_that_one_look_has_missed_may_end_in_its_time() -> None:
    """A look at `/proc` can miss the child of a process that ends meanwhile: when the next one shows it, it is waited for."""
    looks = [[], [ProcessRef.current()], [], []]

    class Quiet(RuntimeConformance):
        def make_runtime(self) -> Runtime:
            return ToyRuntime()

    room = Room(Quiet())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room, "alive", lambda: looks.pop(0))
            room.all_ends("destroy", "a destroy", "look again")
        assert looks == []
    finally:
        room.close()


@pytest.mark.usefixtures("rooms")
def test_pause_that_returns_too_early_is_told() -> None:
    """What `probe` says after a `pause` may be the fault of either, and both are told."""
    said = failures(StopsLater, "tells_paused")["probe_tells_paused"]
    assert said.endswith("; or pause returned too early: when it returns, that has to be true")


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, "make_runtime returned None: return an object, "),
        (ToyRuntime, "make_runtime returned the class ToyRuntime: return an object, ToyRuntime("),
    ],
    ids=["none", "class"],
)
def test_kit_without_an_object_fails_in_every_test(made: Any, said: str) -> None:
    """Where `make_runtime` returns no object every test says so: none is passed, and none is skipped."""
    found = failures(lambda: made, "")
    assert len(found) == len(names_of_tests())
    assert {name for name, told in found.items() if not told.startswith(said)} == set()


def test_kit_says_what_an_author_may_say() -> None:
    """All that an author may override is in the docstring of the class that is inherited, with a sentence each."""
    text = inspect.getdoc(RuntimeConformance) or ""
    names = [name for name in dir(RuntimeConformance) if not name.startswith(("test_", "_"))]
    assert len(names) == 9
    assert [name for name in names if not re.search(rf"^(    {name}: \w|`{name}\()", text, re.MULTILINE)] == []


def test_every_test_of_the_kit_is_failed_by_some_runtime() -> None:
    """For each test of the kit there is a broken runtime above that fails it."""
    known = {name for _, _, expected in BROKEN for name in expected}
    assert sorted({name.removeprefix("test_") for name in names_of_tests()} - known) == []


def test_every_failure_names_its_promise() -> None:
    """For each method the promise is found where it is made, in the docstrings of `Runtime`."""
    for method in (*REQUIRED, *OPTIONAL):
        assert len(_conformance_faults.promise_of(method)) > 20, method
    assert _conformance_faults.promise_of("pause") == "On return no process of the container runs until it is resumed."


def test_each_test_of_the_kit_says_its_promise() -> None:
    """Each test of the kit has one sentence for an author to read."""
    for name in names_of_tests():
        assert re.fullmatch(r"[A-Z].*\.", getattr(RuntimeConformance, name).__doc__ or ""), name


def test_kit_works_under_unittest(rooms: list[Path]) -> None:
    """With `unittest.TestCase` beside it the kit is run by unittest, which shows what was skipped."""

    class TestToy(RuntimeConformance, unittest.TestCase):
        runs_programs = False
        moments = 2

        def make_runtime(self) -> Runtime:
            return ToyRuntime()

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(TestToy).run(result)
    assert result.wasSuccessful(), [text for _, text in (*result.errors, *result.failures)]
    assert result.testsRun == len(names_of_tests()) == len(rooms)
    reasons = {reason for _, reason in result.skipped}
    assert reasons >= {"ToyRuntime has no wait", "runs_programs is False: only a program can show this"}


def test_kit_itself_is_not_collected(tmp_path: Path) -> None:
    """Where the kit is imported neither pytest nor unittest takes it for a test; its heirs they do take."""
    code = "from statefile.testing.conformance import RuntimeConformance\nclass TestHeir(RuntimeConformance): pass\n"
    (tmp_path / "test_heir.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--rootdir=.", "-p", "no:cacheprovider", "test_heir.py"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    found = {line for line in said.splitlines() if "::" in line}
    assert found == {f"test_heir.py::TestHeir::{name}" for name in names_of_tests()}
    assert unittest.defaultTestLoader.loadTestsFromModule(conformance).countTestCases() == 0


def test_kit_without_a_runtime_says_what_is_missing(rooms: list[Path]) -> None:
    """An heir that does not say which runtime is told how."""
    with pytest.raises(NotImplementedError, match="RuntimeConformance has to say which runtime: def make_runtime"):
        RuntimeConformance().test_create_makes_a_living_process()
    assert len(rooms) == 1
