"""Several real processes drive one container at random, and are killed and replaced, against a model made from `LIFECYCLE`.

The model knows what is true and what the record says: they differ only after an actor was killed, until the next action under
the lock has mended that.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from statefile import LIFECYCLE, Action, Container, ExitStatus, ProcessRuntime, StateDir, StateFile, StateFileError, Status
from tests.harness import Worker, hear, names, tell, until, waits_for
from tests.test_container import FAMILY, make, survivors
from tests.test_container_crash import act_and_die, agrees, create_and_die, in_child

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCKED = [Action.START, Action.PAUSE, Action.RESUME, Action.RESTORE, Action.CHECKPOINT, Action.UPDATE]
ENDING = [Action.DELETE, Action.DESTROY]
UNLOCKED = [Action.EXECUTE, Action.EVENTS, Action.PROCESSES, Action.SIGNAL, Action.SIGNAL_ALL, Action.WAIT]
NOT_THERE = {Action.RESTORE, Action.CHECKPOINT}  # a ProcessRuntime cannot do these
HAS_PROCESS = {Status.CREATED, Status.RUNNING, Status.PAUSED}

HARMLESS = signal.SIGURG
ARGUMENTS: dict[Action, tuple[str, list[Any], dict[str, Any]]] = {
    Action.RESTORE: ("restore", ["/nowhere"], {}),
    Action.CHECKPOINT: ("checkpoint", ["/nowhere"], {}),
    Action.UPDATE: ("update", [{"nice": 0}], {}),
    Action.EXECUTE: ("execute", [["/bin/true"]], {}),
    Action.SIGNAL: ("signal", [HARMLESS], {}),
    Action.SIGNAL_ALL: ("signal", [HARMLESS], {"all": True}),
    Action.WAIT: ("wait", [0], {}),
}


# -- in the workers ----------------------------------------------------------------------------------------------------


def do(root: Path, action: Action) -> tuple[str, Any]:
    """One action; `done`, or the name of the error and the status that it tells."""
    name, args, kwargs = ARGUMENTS.get(action, (action.value, [], {}))
    try:
        c = Container.load(root, "c", runtime=ProcessRuntime())
        getattr(c, name)(*args, **kwargs)
    except StateFileError as error:
        return type(error).__name__, getattr(error, "status", None)
    return "done", c.status


def new(root: Path) -> tuple[str, Any]:
    """A creation, told in the same way."""
    try:
        return "done", make(root, *FAMILY).status
    except FileExistsError as error:
        return type(error).__name__, None


class Stuck(ProcessRuntime):
    """Says that it is inside, and goes on when it may."""

    def start(self, container: Container) -> None:
        _stop()
        super().start(container)

    def pause(self, container: Container) -> None:
        _stop()
        super().pause(container)

    def resume(self, container: Container) -> None:
        _stop()
        super().resume(container)


def _stop() -> None:
    tell("inside")
    hear()


def do_slowly(root: Path, action: Action) -> None:
    """Start, pause or resume, and stop in the middle."""
    getattr(Container.load(root, "c", runtime=Stuck()), action.value)()


# -- the model ---------------------------------------------------------------------------------------------------------


class Crew(RuleBasedStateMachine):
    """Two processes that act, and one whose children die."""

    workers: list[Worker]
    nursery: Worker

    def __init__(self) -> None:
        super().__init__()
        base = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(prefix="statefile-", dir=base if base.is_dir() else None)) / "root"
        self.truth: Status | None = None
        self.record: Status | None = None
        self.before_pause = Status.RUNNING
        self.recorded_before_pause = Status.RUNNING

    # -- what the table says

    def expected(self, action: Action) -> tuple[str, Any]:
        """What comes of an action, and the model after it."""
        locked = action not in UNLOCKED
        if self.truth is None:
            return "NotFoundError", None
        if locked:
            self.mended()
        status = self.record
        assert status is not None
        if action not in LIFECYCLE[status]:
            return "InvalidTransitionError", status
        if action in NOT_THERE:
            return "UnsupportedActionError", None
        if action in ENDING:
            self.truth = self.record = None
            return "done", Status.STOPPED
        if action is Action.WAIT and status is not Status.STOPPED:
            return "WaitTimeoutError", None
        after = self.after(action)
        if locked:
            self.becomes(after)
        return "done", after

    def after(self, action: Action) -> Status:
        """Where the table leads from what is true."""
        status = self.record if action in UNLOCKED else self.truth
        assert status is not None
        return self.before_pause if action is Action.RESUME else LIFECYCLE[status][action]

    def becomes(self, status: Status) -> None:
        """It is true, and recorded."""
        self.becomes_unrecorded(status)
        self.record = status

    def becomes_unrecorded(self, status: Status) -> None:
        """It is true, and its actor did not live to record it."""
        if status is Status.PAUSED and self.truth is not Status.PAUSED:
            assert self.truth is not None
            self.before_pause = self.truth
        self.truth = status

    def mended(self) -> None:
        """Whoever gets the lock writes down what is true."""
        self.record = self.truth

    # -- what happens

    @rule(who=st.sampled_from([0, 1]))
    def create(self, who: int) -> None:
        """A creation."""
        outcome = self.workers[who].call(new, self.root)
        if self.truth is None:
            assert outcome == ("done", Status.CREATED)
            self.becomes(Status.CREATED)
        else:
            assert outcome == ("AlreadyExistsError", None)

    @rule(who=st.sampled_from([0, 1]), action=st.sampled_from([*LOCKED, *UNLOCKED]))
    def act(self, who: int, action: Action) -> None:
        """Any action that lets it live."""
        expected = self.expected(action)
        assert self.workers[who].call(do, self.root, action) == expected

    @rule(who=st.sampled_from([0, 1]), action=st.sampled_from(ENDING))
    def end(self, who: int, action: Action) -> None:
        """A removal."""
        expected = self.expected(action)
        assert self.workers[who].call(do, self.root, action) == expected

    @precondition(lambda self: self.truth in HAS_PROCESS)
    @rule()
    def kill_the_process(self) -> None:
        """Its processes are killed by somebody who tells nobody."""
        c = Container.load(self.root, "c", runtime=ProcessRuntime())
        assert c.init is not None
        for ref in ProcessRuntime().processes(c):
            ref.send_signal(signal.SIGKILL)
        until(lambda: c.init is not None and c.init.presence().name == "GONE")
        self.becomes(Status.STOPPED)

    @precondition(lambda self: self.truth is None)
    @rule(where=st.sampled_from(["before the first save", "after the first save", "after create", "after the second save"]))
    def die_in_a_creation(self, where: str) -> None:
        """A creator is killed."""
        assert self.nursery.call(in_child, create_and_die, self.root, where, f"{self.root}.pid") == signal.SIGKILL
        if where == "after the second save":
            self.becomes(Status.CREATED)
        elif where != "before the first save":
            self.becomes(Status.CREATING)

    @precondition(lambda self: self.truth in HAS_PROCESS)
    @rule(data=st.data(), when=st.sampled_from(["before", "after"]), then=st.sampled_from([*LOCKED, *UNLOCKED, *ENDING]))
    def die_in_an_action(self, data: st.DataObject, when: str, then: Action) -> None:
        """An actor is killed as it asks the runtime, or when that has done it; and somebody comes next."""
        assert self.truth is not None
        can = [Action.START, Action.PAUSE, Action.RESUME, Action.UPDATE, Action.DESTROY]
        action = data.draw(st.sampled_from([each for each in can if each in LIFECYCLE[self.truth]]))
        died = self.nursery.call(in_child, act_and_die, self.root, action.value, action.value, when)
        assert died == signal.SIGKILL
        self.mended()
        if when == "after":
            self.becomes_unrecorded(self.after(action))
            if self.truth is Status.STOPPED:  # everybody sees that the process is gone
                self.record = Status.STOPPED
        self.record_is_what_the_model_says()
        expected = self.expected(then)
        assert self.workers[0].call(do, self.root, then) == expected

    @precondition(lambda self: self.truth in HAS_PROCESS)
    @rule(
        first=st.sampled_from([Action.START, Action.PAUSE, Action.RESUME]),
        second=st.sampled_from([*LOCKED, *ENDING]),
        fate=st.sampled_from(["lives", "dies"]),
    )
    def wait_for_another(self, first: Action, second: Action, fate: str) -> None:
        """One waits while another is in the middle of something; that one goes on, or is killed."""
        if self.truth is None or first not in LIFECYCLE[self.truth]:
            return
        slow, waiter = self.workers
        slow.start(do_slowly, self.root, first)
        assert slow.hear() == "inside"
        self.mended()
        assert Container.load(self.root, "c").status == self.record
        waiter.start(do, self.root, second)
        until(lambda: waits_for(waiter, StateFile(root_dir=self.root, id="c").lock_path))
        if fate == "lives":
            slow.tell()
            slow.result()
            self.becomes(self.after(first))
        else:
            self.replace(0)
        expected = self.expected(second)
        assert waiter.result() == expected

    def replace(self, who: int) -> None:
        """A process is killed, and another takes its place."""
        self.workers[who].signal(signal.SIGKILL)
        self.workers[who].close()
        self.workers[who] = Worker(quiet=True)

    # -- what always holds

    @invariant()
    def record_is_what_the_model_says(self) -> None:
        """Whoever looks finds what the model says."""
        listed = list(StateDir(self.root).load_all(Container))
        if self.truth is None:
            assert listed == []
            return
        ((full_id, found),) = listed
        assert str(full_id) == "c/c"
        assert isinstance(found, Container)
        found.refresh()
        assert found.status == self.record
        if self.truth is self.record is not Status.CREATING:
            agrees(found)

    def teardown(self) -> None:
        """From wherever it came to, a destroy frees the name, and nothing runs."""
        for who in (0, 1):
            if self.workers[who].busy:  # a step has failed
                self.replace(who)
        try:
            if self.truth is Status.STOPPED:
                c = Container.load(self.root, "c", runtime=ProcessRuntime())
                assert c.wait(0) in {ExitStatus(signal=signal.SIGKILL), None}
            Container.remove(self.root, "c", runtime=ProcessRuntime())
            if self.root.exists():
                StateDir(self.root).sweep()
                assert names(self.root) == []
            until(lambda: not survivors(self.root))
        finally:
            shutil.rmtree(self.root.parent)


@pytest.fixture
def crew() -> Iterator[type[Crew]]:
    """The model, with its processes."""
    Crew.workers = [Worker(quiet=True), Worker(quiet=True)]
    Crew.nursery = Worker(quiet=True)
    yield Crew
    for worker in (*Crew.workers, Crew.nursery):
        with contextlib.suppress(OSError):
            worker.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_any_history_of_several_processes_follows_the_table(crew: type[Crew]) -> None:
    """Whatever several processes do, and whichever of them is killed, each outcome and each status is what the table says."""
    run_state_machine_as_test(crew, settings=settings(max_examples=40, stateful_step_count=20, deadline=None))
