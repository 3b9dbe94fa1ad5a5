"""`make_container`: a container in any status, whatever became of its process, and nobody else has noticed how it got there."""

from __future__ import annotations

import signal
from itertools import product
from typing import TYPE_CHECKING, Any, Self, assert_type

import pytest

from statefile import (
    LIFECYCLE,
    Action,
    AlreadyExistsError,
    Container,
    ExitStatus,
    FullID,
    InvalidTransitionError,
    Presence,
    ProcessRef,
    StateDir,
    Status,
    UnstorableStateError,
)
from statefile.testing import FakeRuntime, ProcessFate, make_container

if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import StrEnum
    from pathlib import Path


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    with FakeRuntime() as runtime:
        yield runtime


HAS_PROCESS = (Status.CREATED, Status.RUNNING, Status.PAUSED)
# What is said of the process that the record names, and what a load says then of a container that has one.
FATES = {
    ProcessFate.LIVE: (Presence.ALIVE, None),
    ProcessFate.DEAD: (Presence.GONE, Status.STOPPED),
    ProcessFate.REUSED: (Presence.GONE, Status.STOPPED),
    ProcessFate.REBOOTED: (Presence.GONE, Status.STOPPED),
    ProcessFate.UNKNOWN: (Presence.UNKNOWN, None),
}
STOPPED_BY = (ProcessFate.DEAD, ProcessFate.REUSED, ProcessFate.REBOOTED)


@pytest.mark.parametrize(("status", "fate"), [*product(HAS_PROCESS, FATES)])
def test_a_record_and_its_process(root: Path, fake: FakeRuntime, status: Status, fate: ProcessFate) -> None:
    """The record says the status that was asked for; its process is what was asked for; a load says what is true."""
    container = make_container(root, status=status, process=fate, runtime=fake)
    presence, shown = FATES[fate]
    assert container.status == Container.load(root, "c1", skip_check=True).status == status
    assert container.init is not None
    assert container.init.presence() is presence
    container.refresh()
    assert container.status == Container.load(root, "c1").status == (shown or status)
    if fate is ProcessFate.LIVE:
        assert fake.probe(container) == status


@pytest.mark.parametrize("fate", STOPPED_BY)
@pytest.mark.parametrize("how", [ExitStatus(code=0), ExitStatus(code=3), ExitStatus(signal=15), None], ids=str)
def test_a_stopped_container(root: Path, fake: FakeRuntime, fate: ProcessFate, how: ExitStatus | None) -> None:
    """A stopped container has a process that has ended, and the exit status that was asked for."""
    container = make_container(root, status="stopped", process=fate, exit_status=how, runtime=fake)
    assert (container.status, container.exit_status) == (Status.STOPPED, how)
    assert container.init is not None
    assert container.init.presence() is Presence.GONE
    if how is not None:
        assert container.wait() == how
    container.delete()


def test_what_is_not_said(root: Path, fake: FakeRuntime) -> None:
    """Unless told otherwise a container runs, a stopped one has ended with code 0, and its ID is `c1`."""
    assert (make_container(root, runtime=fake).status, StateDir(root).ids()) == (Status.RUNNING, [FullID("c1", "c1")])
    assert make_container(root, "c2", status=Status.STOPPED, runtime=fake).exit_status == ExitStatus(code=0)


@pytest.mark.parametrize("fate", ["live", "dead"])
def test_an_interrupted_creation(root: Path, fake: FakeRuntime, fate: str) -> None:
    """A container that is creating was left by a dead creator; its process, if there is one, no record names."""
    container = make_container(root, status=Status.CREATING, process=fate, runtime=fake)
    assert (container.status, container.init) == (Status.CREATING, None)
    assert container.pending is not None
    assert container.pending.action == Action.CREATE
    assert container.pending.actor.presence() is Presence.GONE
    left = fake.unscripted.family(container)
    assert len(left) == (fate == "live")
    with pytest.raises(InvalidTransitionError):
        container.start()
    container.destroy()
    assert [process.presence() for process in left] == [Presence.GONE] * len(left)


PENDING = [
    (status, action)
    for status, row in LIFECYCLE.items()
    for action in row
    if action is not Action.EXIT and status is not Status.CREATING
]


@pytest.mark.parametrize(("status", "action"), PENDING)
def test_a_pending_action_of_a_dead_actor(root: Path, fake: FakeRuntime, status: Status, action: Action) -> None:
    """A pending action was begun by a process that is gone, and `recover` finds what is true."""
    container = make_container(root, status=status, pending=action, runtime=fake)
    assert container.pending is not None
    assert (container.status, container.pending.action) == (status, action)
    assert container.pending.actor.presence() is Presence.GONE
    assert container.recover() == status
    assert container.pending is None


@pytest.mark.parametrize("fate", [ProcessFate.REUSED, ProcessFate.REBOOTED])
def test_a_bystander_is_not_hit(root: Path, fake: FakeRuntime, fate: ProcessFate) -> None:
    """A PID that is another's by now is that of a living process, which outlives the destruction of the container."""
    container = make_container(root, process=fate, runtime=fake)
    assert container.init is not None
    bystander = ProcessRef.of(container.init.pid)
    with pytest.raises(InvalidTransitionError):
        container.signal(signal.SIGKILL)
    container.destroy()
    assert bystander.presence() is Presence.ALIVE


