"""Actors that are killed with SIGKILL in the middle of what they do to a real container: whoever comes next finds and mends it.

The one who dies is always a process of its own; the one who comes next is this one, which shares nothing with it but the disk
and the kernel.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import statefile
from statefile import (
    Action,
    Container,
    ExitStatus,
    InvalidTransitionError,
    LockTimeoutError,
    NotFoundError,
    ProcessRef,
    ProcessRuntime,
    StateDir,
    Status,
    _atomic,
)
from statefile._process import Presence
from statefile.process_runtime import _gate, _launch
from tests.harness import PATIENCE, Worker, hear, names, tell, until, waits_for
from tests.test_container import FAMILY, ask, home, make, on_disk, pid_of, process_state, step, survivors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Spawn

__all__ = ["home"]  # a fixture: pytest finds it by name


# -- dying -------------------------------------------------------------------------------------------------------------


def die() -> None:
    """Now, and without a chance to clean up."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying(method: str, when: str) -> ProcessRuntime:
    """A runtime in one of whose methods its process dies: before the real thing, half-way through it, or after it."""
    runtime = ProcessRuntime()
    really = getattr(runtime, method)

    def act(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        if when == "half-way":
            _die_half_way()
        really(*args, **kwargs)
        die()

    setattr(runtime, method, act)
    return runtime


def _die_half_way() -> None:
    """At the first of several signals, when the gate has been opened, or when the processes of a creation are there."""
    send = ProcessRef.send_signal

    def send_and_die(ref: ProcessRef, number: int) -> Any:
        send(ref, number)
        die()

    def just_die(*_: object) -> Any:
        die()

    for place, name, instead in (
        (ProcessRef, "send_signal", send_and_die),
        (_gate, "_listen", just_die),
        (_launch, "_launched", just_die),
    ):
        setattr(place, name, instead)


def act_and_die(root: Path, verb: str, method: str, when: str) -> None:
    """Load the container and do something in which this process dies."""
    ask(Container.load(root, "c", runtime=dying(method, when)), verb)


# What changes files, locks or processes. Between two of these nothing happens that others could see.
CHANGES = frozenset({
    *("chmod", "fchmod", "flock", "fork_exec", "fsync", "kill", "mkdir", "mkfifo", "pidfd_send_signal", "posix_spawn"),
    *("prlimit", "pwrite", "remove", "rename", "replace", "rmdir", "setpriority", "unlink", "write"),
})  # fmt: skip


def trace(at: int) -> list[int]:
    """Die at the moment `at` of those before and after each such system call from now on; the list counts them."""
    count = [0]

    def on_event(_frame: Any, event: str, function: Any) -> None:
        if event not in {"c_call", "c_return", "c_exception"} or function.__name__ not in CHANGES:
            return
        if getattr(function, "__module__", None) is None:
            return  # a method: of a buffer, a dictionary
        count[0] += 1
        if count[0] == at:
            die()

    sys.setprofile(on_event)
    return count


def act_and_die_at(root: Path, verb: str, at: int, report: int) -> None:
    """Do something, and die at the moment `at`; if there are not so many, report how many there are."""
    verb, _, hooked = verb.partition(" with ")
    if verb == "new":
        hooks = HOOKS if hooked else None
        do: Callable[[], Any] = lambda: make(root, *FAMILY, pid_file=f"{root}.pid", hooks=hooks)  # noqa: E731
    else:
        c = Container.load(root, "c", runtime=ProcessRuntime())
        do = lambda: ask(c, verb)  # noqa: E731
    count = trace(at)
    do()
    sys.setprofile(None)
    os.write(report, str(count[0]).encode())


def in_child(do: Callable[..., object], *args: Any) -> int:
    """Let a forked process do it, and reap that; its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            do(*args)
        except BaseException:  # noqa: BLE001  # shown, and told by the exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def moments_of(root: Path, verb: str) -> int:
    """How many moments there are at which one may die while doing that."""
    reader, writer = os.pipe()
    assert in_child(act_and_die_at, root, verb, 0, writer) == 0
    os.close(writer)
    with open(reader) as file:
        return int(file.read())


def killed_at(root: Path, verb: str, at: int) -> bool:
    """Whether a process that does that was killed at the moment `at`, and did not do it all first."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        status = in_child(act_and_die_at, root, verb, at, null)
    finally:
        os.close(null)
    assert status in {0, signal.SIGKILL}
    return status == signal.SIGKILL


@pytest.fixture(scope="module")
def nursery() -> Iterator[Worker]:
    """A process without threads, from which those are forked that will die."""
    with contextlib.closing(Worker()) as worker:
        worker.call(_warm_up)
        yield worker


def _warm_up() -> None:
    """Load what is loaded when first used, for all the children."""
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        c = make(Path(root))
        for verb in ("start", "pause", "resume", "update", "processes", "destroy"):
            ask(c, verb)


def must_die(nursery: Worker, *args: Any) -> None:
    """Let a process do that in which it dies."""
    assert nursery.call(in_child, *args) == signal.SIGKILL


# -- each action, at each of its steps ---------------------------------------------------------------------------------


def prepared(root: Path, *verbs: str, args: tuple[str, ...] = FAMILY, hooks: Any = None) -> Container:
    """A container of two processes, or what `args` says, to which that was done; `kill`: nobody has looked at it since."""
    c = make(root, *args, hooks=hooks)
    for verb in verbs:
        if verb == "kill":
            c.signal(signal.SIGKILL, all=True)
            until(lambda: c.init is not None and c.init.presence() is Presence.GONE)
            continue
        ask(c, verb)
        if verb == "start" and args == FAMILY:
            until(lambda: len(c.processes()) == 2)
    return c


def agrees(c: Container) -> None:
    """Record and kernel say the same."""
    assert c.init is not None
    assert (c.init.presence() is Presence.ALIVE) == (c.status is not Status.STOPPED)
    if c.status is Status.STOPPED:
        return
    assert (process_state(c.init.pid) == "T") == (c.status is Status.PAUSED)
    if Status.CREATED in {c.status, c.paused_from}:
        assert not runs_its_program(c)
    else:
        until(lambda: runs_its_program(c))


def runs_its_program(c: Container) -> bool:
    """Whether its process is what the spec says, and no longer one that waits to become that."""
    program: str = c.spec["process"]["args"][0]
    return Path(f"/proc/{pid_of(c)}/cmdline").read_bytes().startswith(program.encode() + b"\0")


CASES = [
    # before, the verb, its method, where its actor dies, and what is true then
    (("",), "start", "start", "before", "created"),
    (("",), "start", "start", "after", "running"),
    (("start",), "pause", "pause", "before", "running"),
    (("start",), "pause", "pause", "half-way", "running"),
    (("start",), "pause", "pause", "after", "paused"),
    (("",), "pause", "pause", "before", "created"),
    (("",), "pause", "pause", "after", "paused"),
    (("start", "pause"), "resume", "resume", "before", "paused"),
    (("start", "pause"), "resume", "resume", "half-way", "paused"),
    (("start", "pause"), "resume", "resume", "after", "running"),
    (("pause",), "resume", "resume", "before", "paused"),
    (("pause",), "resume", "resume", "after", "created"),
    (("start",), "update", "update", "before", "running"),
    (("start",), "update", "update", "after", "running"),
    (("start", "pause"), "update", "update", "after", "paused"),
    (("start",), "destroy", "destroy", "before", "running"),
    (("start",), "destroy", "destroy", "half-way", "stopped"),
    (("start",), "destroy", "destroy", "after", "stopped"),
    (("",), "destroy", "destroy", "before", "created"),
    (("",), "destroy", "destroy", "after", "stopped"),
    (("start", "pause"), "destroy", "destroy", "before", "paused"),
]


def case_name(case: tuple[Any, ...]) -> str:
    """How pytest shows it."""
    verbs, verb, _, when, _ = case
    return f"{'-'.join(filter(None, verbs)) or 'created'}, killed {when} {verb}"


@pytest.mark.parametrize("case", CASES, ids=case_name)
@pytest.mark.parametrize("then", ["recover", "destroy", "act"])
def test_killed_actor(home: Path, nursery: Worker, case: tuple[Any, ...], then: str) -> None:
    """The intent of the dead tells what it was at; whoever comes next finds what is true, acts on it, and loses nothing."""
    verbs, verb, method, when, truth = case
    c = prepared(home, *filter(None, verbs))
    before = c.status
    must_die(nursery, act_and_die, home, verb, method, when)
    record = on_disk(home)
    assert (record["status"], record["pending"]["action"]) == (before, verb)
    actor = ProcessRef.model_validate(record["pending"]["actor"])
    assert actor.presence() is Presence.GONE
    ((full_id, listed),) = StateDir(home).load_all(Container)
    assert str(full_id) == "c/c"
    assert isinstance(listed, Container)
    assert listed.pending is not None
    assert listed.pending.actor == actor
    c = Container.load(home, "c", runtime=ProcessRuntime())
    assert c.status == ("stopped" if truth == "stopped" else before)
    if then == "recover":
        assert c.recover() == truth
        assert c.pending is None
        assert (on_disk(home)["status"], on_disk(home)["pending"]) == (truth, None)
        agrees(c)
    elif then == "act":
        follow_up(c, verb, truth)
        agrees(c)
    c.destroy()
    assert names(home) == []
    assert not survivors(home)
    if then == "destroy":
        make(home).destroy()


def follow_up(c: Container, verb: str, truth: str) -> None:
    """Do what the dead wanted to do: it is done if it was not done yet, and refused with the true status if it was."""
    done = {"start": "running", "pause": "paused", "resume": "running"}.get(verb)
    if verb == "destroy":
        if truth == "stopped":
            with pytest.raises(InvalidTransitionError):
                c.start()
        else:
            c.update({"nice": 0})
        return
    if done is None or truth not in {done, "created" if verb == "resume" else done}:
        ask(c, verb)
        return
    with pytest.raises(InvalidTransitionError) as caught:
        ask(c, verb)
    assert caught.value.status == truth
    if truth == "paused":
        was = c.paused_from
        c.resume()
        assert c.status is was
    elif truth == "created":
        c.start()


def test_start_that_was_killed_half_way_runs_once(home: Path, nursery: Worker, tmp_path: Path) -> None:
    """When the starter dies as the gate opens, the program runs once, whoever starts it again."""
    runs = tmp_path / "runs"
    make(home, "sh", "-c", f"echo run >>{runs}; exec sleep 1000")
    must_die(nursery, act_and_die, home, "start", "start", "half-way")
    c = Container.load(home, "c", runtime=ProcessRuntime())
    with contextlib.suppress(InvalidTransitionError):
        c.start()
    assert c.status is Status.RUNNING
    until(runs.exists)
    until(lambda: process_state(pid_of(c)) == "S")
    assert runs.read_text() == "run\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_deleter(home: Path, nursery: Worker, when: str) -> None:
    """A stopped container whose deleter dies is stopped still, keeps its exit status, and can be deleted."""
    c = prepared(home, "start", args=("sh", "-c", "setsid sleep 1000 & exit 6"))
    assert c.wait(PATIENCE) == ExitStatus(code=6)
    must_die(nursery, act_and_die, home, "delete", "destroy", when)
    c = Container.load(home, "c", runtime=ProcessRuntime())
    assert (c.status, c.exit_status) == (Status.STOPPED, ExitStatus(code=6))
    assert c.wait() == ExitStatus(code=6)
    assert bool(survivors(home)) == (when == "before")
    c.delete()
    assert names(home) == []
    assert not survivors(home)


@pytest.mark.parametrize("verb", ["execute", "signal", "processes", "events", "wait"])
@pytest.mark.parametrize("when", ["before", "half-way", "after"])
def test_killed_while_it_held_no_lock(home: Path, nursery: Worker, verb: str, when: str) -> None:
    """Who dies while asking leaves the record as it was, and nothing that `destroy` does not end."""
    c = prepared(home, "start")
    if verb == "wait":
        c.signal(signal.SIGKILL)
        assert c.init is not None
        c.init.wait(PATIENCE)
    before = c.saver.state_path.read_bytes()
    halved = verb in {"execute", "signal"}  # the others do not reach any of the places where one dies half-way
    must_die(nursery, act_and_die, home, verb, verb, when if halved or when != "half-way" else "after")
    assert c.saver.state_path.read_bytes() == before
    c = Container.load(home, "c", runtime=ProcessRuntime())
    c.destroy()
    assert names(home) == []
    until(lambda: not survivors(home))


@pytest.mark.parametrize("then", ["recover", "start", "destroy"])
def test_mender_killed_too(home: Path, nursery: Worker, then: str) -> None:
    """Also who dies while mending, or while destroying what a dead actor left, leaves what the next one can mend."""
    prepared(home)
    must_die(nursery, act_and_die, home, "start", "start", "after")
    for when in ("before", "after"):
        method = {"recover": "probe", "start": "probe", "destroy": "destroy"}[then]
        must_die(nursery, act_and_die, home, then, method, when)
    c = Container.load(home, "c", runtime=ProcessRuntime())
    assert c.recover() == ("stopped" if then == "destroy" else "running")
    agrees(c)
    c.destroy()
    assert names(home) == []
    assert not survivors(home)


# -- one that is stuck, and killed while others wait ------------------------------------------------------------------------


class Stuck(ProcessRuntime):
    """Says where it is, half-way, and goes on when it may."""

    def pause(self, container: Container) -> None:
        tell("inside")
        hear()
        super().pause(container)


def _pause(root: Path) -> None:
    Container.load(root, "c", runtime=Stuck()).pause()


def _start(root: Path) -> str:
    c = Container.load(root, "c", runtime=ProcessRuntime())
    tell("loaded")
    c.start()
    return c.status


def test_waiter_goes_on_when_the_holder_is_killed(home: Path, spawn: Spawn) -> None:
    """While an actor is stuck others see its intent and can look; once it is killed, who waited mends and acts at once."""
    c = prepared(home)
    stuck, waiter = spawn(quiet=True), spawn()
    stuck.start(_pause, home)
    assert stuck.hear() == "inside"
    assert step(home, "c", "state")[0].status == "created"
    pending = Container.load(home, "c").pending
    assert pending is not None
    assert (pending.action, pending.actor.pid) == (Action.PAUSE, stuck.pid)
    with pytest.raises(LockTimeoutError) as caught:
        c.start(timeout=0)
    assert caught.value.holder.pid == stuck.pid
    waiter.start(_start, home)
    assert waiter.hear() == "loaded"
    until(lambda: waits_for(waiter, c.saver.lock_path))
    assert waiter.silent()
    stuck.kill()
    assert waiter.result() is Status.RUNNING
    assert (on_disk(home)["status"], on_disk(home)["pending"]) == ("running", None)


def test_stuck_actor_that_lives_is_waited_for(home: Path, spawn: Spawn) -> None:
    """An actor that only takes long is not taken for dead: who waits acts on what it has done."""
    c = prepared(home)
    stuck = spawn()
    stuck.start(_pause, home)
    assert stuck.hear() == "inside"
    refused: list[InvalidTransitionError] = []

    def start() -> None:
        try:
            c.start()
        except InvalidTransitionError as error:
            refused.append(error)

    waiter = threading.Thread(target=start)
    waiter.start()
    until(lambda: waits_for(os.getpid(), c.saver.lock_path))
    stuck.tell()
    stuck.result()
    waiter.join()
    assert [error.status for error in refused] == [Status.PAUSED]
    assert c.status is Status.PAUSED


# -- creation, at each of its steps ------------------------------------------------------------------------------------


def create_and_die(root: Path, where: str, pid_file: str) -> None:
    """Create a container, and die where it is said."""
    if where in {"before create", "half-way through create", "after create"}:
        runtime = dying("create", {"before": "before", "half-way": "half-way", "after": "after"}[where.partition(" ")[0]])
    else:
        runtime = ProcessRuntime()
        _die_in_replace(where, pid_file)
    make(root, *FAMILY, runtime=runtime, pid_file=pid_file)


def _die_in_replace(where: str, pid_file: str) -> None:
    really = _atomic.replace
    calls = itertools.count(1)
    moment, nth = {
        "before the first save": ("before", 1),
        "in the first save": ("in", 1),
        "after the first save": ("after", 1),
        "before the second save": ("before", 2),
        "in the second save": ("in", 2),
        "after the second save": ("after", 2),
        "before the PID file": ("before", 3),
        "in the PID file": ("in", 3),
        "after the PID file": ("after", 3),
    }[where]

    def replace(path: str, data: bytes, **options: Any) -> None:
        if next(calls) != nth:
            really(path, data, **options)
            return
        assert (path == pid_file) == (nth == 3)
        if moment == "in":
            os.rename = lambda *_, **__: die()
        if moment != "before":
            really(path, data, **options)
        die()

    _atomic.replace = replace


CREATIONS = {
    # where the creator dies, and what is found then
    "before the first save": None,
    "in the first save": None,
    "after the first save": "creating",
    "before create": "creating",
    "half-way through create": "creating",
    "after create": "creating",
    "before the second save": "creating",
    "in the second save": "creating",
    "after the second save": "created",
    "before the PID file": "created",
    "in the PID file": "created",
    "after the PID file": "created",
}


@pytest.mark.parametrize("where", CREATIONS)
@pytest.mark.parametrize("cleared", [True, False])
def test_killed_creator(home: Path, nursery: Worker, tmp_path: Path, where: str, cleared: bool) -> None:
    """Either nothing has the name, or a record that can be listed and destroyed; no process leaks, and the ID is free again."""
    pid_file = tmp_path / "pid"
    must_die(nursery, create_and_die, home, where, str(pid_file))
    found = CREATIONS[where]
    assert pid_file.exists() == (where == "after the PID file")
    if found is None:
        with pytest.raises(NotFoundError):
            Container.load(home, "c")
        assert StateDir(home).ids() == []
    else:
        ((_, listed),) = StateDir(home).load_all(Container)
        assert isinstance(listed, Container)
        assert listed.status == found
        c = Container.load(home, "c", runtime=ProcessRuntime())
        assert c.recover() == found
        if found == "creating":
            assert c.init is None
            with pytest.raises(InvalidTransitionError) as caught:
                c.start()
            assert caught.value.allowed == (Action.DESTROY,)
        else:
            agrees(c)
            c.start()
            agrees(c)
        c.destroy()
    if cleared:
        StateDir(home).sweep()
        assert names(home) == []
        until(lambda: not survivors(home))
    again = make(home, *FAMILY, pid_file=pid_file)
    assert int(pid_file.read_text()) == pid_of(again)
    again.destroy()
    StateDir(home).sweep()
    assert names(home) == []


def test_creation_after_a_killed_one_needs_a_destroy(home: Path, nursery: Worker, tmp_path: Path) -> None:
    """What a killed creator left keeps its name until it is destroyed: nobody takes it over without knowing."""
    must_die(nursery, create_and_die, home, "after create", str(tmp_path / "pid"))
    before = (home / "c_sandbox:c.state").read_bytes()
    alive = survivors(home)
    assert alive
    with pytest.raises(statefile.AlreadyExistsError):
        make(home)
    assert (home / "c_sandbox:c.state").read_bytes() == before
    assert survivors(home) == alive
    Container.load(home, "c", runtime=ProcessRuntime()).destroy()
    make(home).destroy()


# -- before and after every system call ----------------------------------------------------------------------------------


def _every(home: Path, nursery: Worker, verb: str, prepare: Callable[[], Any]) -> Iterator[int]:
    """Let the verb be killed before and after every system call that changes something, each time on a new container."""
    prepare()
    total = nursery.call(moments_of, home, verb)
    assert total >= 2
    for at in range(1, total + 1):
        with contextlib.suppress(NotFoundError):
            Container.load(home, "c", runtime=ProcessRuntime()).destroy()
        StateDir(home).sweep()
        assert names(home) == []
        prepare()
        nursery.call(killed_at, home, verb, at)
        yield at


HOOKS = {kind: [{"path": "/bin/true"}] for kind in ("prestart", "createRuntime", "poststart", "poststop")}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("verb", ["new", "new with hooks"])
def test_creation_killed_at_any_system_call(home: Path, nursery: Worker, verb: str) -> None:
    """Wherever a creator dies: no process leaks, and after a destroy and a sweep the ID is free."""
    pid_file = Path(f"{home}.pid")
    seen = set()
    for at in _every(home, nursery, verb, lambda: pid_file.unlink(missing_ok=True)):
        announced = pid_file.exists()
        try:
            c = Container.load(home, "c", runtime=ProcessRuntime())
        except NotFoundError:
            assert not announced, at
            until(lambda: not survivors(home))
            continue
        status = c.recover()
        seen.add(status)
        assert status in {Status.CREATING, Status.CREATED}, at
        assert not announced or (status is Status.CREATED and int(pid_file.read_text()) == pid_of(c)), at
        if status is Status.CREATED:
            agrees(c)
            c.start()
        c.destroy()
        until(lambda: not survivors(home))
    assert seen == {Status.CREATING, Status.CREATED}


VERBS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    # what was done before, and what may be true afterwards
    "start": ((), {"created", "running"}),
    "start with hooks": ((), {"created", "running"}),
    "pause": (("start",), {"running", "paused"}),
    "resume": (("start", "pause"), {"running", "paused"}),
    "update": (("start",), {"running"}),
    "execute": (("start",), {"running"}),
    "signal": (("start",), {"running", "stopped"}),
    "wait": (("start", "kill"), {"stopped"}),
    "recover": (("start", "kill"), {"stopped"}),
    "delete": (("start", "kill"), {"stopped", "gone"}),
    "destroy": (("start",), {"running", "stopped", "gone"}),
    "destroy with hooks": (("start",), {"running", "stopped", "gone"}),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("verb", VERBS)
def test_action_killed_at_any_system_call(home: Path, nursery: Worker, verb: str) -> None:
    """Wherever an actor dies, the next one finds one of the two statuses, in record and kernel alike."""
    verbs, allowed = VERBS[verb]
    seen = set()

    def prepare() -> None:
        prepared(home, *verbs, hooks=HOOKS if verb.endswith("with hooks") else None)

    for at in _every(home, nursery, verb, prepare):
        try:
            c = Container.load(home, "c", runtime=ProcessRuntime())
        except NotFoundError:
            assert "gone" in allowed, at
            assert not survivors(home), at
            seen.add("gone")
            continue
        assert c.status in allowed, at
        status = c.recover()
        seen.add(str(status))
        assert status in allowed, at
        assert on_disk(home)["pending"] is None
        agrees(c)
        c.destroy()
        until(lambda: not survivors(home))
    assert seen >= allowed - {"stopped"}
