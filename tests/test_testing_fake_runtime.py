"""`FakeRuntime`: what it says is true of real processes, what its script says happens, and nothing of it outlives the test."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statefile import (
    Container,
    DestroyError,
    ExitStatus,
    Presence,
    ProcessRef,
    Runtime,
    StateIOError,
    Status,
    StillRunningError,
    UnsupportedActionError,
    testing,
)
from statefile.runtime import REQUIRED, check_runtime
from statefile.testing import Call, FakeRuntime, Step, make_container, run_to_crash
from statefile.testing._fake_runtime import OPTIONAL
from tests.harness import children, hear, tell, until
from tests.test_architecture import check_front_door

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Spawn


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    with FakeRuntime() as runtime:
        yield runtime


def init_of(container: Container) -> ProcessRef:
    assert container.init is not None
    return container.init


def kernel_state(process: ProcessRef) -> str:
    """The letter in `/proc/PID/stat`."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


# -- what is true --------------------------------------------------------------------------------------------------------


def test_it_is_a_runtime_with_every_method(fake: FakeRuntime) -> None:
    """It has each method that a runtime may have, and is accepted as one."""
    check_runtime(fake)
    assert isinstance(fake, Runtime)
    assert [name for name in (*REQUIRED, *OPTIONAL) if not callable(getattr(fake, name))] == []


def test_a_whole_life_is_true(root: Path, fake: FakeRuntime, tmp_path: Path) -> None:
    """In each status the kernel, `probe` and the record say the same of the container's process."""
    container = Container.new(root, "c1", runtime=fake)
    init = init_of(container)
    assert (init.presence(), fake.probe(container), container.status) == (Presence.ALIVE, Status.CREATED, Status.CREATED)
    container.pause()
    assert (kernel_state(init), fake.probe(container), container.status) == ("T", Status.PAUSED, Status.PAUSED)
    container.resume()
    assert (kernel_state(init) != "T", fake.probe(container), container.status) == (True, Status.CREATED, Status.CREATED)
    container.start()
    assert (fake.probe(container), container.status) == (Status.RUNNING, Status.RUNNING)
    container.checkpoint(tmp_path / "image")
    container.update({"cpu": 1})
    second = container.execute(["ls"])
    assert container.processes() == [init, second]
    assert container.events() == {"pids": 2}
    container.pause()
    assert (kernel_state(init), kernel_state(second)) == ("T", "T")
    container.resume()
    assert "T" not in (kernel_state(init), kernel_state(second))
    container.signal(signal.SIGTERM, all=True)
    assert container.wait(30) == ExitStatus(signal=signal.SIGTERM)
    until(lambda: second.presence() is Presence.GONE)
    assert (fake.probe(container), container.status) == (Status.STOPPED, Status.STOPPED)
    container.destroy()
    assert os.listdir(root) == []
    fake.destroy(container)  # nothing there is success
    assert not Path(f"/proc/{init.pid}").exists(), "a zombie was left"
    restored = Container.new(root, "c2", runtime=fake)
    restored.restore(tmp_path / "image")
    assert (fake.probe(restored), restored.status) == (Status.RUNNING, Status.RUNNING)


def test_only_an_image_is_restored(root: Path, fake: FakeRuntime, tmp_path: Path) -> None:
    """A file that is no image is refused, and the container stays created."""
    (tmp_path / "image").write_text("{}")
    container = Container.new(root, "c1", runtime=fake)
    with pytest.raises(ValueError, match="is no image"):
        container.restore(tmp_path / "image")
    with pytest.raises(FileNotFoundError):
        container.restore(tmp_path / "none")
    assert container.status == Status.CREATED


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({}, ExitStatus(code=0)),
        ({"code": 3}, ExitStatus(code=3)),
        ({"code": 255}, ExitStatus(code=255)),
        ({"signal": signal.SIGKILL}, ExitStatus(signal=9)),
        ({"signal": signal.SIGSEGV}, ExitStatus(signal=11)),
    ],
)
@pytest.mark.parametrize("paused", [False, True])
def test_a_process_ends_as_it_is_told(root: Path, fake: FakeRuntime, how: Any, status: ExitStatus, paused: bool) -> None:
    """After `exit` the process has ended, also a stopped one, and `wait` says how, as often as it is asked."""
    container = make_container(root, runtime=fake, status=Status.PAUSED if paused else Status.RUNNING)
    fake.exit(container, **how)
    assert init_of(container).presence() is Presence.GONE
    assert container.wait() == status
    assert Container.load(root, "c1", runtime=fake).wait() == status
    assert fake.wait(container, 0) == status
    with pytest.raises(ProcessLookupError):
        fake.exit(container)


