"""`Container` with real processes, driven from several sides at once, and with runtimes that fail as they are told to."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import Field, computed_field
from pydantic.alias_generators import to_camel

from statefile import (
    Action,
    AlreadyExistsError,
    AmbiguousIDError,
    Container,
    CorruptStateError,
    Created,
    DeadlockError,
    DestroyError,
    ExitStatus,
    FullID,
    InvalidIDError,
    InvalidRuntimeError,
    InvalidTransitionError,
    LockTimeoutError,
    NotFoundError,
    ProcessRef,
    ProcessRuntime,
    Sandbox,
    StaleStateError,
    State,
    StateDir,
    StateFile,
    StateFileError,
    StateIOError,
    Status,
    StillRunningError,
    UnsafePathError,
    UnstorableStateError,
    UnsupportedActionError,
    UnsupportedVersionError,
    WaitTimeoutError,
    _atomic,
)
from statefile import runtime as runtime_module
from statefile._process import PID_MAX, Presence
from tests.harness import PATIENCE, Worker, meet, names, plain, tell, until
from tests.test_lifecycle import RECORDS, Script, as_json, put, recorded, script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from statefile import Runtime
    from tests.harness import Spawn

__all__ = ["home", "script"]  # fixtures: pytest finds them by name

SLEEP = ("sleep", "1000")
FAMILY = ("sh", "-c", "sleep 1000 & wait")


# -- what the tests are made of ------------------------------------------------------------------------------------------


def spec_of(root: Path, *args: str, **more: Any) -> dict[str, Any]:
    """A spec whose processes show in `/proc` to which root directory they belong."""
    return {"process": {"args": list(args or SLEEP), "env": ["PATH=/usr/bin:/bin", f"ROOT={root}"]}, **more}


def make(
    root: Path, *args: str, name: str = "c", runtime: Runtime | None = None, hooks: Any = None, **options: Any
) -> Container:
    """A created container; `sleep` if nothing else is said."""
    spec = spec_of(root, *args, **({"hooks": hooks} if hooks else {}))
    return Container.new(root, name, spec=spec, runtime=runtime or ProcessRuntime(), **options)


def survivors(root: Path, but: frozenset[str] = frozenset()) -> list[int]:
    """The living processes of containers below `root`, monitors included: they show it, or have a file of it open."""
    found = []
    for pid in filter(str.isdecimal, {*os.listdir("/proc")} - but - {str(os.getpid())}):
        with contextlib.suppress(OSError):
            shown = Path(f"/proc/{pid}/environ").read_bytes()
            folder = f"/proc/{pid}/fd"
            opened = [os.readlink(f"{folder}/{number}") for number in os.listdir(folder)]
            if os.fsencode(f"ROOT={root}\0") in shown or any(path.startswith(f"{root}/") for path in opened):
                found.append(int(pid))
    return found


@pytest.fixture
def home(root: Path) -> Iterator[Path]:
    """A root directory. Afterwards what is still there is destroyed, and nothing may be running that nobody can find."""
    before = frozenset(os.listdir("/proc"))
    yield root
    for full_id in StateDir(root).ids():
        with contextlib.suppress(StateFileError, ExceptionGroup):
            Container.load(root, full_id, exact=True, runtime=ProcessRuntime()).destroy(force=True)
    try:
        until(lambda: not survivors(root, before), timeout=5)
    finally:
        for pid in survivors(root, before):
            os.kill(pid, signal.SIGKILL)


def process_state(pid: int) -> str:
    """One letter, as `ps` shows it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def pid_of(c: Container) -> int:
    """Its first process's."""
    assert c.init is not None
    return c.init.pid


def on_disk(root: Path, name: str = "c") -> dict[str, Any]:
    """What the file says, as plain JSON."""
    found: dict[str, Any] = json.loads(StateFile(root_dir=root, id=name).state_path.read_bytes())
    return found


def step(root: Path, name: str, verb: str, *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """What a command-line tool does: load, do one thing, and say what came of it."""
    c = Container.load(root, name, runtime=ProcessRuntime())
    result = getattr(c, verb)(*args, **kwargs)
    return result, c.status


def create(root: Path, *args: str, name: str = "c") -> ProcessRef | None:
    """The same for a creation."""
    return make(root, *args, name=name).init


def attempt(root: Path, verb: str, name: str = "c", **kwargs: Any) -> tuple[str, Any]:
    """Do one thing; the status then, or the name of the error and the status that it tells."""
    try:
        return "done", step(root, name, verb, **kwargs)[1]
    except StateFileError as error:
        return type(error).__name__, getattr(error, "status", None)


# -- a life ------------------------------------------------------------------------------------------------------------


def test_a_life_of_which_each_step_is_another_process(home: Path, tmp_path: Path) -> None:
    """Creation, start, pause, resume, signal, wait and deletion need no memory: each is done by a program of its own."""
    up = tmp_path / "up"
    pid_file = tmp_path / "pid"

    def elsewhere(do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with contextlib.closing(Worker()) as worker:
            return worker.call(do, home, *args, **kwargs)

    script = f"trap 'exit 7' TERM; touch {up}; sleep 1000 & wait"
    init = elsewhere(_create_with, ["sh", "-c", script], str(pid_file))
    pid = init.pid
    assert pid_file.read_text() == str(pid)
    assert init.presence() is Presence.ALIVE
    assert not up.exists()
    assert elsewhere(step, "c", "state") == (
        State(oci_version="1.3.0", id="c", status="created", pid=pid, bundle=str(tmp_path)),
        Status.CREATED,
    )
    assert elsewhere(step, "c", "start") == (None, Status.RUNNING)
    until(up.exists)
    until(lambda: len(step(home, "c", "processes")[0]) == 2)
    processes, _ = elsewhere(step, "c", "processes")
    assert processes[0] == init
    assert elsewhere(step, "c", "pause") == (None, Status.PAUSED)
    assert [process_state(ref.pid) for ref in processes] == ["T", "T"]
    assert elsewhere(step, "c", "resume") == (None, Status.RUNNING)
    assert elsewhere(step, "c", "signal", signal.SIGTERM) == (None, Status.RUNNING)
    assert elsewhere(step, "c", "wait") == (ExitStatus(code=7), Status.STOPPED)
    assert elsewhere(step, "c", "state") == (
        State(oci_version="1.3.0", id="c", status="stopped", pid=0, bundle=str(tmp_path)),
        Status.STOPPED,
    )
    assert elsewhere(step, "c", "delete") == (None, Status.STOPPED)
    with pytest.raises(NotFoundError):
        step(home, "c", "state")
    assert names(home) == []
    assert not survivors(home)


def _create_with(root: Path, args: list[str], pid_file: str) -> ProcessRef | None:
    return make(root, *args, pid_file=pid_file, bundle_dir=os.path.dirname(pid_file)).init


def test_created_process_waits(home: Path, tmp_path: Path) -> None:
    """What `new` returns is created: its process is final and does nothing yet, and object and file agree."""
    proof = tmp_path / "proof"
    before = time.time()
    c = make(home, "sh", "-c", f"echo $$ >{proof}", bundle_dir=tmp_path, console_socket=tmp_path / "socket")
    assert c.status is Status.CREATED
    assert not proof.exists()
    record = on_disk(home)
    assert c.init is not None
    assert record["init"] == as_json(c.init)
    score = int(Path("/proc/self/oom_score_adj").read_text())
    assert record["sandbox"] == {"id": "c", "pid": pid_of(c), "originalOomScoreAdj": score}
    assert set(record["helpers"]) == {"monitor"}
    assert (record["status"], record["pending"], record["exitStatus"]) == ("created", None, None)
    assert (record["bundleDir"], record["consoleSocket"]) == (str(tmp_path), str(tmp_path / "socket"))
    assert record["saver"] == {"rootDir": str(home), "id": {"sandboxId": "c", "containerId": "c"}}
    assert record["owner"] == c.owner != ""
    when = time.strptime(record["createdAt"].partition(".")[0], "%Y-%m-%dT%H:%M:%S")
    assert abs(before - (time.mktime(when) - time.timezone)) < 24 * 3600
    assert len(record["createdAt"]) == len("2026-01-01T00:00:00.123456789Z")
    c.start()
    assert c.wait(PATIENCE) == ExitStatus(code=0)
    assert int(proof.read_text()) == pid_of(c)


def test_owner_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch, home: Path, script: Script) -> None:
    """A user whom the database does not know owns what he makes by his number; and `new` may be told another owner."""
    monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 7)
    assert Container.new(home, "a", runtime=script).owner == str(2**31 - 7)
    assert Container.new(home, "b", runtime=script, owner="ann").owner == "ann"


def test_pause_of_a_created_container(home: Path, tmp_path: Path) -> None:
    """A container can be paused before its start; resumed it is created again, and can be started and paused anew."""
    proof = tmp_path / "proof"
    c = make(home, "sh", "-c", f"touch {proof}; sleep 1000")
    for _ in range(2):
        c.pause()
        assert (c.status, c.paused_from) == (Status.PAUSED, Status.CREATED)
        assert process_state(pid_of(c)) == "T"
        with pytest.raises(InvalidTransitionError):
            c.start()
        c.resume()
        assert (c.status, c.paused_from) == (Status.CREATED, None)
    assert not proof.exists()
    c.start()
    until(proof.exists)
    c.pause()
    assert (c.status, c.paused_from) == (Status.PAUSED, Status.RUNNING)
    c.resume()
    assert c.status is Status.RUNNING


def test_run(home: Path, tmp_path: Path) -> None:
    """`run` is a whole life: it says how the process ended, and leaves nothing unless it is told to keep it."""
    pid_file = tmp_path / "pid"
    runtime = ProcessRuntime()
    spec = spec_of(home, "sh", "-c", "exit 3")
    assert Container.run(home, "c", spec=spec, runtime=runtime, pid_file=pid_file) == ExitStatus(code=3)
    assert pid_file.exists()
    assert names(home) == []
    spec = spec_of(home, "sh", "-c", "kill -9 $$")
    assert Container.run(home, "c", spec=spec, runtime=runtime, keep=True) == ExitStatus(signal=9)
    assert (on_disk(home)["status"], on_disk(home)["exitStatus"]) == ("stopped", {"code": None, "signal": 9})


@pytest.mark.parametrize("when", ["start", "wait"])
@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_run_that_fails_leaves_nothing(home: Path, script: Script, when: str, error: BaseException) -> None:
    """Whatever ends a `run` early, the container is destroyed and the error passed on."""
    script.instead[when] = raising(error)
    with pytest.raises(type(error)) as caught:
        Container.run(home, "c", runtime=script)
    assert caught.value is error
    assert names(home) == []
    assert script.children == {}


def test_run_whose_clean_up_fails_too(home: Path, script: Script) -> None:
    """The first error stays the one that is raised; what failed afterwards is in its notes, and the record is kept."""
    script.instead.update(start=raising(RuntimeError("first")), destroy=raising(OSError("second")))
    with pytest.raises(RuntimeError, match="first") as caught:
        Container.run(home, "c", runtime=script)
    assert [note.partition(": ")[2].partition(" ")[0] for note in caught.value.__notes__] == ["OSError:", "StillRunningError:"]
    assert caught.value.__notes__[0] == "then, cleaning up: OSError: second"
    assert on_disk(home)["status"] == "created"


def raising(error: BaseException) -> Callable[..., Any]:
    """A method that raises just that."""

    def method(*_: object) -> None:
        raise error

    return method


# -- to get one --------------------------------------------------------------------------------------------------------


def test_partial_ids(home: Path) -> None:
    """A container is found by its ID, by a unique beginning of it, or with `exact` by its ID alone."""
    for name in ("batch-1", "batch-17", "web"):
        put(home, {"status": "stopped"}, name=name)
    assert Container.load(home, "batch-1").id == "batch-1"
    assert Container.load(home, "batch-17").id == "batch-17"
    assert Container.load(home, "w").id == "web"
    assert Container.load(home, FullID("web", "web")).saver.id == FullID("web", "web")
    assert Container.load(home, "web", exact=True).id == "web"
    with pytest.raises(AmbiguousIDError) as ambiguous:
        Container.load(home, "bat")
    assert ambiguous.value.candidates == (FullID("batch-1", "batch-1"), FullID("batch-17", "batch-17"))
    for given, options in (("w", {"exact": True}), ("x", {}), (FullID("x", "web"), {})):
        with pytest.raises(NotFoundError):
            Container.load(home, given, **options)  # type: ignore[arg-type]
    for bad in ("", "..", "w*", "a/b", None):
        with pytest.raises(InvalidIDError):
            Container.load(home, bad)  # type: ignore[arg-type]


