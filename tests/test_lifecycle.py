"""The lifecycle: every pair of status and action, in the table and through the verbs, against a list written out by hand."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from statefile import (
    LIFECYCLE,
    Action,
    AlreadyExistsError,
    Container,
    Created,
    ExitStatus,
    InvalidTransitionError,
    NotFoundError,
    ProcessRef,
    StateFile,
    Status,
    WaitTimeoutError,
)
from statefile._lifecycle import allowed_actions
from statefile._process import Presence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

# What is promised, by hand: status → action → status. What is not here is refused.
PROMISED = {
    "creating": {
        "create": "created",
        "exit": "stopped",
        "destroy": "stopped",
    },
    "created": {
        "start": "running",
        "restore": "running",
        "pause": "paused",
        "exit": "stopped",
        "checkpoint": "created",
        "execute": "created",
        "update": "created",
        "events": "created",
        "signal": "created",
        "signal all": "created",
        "wait": "created",
        "destroy": "stopped",
    },
    "running": {
        "pause": "paused",
        "exit": "stopped",
        "checkpoint": "running",
        "execute": "running",
        "update": "running",
        "events": "running",
        "processes": "running",
        "signal": "running",
        "signal all": "running",
        "wait": "running",
        "destroy": "stopped",
    },
    "paused": {
        "resume": "running",
        "exit": "stopped",
        "checkpoint": "paused",
        "update": "paused",
        "events": "paused",
        "processes": "paused",
        "signal": "paused",
        "signal all": "paused",
        "wait": "paused",
        "destroy": "stopped",
    },
    "stopped": {
        "signal all": "stopped",
        "wait": "stopped",
        "delete": "stopped",
        "destroy": "stopped",
    },
}

STATUSES = ["creating", "created", "running", "paused", "stopped"]
ACTIONS = [
    *("create", "start", "restore", "pause", "resume", "exit", "checkpoint", "execute", "update", "events", "processes"),
    *("signal", "signal all", "wait", "delete", "destroy"),
]

# What can be asked for: all but `create` and `exit`, which happen.
VERBS: dict[str, Callable[[Container], object]] = {
    "start": lambda c: c.start(),
    "restore": lambda c: c.restore("/image"),
    "pause": lambda c: c.pause(),
    "resume": lambda c: c.resume(),
    "checkpoint": lambda c: c.checkpoint("/image"),
    "execute": lambda c: c.execute(["true"]),
    "update": lambda c: c.update({"nice": 1}),
    "events": lambda c: c.events(),
    "processes": lambda c: c.processes(),
    "signal": lambda c: c.signal(signal.SIGTERM),
    "signal all": lambda c: c.signal(signal.SIGTERM, all=True),
    "wait": lambda c: c.wait(0),
    "delete": lambda c: c.delete(),
    "destroy": lambda c: c.destroy(),
}

# Records as they stand on disk. A pause is left for where it was entered from.
RECORDS: dict[str, dict[str, Any]] = {
    "creating": {"status": "creating"},
    "created": {"status": "created"},
    "running": {"status": "running"},
    "paused": {"status": "paused", "pausedFrom": "running"},
    "paused before the start": {"status": "paused", "pausedFrom": "created"},
    "stopped": {"status": "stopped", "exitStatus": {"code": 5}},
}


class Script:
    """A runtime that does what the test says, and remembers what it was asked. Its processes are children of the test."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.instead: dict[str, Callable[..., Any]] = {}  # by the name of a method: what to do in its place
        self.children: dict[int, subprocess.Popen[bytes]] = {}

    def _do(self, name: str, container: Container, *arguments: object, otherwise: Callable[[], Any] = lambda: None) -> Any:
        self.asked.append(name)
        instead = self.instead.get(name)
        return otherwise() if instead is None else instead(container, *arguments)

    def child(self) -> ProcessRef:
        """A process that does nothing."""
        process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        self.children[process.pid] = process
        return ProcessRef.of(process.pid)

    def end(self, ref: ProcessRef | None = None, *, reap: bool = True) -> None:
        """Kill one, or all."""
        for pid, process in list(self.children.items()):
            if ref is None or ref.pid == pid:
                process.kill()
                if reap:
                    process.wait()
                    del self.children[pid]
                else:
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    def create(self, container: Container) -> Created:
        made: Created = self._do("create", container, otherwise=lambda: Created(init=self.child()))
        return made

    def start(self, container: Container) -> None:
        self._do("start", container)

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        self._do("signal all" if all else "signal", container, number)

    def destroy(self, container: Container) -> None:
        def end() -> None:
            if container.init is not None:
                self.end(container.init)

        self._do("destroy", container, otherwise=end)

    def probe(self, container: Container) -> Status:
        def told() -> str:
            ended = container.init is None or container.init.presence() is Presence.GONE
            return Status.STOPPED if ended else container.status

        found: Status = self._do("probe", container, otherwise=told)
        return found

    def pause(self, container: Container) -> None:
        self._do("pause", container)

    def resume(self, container: Container) -> None:
        self._do("resume", container)

    def checkpoint(self, container: Container, path: str) -> None:
        self._do("checkpoint", container, path)

    def restore(self, container: Container, path: str) -> None:
        self._do("restore", container, path)

    def execute(self, container: Container, args: Sequence[str]) -> Any:
        return self._do("execute", container, args)

    def processes(self, container: Container) -> Any:
        return self._do("processes", container, otherwise=lambda: [container.init])

    def update(self, container: Container, resources: Mapping[str, Any]) -> None:
        self._do("update", container, resources)

    def events(self, container: Container) -> Any:
        return self._do("events", container)

    def wait(self, container: Container, timeout: float | None) -> Any:
        def ended() -> ExitStatus:
            process = self.children[container.init.pid] if container.init else None
            assert process is not None
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                raise TimeoutError(*error.args) from error
            return ExitStatus(signal=-code) if code < 0 else ExitStatus(code=code)

        return self._do("wait", container, timeout, otherwise=ended)