def test_a_waiter_hears_of_the_end(root: Path, fake: FakeRuntime) -> None:
    """Who waits while the process runs gets its exit status when it ends, and a `TimeoutError` if that is not in time."""
    container = make_container(root, runtime=fake)
    with pytest.raises(TimeoutError):
        container.wait(0)
    found: list[ExitStatus | None] = []
    with fake.hold("wait", before=True) as held:
        waiter = threading.Thread(target=lambda: found.append(container.wait(30)))
        waiter.start()
        held.reached()
    fake.exit(container, code=7)
    waiter.join()
    assert found == [ExitStatus(code=7)]


# -- the script ----------------------------------------------------------------------------------------------------------


def test_calls_are_recorded(root: Path, fake: FakeRuntime) -> None:
    """`calls` has each call with its arguments, in order; what is prepared past the script is not in it."""
    container = make_container(root, "c1", runtime=fake, status=Status.CREATED)
    container.start()
    container.signal(signal.SIGWINCH)
    container.update({"cpu": 1})
    container.execute(["ls", "-l"])
    container.destroy()
    assert fake.calls == [
        Call("start", "c1"),
        Call("signal", "c1", (signal.SIGWINCH, False)),
        Call("update", "c1", ({"cpu": 1},)),
        Call("execute", "c1", (["ls", "-l"],)),
        Call("destroy", "c1"),
    ]


def test_a_failure_comes_before_the_work(root: Path, fake: FakeRuntime) -> None:
    """The next call fails with the very error, having done nothing, and the one after it succeeds."""
    container = make_container(root, runtime=fake, status=Status.CREATED)
    error = OSError(errno.EIO, "bad disk")
    fake.fail("start", error)
    with pytest.raises(OSError, match="bad disk") as caught:
        container.start()
    assert caught.value is error
    assert container.status == fake.probe(container) == Status.CREATED
    container.start()
    assert container.status == Status.RUNNING


def test_a_failure_comes_after_the_work(root: Path, fake: FakeRuntime) -> None:
    """With `before=False` the work is done and the error raised, so the record follows what `probe` finds."""
    container = make_container(root, runtime=fake, status=Status.CREATED)
    fake.fail("start", RuntimeError, before=False)
    with pytest.raises(RuntimeError):
        container.start()
    assert container.status == Status.RUNNING


@pytest.mark.parametrize(("times", "failures"), [(1, 1), (3, 3), (None, 5)])
def test_a_failure_comes_as_often_as_it_is_told(root: Path, fake: FakeRuntime, times: int | None, failures: int) -> None:
    """`times` failures come, or all, each with an error that has no notes of another, until the script is forgotten."""
    container = make_container(root, runtime=fake)
    fake.fail("events", OSError(errno.EIO, "bad disk"), times=times)
    caught = []
    for _ in range(5):
        try:
            container.events()
        except OSError as error:
            error.add_note("seen")
            caught.append(error)
    assert len(caught) == len({*map(id, caught)}) == failures
    assert all((error.__notes__, error.errno) == (["seen"], errno.EIO) for error in caught)
    fake.forget_script()
    assert container.events() == {"pids": 1}


def test_rules_apply_in_their_order(root: Path, fake: FakeRuntime) -> None:
    """Several rules for one call apply in the order in which they were said, up to the first that fails."""
    container = make_container(root, runtime=fake)
    fake.delay("events", 0.02)
    fake.fail("events", KeyError("first"))
    fake.fail("events", KeyError("second"))
    start = time.monotonic()
    with pytest.raises(KeyError, match="first"):
        container.events()
    assert time.monotonic() - start >= 0.02
    with pytest.raises(KeyError, match="second"):
        container.events()
    assert container.events() == {"pids": 1}


