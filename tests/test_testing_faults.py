"""The faults of `statefile.testing`: processes that die at a named step, damaged files, full disks, locks that others hold."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from statefile import (
    Action,
    Container,
    CorruptStateError,
    Durability,
    LockTimeoutError,
    NotFoundError,
    Presence,
    ProcessRef,
    StateDir,
    StateFile,
    StateIOError,
    Status,
    UnsafePathError,
    UnsupportedVersionError,
    _atomic,
)
from statefile._claim import Claim
from statefile._container_state import ContainerState
from statefile._driving import Drivable
from statefile.testing import (
    Corruption,
    FakeRuntime,
    Step,
    _state_root,
    corrupt,
    crash_at,
    full_disk,
    held_lock,
    make_container,
    run_to_crash,
    state_root,
)
from statefile.testing._patching import own_system_calls
from tests.harness import hear, lock_queue, names, tell, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness import Spawn, Worker


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    with FakeRuntime() as runtime:
        yield runtime


# -- a process that dies at a step ---------------------------------------------------------------------------------------

STATE, LOCK = "c1_sandbox:c1.state", "c1_sandbox:c1.lock"
OLD = (Status.RUNNING, None)
INTENT = (Status.RUNNING, Action.PAUSE)
DONE = (Status.PAUSED, None)

# What a crash in `pause` leaves: the record, whether a temporary file is there, and what the process does.
AFTER_PAUSE = {
    Step.LOCK_OPENED: (OLD, False, Status.RUNNING),
    Step.LOCK_TAKEN: (OLD, False, Status.RUNNING),
    Step.TEMPORARY_MADE: (OLD, True, Status.RUNNING),
    Step.HALF_WRITTEN: (OLD, True, Status.RUNNING),
    Step.WRITTEN: (OLD, True, Status.RUNNING),
    Step.FLUSHED: (OLD, True, Status.RUNNING),
    Step.RENAMED: (INTENT, False, Status.RUNNING),
    Step.DIRECTORY_FLUSHED: (INTENT, False, Status.RUNNING),
    Step.INTENT_SAVED: (INTENT, False, Status.RUNNING),
    Step.RUNTIME_ASKED: (INTENT, False, Status.RUNNING),
    Step.RUNTIME_RETURNED: (INTENT, False, Status.PAUSED),
    Step.RESULT_SAVED: (DONE, False, Status.PAUSED),
    Step.LOCK_RELEASED: (DONE, False, Status.PAUSED),
}
# What a crash in `destroy` leaves.
AFTER_DESTROY = {Step.STATE_REMOVED: [LOCK], Step.LOCK_REMOVED: []}


def test_every_step_is_tested() -> None:
    """Each step is reached by a real verb in a test here, so none is a name alone."""
    assert {*AFTER_PAUSE, *AFTER_DESTROY} == {*Step}


@pytest.mark.parametrize("step", AFTER_PAUSE)
def test_a_pause_dies_at_each_step(root: Path, fake: FakeRuntime, step: Step) -> None:
    """What a process that died at a step of `pause` leaves on the disk and in the kernel is what the step says."""
    container = make_container(root, runtime=fake)
    dead = run_to_crash(step, container.pause)
    assert dead.presence() is Presence.GONE
    assert lock_queue(root / LOCK) == ([], [])
    found = Container.load(root, "c1", runtime=fake)
    record, torn, truth = AFTER_PAUSE[step]
    assert (found.status, found.pending and found.pending.action) == record
    assert found.pending is None or found.pending.actor == dead
    temporaries = [name for name in names(root) if name.endswith(".tmp")]
    assert bool(temporaries) is torn
    assert fake.probe(found) == truth
    whole = (root / STATE).stat().st_size
    if step is Step.TEMPORARY_MADE:
        assert (root / temporaries[0]).stat().st_size == 0
    elif step is Step.HALF_WRITTEN:
        assert 0 < (root / temporaries[0]).stat().st_size < whole
    elif torn:
        assert (root / temporaries[0]).stat().st_size > whole, "it says what is pending too"
    found.recover()
    assert found.status == fake.probe(found)
    found.destroy()
    StateDir(root).sweep()
    assert names(root) == []


@pytest.mark.parametrize("step", AFTER_DESTROY)
def test_a_destroy_dies_at_each_step(root: Path, fake: FakeRuntime, step: Step) -> None:
    """What a process that died at a step of `destroy` leaves is what the step says, and the ID is free."""
    container = make_container(root, runtime=fake)
    run_to_crash(step, container.destroy)
    assert names(root) == AFTER_DESTROY[step]
    assert make_container(root, runtime=fake).status == Status.RUNNING


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (Step.LOCK_OPENED, [LOCK]),
        (Step.LOCK_TAKEN, [LOCK]),
        (Step.RENAMED, [LOCK, STATE]),
        (Step.INTENT_SAVED, [LOCK, STATE]),
        (Step.RUNTIME_ASKED, [LOCK, STATE]),
        (Step.RUNTIME_RETURNED, [LOCK, STATE]),
        (Step.RESULT_SAVED, [LOCK, STATE]),
        (Step.LOCK_RELEASED, [LOCK, STATE]),
    ],
)
def test_a_creation_dies_at_each_step(root: Path, fake: FakeRuntime, step: Step, kept: list[str]) -> None:
    """A creation has the same steps, and whatever a death there leaves can be destroyed."""
    run_to_crash(step, lambda: Container.new(root, "c1", runtime=fake))
    assert names(root) == kept
    Container.remove(root, "c1", runtime=fake)
    StateDir(root).sweep()
    assert names(root) == []


def test_a_plain_state_file_has_the_steps_of_a_save(root: Path) -> None:
    """A state without a lifecycle is saved in the same steps; without full durability the directory is not flushed."""
    file = StateFile(root_dir=root, id="c1", durability=Durability.PROCESS)
    with file.hold_for_new():
        file.save_locked({"count": 0})

    def count() -> None:
        with file.transaction(dict) as state:
            state["count"] += 1

    run_to_crash(Step.FLUSHED, count)
    assert file.load(dict) == {"count": 0}
    with pytest.raises(AssertionError, match="came to DIRECTORY_FLUSHED 0 times"):
        run_to_crash(Step.DIRECTORY_FLUSHED, count)
    run_to_crash(Step.RENAMED, count)
    assert file.load(dict) == {"count": 2}


def test_the_nth_time_counts(root: Path, fake: FakeRuntime) -> None:
    """With `nth` the process dies when it comes to the step for the nth time."""
    container = make_container(root, runtime=fake)
    run_to_crash(Step.RENAMED, container.pause, nth=2)
    found = Container.load(root, "c1", runtime=fake)
    assert (found.status, found.pending) == DONE


def in_a_thread(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def test_a_thread_takes_the_process_with_it(root: Path, fake: FakeRuntime) -> None:
    """The whole process dies, whichever of its threads comes to the step."""
    container = make_container(root, runtime=fake)
    run_to_crash(Step.RUNTIME_RETURNED, in_a_thread, container.pause)
    assert fake.probe(container) == Status.PAUSED


def test_a_step_that_is_not_reached_is_an_error(root: Path, fake: FakeRuntime) -> None:
    """Who expects a death that does not come is told which step was not reached, and how often it was."""
    container = make_container(root, runtime=fake)
    with pytest.raises(AssertionError, match="came to STATE_REMOVED 0 times, not 1"), crash_at(Step.STATE_REMOVED):
        container.pause()
    with pytest.raises(AssertionError, match="came to INTENT_SAVED 1 times, not 2"):
        run_to_crash(Step.INTENT_SAVED, container.resume, nth=2)


def test_an_error_before_the_step_is_shown(root: Path, fake: FakeRuntime) -> None:
    """What the function raised instead of dying is in the message; in a plain block it is passed on."""
    container = make_container(root, runtime=fake)
    with pytest.raises(AssertionError, match=r"InvalidTransitionError: .*resume"):
        run_to_crash(Step.RUNTIME_ASKED, container.resume)
    with pytest.raises(KeyError), crash_at(Step.RUNTIME_ASKED):
        raise KeyError


def test_another_death_is_not_taken_for_it() -> None:
    """A process that is killed by something else has not died at the step."""
    with pytest.raises(AssertionError, match="ended with status -9"):
        run_to_crash(Step.LOCK_TAKEN, lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_function_that_hangs_is_ended() -> None:
    """A function that does not come to the step in time is killed, and the step named."""
    with pytest.raises(AssertionError, match=r"did not come to LOCK_TAKEN within 0\.1 s"):
        run_to_crash(Step.LOCK_TAKEN, threading.Event().wait, timeout=0.1)


def test_a_child_forked_in_the_block_lives(root: Path, fake: FakeRuntime) -> None:
    """The process that is to die is the one that entered the block: a child of it does the same and lives."""
    container = make_container(root, runtime=fake)

    def fork_and_pause() -> None:
        pid = os.fork()
        container.pause() if pid == 0 else os.waitpid(pid, 0)
        if pid == 0:
            os._exit(0)
        container.resume()

    run_to_crash(Step.RUNTIME_ASKED, fork_and_pause)
    assert fake.probe(container) == Status.PAUSED


def internals() -> list[dict[str, object]]:
    return [dict(vars(owner)) for owner in (_atomic, Claim, Container, ContainerState, Drivable)]


def test_nothing_stays_wrapped(root: Path, fake: FakeRuntime) -> None:
    """After the blocks the library is what it was before, whatever they ended with."""
    container = make_container(root, runtime=fake)
    before = internals()
    with suppress(AssertionError), crash_at(Step.LOCK_REMOVED), crash_at(Step.STATE_REMOVED), full_disk(room=10**6):
        container.pause()
    with suppress(KeyError), full_disk(), crash_at(Step.LOCK_TAKEN):
        raise KeyError
    assert internals() == before
    assert fake.probe(container) == Status.PAUSED


@pytest.mark.parametrize(
    ("step", "nth", "error", "message"),
    [
        ("lunch", 1, ValueError, "'lunch' is not a valid Step: .* renamed, .* state removed"),
        ("flushed", 0, ValueError, "nth=0"),
        ("flushed", "a", TypeError, "nth='a'"),
        ("flushed", True, TypeError, "nth=True"),
    ],
    ids=range(4),
)
def test_a_wrong_step_is_refused(step: str, nth: int, error: type[Exception], message: str) -> None:
    """A step that is none, or a count that is none, is an error before anything runs, which says what would do."""
    with pytest.raises(error, match=message), crash_at(step, nth=nth):
        pytest.fail("the block has run")
    with pytest.raises(error, match=message):
        run_to_crash(step, pytest.fail, nth=nth)


def test_only_a_function_can_crash() -> None:
    """What cannot be called, such as the result of a verb, and a time that is none, are errors before anything is forked."""
    with pytest.raises(TypeError, match="give the function, not its result"):
        run_to_crash(Step.RENAMED, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout='1'"):
        run_to_crash(Step.RENAMED, pytest.fail, timeout="1")  # type: ignore[arg-type]


# -- a damaged file ------------------------------------------------------------------------------------------------------

RAISES: dict[Corruption, type[Exception] | None] = {
    Corruption.EMPTY: CorruptStateError,
    Corruption.TRUNCATED: CorruptStateError,
    Corruption.NUL_FILLED: CorruptStateError,
    Corruption.NOT_JSON: CorruptStateError,
    Corruption.NOT_AN_OBJECT: CorruptStateError,
    Corruption.NOT_UTF8: CorruptStateError,
    Corruption.TOO_DEEP: CorruptStateError,
    Corruption.TOO_LARGE: CorruptStateError,
    Corruption.HUGE_INTEGER: CorruptStateError,
    Corruption.WRONG_TYPE: CorruptStateError,
    Corruption.NEWER_VERSION: None,
    Corruption.SYMLINK: UnsafePathError,
    Corruption.DIRECTORY: UnsafePathError,
    Corruption.FIFO: UnsafePathError,
    Corruption.MISSING: NotFoundError,
}


@pytest.mark.parametrize("kind", Corruption)
def test_damage_is_of_its_kind(root: Path, fake: FakeRuntime, kind: Corruption) -> None:
    """Loading what `corrupt` has damaged raises the error of that kind, and no other container is touched."""
    container = make_container(root, runtime=fake)
    other = make_container(root, "other", runtime=fake)
    mode = stat.S_IMODE(container.saver.stat().st_mode)
    path = corrupt(container, kind)
    assert path == container.saver.state_path
    expected = RAISES[kind]
    if expected is None:
        assert Container.load(root, "c1").status == Status.RUNNING
    else:
        with pytest.raises(expected) as caught:
            Container.load(root, "c1", exact=True)
        if isinstance(caught.value, CorruptStateError):
            assert caught.value.kind == kind
            assert stat.S_IMODE(path.lstat().st_mode) == mode
    other.refresh()
    assert other.status == Status.RUNNING


@pytest.mark.parametrize("kind", [kind for kind, error in RAISES.items() if error is UnsafePathError])
def test_what_is_no_file_is_not_removed(root: Path, fake: FakeRuntime, kind: Corruption) -> None:
    """Where a state file is no regular file, removing the container raises `UnsafePathError`, and it stays."""
    container = make_container(root, runtime=fake)
    path = corrupt(container, kind)
    with pytest.raises(UnsafePathError):
        Container.remove(root, "c1", runtime=fake)
    with pytest.raises(UnsafePathError):
        container.destroy()
    assert os.path.lexists(path)


def test_a_newer_version_is_not_changed(root: Path, fake: FakeRuntime) -> None:
    """A record that `corrupt` made newer can be looked at and is not written."""
    container = make_container(root, runtime=fake)
    corrupt(container, "newer version")
    with pytest.raises(UnsupportedVersionError):
        container.pause()


@pytest.mark.parametrize(
    "state", [{}, {"é": "é" * 5}, *({"t": [True] * size} for size in range(1, 6)), {"1": [1.5e10] * 9}], ids=str
)
def test_any_state_can_be_truncated(root: Path, state: dict[str, object]) -> None:
    """However short, and wherever the middle is, a truncated state is recognised as that."""
    file = StateFile(root_dir=root, id="c1")
    with file.hold_for_new():
        file.save_locked(state)
    corrupt(file, Corruption.TRUNCATED)
    with pytest.raises(CorruptStateError) as caught:
        file.load(dict)
    assert caught.value.kind == "truncated"


def test_damage_to_nothing_is_an_error(root: Path) -> None:
    """What cannot be damaged like that is refused, by name, and left alone."""
    file = StateFile(root_dir=root, id="c1")
    with pytest.raises(NotFoundError):
        corrupt(file, Corruption.EMPTY)
    with file.hold_for_new():
        file.save_locked({})
    with pytest.raises(ValueError, match="'sad' is not a valid Corruption"):
        corrupt(file, "sad")
    with pytest.raises(TypeError, match="give a Container or a StateFile"):
        corrupt(file.state_path, Corruption.EMPTY)  # type: ignore[arg-type]
    assert file.load(dict) == {}
    corrupt(file, Corruption.SYMLINK)
    with pytest.raises(UnsafePathError):
        corrupt(file, Corruption.EMPTY)


# -- a full disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [None, 0, 1, 100])
def test_a_full_disk_keeps_the_old_state(root: Path, room: int | None) -> None:
    """On a full disk a save fails with ENOSPC, after a part of it was written, and the old state is there byte for byte."""
    file = StateFile(root_dir=root, id="c1")
    with file.hold_for_new():
        file.save_locked({"count": 0})
    old = file.state_path.read_bytes()
    new = {"text": "x" * 1000}
    written: list[int] = []
    with full_disk(room=room), own_system_calls() as system, file.hold():

        def unlink(path: str) -> None:
            written.append(os.stat(path).st_size)
            os.unlink(path)

        system.unlink = unlink
        with pytest.raises(StateIOError) as caught:
            file.save_locked(new)
        assert caught.value.errno == errno.ENOSPC
        assert written == [506 if room is None else room]
        assert (file.state_path.read_bytes(), names(root)) == (old, [LOCK, STATE])
        (root / "other").write_text("x" * 10_000)  # the disk itself is not full
    with file.hold():
        file.save_locked(new)
    assert file.load(dict) == new


def test_what_fits_is_saved(root: Path) -> None:
    """With `room` saves succeed until it is used up, also in a child that is forked in the block."""
    file = StateFile(root_dir=root, id="c1")
    with full_disk(room=25), file.hold_for_new():
        file.save_locked({"count": 0})
        file.save_locked({"count": 1})
        with pytest.raises(StateIOError):
            file.save_locked({"count": 2})
    assert file.load(dict) == {"count": 1}
    with full_disk(), pytest.raises(AssertionError, match="No space left"):
        run_to_crash(Step.WRITTEN, save_another, root)


def save_another(root: Path) -> None:
    with StateFile(root_dir=root, id="c2").hold_for_new() as file:
        file.save_locked({})


def test_a_container_survives_a_full_disk(root: Path, fake: FakeRuntime) -> None:
    """On a full disk an action is refused before the runtime is asked, and a container can still be destroyed."""
    container = make_container(root, runtime=fake)
    with full_disk():
        with pytest.raises(StateIOError):
            container.pause()
        with pytest.raises(StateIOError):
            Container.new(root, "c2", runtime=fake)
        assert [call.method for call in fake.calls] == []
        container.destroy()
    assert names(root) == []


def test_negative_room_is_refused() -> None:
    """Less than nothing is a `ValueError`, what is no number a `TypeError`."""
    with pytest.raises(ValueError, match="room=-1"), full_disk(room=-1):
        pass
    with pytest.raises(TypeError, match="room='a'"), full_disk(room="a"):  # type: ignore[arg-type]
        pass


def test_disks_in_each_other_are_each_full(root: Path) -> None:
    """Of blocks in each other each has its own room: the smaller one is what there is."""
    file = StateFile(root_dir=root, id="c1")
    for outer, inner in ((10**6, 5), (5, 10**6)):
        with full_disk(room=outer), full_disk(room=inner), file.hold_for_new(), pytest.raises(StateIOError):
            file.save_locked({"a": 1})
    with full_disk(room=10**6), full_disk(room=10**6), file.hold_for_new():
        file.save_locked({"a": 1})


# -- a lock that another holds -------------------------------------------------------------------------------------------


def test_another_process_holds_the_lock(root: Path, fake: FakeRuntime) -> None:
    """In the block the lock is held by the process that was said, which is not this one; afterwards it is free."""
    container = make_container(root, runtime=fake)
    with held_lock(container) as process:
        assert process.pid != os.getpid()
        assert lock_queue(root / LOCK) == ([process.pid], [])
        with pytest.raises(LockTimeoutError) as caught:
            container.pause(timeout=0)
        assert caught.value.holder is not None
        assert caught.value.holder.pid == process.pid
        assert Container.load(root, "c1").status == Status.RUNNING
        with pytest.raises(RuntimeError, match="locked already"), held_lock(container.saver):
            pass
    assert process.presence() is Presence.GONE
    container.pause(timeout=0)


def test_who_waits_gets_the_lock_at_the_end(root: Path, fake: FakeRuntime) -> None:
    """A process that waits for the lock gets it when the block ends."""
    container = make_container(root, runtime=fake)
    waiter = threading.Thread(target=container.pause)
    with held_lock(container):
        waiter.start()
        until(lambda: lock_queue(root / LOCK)[1])
    waiter.join()
    assert container.status == Status.PAUSED


def test_the_lock_of_what_is_not_there_yet_is_held(root: Path) -> None:
    """Without a state file the name is held as by one who makes it, also in a root that is missing, and nothing is left."""
    file = StateFile(root_dir=root / "new", id="c1")
    with held_lock(file), pytest.raises(LockTimeoutError):
        file.lock_for_new(timeout=0)
    assert names(root / "new") == []


def test_a_holder_that_is_killed_lets_go(root: Path, fake: FakeRuntime) -> None:
    """The holder is a process like any other: when it is killed, the lock is free, and the block ends well."""
    container = make_container(root, runtime=fake)
    with held_lock(container) as process:
        process.send_signal(signal.SIGKILL)
        container.pause(timeout=30)
    assert container.status == Status.PAUSED


def hold_and_tell(file: StateFile) -> None:
    with held_lock(file) as process:
        tell(process)
        hear()


def test_a_holder_ends_with_its_test(root: Path, spawn: Spawn) -> None:
    """When the test process is killed, the lock that it had another hold is free."""
    file = StateFile(root_dir=root, id="c1")
    worker = spawn(fresh=True)
    worker.start(hold_and_tell, file)
    process: ProcessRef = worker.hear()
    worker.kill()
    assert process.wait(30) is Presence.GONE
    with file.hold_for_new(timeout=0):
        pass


def test_only_a_container_or_a_file_is_held(root: Path) -> None:
    """Anything else is a `TypeError` that says what to give."""
    with pytest.raises(TypeError, match="give a Container or a StateFile"), held_lock(root):  # type: ignore[arg-type]
        pass


# -- a root --------------------------------------------------------------------------------------------------------------


def litter(root: Path) -> None:
    """Fill it with what is hard to remove."""
    closed = root / "closed" / "deep"
    closed.mkdir(parents=True)
    (closed / "file").touch()
    (root / "link").symlink_to("/")
    os.mkfifo(root / "fifo")
    closed.chmod(0)
    closed.parent.chmod(0o500)


def use_a_root() -> tuple[bool, int, list[str], bool]:
    with state_root() as root:
        found = root.is_absolute(), stat.S_IMODE(root.stat().st_mode), names(root)
        litter(root)
    return *found, root.exists()


def test_a_root_is_private_and_goes(nobody: Worker) -> None:
    """A root is an empty directory of the library's mode, and whatever is in it, all of it is gone at the end."""
    assert use_a_root() == nobody.call(use_a_root) == (True, 0o711, [], False)