@pytest.fixture
def script() -> Iterator[Script]:
    """A runtime whose processes are dead and reaped afterwards."""
    runtime = Script()
    yield runtime
    runtime.end()


def as_json(ref: ProcessRef) -> dict[str, Any]:
    """How it stands in a file."""
    return {"pid": ref.pid, "startTicks": ref.start_ticks, "bootId": ref.boot_id, "pidNamespace": ref.pid_namespace}


def put(root: Path, record: Mapping[str, Any], *, name: str = "c") -> Path:
    """Write a record as plain JSON, and nothing that is not in it."""
    file = StateFile(root_dir=root, id=name)
    with file.hold_for_new():
        file.save_locked({"id": name, **record})
    return file.state_path


def recorded(root: Path, runtime: Script, record: str) -> tuple[Path, Container]:
    """A container of which the disk says what `RECORDS` says: its process lives, or has ended, as befits its status."""
    init = {} if record == "creating" else {"init": as_json(runtime.child())}
    if record == "stopped":
        runtime.end()
    path = put(root, RECORDS[record] | init)
    return path, Container.load(root, "c", runtime=runtime)


def test_table_is_the_promised_one() -> None:
    """Every status stands in the table, and each pair of status and action leads where it was promised, or is not there."""
    assert list(Status) == STATUSES
    assert list(Action) == ACTIONS
    for status, action in itertools.product(STATUSES, ACTIONS):
        leads = LIFECYCLE[Status(status)].get(Action(action))
        assert leads == PROMISED[status].get(action), (status, action)


def test_table_cannot_be_changed() -> None:
    """Nobody can add an arrow while the program runs."""
    for table in (LIFECYCLE, *LIFECYCLE.values()):
        with pytest.raises(TypeError):
            table["x"] = "y"  # type: ignore[index]


@pytest.mark.parametrize("status", STATUSES)
def test_what_merely_happens_is_not_offered(status: str) -> None:
    """The actions that are offered are the row of the table, without `create` and `exit`."""
    assert allowed_actions(Status(status)) == tuple(a for a in PROMISED[status] if a not in {"create", "exit"})