class Web(Container):
    port: int = 80


def test_a_subclass_keeps_its_fields(root: Path, fake: FakeRuntime) -> None:
    """A subclass is made with its own fields, the options of `new` and a spec, and is what a type checker says."""
    spec = {"hostname": "web", "annotations": {"a": "b"}}
    web = make_container(root, FullID("pod", "web"), cls=Web, runtime=fake, spec=spec, port=8080, owner="me")
    assert_type(web, Web)
    assert (web.port, web.owner, web.spec, web.saver.id) == (8080, "me", spec, FullID("pod", "web"))
    assert_type(make_container(root, "plain", runtime=fake), Container)
    with pytest.raises(UnstorableStateError):
        make_container(root, "bad", cls=Web, runtime=fake, port="many")


@pytest.mark.parametrize("status", Status)
def test_making_it_is_not_part_of_the_test(root: Path, fake: FakeRuntime, status: Status) -> None:
    """What leads to a status is not in `calls`, and what the script has ready waits for the test."""
    for method in ("create", "start", "pause", "wait", "destroy", "probe"):
        fake.fail(method, KeyError("scripted"))
    container = make_container(root, status=status, runtime=fake)
    assert fake.calls == []
    with pytest.raises(KeyError):
        fake.probe(container)


def test_a_runtime_need_not_have_what_leads_there(root: Path) -> None:
    """A paused container of a runtime that cannot pause can be made too."""
    with FakeRuntime(without=["pause"]) as fake:
        assert make_container(root, status=Status.PAUSED, runtime=fake).status == Status.PAUSED


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"status": "sleeping"}, "'sleeping' is not a valid Status"),
        ({"process": "undead"}, "'undead' is not a valid ProcessFate"),
        ({"pending": "lunch"}, "'lunch' is not a valid Action"),
        ({"status": "stopped", "process": "live"}, "that of a stopped container has ended"),
        ({"status": "stopped", "process": "unknown"}, "that of a stopped container has ended"),
        ({"status": "creating", "process": "reused"}, "names no process: live or dead"),
        ({"status": "stopped", "pending": "pause"}, "cannot be begun in status stopped"),
        ({"status": "running", "pending": "create"}, "cannot be begun in status running"),
        ({"status": "creating", "pending": "exit"}, "cannot be begun in status creating"),
        ({"exit_status": ExitStatus(code=3)}, "a container that is running has none"),
        ({"exit_status": None}, "a container that is running has none"),
    ],
    ids=range(11),
)
def test_what_does_not_go_together_is_refused(root: Path, fake: FakeRuntime, mistake: dict[str, Any], message: str) -> None:
    """What cannot be is a `ValueError` that says why, and nothing was made."""
    with pytest.raises(ValueError, match=message):
        make_container(root, runtime=fake, **mistake)
    assert StateDir(root).ids() == []


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"stauts": "paused"}, "no field 'stauts' of Container: did you mean status?"),
        ({"bundel_dir": "/b"}, "no field 'bundel_dir' of Container: did you mean bundle_dir?"),
        ({"qqq": 1}, "no field 'qqq' of Container"),
        ({"cls": Web, "prot": 1}, "no field 'prot' of Web: did you mean port?"),
        ({"cls": dict}, "give a subclass of Container"),
        ({"cls": "Web"}, "give a subclass of Container"),
        ({"runtime": "fake"}, "runtime must be a FakeRuntime, not 'fake'"),
        ({"status": "stopped", "exit_status": 3}, "exit_status must be an ExitStatus, not 3"),
    ],
    ids=range(8),
)
def test_what_is_of_no_use_is_refused(root: Path, fake: FakeRuntime, mistake: dict[str, Any], message: str) -> None:
    """What nobody would read, or cannot be what it should be, is a `TypeError` that names it, and nothing was made."""
    arguments: dict[str, Any] = {"runtime": fake, **mistake}
    with pytest.raises(TypeError) as caught:
        make_container(root, **arguments)
    assert message in str(caught.value)
    assert StateDir(root).ids() == []


@pytest.mark.parametrize(
    ("mistake", "kind"), [({"status": "x"}, Status), ({"process": "x"}, ProcessFate), ({"pending": "x"}, Action)], ids=range(3)
)
def test_a_wrong_word_is_answered_with_the_right_ones(root: Path, mistake: dict[str, Any], kind: type[StrEnum]) -> None:
    """The message for a word that is none has all that are."""
    with pytest.raises(ValueError, match="it is one of ") as caught:
        make_container(root, **mistake)
    assert [word for word in kind if word not in str(caught.value)] == []


class Grown(Container):
    @classmethod
    def new(cls, *args: Any, size: int = 0, **options: Any) -> Self:
        return super().new(*args, owner=str(size), **options)


def test_a_subclass_may_have_options_of_its_own(root: Path, fake: FakeRuntime) -> None:
    """What the `new` of a subclass takes besides fields is handed on."""
    assert make_container(root, cls=Grown, runtime=fake, size=5).owner == "5"


def test_a_taken_id_is_refused(root: Path, fake: FakeRuntime) -> None:
    """An ID that is taken is not touched."""
    first = make_container(root, runtime=fake)
    with pytest.raises(AlreadyExistsError):
        make_container(root, status=Status.PAUSED, runtime=fake)
    first.refresh()
    assert first.status == Status.RUNNING