def test_load_changes_nothing(home: Path, script: Script) -> None:
    """A container whose process is gone is shown as stopped, with the reason in the log, and nothing is written."""
    c = Container.new(home, "c", runtime=script)
    c.start()
    script.end()
    before = (c.saver.state_path.read_bytes(), c.saver.state_path.stat())
    assert Container.load(home, "c").status is Status.STOPPED
    assert Container.load(home, "c", skip_check=True).status is Status.RUNNING
    assert c.status == "running"  # as last seen
    c.refresh()
    assert c.status == "stopped"
    assert c.state().pid == 0
    assert (c.saver.state_path.read_bytes(), c.saver.state_path.stat()) == before
    assert c.saver.holder() is None


def test_reason_for_stopped_is_logged(home: Path, script: Script, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what the record says, and which process is gone."""
    c = Container.new(home, "c", runtime=script)
    script.end()
    with caplog.at_level(logging.INFO, "statefile"):
        Container.load(home, "c")
    (message,) = caplog.messages
    assert "c: the record says created" in message
    assert f"pid={pid_of(c)}" in message


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({}, "status"),
        ({"status": 7}, "status"),
        ({"status": None}, "status"),
        ({"status": "running", "spec": []}, "spec"),
        ({"status": "running", "id": "a/b"}, "id"),
        ({"status": "running", "createdAt": "yesterday"}, "createdAt"),
        ({"status": "running", "exitStatus": {"code": 256}}, "exitStatus.code"),
        ({"status": "running", "pending": {"action": 7, "actor": {"pid": 7}}}, "pending.action"),
        ({"status": "running", "revision": -1}, "revision"),
        ({"status": "running", "schemaVersion": "1"}, "schemaVersion"),
        ({"status": "paused", "pausedFrom": 7}, "pausedFrom"),
        ({"status": "running", "helpers": {"gofer": 7}}, "helpers.gofer"),
    ],
)
def test_wrong_field_is_named(home: Path, record: dict[str, Any], field: str) -> None:
    """A record that is none names its file and field, and the others are listed all the same."""
    path = put(home, record, name="bad")
    put(home, {"status": "stopped"}, name="good")
    with pytest.raises(CorruptStateError) as caught:
        Container.load(home, "bad")
    assert (caught.value.path, caught.value.kind) == (str(path), "invalid")
    assert f"'{field}" in caught.value.reason
    (bad, error), (good, loaded) = StateDir(home).load_all(Container)
    assert (str(bad), type(error)) == ("bad/bad", CorruptStateError)
    assert (str(good), type(loaded)) == ("good/good", Container)
    Container.new(home, "another", runtime=Script_without_process()).destroy()


def Script_without_process() -> Script:  # noqa: N802  # reads as the class that it narrows
    """A runtime whose containers have a process that is gone already."""
    runtime = Script()
    runtime.instead["create"] = lambda _: Created(init=ProcessRef(pid=PID_MAX, start_ticks=1))
    return runtime


@pytest.mark.parametrize("field", ["spec", "helpers", "sandbox", "init", "exitStatus", "pending", "pausedFrom"])
def test_null_stands_for_nothing(home: Path, field: str) -> None:
    """Where there may be nothing, an absent key and a null are the same."""
    put(home, {"status": "stopped"}, name="absent")
    put(home, {"status": "stopped", field: None}, name="null")
    absent, null = (Container.load(home, name).model_dump(exclude={"id", "saver"}) for name in ("absent", "null"))
    assert absent == null


@pytest.mark.parametrize(
    ("record", "verbs"),
    [
        ({"status": "sleeping"}, ["start", "pause", "resume", "signal", "wait", "delete", "processes", "update"]),
        ({"status": "running", "schemaVersion": 2}, ["pause", "update", "checkpoint"]),
    ],
    ids=["status", "schema"],
)
def test_record_of_a_later_version(home: Path, script: Script, record: dict[str, Any], verbs: list[str]) -> None:
    """What a later version wrote is shown as it is; nothing but `destroy` changes it, and the runtime is not asked."""
    path = put(home, record | {"init": as_json(script.child()), "x-new": {"a": [1]}})
    before = path.read_bytes()
    c = Container.load(home, "c", runtime=script)
    assert c.status == c.state().status == record["status"]
    for verb in verbs:
        with pytest.raises((InvalidTransitionError, UnsupportedVersionError)) as caught:
            ask(c, verb)
        assert getattr(caught.value, "allowed", (Action.DESTROY,)) == (Action.DESTROY,)
    assert c.recover() == record["status"]
    assert path.read_bytes() == before
    assert script.asked == []
    c.destroy()
    assert names(home) == []
    assert script.children == {}


# -- what an object shows ----------------------------------------------------------------------------------------------


# What some verbs need to be told.
ARGUMENTS: dict[str, Any] = {"restore": "/x", "checkpoint": "/x", "update": {}, "execute": list(SLEEP), "signal": 15}


def ask(c: Container, verb: str, **options: Any) -> Any:
    """One verb by its name."""
    return getattr(c, verb)(*[ARGUMENTS[verb]][:1] if verb in ARGUMENTS else (), **options)


@pytest.mark.parametrize(
    ("before", "first", "second", "status"),
    [
        ("created", "start", "start", "running"),
        ("created", "pause", "start", "paused"),
        ("running", "pause", "pause", "paused"),
        ("paused", "resume", "resume", "running"),
        ("running", "pause", "delete", "paused"),
        ("created", "start", "restore", "running"),
    ],
)
def test_second_object_is_judged_by_what_the_first_has_done(
    home: Path, script: Script, *, before: str, first: str, second: str, status: str
) -> None:
    """A verb looks at the file under the lock, not at what its object remembers; the error names the real status."""
    path, one = recorded(home, script, before)
    two = Container.load(home, "c", runtime=script)
    getattr(one, first)()
    assert two.status == before
    after = path.read_bytes()
    with pytest.raises(InvalidTransitionError) as caught:
        ask(two, second)
    assert caught.value.status == two.status == status
    assert path.read_bytes() == after
    assert script.asked == [first]


@pytest.mark.parametrize("verb", ["start", "pause", "resume", "recover", "delete", "processes", "state", "refresh", "wait"])
def test_verb_on_what_another_has_destroyed(home: Path, script: Script, verb: str) -> None:
    """What is gone is not found, by any verb; and a stale object brings nothing back."""
    _, one = recorded(home, script, "running")
    two = Container.load(home, "c", runtime=script)
    one.destroy()
    with pytest.raises(NotFoundError) as caught:
        getattr(two, verb)()
    assert caught.value.path == str(two.saver.state_path)
    assert names(home) == []


def test_object_does_not_undo_what_another_has_saved(home: Path, script: Script) -> None:
    """A verb of an object that was loaded earlier keeps what others have changed since, fields it does not know included."""
    _, one = recorded(home, script, "running")
    two = Container.load(home, "c", runtime=script)
    with one.saver.transaction(Container) as record:
        record.spec["annotations"] = {"by": "another"}
        record.owner = "ann"
        assert record.model_extra is not None
        record.model_extra["x-new"] = [1]
    two.pause()
    record_now = on_disk(home)
    assert (record_now["status"], record_now["owner"], record_now["x-new"]) == ("paused", "ann", [1])
    assert two.annotations == {"by": "another"}
    one.update({"nice": 1})
    assert (one.status, one.owner, on_disk(home)["status"]) == (Status.PAUSED, "ann", "paused")


@pytest.mark.parametrize("saves", [0, 1, 2, 5])
@pytest.mark.parametrize("read", [True, False])
def test_object_of_a_former_life_does_not_replace_the_next_one(home: Path, script: Script, saves: int, read: bool) -> None:
    """What was loaded before the ID was destroyed and made anew is refused, though its revision may be the file's."""
    former = Container.new(home, "c", runtime=script)
    Container.load(home, "c", runtime=script).destroy()
    now = Container.new(home, "c", runtime=script)
    for _ in range(saves):
        with now.saver.transaction(Container):
            pass
    former.revision = on_disk(home)["revision"]
    before = on_disk(home)
    with former.saver.hold(timeout=0):
        if read:
            former.saver.load(Container)
        with pytest.raises(StaleStateError, match="it was made at"):
            former.saver.save_locked(former)
    assert on_disk(home) == before
    now.destroy()


@pytest.mark.parametrize(
    ("field", "value"), [("spec", ["x"]), ("owner", 1), ("id", "a/b"), ("sandbox", "s"), ("helpers", {"m": 1})]
)
def test_transaction_does_not_save_what_is_no_container(home: Path, script: Script, field: str, value: Any) -> None:
    """A field of the wrong kind, the opaque spec included, is refused when it is saved, and the file stays."""
    c = Container.new(home, "c", runtime=script)
    before = c.saver.state_path.read_bytes()
    with pytest.raises(UnstorableStateError, match=to_camel(field)), c.saver.transaction(Container) as mine:
        setattr(mine, field, value)
    assert c.saver.state_path.read_bytes() == before


def test_misspelt_argument_of_a_creation_is_refused(home: Path, script: Script) -> None:
    """What is neither an argument nor a field is a `TypeError` before anything is touched, and no field that nobody reads."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'timeot'"):
        Container.new(home, "c", runtime=script, timeot=3)
    assert (names(home), script.asked) == ([], [])


def test_no_runtime_is_named(home: Path) -> None:
    """Where a runtime is needed, `None` is said to be none."""
    with pytest.raises(InvalidRuntimeError, match="runtime None"):
        Container.new(home, "c", runtime=None)  # type: ignore[arg-type]
    assert names(home) == []


def _create_where_nothing_is(root: Path, folder: Path, argument: str) -> str:
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    try:
        if argument == "pid_file":
            Container.new(root, "c", runtime=ProcessRuntime(), pid_file="relative")
        else:
            Container.new(root, "c", runtime=ProcessRuntime(), bundle_dir="relative")
    except StateIOError as error:
        return f"{error.errno} {error.path}"
    finally:
        os.chdir("/")
    return "created"


@pytest.mark.parametrize("argument", ["bundle_dir", "pid_file"])
def test_relative_path_where_the_working_directory_is_gone(home: Path, spawn: Spawn, tmp_path: Path, argument: str) -> None:
    """A path that cannot be made absolute is named before anything is touched."""
    assert spawn(fresh=True).call(_create_where_nothing_is, home, tmp_path / "gone", argument) == f"{errno.ENOENT} relative"
    assert names(home) == []


class Computing(Container):
    """A subclass that computes something."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def shown(self) -> str:
        """What follows from the fields."""
        return f"{self.id}: {self.status}"


def test_computed_field_of_a_container_is_no_state(home: Path, script: Script) -> None:
    """What a container computes is not in its file, and is computed anew from what is."""
    c = Computing.new(home, "c", runtime=script)
    assert "shown" not in on_disk(home)
    c.start()
    assert "shown" not in on_disk(home)
    assert Computing.load(home, "c").shown == "c: running"


class Named(Container):
    """A subclass whose fields are called as arguments of ours are."""

    path: str = ""
    timeout_seconds: int = 0


def test_field_may_be_called_as_an_argument_of_ours(home: Path, script: Script) -> None:
    """A subclass may have a field `path`."""
    assert Named.new(home, "c", runtime=script, path="/x").path == "/x"
    assert Named.load(home, "c").path == "/x"


@pytest.mark.parametrize("option", ["frozen", "validate_assignment"])
def test_subclass_with_which_no_verb_could_work_is_refused(option: str) -> None:
    """A container that cannot be changed is refused where it is defined, with the reason."""
    with pytest.raises(TypeError, match=f"{option}=True"):
        type("Odd", (Container,), {"model_config": {option: True}, "__module__": __name__})


def test_pid_file_that_can_be_no_path_is_refused_before_anything_is_made(home: Path, script: Script) -> None:
    """A NUL in the path of the PID file is named before the runtime is asked; a path of bytes is one."""
    with pytest.raises(StateIOError):
        Container.new(home, "c", runtime=script, pid_file="a\0b")
    assert (names(home), script.asked) == ([], [])
    pid_file = os.fsencode(home.parent / "pid")
    c = Container.new(home, "c", runtime=script, pid_file=pid_file)  # type: ignore[arg-type]
    assert int((home.parent / "pid").read_text()) == pid_of(c)


@pytest.mark.parametrize("content", [b"rubbish", b'{"schemaVersion":2,"phase":"running"}'], ids=["rubbish", "newer"])
def test_unreadable_record_of_what_does_not_die_is_kept_as_it_is(home: Path, script: Script, content: bytes) -> None:
    """If something still runs, the file that nobody here can read stays byte for byte, and is gone when nothing does."""
    path = home / "c_sandbox:c.state"
    path.write_bytes(content)

    def in_vain(*_: object) -> None:
        raise StillRunningError(id="c", pids=[1])

    script.instead["destroy"] = in_vain
    with pytest.raises(DestroyError):
        Container.remove(home, "c", runtime=script)
    assert path.read_bytes() == content
    del script.instead["destroy"]
    Container.remove(home, "c", runtime=script)
    assert names(home) == []


def test_revision_grows_by_one_with_each_save(home: Path, script: Script) -> None:
    """Order comes from a counter: creation and each verb save an intent and a result, questions save nothing."""
    c = Container.new(home, "c", runtime=script)
    seen = [c.revision]
    for verb in (c.start, c.pause, c.resume, c.state, c.processes, lambda: c.signal(15), c.refresh):
        verb()
        assert on_disk(home)["revision"] == c.revision
        seen.append(c.revision)
    assert seen == [2, 4, 6, 8, 8, 8, 8, 8]


def test_refresh_shows_what_another_did(home: Path) -> None:
    """An object shows what it has last seen; `refresh` looks again."""
    c = make(home)
    Container.load(home, "c", runtime=ProcessRuntime()).start()
    assert c.status == "created"
    c.refresh()
    assert c.status == "running"


def test_copies_and_pickles(home: Path) -> None:
    """A copy, shallow or deep or pickled, is the same container: it can act, and what it holds is its own."""
    c = make(home)
    again = pickle.loads(pickle.dumps(c))
    for other in (copy.copy(c), copy.deepcopy(c), c.model_copy(), c.model_copy(deep=True), again):
        assert other.model_dump() == c.model_dump()
        assert other.saver == c.saver
        assert not other.saver.locked
    copy.deepcopy(c).spec["process"]["args"].append("x")
    assert c.spec["process"]["args"] == list(SLEEP)
    again.start()
    with pytest.raises(InvalidTransitionError):
        copy.deepcopy(c).start()
    with c.saver.hold():
        assert not copy.deepcopy(c).saver.locked
        assert not pickle.loads(pickle.dumps(c)).saver.locked


class Batch(Container):
    """A container of an embedder."""

    queue: str = "default"
    max_tries: int = Field(default=1, ge=1)
    deadlines: dict[str, float] = Field(default_factory=dict)


def test_subclass_with_fields_of_its_own(home: Path, script: Script) -> None:
    """Typed fields are saved, loaded and checked as the rest, and kept by whoever does not know them."""
    c = Batch.new(home, "c", runtime=script, queue="fast", max_tries=3, deadlines={"a": 1.5})
    assert {key: on_disk(home)[key] for key in ("queue", "maxTries", "deadlines")} == {
        "queue": "fast",
        "maxTries": 3,
        "deadlines": {"a": 1.5},
    }
    Container.load(home, "c", runtime=script).start()
    again = Batch.load(home, "c", runtime=script)
    assert (type(again), again.status, again.queue, again.max_tries) == (Batch, Status.RUNNING, "fast", 3)
    again.pause()
    assert (again.queue, again.deadlines) == ("fast", {"a": 1.5})
    c.refresh()
    assert (type(c), c.status, c.queue) == (Batch, Status.PAUSED, "fast")
    with pytest.raises(UnstorableStateError, match="'max_tries'"):
        Batch.new(home, "d", runtime=script, max_tries=0)
    put(home, {"status": "stopped", "maxTries": 0}, name="e")
    with pytest.raises(CorruptStateError, match="'maxTries'"):
        Batch.load(home, "e")
    assert Container.load(home, "e").status is Status.STOPPED
    assert Batch.load(home, "c").model_copy().queue == "fast"


# -- creation ----------------------------------------------------------------------------------------------------------


def test_taken_name_is_left_alone(home: Path) -> None:
    """A second creation is refused; the first container is there byte for byte, and lives on."""
    c = make(home)
    before = (c.saver.state_path.read_bytes(), c.saver.state_path.stat())
    with pytest.raises(AlreadyExistsError) as caught:
        make(home, "true")
    assert (caught.value.id, caught.value.path) == ("c/c", str(c.saver.state_path))
    assert (c.saver.state_path.read_bytes(), c.saver.state_path.stat()) == before
    assert step(home, "c", "start")[1] is Status.RUNNING
    assert c.init is not None
    assert c.init.presence() is Presence.ALIVE
    c.destroy()
    make(home, "true").destroy()


class Interruption(BaseException):
    """What is no `Exception`."""


FAILURES: dict[str, Any] = {
    "an exception": RuntimeError("no"),
    "an error of the system": StateIOError(path="/x", operation="fork", errno=errno.EAGAIN),
    "Ctrl-C": KeyboardInterrupt(),
    "an exit": SystemExit(3),
    "anything": Interruption(),
}


@pytest.mark.parametrize("what", FAILURES)
def test_failed_creation_undoes_itself(home: Path, script: Script, what: str) -> None:
    """Whatever the runtime raises is passed on as it is; it is asked to clean up, no file is left, the ID is free."""
    error = FAILURES[what]
    script.instead["create"] = raising(error)
    with pytest.raises(BaseException) as caught:
        Container.new(home, "c", runtime=script)
    assert caught.value is error
    assert script.asked == ["create", "destroy"]
    assert names(home) == []
    del script.instead["create"]
    Container.new(home, "c", runtime=script).destroy()


def test_failed_creation_of_a_real_process(home: Path, tmp_path: Path) -> None:
    """A spec that cannot be run and a directory that is not there leave neither process nor file, and name what is wrong."""
    for spec, fact in (
        ({}, "process"),
        ({"process": {"args": []}}, "process.args"),
        ({"process": {"args": ["true"], "cwd": str(tmp_path / "none")}}, str(tmp_path / "none")),
    ):
        with pytest.raises(StateFileError, match=fact):
            Container.new(home, "c", spec=spec, runtime=ProcessRuntime())
        assert names(home) == []
    make(home).destroy()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spec", {"annotations": {"x": float("nan")}}),
        ("spec", {"x": 2**64}),
        ("spec", {"x": "\ud800"}),
        ("spec", {"x": object()}),
        ("spec", {1: 2}),
        ("spec", [1]),
        ("spec", "spec"),
        ("spec", 7),
        ("owner", 7),
        ("owner", "\udcff"),
        ("bundle_dir", "/\udcff"),
        ("console_socket", "/\udcff"),
    ],
    ids=plain,
)
def test_value_that_cannot_be_saved_is_refused(home: Path, script: Script, field: str, value: Any) -> None:
    """What JSON cannot hold, or has the wrong type, is named; the runtime was not asked for anything, and no file is left."""
    with pytest.raises(UnstorableStateError) as caught:
        Container.new(home, "c", runtime=script, **{field: value})
    if not (isinstance(value, dict) and any(type(item) is object for item in value.values())):
        assert field.partition("_")[0] in str(caught.value).lower()
    assert script.asked == []
    assert names(home) == []