def test_roots_differ() -> None:
    """Two roots at once are two, and one that was removed already is no error."""
    with state_root() as one, state_root() as other:
        assert one != other
        one.rmdir()


def test_a_root_goes_after_a_failure() -> None:
    """A root is removed when the block fails, and the failure is passed on."""
    with pytest.raises(KeyError), state_root() as root:
        raise KeyError
    assert not root.exists()


def leave_a_root(place: Path) -> None:
    _state_root._MEMORY = str(place)
    with state_root() as root:
        litter(root)
        tell(root)
        hear()


def look_at_a_root(place: Path) -> bool:
    _state_root._MEMORY = str(place)
    with state_root() as root:
        return root.exists()


def test_the_root_of_a_killed_process_goes_with_the_next(root: Path, spawn: Spawn) -> None:
    """What a killed process has left of its root is removed by the next process that makes one; a living one keeps its own."""
    dead, living = spawn(fresh=True), spawn(fresh=True)
    dead.start(leave_a_root, root)
    left = dead.hear()
    dead.kill()
    assert left.exists()
    living.start(leave_a_root, root)
    kept = living.hear()
    assert not left.exists()
    assert spawn(fresh=True).call(look_at_a_root, root)
    assert kept.exists()
    living.tell()
    living.result()
    assert not kept.exists()