def test_what_a_call_does_not_come_to_waits(root: Path, fake: FakeRuntime) -> None:
    """Whatever a call does not come to, as something was raised before, before or after the work, is for the next call."""
    container = make_container(root, runtime=fake, status=Status.CREATED)
    fake.fail("start", OSError(errno.EIO, "early"))
    fake.fail("start", OSError(errno.EIO, "late"), before=False)
    fake.die("start", code=4, before=False)
    with pytest.raises(OSError, match="early"):
        container.start()
    assert container.status == Status.CREATED
    with pytest.raises(OSError, match="late"):
        container.start()
    assert container.status == Status.RUNNING
    fake.start(container)
    assert container.wait() == ExitStatus(code=4)


@pytest.mark.parametrize("before", [True, False])
def test_a_held_call_waits(root: Path, fake: FakeRuntime, before: bool) -> None:
    """A held call has or has not done its work, as `before` says, and goes on when it is released."""
    container = make_container(root, runtime=fake)
    with fake.hold("pause", before=before) as held:
        with pytest.raises(TimeoutError):
            held.reached(0)
        thread = threading.Thread(target=container.pause)
        thread.start()
        held.reached()
        assert fake.unscripted.probe(container) == (Status.RUNNING if before else Status.PAUSED)
        assert Container.load(root, "c1").pending is not None
        held.release()
        thread.join()
    assert container.status == Status.PAUSED
    container.resume()  # nothing is held any more


def test_a_call_of_a_child_is_held_too(root: Path, fake: FakeRuntime) -> None:
    """A call in a forked child is held and released from the process that has forked it."""
    container = make_container(root, runtime=fake)
    with fake.hold("pause") as held:
        thread = threading.Thread(target=run_to_crash, args=(Step.RUNTIME_RETURNED, container.pause))
        thread.start()
        held.reached()
        assert fake.unscripted.probe(container) == Status.RUNNING
        held.release()
        thread.join()
    assert container.recover() == Status.PAUSED


@pytest.mark.parametrize("before", [True, False])
def test_a_process_dies_in_the_middle(root: Path, fake: FakeRuntime, before: bool) -> None:
    """A container whose process dies in a call is found stopped, with how it ended, by that call or by the next look."""
    container = make_container(root, runtime=fake)
    fake.die("pause", before=before, code=4)
    if before:
        with pytest.raises(StateIOError):
            container.pause()
    else:
        container.pause()
    container.refresh()
    assert container.status == Status.STOPPED
    assert container.wait() == ExitStatus(code=4)


def test_a_process_dies_at_birth(root: Path, fake: FakeRuntime) -> None:
    """A container whose process is dead when it is created can be loaded, is stopped, and can be destroyed."""
    fake.die("create", before=False)
    container = Container.new(root, "c1", runtime=fake)
    assert init_of(container).presence() is Presence.GONE
    assert Container.load(root, "c1", runtime=fake).status == Status.STOPPED
    container.destroy()


def test_a_creation_that_fails_late_leaves_nothing(root: Path, fake: FakeRuntime) -> None:
    """When `create` fails with its process made already, the container has seen to it that nothing is left."""
    before = children()  # of other tests, which may be had again
    fake.fail("create", OSError(errno.ENOMEM, "no memory"), before=False)
    with pytest.raises(OSError, match="no memory"):
        Container.new(root, "c1", runtime=fake)
    assert os.listdir(root) == []
    assert children() == before
    assert [call.method for call in fake.calls] == ["create", "destroy"]