@pytest.mark.parametrize("bad", ["", "..", "a/b", "a" * 101, None, 7, "a\n"])
def test_bad_id_is_refused_before_anything_is_touched(tmp_path: Path, script: Script, bad: Any) -> None:
    """An ID that is none makes no directory and asks no runtime, whether it is given or comes from an annotation."""
    with pytest.raises(InvalidIDError):
        Container.new(tmp_path / "root", bad, runtime=script)
    if isinstance(bad, str) and bad:
        joins = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": bad}
        with pytest.raises(InvalidIDError):
            Container.new(tmp_path / "root", "c", runtime=script, spec={"annotations": joins})
    assert script.asked == []
    assert names(tmp_path) == []


def test_failing_clean_up_does_not_hide_the_cause(home: Path, script: Script) -> None:
    """The first error is raised, the second is in its notes; the record is kept, so that it can be tried again."""
    script.instead.update(create=raising(RuntimeError("first")), destroy=raising(OSError("second")))
    with pytest.raises(RuntimeError, match="first") as caught:
        Container.new(home, "c", runtime=script)
    assert caught.value.__notes__[0] == "then, cleaning up: OSError: second"
    assert "its creation was interrupted" in caught.value.__notes__[1]
    assert on_disk(home)["status"] == "creating"
    script.instead.clear()
    c = Container.load(home, "c", runtime=script)
    with pytest.raises(InvalidTransitionError):
        c.start()
    c.destroy()
    assert names(home) == []


def test_interrupted_clean_up_keeps_the_record(home: Path, script: Script) -> None:
    """A second Ctrl-C during the clean-up wins, and the container can still be found and destroyed."""
    script.instead.update(create=raising(RuntimeError("first")), destroy=raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt) as caught:
        Container.new(home, "c", runtime=script)
    assert isinstance(caught.value.__context__, RuntimeError)
    script.instead.clear()
    Container.load(home, "c", runtime=script).destroy()
    assert names(home) == []


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("nth", [1, 2])
def test_full_disk_during_a_creation(
    home: Path, script: Script, monkeypatch: pytest.MonkeyPatch, nth: int, applied: bool
) -> None:
    """A save that fails, before the runtime is asked or after, leaves nothing; not even if the file is in place already."""
    really = _atomic.replace
    calls = iter(range(1, 9))

    def replace(path: str, data: bytes, **options: Any) -> None:
        fails = next(calls) == nth
        if applied or not fails:
            really(path, data, **options)
        if fails:
            raise StateIOError(path=path, operation="write", errno=errno.ENOSPC, applied=applied)

    monkeypatch.setattr(_atomic, "replace", replace)
    with pytest.raises(StateIOError) as caught:
        Container.new(home, "c", runtime=script)
    assert caught.value.errno == errno.ENOSPC
    assert names(home) == []
    assert script.children == {}
    assert script.asked == ([] if nth == 1 else ["create", "destroy"])


def test_failed_creation_ends_the_helpers(home: Path, script: Script, tmp_path: Path) -> None:
    """What the runtime has made is undone whole: first process and helpers, though the runtime leaves those to us."""
    helper = script.child()
    script.instead["create"] = lambda _: Created(init=script.child(), helpers={"gofer": helper})
    with pytest.raises(StateIOError):
        Container.new(home, "c", runtime=script, pid_file=tmp_path / "none" / "pid")
    assert helper.presence() is Presence.GONE
    assert names(home) == []


def test_another_container_survives_failed_creations_of_its_name(home: Path, script: Script) -> None:
    """Refused because it is taken, locked, or not storable: the one that has the name is there byte for byte."""
    c = Container.new(home, "c", runtime=script)
    before = c.saver.state_path.read_bytes()
    other = Script()
    with pytest.raises(AlreadyExistsError):
        Container.new(home, "c", runtime=other)
    with pytest.raises(UnstorableStateError):
        Container.new(home, "c", runtime=other, owner=7)  # type: ignore[arg-type]
    with pytest.raises(AlreadyExistsError):
        Container.new(home, "c", runtime=other, spec={"x": float("nan")})
    with c.saver.hold(), contextlib.closing(Worker()) as worker, pytest.raises(LockTimeoutError):
        worker.call(_new_at_once, home)
    assert other.asked == []
    assert c.saver.state_path.read_bytes() == before
    c.start()


def _new_at_once(root: Path) -> None:
    make(root, timeout=0)


# -- the PID file ------------------------------------------------------------------------------------------------------