@pytest.mark.parametrize("change", ["of another boot", "a link", "a file", "alive"])
def test_only_what_is_surely_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """What a process made that lives, or cannot be seen from here, stays, and so does what is no directory."""
    gone = ProcessRef.current().model_copy(update={"start_ticks": 1})
    if change == "of another boot":
        gone = gone.model_copy(update={"boot_id": "00000000-0000-4000-8000-000000000000"})
    path = tmp_path / (_state_root._name(ProcessRef.current() if change == "alive" else gone) + "abc")
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o711)
    if change == "a link":
        path.symlink_to("place")
    elif change == "a file":
        path.touch()
    else:
        path.mkdir()
    sure = tmp_path / (_state_root._name(ProcessRef.current().model_copy(update={"start_ticks": 1})) + "abd")
    sure.mkdir()
    monkeypatch.setattr(_state_root, "_MEMORY", str(tmp_path))
    with state_root() as root:
        assert root.parent == tmp_path
        assert (os.path.lexists(path), sure.exists()) == (True, False)
        assert stat.S_IMODE(place.stat().st_mode) == 0o711, "a link was followed"


def test_a_root_without_tmpfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no tmpfs, the root is in the directory for temporary files."""
    monkeypatch.setattr("statefile.testing._state_root._MEMORY", str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with state_root() as root:
        assert root.parent == tmp_path