PAIRS = list(itertools.product(RECORDS, VERBS))


def leads_to(record: str, verb: str) -> str | None:
    """Where a verb leads from a record; `None`: it is refused."""
    if (record, verb) == ("paused before the start", "resume"):
        return "created"
    return PROMISED[RECORDS[record]["status"]].get(verb)


@pytest.mark.parametrize(("record", "verb"), [pair for pair in PAIRS if leads_to(*pair)])
def test_allowed_verb_leads_where_the_table_says(root: Path, script: Script, record: str, verb: str) -> None:
    """The runtime is asked for just that, and object and file say what the table says."""
    path, c = recorded(root, script, record)
    with contextlib.suppress(WaitTimeoutError):  # of a process that lives
        VERBS[verb](c)
    assert c.status == leads_to(record, verb)
    if verb in {"delete", "destroy"}:
        assert [name for name in script.asked if name != "probe"] == ["destroy"]
        assert not path.exists()
        with pytest.raises(NotFoundError):
            Container.load(root, "c")
    else:
        known = (record, verb) == ("stopped", "wait")
        assert script.asked == ([] if known else [verb])
        again = Container.load(root, "c", runtime=script)
        assert (again.status, again.pending) == (c.status, None)
        assert (again.paused_from is None) == (again.status != "paused")
        assert again.model_dump() == c.model_dump()


@pytest.mark.parametrize(("record", "verb"), [pair for pair in PAIRS if not leads_to(*pair)])
def test_other_verbs_are_refused_and_move_nothing(root: Path, script: Script, record: str, verb: str) -> None:
    """The error names container, action, status and what is possible; no byte changes and the runtime is not asked."""
    path, c = recorded(root, script, record)
    before = (path.read_bytes(), path.stat())
    memory = c.model_dump()
    with pytest.raises(InvalidTransitionError) as caught:
        VERBS[verb](c)
    error = caught.value
    status = RECORDS[record]["status"]
    possible = [action for action in PROMISED[status] if action not in {"create", "exit"}]
    assert (error.id, error.action, error.status, list(error.allowed)) == ("c", verb, status, possible)
    assert f"container 'c' is {status}: cannot `{verb}`; possible now: {', '.join(possible)}" in str(error)
    assert (path.read_bytes(), path.stat()) == before
    assert c.model_dump() == memory
    assert script.asked == []


@pytest.mark.parametrize("record", RECORDS)
def test_forced_delete_works_from_every_status(root: Path, script: Script, record: str) -> None:
    """`delete(force=True)` is `destroy`: nothing is left, and the ID is free."""
    path, c = recorded(root, script, record)
    c.delete(force=True)
    assert c.status == "stopped"
    assert not path.exists()
    assert script.children == {}
    Container.new(root, "c", runtime=script).destroy()


@pytest.mark.parametrize("record", RECORDS)
def test_creation_is_refused_whatever_the_status(root: Path, script: Script, record: str) -> None:
    """A name that is taken stays as it is, byte for byte, and the runtime is not asked."""
    path, _ = recorded(root, script, record)
    before = path.read_bytes()
    with pytest.raises(AlreadyExistsError):
        Container.new(root, "c", runtime=script)
    assert path.read_bytes() == before
    assert script.asked == []


@pytest.mark.parametrize("record", RECORDS)
def test_end_of_the_process_leads_to_stopped(root: Path, script: Script, record: str) -> None:
    """When its process is gone a container is stopped, but for one whose creation was interrupted: that is for `destroy`."""
    _, c = recorded(root, script, record)
    script.end()
    expected = "creating" if record == "creating" else "stopped"
    assert Container.load(root, "c", runtime=script).status == expected
    assert c.recover() == expected
    assert Container.load(root, "c", skip_check=True).status == expected


def test_refusal_of_an_unfinished_creation_says_why(root: Path, script: Script) -> None:
    """Who meets `creating` learns that the creation goes on or was interrupted."""
    _, c = recorded(root, script, "creating")
    with pytest.raises(InvalidTransitionError, match="interrupted"):
        c.start()