def test_pid_file_is_written_last(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees the PID can rely on the rest: by then the record says `created`, with that process."""
    seen: list[tuple[str, dict[str, Any]]] = []
    really = os.rename

    def rename(source: str, target: str, **options: Any) -> None:
        if target == str(tmp_path / "pid"):
            seen.append((Path(source).read_text(), on_disk(home)))
        really(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    c = make(home, pid_file=tmp_path / "pid")
    ((text, record),) = seen
    assert text == (tmp_path / "pid").read_text() == str(pid_of(c)) == str(record["init"]["pid"])
    assert (record["status"], record["pending"]) == ("created", None)
    assert (tmp_path / "pid").stat().st_mode & 0o777 == 0o644
    assert names(tmp_path) == ["pid"]


def test_pid_file_is_never_half_written(home: Path, script: Script, tmp_path: Path) -> None:
    """A reader sees the old PID or the new one, whole, though the old one is longer."""
    pid_file = tmp_path / "pid"
    pid_file.write_text("1234567\n")
    over = threading.Event()
    seen: set[str] = set()

    def watch() -> None:
        while not over.is_set():
            seen.add(pid_file.read_text())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        until(lambda: seen)
        pids = [str(pid_of(Container.new(home, f"c{n}", runtime=script, pid_file=pid_file))) for n in range(50)]
        until(lambda: pids[-1] in seen)
    finally:
        over.set()
        watcher.join()
    assert seen <= {"1234567\n", *pids}


@pytest.mark.parametrize("where", ["none/pid", "file/pid", "folder", "link", "/proc/statefile.pid"])
def test_pid_file_that_cannot_be_written_undoes_the_creation(home: Path, tmp_path: Path, where: str) -> None:
    """Without its PID file a creation has failed: nothing of it is left, and what stands there is untouched."""
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    with pytest.raises((StateIOError, UnsafePathError)) as caught:
        make(home, pid_file=tmp_path / where)
    assert str(tmp_path / (where if where != "file/pid" else "file")) in str(caught.value)
    assert names(home) == []
    assert not survivors(home)
    assert names(tmp_path) == ["file", "folder", "link"]
    assert (tmp_path / "file").read_text() == "text"


# -- two at once -------------------------------------------------------------------------------------------------------


class Counting(ProcessRuntime):
    """Leaves a line for each start that it is asked for."""

    def __init__(self, starts: str) -> None:
        super().__init__()
        self.starts = starts

    def start(self, container: Container) -> None:
        descriptor = os.open(self.starts, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{container.id}\n".encode())
        os.close(descriptor)
        super().start(container)


def _make_some(root: Path, some: list[str]) -> None:
    for name in some:
        make(root, name=name)


def _contend(root: Path, starts: str, all_names: list[str]) -> list[str]:
    answers = []
    for name in all_names:
        c = Container.load(root, name, runtime=Counting(starts))
        meet()
        try:
            c.start()
        except InvalidTransitionError as error:
            answers.append(f"refused: {error.status}")
        else:
            answers.append("started")
        assert c.status is Status.RUNNING
    return answers


def _destroy_some(root: Path, some: list[str]) -> None:
    for name in some:
        step(root, name, "destroy")


@pytest.mark.slow
def test_one_of_two_starters_starts(home: Path, tmp_path: Path, spawn: Spawn) -> None:
    """200 times two processes start one created container: the runtime starts it once, and the loser learns why."""
    starts = tmp_path / "starts"
    workers = [spawn(), spawn()]
    for batch in range(20):
        some = [f"c{batch}-{number}" for number in range(10)]
        _both(workers, _make_some, [(home, some[:5]), (home, some[5:])])
        for worker in workers:
            worker.start(_contend, home, str(starts), some)
        for _ in some:
            for worker in workers:
                assert worker.hear() == "ready"
            for worker in workers:
                worker.tell()
        for pair in zip(*(worker.result() for worker in workers), strict=True):
            assert sorted(pair) == ["refused: running", "started"]
        _both(workers, _destroy_some, [(home, some[:5]), (home, some[5:])])
    lines = starts.read_text().split()
    assert len(lines) == len(set(lines)) == 200
    assert names(home) == []


def _both(workers: list[Worker], do: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Let several workers do something at once; what they return."""
    for worker, args in zip(workers, arguments, strict=True):
        worker.start(do, *args)
    return [worker.result() for worker in workers]


@pytest.mark.slow
def test_two_destroyers(home: Path, spawn: Spawn) -> None:
    """Two that destroy at once, from any status, both succeed, and nothing is left for either."""
    workers = [spawn(), spawn()]
    for turn in range(20):
        c = make(home, *FAMILY)
        for verb in ((), ("start",), ("start", "pause"), ("pause",))[turn % 4]:
            getattr(c, verb)()
        for worker in workers:
            worker.start(_destroy_together, home)
        for worker in workers:
            worker.hear()
        for worker in workers:
            worker.tell()
        assert [worker.result() for worker in workers] == [[], []]
        assert not survivors(home)


def _destroy_together(root: Path) -> list[str]:
    c = Container.load(root, "c", runtime=ProcessRuntime())
    meet()
    c.destroy()
    assert c.status is Status.STOPPED
    return names(root)


def _drive(root: Path, seed: int) -> list[str]:
    import random

    choice = random.Random(seed)
    told = []
    verbs = ["start", "pause", "resume", "pause", "resume", "state", "recover", "processes", "update"]
    for _ in range(40):
        verb = choice.choice(verbs)
        try:
            ask(Container.load(root, "c", runtime=ProcessRuntime()), verb)
        except InvalidTransitionError:
            told.append("refused")
        else:
            told.append(verb)
    return told


@pytest.mark.slow
def test_storm_of_verbs(home: Path, spawn: Spawn) -> None:
    """Four processes drive one container at random: each verb is done or refused, and in the end record and kernel agree."""
    c = make(home, *FAMILY)
    workers = [spawn() for _ in range(4)]
    answers = _both(workers, _drive, [(home, seed) for seed in range(4)])
    done = [verb for told in answers for verb in told]
    assert done.count("start") == 1
    assert done.count("pause") - done.count("resume") in {0, 1}
    c.refresh()
    assert c.pending is None
    saves = 2 + 2 * sum(done.count(verb) for verb in ("start", "pause", "resume", "update"))
    assert c.revision == saves
    assert (process_state(pid_of(c)) == "T") == (c.status is Status.PAUSED)


def _hold(root: Path) -> None:
    with StateFile(root_dir=root, id="c").hold():
        meet()


LOCKED: dict[str, Callable[[Container], object]] = {
    "start": lambda c: c.start(timeout=0.05),
    "restore": lambda c: c.restore("/x", timeout=0.05),
    "pause": lambda c: c.pause(timeout=0.05),
    "resume": lambda c: c.resume(timeout=0.05),
    "checkpoint": lambda c: c.checkpoint("/x", timeout=0.05),
    "update": lambda c: c.update({}, timeout=0.05),
    "recover": lambda c: c.recover(timeout=0.05),
    "delete": lambda c: c.delete(timeout=0.05),
    "forced delete": lambda c: c.delete(force=True, timeout=0.05),
    "destroy": lambda c: c.destroy(timeout=0.05),
    "forced destroy": lambda c: c.destroy(force=True, timeout=0.05),
    "destroy at the first try": lambda c: c.destroy(timeout=0),
    "new": lambda c: Container.new(c.saver.root_dir, "c", runtime=Script(), timeout=0.05),
}


def test_verbs_give_up_on_a_lock_that_another_holds(home: Path, script: Script, spawn: Spawn) -> None:
    """Every verb that needs the lock gives up in time and says who has it; nothing has changed."""
    path, c = recorded(home, script, "running")
    before = path.read_bytes()
    worker = spawn()
    worker.start(_hold, home)
    worker.hear()
    for verb in LOCKED.values():
        with pytest.raises(LockTimeoutError) as caught:
            verb(c)
        assert caught.value.holder.pid == worker.pid
        assert caught.value.path == str(c.saver.lock_path)
    assert path.read_bytes() == before
    assert script.asked == []
    worker.tell()
    worker.result()
    c.pause(timeout=PATIENCE)


def test_readers_do_not_wait_for_the_lock(home: Path, spawn: Spawn) -> None:
    """While another holds the lock a container is loaded, shown, asked, signalled, waited for and listed."""
    c = make(home, "sh", "-c", "trap 'exit 4' TERM; sleep 1000 & wait")
    c.start()
    until(lambda: len(c.processes()) == 2)
    worker = spawn()
    worker.start(_hold, home)
    worker.hear()
    begin = time.monotonic()
    again = Container.load(home, "c", runtime=ProcessRuntime())
    assert again.state().status == "running"
    assert len(again.processes()) == 2
    assert again.events()["pids"] == 2
    assert isinstance(again.execute(["sleep", "1000"]), ProcessRef)
    assert [full_id for full_id, _ in StateDir(home).load_all(Container)] == [FullID.of("c")]
    again.refresh()
    with pytest.raises(WaitTimeoutError):
        again.wait(0)
    again.signal(signal.SIGTERM)
    assert again.wait(PATIENCE) == ExitStatus(code=4)  # it is known, though it could not be written down
    assert again.status is Status.STOPPED
    assert time.monotonic() - begin < 10
    assert on_disk(home)["status"] == "running"
    worker.tell()
    worker.result()
    assert c.wait(0) == ExitStatus(code=4)
    assert on_disk(home)["exitStatus"] == {"code": 4, "signal": None}


def test_creation_in_progress_can_be_seen(home: Path, script: Script, spawn: Spawn) -> None:
    """While the runtime creates, others find the container `creating`; who wants to change it is told so at once."""
    worker = spawn()

    def look(_: Container) -> Created:
        assert worker.call(_glance, home) == ("creating", ["c/c"], "LockTimeoutError", "LockTimeoutError")
        return Created(init=script.child())

    script.instead["create"] = look
    c = Container.new(home, "c", runtime=script)
    assert c.status is Status.CREATED


def _glance(root: Path) -> tuple[str, list[str], str, str]:
    state, _ = step(root, "c", "state")
    listed = [str(full_id) for full_id in StateDir(root).ids()]
    return state.status, listed, attempt(root, "start", timeout=0)[0], attempt(root, "destroy", timeout=0)[0]


@pytest.mark.parametrize("verb", ["start", "pause", "resume", "update", "recover", "destroy", "delete"])
def test_verb_within_a_verb_is_a_deadlock(home: Path, script: Script, verb: str) -> None:
    """A runtime that drives the container it is called for is told so, and does not hang; the container can go on."""
    caught: list[BaseException] = []

    def reenter(_: Container) -> None:
        inner = Container.load(home, "c", runtime=script)
        try:
            ask(inner, verb)
        except DeadlockError as error:
            caught.append(error)

    _, c = recorded(home, script, "created")
    script.instead["start"] = reenter
    c.start()
    assert [error.path for error in caught if isinstance(error, DeadlockError)] == [str(c.saver.lock_path)]
    assert c.status is Status.RUNNING
    c.pause()


# -- actions that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", FAILURES)
@pytest.mark.parametrize("truth", ["created", "running", "paused", "stopped"])
def test_failed_action_leaves_what_is_true(home: Path, script: Script, what: str, truth: str) -> None:
    """Whatever a runtime raises is passed on, and the record says what the runtime then finds, not what was meant."""
    path, c = recorded(home, script, "created")
    script.instead.update(start=raising(FAILURES[what]), probe=lambda _: Status(truth), wait=lambda *_: ExitStatus(code=9))
    with pytest.raises(BaseException) as caught:
        c.start()
    assert caught.value is FAILURES[what]
    assert script.asked[:2] == ["start", "probe"]
    record = json.loads(path.read_bytes())
    assert (record["status"], record["pending"]) == (c.status, c.pending) == (truth, None)
    assert record["pausedFrom"] == ("created" if truth == "paused" else None)


def test_failing_probe_does_not_hide_the_cause(home: Path, script: Script, caplog: pytest.LogCaptureFixture) -> None:
    """The first error is raised, the second is in its notes; the next verb finds the open intent and asks again."""
    _, c = recorded(home, script, "created")
    script.instead.update(start=raising(RuntimeError("first")), probe=raising(OSError("second")))
    with pytest.raises(RuntimeError, match="first") as caught:
        c.start()
    assert caught.value.__notes__ == ["then, cleaning up: OSError: second"]
    assert on_disk(home)["pending"]["action"] == "start"
    script.instead = {"probe": lambda _: Status.RUNNING}
    assert c.recover() is Status.RUNNING
    assert on_disk(home)["pending"] is None
    (message,) = caplog.messages
    assert re.fullmatch(rf"c: start by .*\b{os.getpid()}\b.* was interrupted; now running", message)


def test_program_that_cannot_run(home: Path) -> None:
    """A start that fails because there is no such program ends in `stopped`, and a plain delete removes it."""
    c = make(home, "no-such-program")
    with pytest.raises(StateIOError) as caught:
        c.start()
    assert (caught.value.errno, caught.value.path) == (errno.ENOENT, "no-such-program")
    assert (c.status, on_disk(home)["status"]) == (Status.STOPPED, "stopped")
    assert c.wait(PATIENCE) == ExitStatus(code=127)
    c.delete()
    assert names(home) == []


@pytest.mark.parametrize("notices", [True, False])
def test_process_that_dies_while_it_is_paused(home: Path, script: Script, notices: bool) -> None:
    """Dead and paused is stopped, whether the runtime noticed or not: it is shown so, and can be deleted."""
    _, c = recorded(home, script, "running")

    def die(container: Container) -> None:
        script.end(container.init, reap=False)
        if notices:
            raise RuntimeError("it died")

    script.instead["pause"] = die
    with contextlib.suppress(RuntimeError):
        c.pause()
    assert Container.load(home, "c").status is Status.STOPPED
    with pytest.raises(InvalidTransitionError) as caught:
        c.resume()
    assert caught.value.status is c.status is Status.STOPPED
    assert on_disk(home)["status"] == "stopped"
    c.delete()
    assert names(home) == []


def test_death_before_a_verb_is_found_by_it(home: Path) -> None:
    """A verb that finds the process gone records that, with how it ended, and is judged by it."""
    c = make(home, "sh", "-c", "exit 5")
    c.start()
    assert c.init is not None
    c.init.wait(PATIENCE)
    c.helpers["monitor"].wait(PATIENCE)
    with pytest.raises(InvalidTransitionError) as caught:
        c.pause()
    assert caught.value.status is Status.STOPPED
    assert c.exit_status == ExitStatus(code=5)
    assert on_disk(home)["exitStatus"] == {"code": 5, "signal": None}


@pytest.mark.parametrize("nth", [1, 2])
def test_full_disk_during_a_verb(home: Path, script: Script, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """An intent that cannot be saved stops the verb; a result that cannot is found again by the next one."""
    path, c = recorded(home, script, "created")
    before = path.read_bytes()
    calls = iter(range(1, 9))
    really = _atomic._write_all

    def write(fd: int, data: bytes) -> None:
        if next(calls) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(fd, data)

    monkeypatch.setattr(_atomic, "_write_all", write)
    with pytest.raises(StateIOError) as caught:
        c.start()
    assert caught.value.errno == errno.ENOSPC
    assert len(names(home)) == 2
    if nth == 1:
        assert script.asked == []
        assert path.read_bytes() == before
    record = json.loads(path.read_bytes())
    assert (c.status, c.revision) == (record["status"], record.get("revision", 0))
    assert (c.pending and c.pending.action) == (record.get("pending") and record["pending"]["action"])
    monkeypatch.setattr(_atomic, "_write_all", really)
    script.instead["probe"] = lambda _: Status.RUNNING
    assert c.recover() is (Status.CREATED if nth == 1 else Status.RUNNING)


# -- an actor that died ------------------------------------------------------------------------------------------------


def interrupted(action: str, *, by: ProcessRef | None = None) -> dict[str, Any]:
    """What an actor leaves that died in the middle of `action`."""
    return {"pending": {"action": action, "actor": as_json(by or ProcessRef(pid=PID_MAX)), "since": ""}}


@pytest.mark.parametrize("action", ["start", "pause", "resume", "update", "destroy"])
@pytest.mark.parametrize("record", ["created", "running", "paused", "paused before the start"])
@pytest.mark.parametrize("truth", ["created", "running", "paused", "stopped"])
def test_interrupted_action_is_mended_by_the_truth(home: Path, script: Script, action: str, record: str, truth: str) -> None:
    """An intent found under the lock is settled by what the runtime finds, whatever was meant and recorded."""
    put(home, RECORDS[record] | {"init": as_json(script.child())} | interrupted(action))
    script.instead.update(probe=lambda _: Status(truth), wait=lambda *_: None)
    c = Container.load(home, "c", runtime=script)
    assert c.status == RECORDS[record]["status"]
    assert c.recover() == truth
    record_now = on_disk(home)
    assert (record_now["status"], record_now["pending"]) == (truth, None)
    assert script.asked[0] == "probe"
    was = RECORDS[record].get("pausedFrom", record)
    assert record_now["pausedFrom"] == (was if truth == "paused" else None)


@pytest.mark.parametrize("alive", [True, False], ids=["its actor lives", "its actor is dead"])
def test_intent_found_under_the_lock_was_left(home: Path, script: Script, alive: bool) -> None:
    """Whoever acts holds the lock; so an intent that is found under it was left, though its actor may live on."""
    actor = ProcessRef.current() if alive else ProcessRef(pid=PID_MAX)
    put(home, RECORDS["created"] | {"init": as_json(script.child())} | interrupted("start", by=actor))
    c = Container.load(home, "c", runtime=script)
    c.start()
    assert script.asked == ["probe", "start"]
    assert c.status is Status.RUNNING


def test_start_that_was_interrupted_after_it_was_done(home: Path, script: Script) -> None:
    """What was done already is not done again: the next starter is told that it runs."""
    put(home, RECORDS["created"] | {"init": as_json(script.child())} | interrupted("start"))
    script.instead["probe"] = lambda _: Status.RUNNING
    with pytest.raises(InvalidTransitionError) as caught:
        Container.load(home, "c", runtime=script).start()
    assert caught.value.status is Status.RUNNING
    assert "start" not in script.asked
    assert on_disk(home)["status"] == "running"


def test_interrupted_pause_of_a_created_container(home: Path, script: Script) -> None:
    """Also when the pause was interrupted, what was never started is created after the resume, and can be started."""
    put(home, RECORDS["created"] | {"init": as_json(script.child())} | interrupted("pause"))
    script.instead["probe"] = lambda _: Status.PAUSED
    c = Container.load(home, "c", runtime=script)
    c.resume()
    assert (c.status, c.paused_from) == (Status.CREATED, None)
    c.start()
    assert c.status is Status.RUNNING


@pytest.mark.parametrize("verb", ["recover", "delete", "start"])
def test_without_a_runtime_an_intent_is_left_for_one(home: Path, script: Script, verb: str) -> None:
    """Who cannot ask what is true does not settle what was interrupted; and does, once the process is gone."""
    path = put(home, RECORDS["created"] | {"init": as_json(script.child())} | interrupted("start"))
    before = path.read_bytes()
    c = Container.load(home, "c")
    with contextlib.suppress(InvalidTransitionError, UnsupportedActionError):
        getattr(c, verb)()
    assert path.read_bytes() == before
    script.end()
    assert c.recover() is Status.STOPPED
    assert on_disk(home)["pending"] is None


@pytest.mark.parametrize("verb", ["start", "restore", "pause", "resume", "checkpoint", "update", "execute", "signal", "wait"])
def test_interrupted_creation_is_only_for_destroy(home: Path, script: Script, verb: str) -> None:
    """What was left `creating` refuses everything else, stays as it is when looked at, and can be made anew."""
    path = put(home, {"status": "creating"} | interrupted("create"))
    before = path.read_bytes()
    c = Container.load(home, "c", runtime=script)
    with pytest.raises(InvalidTransitionError) as caught:
        ask(c, verb)
    assert caught.value.allowed == (Action.DESTROY,)
    assert c.recover() is Status.CREATING
    assert path.read_bytes() == before
    c.destroy()
    assert names(home) == []
    Container.new(home, "c", runtime=script)


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("action", [None, *Action])
def test_no_status_is_a_trap(home: Path, script: Script, status: str, action: str | None) -> None:
    """From every status, with every intent that a dead actor can have left, `destroy` works and the ID can be made anew."""
    init = {} if status == "creating" else {"init": as_json(script.child())}
    put(home, {"status": status} | init | (interrupted(action) if action else {}))
    Container.load(home, "c", runtime=script).destroy()
    assert names(home) == []
    assert script.children == {}
    Container.new(home, "c", runtime=script).destroy()


def test_probe_that_tells_nonsense(home: Path, script: Script) -> None:
    """A runtime that answers with no status does not damage the record, and `destroy` works."""
    path = put(home, RECORDS["created"] | {"init": as_json(script.child())} | interrupted("start"))
    before = path.read_bytes()
    script.instead["probe"] = lambda _: "sleeping"
    c = Container.load(home, "c", runtime=script)
    with pytest.raises(InvalidRuntimeError, match=r"Script: probe must return a Status, not 'sleeping'"):
        c.recover()
    assert path.read_bytes() == before
    c.destroy()


# -- destruction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verbs", [(), ("start",), ("start", "pause"), ("pause",), ("start", "signal", "wait")], ids="-".join)
@pytest.mark.parametrize("how", ["destroy", "delete"])
def test_destroy_from_every_status(home: Path, verbs: tuple[str, ...], how: str) -> None:
    """Nothing runs afterwards and no file is left; again, and through an object that does not know, is success."""
    c = make(home, *FAMILY)
    for verb in verbs:
        ask(c, verb)
    stale = Container.load(home, "c", runtime=ProcessRuntime())
    if how == "delete":
        c.delete(force=True)
    else:
        c.destroy()
    assert c.status is Status.STOPPED
    assert names(home) == []
    assert not survivors(home)
    c.destroy()
    stale.destroy()
    assert stale.status is Status.STOPPED
    with pytest.raises(NotFoundError):
        Container.load(home, "c")
    make(home)


def test_destroy_without_a_runtime(home: Path, script: Script) -> None:
    """Without a runtime a container can be destroyed once its process is gone, and not before; `force` drops the record."""
    for name in ("a", "b"):
        Container.new(home, name, runtime=script)
    a, b = Container.load(home, "a"), Container.load(home, "b")
    with pytest.raises(ExceptionGroup) as caught:
        a.destroy()
    assert [(type(e), e.pids) for e in caught.value.exceptions if isinstance(e, StillRunningError)] == [
        (StillRunningError, (pid_of(a),))
    ]
    assert on_disk(home, "a")["status"] == "created"
    b.destroy(force=True)
    assert b.init is not None
    assert b.init.presence() is Presence.ALIVE
    script.end()
    a.destroy()
    assert names(home) == []


def test_interrupted_creation_is_not_forgotten_without_a_runtime(home: Path) -> None:
    """Nobody knows what an interrupted creation has left running: only a runtime can end it, or `force` forget it."""
    put(home, {"status": "creating"} | interrupted("create"))
    c = Container.load(home, "c")
    with pytest.raises(ExceptionGroup) as caught:
        c.destroy()
    assert caught.group_contains(StillRunningError)
    assert on_disk(home)["status"] == "creating"
    c.destroy(force=True)
    assert names(home) == []


def kinds(group: ExceptionGroup[Any]) -> list[str]:
    """The names of what is in it."""
    return [type(error).__name__ for error in group.exceptions]


@pytest.mark.parametrize("record", ["created", "running", "paused", "paused before the start"])
def test_destroy_keeps_the_record_while_the_process_lives(home: Path, script: Script, record: str) -> None:
    """When the runtime fails and the process lives, both are told and the record is kept as it is true; then try again."""
    _, c = recorded(home, script, record)
    script.instead["destroy"] = raising(OSError("no"))
    with pytest.raises(ExceptionGroup, match="destroying container 'c'") as caught:
        c.destroy()
    assert kinds(caught.value) == ["OSError", "StillRunningError"]
    assert [getattr(error, "pids", None) for error in caught.value.exceptions] == [None, (pid_of(c),)]
    now = on_disk(home)
    assert (now["status"], now["pending"], now["pausedFrom"]) == (
        RECORDS[record]["status"],
        None,
        RECORDS[record].get("pausedFrom"),
    )
    assert c.status == now["status"]
    script.instead.clear()
    c.destroy()
    assert names(home) == []


def test_force_drops_the_record_of_what_lives(home: Path, script: Script) -> None:
    """With `force` the record goes though the process lives, and what failed is told all the same."""
    _, c = recorded(home, script, "running")
    script.instead["destroy"] = raising(OSError("no"))
    with pytest.raises(ExceptionGroup) as caught:
        c.destroy(force=True)
    assert kinds(caught.value) == ["OSError"]
    assert names(home) == []
    assert c.init is not None
    assert c.init.presence() is Presence.ALIVE


@pytest.mark.parametrize("how", ["destroy", "delete"])
def test_failing_runtime_whose_process_is_gone(home: Path, script: Script, how: str) -> None:
    """When only the runtime's bookkeeping fails, that is told, and a container that is dead is not kept."""
    _, c = recorded(home, script, "running")
    script.end()
    script.instead["destroy"] = raising(OSError("a cgroup is busy"))
    with pytest.raises(ExceptionGroup) as caught:
        getattr(c, how)()
    assert kinds(caught.value) == ["OSError"]
    assert names(home) == []
    assert c.status is Status.STOPPED
    c.destroy()


def test_runtime_that_says_it_is_done_and_is_not(home: Path, script: Script) -> None:
    """A process that lives keeps its record, whatever the runtime says."""
    _, c = recorded(home, script, "running")
    script.instead["destroy"] = lambda _: None
    with pytest.raises(ExceptionGroup) as caught:
        c.destroy()
    assert kinds(caught.value) == ["StillRunningError"]
    assert on_disk(home)["status"] == "running"


def test_what_outlives_the_first_process_keeps_the_record(home: Path, script: Script) -> None:
    """The end of the first process is not the end of all: while the runtime says that others live, they can be found."""
    _, c = recorded(home, script, "running")
    other = script.child()

    def end_the_first(container: Container) -> None:
        script.end(container.init)
        raise StillRunningError(id=container.id, pids=[other.pid])

    script.instead["destroy"] = end_the_first
    with pytest.raises(ExceptionGroup) as caught:
        c.destroy()
    assert "StillRunningError" in kinds(caught.value)
    assert (on_disk(home)["status"], on_disk(home)["pending"]) == ("stopped", None)
    script.instead["destroy"] = lambda _: script.end(other)
    c.destroy()
    assert names(home) == []


def test_stopped_is_not_empty(home: Path) -> None:
    """What the first process has left behind can be signalled while stopped, and does not outlive the container."""
    c = make(home, "sh", "-c", "setsid sleep 1000 & sleep 1000 & exit 3")
    c.start()
    assert c.wait(PATIENCE) == ExitStatus(code=3)
    until(lambda: len(survivors(home)) == 3)
    with pytest.raises(InvalidTransitionError):
        c.signal(signal.SIGKILL)
    c.signal(signal.SIGKILL, all=True)
    until(lambda: not survivors(home))
    c.signal(signal.SIGKILL, all=True)
    c.delete()
    c = make(home, "sh", "-c", "setsid sleep 1000 & exit 3")
    c.start()
    c.wait(PATIENCE)
    c.delete()
    assert not survivors(home)


TWO_GROUPS = "setsid sh -c 'sleep 1000 & wait' & sleep 1001 & sleep 1002 & wait"


def arguments_of(c: Container) -> dict[str, ProcessRef]:
    """Its processes by their last argument, with the group that they lead."""
    return {f"\0{Path(f'/proc/{ref.pid}/cmdline').read_text()}".split("\0")[-2]: ref for ref in c.processes()}


def test_signal_for_one_process_and_for_a_group(home: Path) -> None:
    """A signal reaches the process that is meant, or those of its group, and no other of the container's."""
    c = make(home, "sh", "-c", TWO_GROUPS)
    c.start()
    until(lambda: {"1000", "1001", "1002"} <= arguments_of(c).keys())
    found = arguments_of(c)
    inner, outer, session, init = found["1000"], found["1001"], found["sleep 1000 & wait"], found[TWO_GROUPS]
    assert session.process_group() == inner.process_group() != outer.process_group() == init.process_group()
    c.signal(signal.SIGKILL, process=outer)
    assert outer.wait(PATIENCE) is Presence.GONE
    assert {inner, session, init} <= set(c.processes())
    c.signal(signal.SIGKILL, process=outer)  # it has ended: no error
    c.signal(signal.SIGKILL, process=inner, group=True)
    assert (inner.wait(PATIENCE), session.wait(PATIENCE)) == (Presence.GONE, Presence.GONE)
    c.signal(signal.SIGKILL, group=True)
    assert c.wait(PATIENCE) == ExitStatus(signal=signal.SIGKILL)


def test_signal_for_the_first_processs_group_leaves_the_others(home: Path) -> None:
    """Without a `process`, `group` means that of the first one; what has left it lives on."""
    c = make(home, "sh", "-c", TWO_GROUPS)
    c.start()
    until(lambda: {"1000", "1001", "1002"} <= arguments_of(c).keys())
    found = arguments_of(c)
    c.signal(signal.SIGKILL, group=True)
    assert found["1001"].wait(PATIENCE) is Presence.GONE
    assert c.wait(PATIENCE) == ExitStatus(signal=signal.SIGKILL)
    assert found["1000"].presence() is Presence.ALIVE


def test_signal_for_a_stranger_is_refused(home: Path) -> None:
    """A process that is none of the container's gets nothing, and `all` goes with neither a process nor a group."""
    c = make(home, *SLEEP)
    c.start()
    with pytest.raises(ValueError, match="not one of container 'c'"):
        c.signal(signal.SIGURG, process=ProcessRef.current())
    with pytest.raises(ValueError, match="neither process nor group"):
        c.signal(signal.SIGKILL, all=True, group=True)
    assert c.status is Status.RUNNING


class Unkillable(ProcessRuntime):
    """Says that a process has outlived its killing, after a bounded time."""

    def destroy(self, container: Container) -> None:
        raise StillRunningError(id=container.id, pids=[pid_of(container)], reason="it sleeps in the kernel")


def _destroy_unkillable(root: Path) -> list[str]:
    c = Container.load(root, "c", runtime=Unkillable())
    meet()
    try:
        c.destroy(timeout=PATIENCE)
    except ExceptionGroup as group:
        return kinds(group)
    return []


def test_process_that_cannot_be_killed_blocks_nobody(home: Path, spawn: Spawn) -> None:
    """Two that try to destroy what will not die both get their answer, the record stays, and the container is listed."""
    make(home)
    workers = [spawn(), spawn()]
    for worker in workers:
        worker.start(_destroy_unkillable, home)
    for worker in workers:
        worker.hear()
    for worker in workers:
        worker.tell()
    assert [worker.result() for worker in workers] == [["StillRunningError"]] * 2
    assert step(home, "c", "state")[0].status == "created"


def test_helpers_end_with_the_container(home: Path, script: Script) -> None:
    """Helpers are killed, all of them, and waited for; one that has ended, or belongs to a stranger by now, is passed over."""
    one, two, ended, stranger = (script.child() for _ in range(4))
    script.end(ended)
    reused = stranger.model_copy(update={"start_ticks": (stranger.start_ticks or 0) - 1})
    elsewhere = stranger.model_copy(update={"pid_namespace": 1})
    helpers = {"a": one, "b": ended, "c": reused, "d": elsewhere, "e": two}
    script.instead["create"] = lambda _: Created(init=script.child(), helpers=helpers)
    c = Container.new(home, "c", runtime=script)
    assert {name: ref.pid for name, ref in c.helpers.items()} == {name: ref.pid for name, ref in helpers.items()}
    c.destroy()
    assert (one.presence(), two.presence(), stranger.presence()) == (Presence.GONE, Presence.GONE, Presence.ALIVE)
    assert names(home) == []


@pytest.mark.parametrize("how", ["it does not die", "it may not be killed"])
def test_helper_that_lives_on_keeps_the_record(home: Path, script: Script, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A helper that cannot be ended is told and can be found; the others are ended all the same."""
    monkeypatch.setattr("statefile._destruction.HELPER_GRACE", 0.05)
    stubborn, other = script.child(), script.child()
    really = ProcessRef.send_signal

    def send(ref: ProcessRef, number: int) -> Presence:
        if ref != stubborn:
            return really(ref, number)
        if how == "it does not die":
            return Presence.ALIVE
        raise StateIOError(path="/proc/x", operation="reach", errno=errno.EPERM)

    script.instead["create"] = lambda _: Created(init=script.child(), helpers={"a": stubborn, "b": other})
    c = Container.new(home, "c", runtime=script)
    with monkeypatch.context() as patch:
        patch.setattr(ProcessRef, "send_signal", send)
        with pytest.raises(ExceptionGroup) as caught:
            c.destroy()
    assert "StillRunningError" in kinds(caught.value)
    assert stubborn.pid in {pid for e in caught.value.exceptions for pid in getattr(e, "pids", ())}
    assert other.presence() is Presence.GONE
    assert on_disk(home)["status"] == "stopped"
    c.destroy()
    assert stubborn.presence() is Presence.GONE
    assert names(home) == []


def test_destroy_needs_no_free_space(home: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk a container can be destroyed, and that is no error."""
    _, c = recorded(home, script, "running")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_atomic, "_write_all", full)
    c.destroy()
    assert names(home) == []
    assert script.children == {}


def test_state_that_cannot_be_removed_is_told(home: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """When only the file will not go, that is the error, object and file agree, and the next try succeeds."""
    _, c = recorded(home, script, "running")
    with monkeypatch.context() as patch:
        patch.setattr(_atomic, "remove", raising(StateIOError(path="/x", operation="remove", errno=errno.EROFS)))
        with pytest.raises(ExceptionGroup) as caught:
            c.destroy()
    assert kinds(caught.value) == ["StateIOError"]
    c.refresh()
    assert c.status is Status.STOPPED
    c.destroy()
    assert names(home) == []


def test_forced_destroy_of_what_became_unreadable(home: Path, script: Script) -> None:
    """An object that knew the container can destroy it though its file is rubbish, if it is forced to."""
    path, c = recorded(home, script, "running")
    path.write_bytes(b"\0" * 22)
    with pytest.raises(CorruptStateError):
        c.destroy()
    assert path.read_bytes() == b"\0" * 22
    c.destroy(force=True)
    assert names(home) == []
    assert script.children == {}


def test_delete_is_not_for_what_is_gone(home: Path, script: Script) -> None:
    """Unlike `destroy`, a plain `delete` of what is not there is an error."""
    _, c = recorded(home, script, "stopped")
    c.delete()
    with pytest.raises(NotFoundError):
        c.delete()
    c.delete(force=True)


def test_state_file_lost_while_the_process_lives(home: Path) -> None:
    """Without its record a container is not found; the next one of that name ends what was left of it."""
    c = make(home)
    c.saver.state_path.unlink()
    with pytest.raises(NotFoundError):
        step(home, "c", "state")
    again = make(home)
    assert c.init is not None
    assert c.init.presence() is Presence.GONE
    assert again.init != c.init


# -- waiting -----------------------------------------------------------------------------------------------------------


def _wait(root: Path) -> tuple[Any, str]:
    c = Container.load(root, "c", runtime=ProcessRuntime())
    tell("waiting")
    return c.wait(), c.status


def test_any_number_of_processes_may_wait(home: Path, spawn: Spawn) -> None:
    """Three that waited and one that comes after the end learn how the process ended, and it is written down once."""
    c = make(home, "sh", "-c", "exit 42")
    workers = [spawn() for _ in range(3)]
    for worker in workers:
        worker.start(_wait, home)
        assert worker.hear() == "waiting"
    for worker in workers:
        until(partial(_waits, worker))
        assert worker.silent()
    c.start()
    started = c.revision
    assert [worker.result() for worker in workers] == [(ExitStatus(code=42), Status.STOPPED)] * 3
    assert workers[0].call(_wait_silently, home) == ExitStatus(code=42)
    assert (on_disk(home)["status"], on_disk(home)["exitStatus"]) == ("stopped", {"code": 42, "signal": None})
    assert on_disk(home)["revision"] == started + 1


def _waits(worker: Worker) -> bool:
    """Whether it has the FIFO open through which it learns of the end."""
    folder = f"/proc/{worker.pid}/fd"
    with contextlib.suppress(OSError):
        return any(os.readlink(f"{folder}/{number}").endswith("/alive") for number in os.listdir(folder))
    return False


def _wait_silently(root: Path) -> Any:
    return Container.load(root, "c").wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize("start", [True, False])
def test_wait_tells_the_signal(home: Path, number: int, start: bool) -> None:
    """A process that was killed, started or not, is told by its signal, which is no exit code."""
    c = make(home)
    if start:
        c.start()
    c.signal(number)
    assert c.wait(PATIENCE) == ExitStatus(signal=number)
    assert str(c.exit_status) == f"killed by {signal.Signals(number).name}"
    assert on_disk(home)["exitStatus"] == {"code": None, "signal": number}


def test_runtime_that_returns_no_created_is_refused(home: Path, script: Script) -> None:
    """What `create` returns is looked at before it gets into the record: the error says what it must be; nothing is left."""
    init = script.child()
    for wrong in (None, init.pid, Created(init=cast("Any", init.pid)), Created(init=init, helpers={"g": cast("Any", 5)})):
        script.instead["create"] = lambda _, wrong=wrong: wrong
        with pytest.raises(InvalidRuntimeError, match="create must return a Created"):
            Container.new(home, "c", runtime=script)
        assert not names(home)


def test_class_in_place_of_a_runtime_is_refused(home: Path) -> None:
    """A runtime is an object: its class would fail at the first call, with a record made already."""
    with pytest.raises(InvalidRuntimeError, match="hand over an object"):
        Container.new(home, "c", runtime=cast("Any", ProcessRuntime))
    assert not home.exists() or not names(home)


def test_remove_ends_what_can_no_longer_be_read(home: Path) -> None:
    """A container whose file is rubbish is ended by its ID, and the ID is free; again, nothing there is success."""
    c = make(home)
    c.start()
    init = c.init
    assert init is not None
    c.saver.state_path.write_text("{")
    Container.remove(home, "c", runtime=ProcessRuntime())
    assert init.presence() is Presence.GONE
    assert not names(home)
    Container.remove(home, "c", runtime=ProcessRuntime())
    assert not names(home)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", 1j, 10**400])
def test_wait_refuses_what_is_no_time(home: Path, timeout: Any) -> None:
    """A timeout that is none is a `ValueError`, as for a lock."""
    c = make(home)
    with pytest.raises(ValueError, match="a number of seconds"):
        c.wait(timeout)


@pytest.mark.parametrize("number", ["TERM", None, True, 1.5, 0, -9, 65, 10**9])
def test_what_is_no_signal_is_refused(home: Path, number: Any) -> None:
    """Nothing is sent for what is no signal's number."""
    c = make(home)
    with pytest.raises(ValueError, match="no signal"):
        c.signal(number)
    assert c.state().status == "created"


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_wait_gives_up_in_time(home: Path, timeout: float) -> None:
    """What still runs when the time is up is an error that says for how long was waited; nothing has changed."""
    c = make(home)
    before = c.saver.state_path.read_bytes()
    begin = time.monotonic()
    with pytest.raises(WaitTimeoutError) as caught:
        c.wait(timeout)
    assert time.monotonic() - begin >= timeout
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.id, caught.value.timeout) == ("c", timeout)
    assert c.saver.state_path.read_bytes() == before


@pytest.mark.parametrize("runtime", [True, False])
def test_wait_without_one_who_knows(home: Path, script: Script, monkeypatch: pytest.MonkeyPatch, runtime: bool) -> None:
    """Where the runtime cannot wait, or there is none, the end is waited for, and how it was is unknown, not success."""
    monkeypatch.delattr(Script, "wait")
    Container.new(home, "c", runtime=script)
    c = Container.load(home, "c", runtime=script if runtime else None)
    with pytest.raises(WaitTimeoutError):
        c.wait(0.01)
    script.end()
    assert c.wait(PATIENCE) is None
    assert (c.status, c.exit_status, on_disk(home)["exitStatus"]) == (Status.STOPPED, None, None)
    before = c.saver.state_path.read_bytes()
    assert c.wait() is None
    assert c.saver.state_path.read_bytes() == before


def test_wait_for_the_undecided_is_refused(home: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that cannot be told from others nobody claims that it has ended."""
    monkeypatch.delattr(Script, "wait")
    path = put(home, {"status": "running", "init": {"pid": script.child().pid}})
    before = path.read_bytes()
    with pytest.raises(UnsupportedActionError):
        Container.load(home, "c", runtime=script).wait()
    assert path.read_bytes() == before


def test_waiter_whose_container_is_destroyed(home: Path, spawn: Spawn) -> None:
    """Who waits for what is destroyed meanwhile learns that it was killed."""
    c = make(home)
    worker = spawn()
    worker.start(_wait, home)
    worker.hear()
    until(lambda: _waits(worker))
    c.destroy()
    assert worker.result() == (ExitStatus(signal=9), Status.STOPPED)
    assert names(home) == []


def test_waiter_never_gets_the_status_of_the_next_run(home: Path, script: Script) -> None:
    """A waiter who comes back after the ID was made anew tells of its own run, and writes nothing into the next one's."""
    c = Container.new(home, "c", runtime=script)

    def overtaken(container: Container, _timeout: float | None) -> ExitStatus:
        assert container.init == c.init
        Container.load(home, "c", runtime=script).destroy()
        again = Container.new(home, "c", runtime=script)
        again.start()
        return ExitStatus(code=3)

    script.instead["wait"] = overtaken
    waiter = Container.load(home, "c", runtime=script)
    assert waiter.wait() == ExitStatus(code=3)
    now = on_disk(home)
    assert (now["status"], now["exitStatus"]) == ("running", None)
    assert now["init"]["pid"] != pid_of(c)


class Late(ProcessRuntime):
    """Begins to wait when the test says so."""

    def wait(self, container: Container, timeout: float | None) -> ExitStatus | None:
        meet()
        return super().wait(container, timeout)


def _wait_late(root: Path) -> ExitStatus | None:
    return Container.load(root, "c", runtime=Late()).wait()


@pytest.mark.parametrize("ended", [True, False])
def test_late_waiter_never_gets_the_status_of_the_next_run(home: Path, spawn: Spawn, ended: bool) -> None:
    """Also with real processes: who begins to wait when the ID means another run already is not told how that one ends."""
    c = make(home, "sh", "-c", "exit 3")
    worker = spawn()
    worker.start(_wait_late, home)
    worker.hear()
    c.destroy()
    again = make(home, *(("sh", "-c", "exit 4") if ended else SLEEP))
    again.start()
    if ended:
        again.wait(PATIENCE)
    worker.tell()
    assert worker.result(1) in {None, ExitStatus(code=3), ExitStatus(signal=9)}


@pytest.mark.parametrize("what", ["full disk", "no permission", "lost lock"])
def test_status_that_cannot_be_written_down_is_told_all_the_same(
    home: Path, script: Script, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A waiter learns how the process ended though the file cannot be changed."""
    path, c = recorded(home, script, "running")
    before = path.read_bytes()
    script.instead["wait"] = lambda *_: ExitStatus(code=6)

    def fail(*_: object, **__: object) -> None:
        raise StateIOError(path=str(path), operation="x", errno=errno.EACCES)

    if what == "full disk":
        monkeypatch.setattr(_atomic, "replace", fail)
    elif what == "no permission":
        monkeypatch.setattr(StateFile, "lock", fail)
    else:
        monkeypatch.setattr("statefile._lock.FileLock.is_current", lambda _: False)
    assert c.wait() == ExitStatus(code=6)
    assert (c.status, path.read_bytes()) == (Status.STOPPED, before)


def test_exit_status_is_kept_in_the_file(home: Path) -> None:
    """Whoever finds the process gone first writes down how it ended, and anybody can read it later without a runtime."""
    c = make(home, "sh", "-c", "exit 8")
    c.start()
    c.helpers["monitor"].wait(PATIENCE)
    assert step(home, "c", "recover") == (Status.STOPPED, Status.STOPPED)
    assert Container.load(home, "c").wait() == ExitStatus(code=8)
    assert Container.load(home, "c").exit_status == ExitStatus(code=8)


# -- whose process it is -----------------------------------------------------------------------------------------------


@pytest.fixture
def innocent() -> Iterator[ProcessRef]:
    """A process that has nothing to do with anything, and must be alive in the end."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        try:
            yield ProcessRef.of(process.pid)
            assert process.poll() is None, "an innocent process was killed"
        finally:
            process.kill()


GONE: dict[str, Callable[[ProcessRef], ProcessRef]] = {
    "reused": lambda ref: ref.model_copy(update={"start_ticks": (ref.start_ticks or 0) - 1}),
    "other boot": lambda ref: ref.model_copy(update={"boot_id": "00000000-0000-4000-8000-000000000000"}),
}
UNKNOWN: dict[str, Callable[[ProcessRef], ProcessRef]] = {
    "other namespace": lambda ref: ref.model_copy(update={"pid_namespace": 1}),
    "a bare number": lambda ref: ProcessRef(pid=ref.pid),
}


@pytest.mark.parametrize("status", ["created", "running", "paused"])
@pytest.mark.parametrize("who", GONE)
def test_number_that_belongs_to_another_by_now(home: Path, innocent: ProcessRef, who: str, status: str) -> None:
    """A reused PID, or one of before the reboot, means stopped; the one who has the number now is left alone."""
    ref = GONE[who](innocent)
    put(home, {"status": status, "init": as_json(ref), "helpers": {"monitor": as_json(ref), "gofer": as_json(ref)}})
    runtime = ProcessRuntime()
    c = Container.load(home, "c", runtime=runtime)
    assert (c.status, c.state().pid) == (Status.STOPPED, 0)
    with pytest.raises(InvalidTransitionError):
        c.signal(signal.SIGKILL)
    c.signal(signal.SIGKILL, all=True)
    assert c.wait(PATIENCE) is None
    assert c.recover() is Status.STOPPED
    c.delete()
    assert names(home) == []
    assert innocent.presence() is Presence.ALIVE


@pytest.mark.parametrize("status", ["created", "running", "paused"])
@pytest.mark.parametrize("who", UNKNOWN)
def test_number_of_which_nobody_can_tell(home: Path, innocent: ProcessRef, who: str, status: str) -> None:
    """An identity that cannot be decided is neither gone nor signalled; the record stays until it is forced away."""
    ref = UNKNOWN[who](innocent)
    put(home, {"status": status, "init": as_json(ref), "helpers": {"gofer": as_json(ref)}})
    c = Container.load(home, "c", runtime=ProcessRuntime())
    assert (c.status, c.state().pid) == (status, ref.pid)
    with pytest.raises(StateIOError):
        c.signal(signal.SIGKILL)
    assert c.recover() == status
    with pytest.raises(InvalidTransitionError):
        c.delete()
    with pytest.raises(ExceptionGroup) as caught:
        c.destroy()
    assert caught.group_contains(StillRunningError)
    assert on_disk(home)["status"] == status
    with pytest.raises(ExceptionGroup):
        c.destroy(force=True)
    assert names(home) == []
    assert innocent.presence() is Presence.ALIVE


def test_zombie_is_stopped(home: Path, script: Script) -> None:
    """A process that has ended and waits for its parent to look is gone: the container is stopped, and can be deleted."""
    _, c = recorded(home, script, "running")
    script.end(reap=False)
    assert process_state(pid_of(c)) == "Z"
    assert Container.load(home, "c").status is Status.STOPPED
    with pytest.raises(InvalidTransitionError):
        c.signal(signal.SIGTERM)
    c.delete()
    assert names(home) == []


@pytest.mark.parametrize("number", [0, -1, 65, 999])
def test_signal_that_is_none(home: Path, script: Script, number: int) -> None:
    """A number that is no signal is refused before anything is read or asked."""
    _, c = recorded(home, script, "running")
    with pytest.raises(ValueError, match="no signal"):
        c.signal(number)
    assert script.asked == []


def test_signals_reach_one_or_all(home: Path) -> None:
    """A signal goes to the first process, or to all of them."""
    c = make(home, *FAMILY)
    c.start()
    until(lambda: len(c.processes()) == 2)
    _, other = c.processes()
    c.signal(signal.SIGSTOP, all=True)
    until(lambda: process_state(other.pid) == process_state(pid_of(c)) == "T")
    c.signal(signal.SIGCONT)
    until(lambda: process_state(pid_of(c)) != "T")
    assert process_state(other.pid) == "T"
    c.signal(signal.SIGKILL)
    assert c.wait(PATIENCE) == ExitStatus(signal=9)
    assert other.presence() is Presence.ALIVE


# -- sandboxes ---------------------------------------------------------------------------------------------------------

CRI = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
]


@pytest.mark.parametrize(("kind", "sandbox"), CRI, ids=["containerd", "CRI-O"])
def test_container_that_joins_a_sandbox(home: Path, kind: str, sandbox: str) -> None:
    """What a spec says in the words of containerd or CRI-O decides under which sandbox the container is saved."""
    pod = Container.new(
        home, "pod", spec=spec_of(home, annotations={kind: "sandbox", sandbox: "pod"}), runtime=ProcessRuntime()
    )
    app = Container.new(
        home, "app", spec=spec_of(home, annotations={kind: "container", sandbox: "pod"}), runtime=ProcessRuntime()
    )
    assert (pod.saver.id, app.saver.id) == (FullID("pod", "pod"), FullID("pod", "app"))
    assert app.sandbox == pod.sandbox == Sandbox(id="pod", pid=pid_of(pod))
    assert app.annotations == {kind: "container", sandbox: "pod"}
    assert names(home)[1:] == [
        "app_sandbox:pod.lock",
        "app_sandbox:pod.state",
        "pod_sandbox:pod.lock",
        "pod_sandbox:pod.state",
    ]
    assert [str(full_id) for full_id, _ in StateDir(home).load_sandbox("pod", Container)] == ["pod/app", "pod/pod"]
    assert StateDir(home).sandboxes() == ["pod"]
    again = Container.load(home, "a", runtime=ProcessRuntime())
    assert again.id == "app"
    with pytest.raises(NotFoundError):
        Container.load(home, "app", exact=True)
    assert Container.load(home, FullID("pod", "app"), exact=True).id == "app"
    again.start()
    again.destroy()
    assert step(home, "pod", "state")[0].status == "created"
    assert pod.init is not None
    assert pod.init.presence() is Presence.ALIVE


@pytest.mark.parametrize(
    "annotations",
    [
        None,
        {},
        [],
        {CRI[0][0]: "sandbox", CRI[0][1]: "pod"},
        {CRI[0][0]: "container"},
        {CRI[0][1]: "pod"},
        {CRI[0][0]: "container", CRI[1][1]: "pod"},
        {CRI[0][0]: "container", CRI[0][1]: 7},
    ],
)
def test_container_on_its_own(home: Path, script: Script, annotations: Any) -> None:
    """Without both annotations a container is its own sandbox, of which its first process is the process."""
    c = Container.new(home, "c", spec={"annotations": annotations}, runtime=script)
    assert c.saver.id == FullID("c", "c")
    assert c.sandbox == Sandbox(id="c", pid=pid_of(c))


def test_sandbox_is_the_runtimes_if_it_names_one(home: Path, script: Script) -> None:
    """A runtime that knows the sandbox says so; one that joins where there is none yet has none to show."""
    script.instead["create"] = lambda _: Created(init=script.child(), sandbox=Sandbox(id="vm", pid=7))
    assert Container.new(home, FullID("vm", "c"), runtime=script).sandbox == Sandbox(id="vm", pid=7)
    del script.instead["create"]
    assert Container.new(home, FullID("none", "d"), runtime=script).sandbox is None


def test_same_id_in_two_sandboxes(home: Path, script: Script) -> None:
    """A name may be taken in one sandbox and free in another; alone it is ambiguous then."""
    for sandbox in ("s1", "s2"):
        Container.new(home, FullID(sandbox, "c"), runtime=script)
    with pytest.raises(AmbiguousIDError):
        Container.load(home, "c")
    Container.load(home, FullID("s1", "c"), runtime=script).destroy()
    assert Container.load(home, "c").saver.id == FullID("s2", "c")


# -- runtimes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["pause", "resume", "checkpoint", "restore", "execute", "processes", "update", "events"])
def test_what_a_runtime_lacks_is_unsupported(home: Path, monkeypatch: pytest.MonkeyPatch, script: Script, verb: str) -> None:
    """An optional method that is missing is an error that names action and runtime; nothing has changed."""
    record = {"restore": "created", "resume": "paused"}.get(verb, "running")
    path, c = recorded(home, script, record)
    before = path.read_bytes()
    monkeypatch.delattr(Script, verb)
    with pytest.raises(UnsupportedActionError) as caught:
        ask(c, verb)
    assert (caught.value.action, caught.value.runtime) == (verb, "Script")
    assert path.read_bytes() == before
    assert script.asked == []


@pytest.mark.parametrize("verb", ["pause", "processes", "signal"])
def test_without_a_runtime_nothing_can_be_driven(home: Path, script: Script, verb: str) -> None:
    """A container that was loaded without a runtime says what is missing, and can be looked at."""
    path, _ = recorded(home, script, "running")
    before = path.read_bytes()
    c = Container.load(home, "c")
    with pytest.raises(UnsupportedActionError, match="runtime="):
        ask(c, verb)
    assert c.state().status == "running"
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["create", "start", "signal", "destroy", "probe"])
def test_runtime_without_a_required_method_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, script: Script, name: str
) -> None:
    """A runtime that is none is refused by the name of what it lacks, before anything is touched."""
    put(home, {"status": "stopped"}, name="old")
    before = names(home)
    monkeypatch.delattr(Script, name)
    for get in (
        lambda: Container.new(home, "c", runtime=script),
        lambda: Container.load(home, "old", runtime=script),
        lambda: Container.run(home, "c", runtime=script),
    ):
        with pytest.raises(UnsupportedActionError, match=name) as caught:
            get()
        assert caught.value.runtime == "Script"
    assert (names(home), script.asked) == (before, [])
    monkeypatch.setattr(Script, name, 7, raising=False)
    with pytest.raises(UnsupportedActionError, match=name):
        Container.new(home, "c", runtime=script)


def test_everything_that_a_runtime_lacks_is_named(home: Path) -> None:
    """All missing methods are named at once."""
    with pytest.raises(UnsupportedActionError, match="create and start and signal and destroy and probe"):
        Container.new(home, "c", runtime=object())  # type: ignore[arg-type]


def test_arguments_reach_the_runtime(home: Path, script: Script) -> None:
    """Each verb passes on what it was given, and what the runtime returns."""
    _, c = recorded(home, script, "running")
    got: list[Any] = []

    def note(answer: Any) -> Callable[..., Any]:
        def method(_: Container, *args: Any) -> Any:
            got.extend(args)
            return answer

        return method

    ref = ProcessRef.current()
    script.instead = {
        "checkpoint": note(None),
        "update": note(None),
        "execute": note(ref),
        "events": note({"pids": 3}),
        "signal": note(None),
        "signal all": note(None),
        "restore": note(None),
        "wait": note(ExitStatus(code=1)),
    }
    c.checkpoint(Path("/image"))
    resources = {"nice": 5}
    c.update(resources)
    assert c.execute(("echo", "x")) == ref
    assert c.events() == {"pids": 3}
    c.signal(signal.SIGHUP)
    c.signal(9, all=True)
    assert c.wait(2.5) == ExitStatus(code=1)
    put(home, {"status": "created", "init": as_json(script.child())}, name="d")
    Container.load(home, "d", runtime=script).restore("/image")
    assert got == ["/image", {"nice": 5}, ["echo", "x"], 1, 9, 2.5, "/image"]
    assert got[1] is not resources
    assert [type(number) for number in got[3:5]] == [int, int]


@pytest.mark.parametrize("verb", ["checkpoint", "update"])
def test_failed_checkpoint_or_update_leaves_the_status(home: Path, script: Script, verb: str) -> None:
    """A checkpoint or an update that fails, or succeeds, leaves the container as it was."""
    for fails in (False, True):
        script.instead[verb] = raising(OSError("no")) if fails else lambda *_: None
        for number, record in enumerate(("created", "running", "paused", "paused before the start")):
            name = f"{number}{fails}"
            put(home, RECORDS[record] | {"init": as_json(script.child())}, name=name)
            c = Container.load(home, name, runtime=script)
            with contextlib.suppress(OSError):
                ask(c, verb)
            now = on_disk(home, name)
            assert (now["status"], now["pausedFrom"], now["pending"]) == (
                RECORDS[record]["status"],
                RECORDS[record].get("pausedFrom"),
                None,
            )


def test_real_update_execute_and_events(home: Path) -> None:
    """With real processes: limits hold, another process runs in the container, and its use is told."""
    c = make(home)
    c.start()
    c.update({"nice": 3})
    assert os.getpriority(os.PRIO_PROCESS, pid_of(c)) == 3
    ref = c.execute(list(SLEEP))
    assert ref in c.processes()
    assert c.events()["pids"] == 2
    with pytest.raises(UnsupportedActionError):
        c.checkpoint("/image")
    c.destroy()
    assert ref.presence() is Presence.GONE


def test_runtime_sees_the_intent(home: Path, script: Script) -> None:
    """While the runtime acts, the file says what is being done and by whom, and still what was true before."""
    seen: list[Any] = []

    def look(container: Container, *_: object) -> None:
        record = on_disk(home)
        seen.append((record["status"], record["pending"]["action"], record["pending"]["actor"]))
        assert container.pending is not None
        assert container.saver.locked

    _, c = recorded(home, script, "created")
    for verb in ("pause", "resume", "start", "update"):
        script.instead[verb] = look
        ask(c, verb)
    me = as_json(ProcessRef.current())
    assert seen == [
        ("created", "pause", me),
        ("paused", "resume", me),
        ("created", "start", me),
        ("running", "update", me),
    ]

    def look_and_end(container: Container) -> None:
        look(container)
        script.end(container.init)

    script.instead["destroy"] = look_and_end
    c.destroy()
    assert seen[-1] == ("running", "destroy", me)


def test_recover_without_need_changes_nothing(home: Path, script: Script) -> None:
    """Where nothing is amiss `recover` says the status, and writes nothing."""
    path, c = recorded(home, script, "running")
    before = (path.read_bytes(), path.stat())
    assert c.recover() is Status.RUNNING
    assert (path.read_bytes(), path.stat()) == before
    assert script.asked == []


def test_run_never_destroys_the_next_of_its_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose container was destroyed and made anew by another while it waited leaves the new one alone."""
    real = Container.wait
    others: list[Container] = []

    def wait(*_: object) -> ExitStatus | None:
        Container.load(home, "c", runtime=ProcessRuntime()).destroy()
        others.append(make(home, *SLEEP))
        monkeypatch.setattr(Container, "wait", real)
        return ExitStatus(signal=9)

    monkeypatch.setattr(Container, "wait", wait)
    Container.run(home, "c", spec=spec_of(home, *SLEEP), runtime=ProcessRuntime())
    assert others[0].init is not None
    assert others[0].init.presence() is Presence.ALIVE


def test_object_of_a_former_life_is_not_told_how_the_next_one_ends(home: Path) -> None:
    """Who waits with an object whose container was destroyed and made anew learns that it is not there any more."""
    former = make(home, *SLEEP)
    Container.load(home, "c", runtime=ProcessRuntime()).destroy()
    again = make(home, "sh", "-c", "exit 9")
    again.start()
    with pytest.raises(NotFoundError):
        former.wait(PATIENCE)


def test_signal_for_all_that_comes_late_spares_the_next_run(home: Path) -> None:
    """SIGKILL for all, sent when the name means another run by now, reaches nobody."""
    former = make(home, *SLEEP)
    former.start()
    Container.load(home, "c", runtime=ProcessRuntime()).destroy()
    again = make(home, *SLEEP)
    again.start()
    ProcessRuntime().signal(former, signal.SIGKILL, all=True)
    assert again.init is not None
    assert again.init.presence() is Presence.ALIVE
    assert ProcessRuntime().processes(former) == []


def test_wait_that_cannot_tell_does_not_say_that_it_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from another PID namespace, its monitor killed, a running container is neither stopped nor without processes."""
    c = make(home, *SLEEP)
    c.start()
    assert c.init is not None
    os.kill(c.helpers["monitor"].pid, signal.SIGKILL)
    with monkeypatch.context() as patch:
        patch.setattr("statefile._process._own_pid_namespace", lambda: 1)
        for ask in (lambda: c.wait(PATIENCE), lambda: c.signal(signal.SIGTERM, all=True), c.processes, c.events):
            with pytest.raises(StateIOError):
                ask()
    assert Container.load(home, "c", skip_check=True).status is Status.RUNNING


def test_runtime_whose_helpers_are_no_mapping_is_refused(script: Script) -> None:
    """A Created with helpers that are none is an InvalidRuntimeError."""
    with pytest.raises(InvalidRuntimeError, match="helpers"):
        runtime_module.checked_created(Created(init=ProcessRef.current(), helpers=None), script)  # type: ignore[arg-type]