def test_threads_share_one(root: Path, fake: FakeRuntime) -> None:
    """Threads that call at once are all recorded, and a rule applies exactly as often as it was told."""
    container = make_container(root, runtime=fake)
    fake.fail("probe", KeyError, times=50)
    failures: list[KeyError] = []

    def probe() -> None:
        for _ in range(25):
            try:
                fake.probe(container)
            except KeyError as error:
                failures.append(error)

    threads = [threading.Thread(target=probe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(fake.calls), len(failures)) == (100, 50)


# -- what it lacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OPTIONAL)
def test_what_it_is_made_without_is_not_there(method: str) -> None:
    """A runtime that was made without an optional method has no such attribute, and has all others."""
    with FakeRuntime(without=[method]) as fake:
        assert not hasattr(fake, method)
        assert all(hasattr(fake, other) for other in {*OPTIONAL, *REQUIRED} - {method})


def test_a_container_refuses_what_its_runtime_lacks(root: Path) -> None:
    """An action whose method is missing is refused by name; how a container ended is then unknown."""
    with FakeRuntime(without=["pause", "wait"]) as fake:
        container = make_container(root, runtime=fake)
        with pytest.raises(UnsupportedActionError):
            container.pause()
        fake.exit(container, code=3)
        assert container.wait() is None


# -- other processes -----------------------------------------------------------------------------------------------------


def drive(root: Path) -> list[object]:
    """Pause and resume with a runtime of this process's own; let it end, and say what this process knows of that."""
    with FakeRuntime() as fake:
        container = Container.load(root, "c1", runtime=fake)
        seen: list[object] = [fake.probe(container)]
        container.pause()
        seen.append(fake.probe(container))
        container.resume()
        second = container.execute(["x"])
        seen.append(len(container.processes()))
        container.signal(signal.SIGINT)
        seen.append(container.wait(30))
    assert second.presence() is Presence.GONE  # this runtime has ended what it made
    return seen


def test_another_process_drives_it(root: Path, fake: FakeRuntime, spawn: Spawn) -> None:
    """Another process with a runtime of its own finds all to be true, but how a process ended that it did not make."""
    container = make_container(root, runtime=fake)
    assert spawn().call(drive, root) == [Status.RUNNING, Status.PAUSED, 2, None]
    assert fake.wait(container, 0) == ExitStatus(signal=signal.SIGINT)


def remove(root: Path) -> None:
    Container.remove(root, "c1", runtime=FakeRuntime())


def test_another_process_destroys_what_no_record_names(root: Path, fake: FakeRuntime, spawn: Spawn) -> None:
    """What an interrupted creation left is found and ended by a process that never saw it, though no record names it."""
    lost = make_container(root, runtime=fake, status=Status.CREATING)
    (process,) = fake.unscripted.family(lost)
    spawn().call(remove, root)
    assert process.presence() is Presence.GONE
    assert os.listdir(root) == []


def make_and_tell(root: Path) -> None:
    fake = FakeRuntime()
    running = make_container(root, "running", runtime=fake)
    paused = make_container(root, "paused", runtime=fake, status=Status.PAUSED)
    created = make_container(root, "created", runtime=fake, status=Status.CREATED)
    created.execute(["x"])
    tell([process for each in (running, paused, created) for process in fake.unscripted.family(each)])
    hear()


def test_nothing_outlives_a_killed_test_process(root: Path, spawn: Spawn) -> None:
    """When the process that made a runtime is killed by SIGKILL, all that the runtime ran ends, stopped processes too."""
    worker = spawn(fresh=True)
    worker.start(make_and_tell, root)
    processes = worker.hear()
    assert [process.presence() for process in processes] == [Presence.ALIVE] * 4
    worker.kill()
    assert [process.wait(30) for process in processes] == [Presence.GONE] * 4


def test_what_a_killed_child_made_goes_on(root: Path, fake: FakeRuntime) -> None:
    """A container whose creator, a child, is killed before it could record the process is really left over, and destroyed."""
    run_to_crash(Step.RUNTIME_RETURNED, new, root, "c1", fake)
    lost = Container.load(root, "c1", runtime=fake)
    assert (lost.status, lost.init) == (Status.CREATING, None)
    (process,) = fake.unscripted.family(lost)
    lost.destroy()
    assert process.presence() is Presence.GONE
    assert os.listdir(root) == []


def test_close_ends_everything(root: Path) -> None:
    """After `close` nothing runs of what it or its children made, no child is left, and it makes nothing new."""
    fake = FakeRuntime()
    mine = make_container(root, "mine", runtime=fake, status=Status.PAUSED)
    run_to_crash(Step.RESULT_SAVED, new, root, "theirs", fake)
    theirs = Container.load(root, "theirs", runtime=fake)
    processes = [init_of(mine), init_of(theirs)]
    assert [process.presence() for process in processes] == [Presence.ALIVE] * 2
    fake.close()
    fake.close()
    assert [process.presence() for process in processes] == [Presence.GONE] * 2
    with pytest.raises(RuntimeError, match="was closed"):
        Container.new(root, "late", runtime=fake)


def new(root: Path, id: str, fake: FakeRuntime) -> None:
    Container.new(root, id, runtime=fake)


def test_it_ends_with_its_last_reference(root: Path) -> None:
    """A container with a runtime of its own has a process for as long as somebody has the container."""
    container = make_container(root)
    process = init_of(container)
    assert process.presence() is Presence.ALIVE
    del container
    gc.collect()
    assert process.presence() is Presence.GONE


def test_an_undecidable_process_is_not_called_ended(root: Path, fake: FakeRuntime) -> None:
    """A container whose process cannot be told from here is neither hit nor forgotten, except by force."""
    container = make_container(root, runtime=fake, process="unknown")
    with pytest.raises(DestroyError) as caught:
        container.destroy()
    assert isinstance(caught.value.exceptions[0], StillRunningError)
    with pytest.raises(StateIOError):
        container.signal(signal.SIGTERM)
    assert ProcessRef.of(init_of(container).pid).presence() is Presence.ALIVE


# -- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "error", "message"),
    [
        (lambda fake: fake.fail("stop", OSError()), ValueError, "has no method 'stop'"),
        (lambda fake: fake.fail("start", "error"), TypeError, "'error' cannot be raised"),
        (lambda fake: fake.fail("start", int), TypeError, "cannot be raised"),
        (lambda fake: fake.fail("start", OSError(), times=0), ValueError, "times=0"),
        (lambda fake: fake.delay("start", -1), ValueError, "not negative"),
        (lambda fake: fake.delay("start", float("nan")), ValueError, "not negative"),
        (lambda fake: fake.hold("probe", times=-1), ValueError, "times=-1"),
        (lambda fake: fake.die("create"), ValueError, "before it is created"),
        (lambda fake: fake.die("start", code=1, signal=9), ValueError, "in one way"),
        (lambda fake: fake.fail(fake.start, OSError()), TypeError, "give its name, 'start'"),
        (lambda fake: fake.fail("start", OSError(), times="a"), TypeError, "times='a'"),
        (lambda fake: fake.delay("start", "1"), TypeError, "seconds='1'"),
        (lambda fake: fake.hold("start", times="a"), TypeError, "times='a'"),
        (lambda fake: fake.hold(5), TypeError, "is not the name of a method"),
        (lambda fake: fake.die("start", code="3"), TypeError, "code='3'"),
        (lambda fake: fake.die("start", signal="TERM"), TypeError, "signal='TERM'.*signal.SIGTERM"),
        (lambda fake: fake.exit("web"), TypeError, "give a Container, not 'web'"),
        (lambda fake: fake.exit(None, code=256), ValueError, "0 to 255"),
        (lambda fake: fake.exit(None, signal=signal.SIGCHLD), ValueError, "does not end a process"),
        (lambda fake: fake.exit(None, signal=0), ValueError, "does not end a process"),
        (lambda _: FakeRuntime(without=["start"]), ValueError, "without='start'"),
        (lambda _: FakeRuntime(without="stop"), ValueError, "without='stop'"),
        (lambda _: FakeRuntime(without="pause").hold("pause"), ValueError, "made without pause"),
    ],
    ids=range(23),
)
def test_a_mistake_is_named(
    fake: FakeRuntime, mistake: Callable[[FakeRuntime], object], error: type[Exception], message: str
) -> None:
    """What can never happen is refused when it is said, by what is wrong with it."""
    with pytest.raises(error, match=message):
        mistake(fake)


def test_the_package_needs_no_test_framework() -> None:
    """`import statefile.testing` loads no test framework, and a name of it that is for some is loaded when it is asked for."""
    code = (
        "import sys, statefile.testing; print({'pytest', 'hypothesis', '_pytest', 'unittest'} & {*sys.modules});"
        "print(statefile.testing.RuntimeConformance.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\nRuntimeConformance\n"


def test_the_front_door_keeps_its_word() -> None:
    """Every name in `__all__` is there, sorted, and another is an `AttributeError`."""
    assert list(check_front_door(testing)) == []
    with pytest.raises(AttributeError, match="has no attribute 'FakeRunTime'"):
        getattr(testing, "FakeRun" + "Time")
