"""`StateFile`: every promise of its primitives, held against real processes, kills, full disks and foreign writers."""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import gc
import json
import os
import pickle
import random
import re
import resource
import signal
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired
from typing import TypedDict as StandardTypedDict

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, field_serializer
from typing_extensions import TypedDict

from statefile import (
    AlreadyExistsError,
    CorruptStateError,
    Durability,
    FullID,
    InvalidRootError,
    LockLostError,
    LockTimeoutError,
    NotFoundError,
    NotLockedError,
    StaleStateError,
    StateDir,
    StateFile,
    StateFileError,
    StateIOError,
    UnsafePathError,
    UnstorableStateError,
)
from statefile._record import Revisioned
from tests.harness import (
    STRACE,
    Worker,
    hear,
    lock_descriptors,
    lock_queue,
    meet,
    names,
    needs_strace,
    plain,
    tell,
    umask,
    until,
    waits_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Spawn

ID = FullID("s1", "c1")
STATE = "c1_sandbox:s1.state"
LOCK = "c1_sandbox:s1.lock"


class Model(BaseModel):
    """A state of an embedder's."""

    model_config = ConfigDict(extra="allow")
    n: int
    text: str = ""


@dataclass
class Data:
    """A state that is a dataclass."""

    n: int


class Typed(TypedDict):
    """A state that is a typed dictionary."""

    n: int


def state_file(root: Path, id_: FullID | str = ID, *, full: bool = True) -> StateFile:
    """The state file that these tests are about."""
    return StateFile(root_dir=root, id=id_, durability=Durability.FULL if full else Durability.PROCESS)


@pytest.fixture
def new(root: Path) -> StateFile:
    """A container that does not exist yet."""
    return state_file(root)


@pytest.fixture
def file(root: Path) -> StateFile:
    """A container that exists, unlocked, with `n` 1."""
    made = state_file(root)
    with made.hold_for_new():
        made.save_locked({"n": 1})
    return made


def free(file: StateFile) -> bool:
    """Whether another could have the lock now."""
    try:
        with StateFile(root_dir=file.root_dir, id=file.id).hold(timeout=0):
            return True
    except (LockTimeoutError, NotFoundError) as error:
        return isinstance(error, NotFoundError)


# -- names -------------------------------------------------------------------------------------------------------------


def test_making_one_touches_no_file(tmp_path: Path) -> None:
    """The constructor only remembers names: nothing is made, and nothing need exist."""
    file = state_file(tmp_path / "absent")
    assert file.state_path == tmp_path / "absent" / STATE
    assert file.lock_path == tmp_path / "absent" / LOCK
    assert (file.locked, file.exists(), file.holder()) == (False, False, None)
    assert names(tmp_path) == []


def test_plain_string_means_both_ids(root: Path) -> None:
    """A container given by a string is its own sandbox."""
    assert StateFile(root_dir=root, id="a").id == FullID("a", "a")
    assert StateFile(root_dir=str(root), id="a") == StateFile(root_dir=root, id=FullID("a", "a"))


@pytest.mark.parametrize("root_dir", ["", None, b"/x", 7, "a\0b", Path("a\0b"), "\udcff", ["x"], object()], ids=plain)
def test_root_that_can_be_no_path_is_refused(root_dir: Any) -> None:
    """What no directory can be called raises `InvalidRootError`, with the value in it, from both classes."""
    for make in (lambda: StateFile(root_dir=root_dir, id="a"), lambda: StateDir(root_dir)):
        with pytest.raises(InvalidRootError) as caught:
            make()
        assert caught.value.root_dir is root_dir
        assert isinstance(caught.value, ValueError)


def test_relative_root_is_made_absolute_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative root, and `..` in one, mean what they mean when the object is made; a later `chdir` changes nothing."""
    monkeypatch.chdir(root.parent)
    files = [StateFile(root_dir=way, id="a") for way in ("root", "./root/", "root/../root", Path("root"))]
    directory = StateDir("root")
    monkeypatch.chdir("/")
    with files[0].hold_for_new():
        files[0].save_locked({"n": 1})
    for file in files:
        assert file.root_dir == root
        assert file.load(dict) == {"n": 1}
    assert directory.ids() == [FullID("a", "a")]
    assert len(set(files)) == 1


def test_relative_root_in_a_removed_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the working directory is gone a relative root means nothing, and the error says so."""
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    with pytest.raises(InvalidRootError, match="working directory is gone"):
        StateFile(root_dir="x", id="a")


def test_object_is_a_value_but_for_the_lock(root: Path) -> None:
    """Equal by root and ID, hashable, frozen; the durability, like the lock, is a way of use and not part of the name."""
    file = state_file(root)
    assert file == state_file(root, full=False) != state_file(root, FullID("s1", "c2"))
    assert file != StateFile(root_dir=root.parent, id=ID)
    assert file != "c1"
    assert len({file, state_file(root)}) == 1
    with pytest.raises(ValidationError):
        file.id = FullID("a", "a")


def test_only_root_and_id_are_serialized(file: StateFile) -> None:
    """In JSON a state file is `rootDir` and `id`, locked or not, and comes back from it, unlocked."""
    with file.hold():
        text = file.model_dump_json()
        assert json.loads(text) == {"rootDir": str(file.root_dir), "id": {"sandboxId": "s1", "containerId": "c1"}}
        again = StateFile.model_validate_json(text)
        assert again == file
        assert again.locked is False
        assert StateFile.model_validate(json.loads(text) | {"x-new": 1}) == file


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda file: file.model_copy(), lambda file: file.model_copy(deep=True)]
    + [lambda file, n=n: pickle.loads(pickle.dumps(file, n)) for n in (2, pickle.HIGHEST_PROTOCOL)],
    ids=["copy", "deepcopy", "model_copy", "model_copy deep", "pickle2", "pickle"],
)
def test_copy_is_unlocked(file: StateFile, again: Callable[[StateFile], StateFile]) -> None:
    """A copy of a locked object is unlocked, cannot save or unlock, and takes nothing from the original when it goes."""
    with file.hold():
        copied = again(file)
        assert type(copied) is StateFile
        assert copied == file
        assert copied.durability is file.durability
        assert not copied.locked
        with pytest.raises(NotLockedError):
            copied.unlock()
        with pytest.raises(NotLockedError):
            copied.save_locked({"n": 2})
        del copied
        assert file.locked
        assert lock_queue(file.lock_path)[0] == [os.getpid()]
        file.save_locked({"n": 3})
    assert file.load(Model).n == 3


def test_copy_for_another_container(file: StateFile) -> None:
    """`model_copy(update=…)` checks what it is given as the constructor does, and has the other container's files."""
    other = file.model_copy(update={"id": "other"})
    assert other.state_path.name == "other_sandbox:other.state"
    with other.hold_for_new():
        other.save_locked({})
    assert file.load(dict) == {"n": 1}


# -- lock, lock_for_new, unlock ----------------------------------------------------------------------------------------


def test_lock_needs_a_state_file(new: StateFile) -> None:
    """`lock` of a container that is not there is `NotFoundError`, and leaves neither lock nor lock file behind."""
    with pytest.raises(NotFoundError) as caught:
        new.lock()
    assert caught.value.path == str(new.state_path)
    assert caught.value.id == "s1/c1"
    assert not new.locked
    assert names(new.root_dir) == []


def test_lock_of_an_orphaned_lock_file(new: StateFile) -> None:
    """A lock file without a state, as a killed creator leaves it, is no container, and `lock` cleans it away."""
    new.lock_path.touch(0o600)
    with pytest.raises(NotFoundError):
        new.lock()
    assert names(new.root_dir) == []


def test_lock_of_a_state_without_lock_file(file: StateFile) -> None:
    """A state whose lock file was lost can be locked: the file is made anew, and stays."""
    file.lock_path.unlink()
    with file.hold():
        file.save_locked({"n": 2})
    assert names(file.root_dir) == [LOCK, STATE]


def test_lock_in_an_absent_root(tmp_path: Path) -> None:
    """`lock` and `destroy` in a root that is not there make none: one says `NotFoundError`, the other is done."""
    file = state_file(tmp_path / "absent")
    with pytest.raises(NotFoundError) as caught:
        file.lock()
    assert caught.value.path == str(tmp_path / "absent")
    file.destroy()
    with pytest.raises(NotFoundError):
        file.load(dict)
    assert names(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o777], ids=oct)
def test_lock_for_new_makes_the_root(tmp_path: Path, mask: int) -> None:
    """The root and what is missing above it come with the first container, with mode 0711 whatever the umask."""
    file = state_file(tmp_path / "a/b")
    with umask(mask), file.hold_for_new():
        assert file.locked
        file.save_locked({})
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a/b")] == [0o711, 0o711]
    assert stat.S_IMODE(file.state_path.stat().st_mode) == stat.S_IMODE(file.lock_path.stat().st_mode) == 0o600


def test_lock_for_new_needs_a_free_name(file: StateFile) -> None:
    """`lock_for_new` of a container that is there is `AlreadyExistsError`, with the lock released and nothing changed."""
    before = file.state_path.read_bytes(), names(file.root_dir)
    with pytest.raises(AlreadyExistsError) as caught:
        file.lock_for_new()
    assert caught.value.path == str(file.state_path)
    assert not file.locked
    assert free(file)
    assert (file.state_path.read_bytes(), names(file.root_dir)) == before


def test_failed_creation_leaves_no_lock_file(new: StateFile) -> None:
    """If no state came of `lock_for_new`, `unlock` removes the lock file: also when the block failed or the save did."""
    new.lock_for_new()
    assert names(new.root_dir) == [LOCK]
    new.unlock()
    assert names(new.root_dir) == []
    with pytest.raises(ZeroDivisionError), new.hold_for_new():
        raise ZeroDivisionError
    assert names(new.root_dir) == []
    with pytest.raises(UnstorableStateError), new.hold_for_new():
        new.save_locked({"n": 2**64})
    assert names(new.root_dir) == []
    assert not new.locked


def test_unlock_keeps_the_lock_file_of_a_container(file: StateFile) -> None:
    """As long as there is a state its lock file stays, and stays the same: removing it would let two in."""
    inode = file.lock_path.stat().st_ino
    for _ in range(3):
        file.lock()
        file.save_locked({"n": 2})
        file.unlock()
    assert names(file.root_dir) == [LOCK, STATE]
    assert file.lock_path.stat().st_ino == inode


def test_unlock_spares_a_lock_file_that_is_not_ours(file: StateFile) -> None:
    """If the lock file was replaced behind our back, `unlock` after `destroy` does not remove the new one."""
    file.lock()
    file.destroy()
    file.lock_path.unlink()
    file.lock_path.write_bytes(b"another's")
    file.unlock()
    assert file.lock_path.read_bytes() == b"another's"


def test_hold_unlocks_whatever_happens(file: StateFile) -> None:
    """The block ends unlocked: at its end, by an exception, or if it unlocked by itself."""
    with file.hold() as held:
        assert held is file
        assert file.locked
    assert not file.locked
    with pytest.raises(ZeroDivisionError), file.hold():
        raise ZeroDivisionError
    assert not file.locked
    with file.hold():
        file.unlock()
    assert not file.locked
    assert free(file)


def test_block_may_be_left_by_another_thread(file: StateFile) -> None:
    """An exit stack that one thread fills and another unwinds releases the lock."""
    stack = contextlib.ExitStack()
    stack.enter_context(file.hold())
    closer = threading.Thread(target=stack.close)
    closer.start()
    closer.join()
    assert not file.locked
    assert free(file)


def test_block_that_got_no_lock_releases_no_lock(file: StateFile) -> None:
    """A `hold` that timed out in one thread leaves the lock that another took through the same object."""
    file.lock()
    failed = []

    def wait() -> None:
        try:
            with file.hold(timeout=0.01):
                failed.append("in")
        except LockTimeoutError:
            failed.append("late")

    waiter = threading.Thread(target=wait)
    waiter.start()
    waiter.join()
    assert failed == ["late"]
    assert file.locked
    file.unlock()


# -- save_locked -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [{"n": 2}, Model(n=2), Data(2)], ids=lambda state: type(state).__name__)
@pytest.mark.parametrize("full", [True, False])
def test_saved_state_is_what_is_loaded(file: StateFile, state: object, *, full: bool) -> None:
    """A model, a dataclass or a mapping replaces the state whole, and can be loaded as any type that fits."""
    saver = state_file(file.root_dir, full=full)
    with saver.hold():
        saver.save_locked(state)
        assert saver.load(Data) == Data(2)
    assert file.load(Model).n == file.load(Typed)["n"] == file.load(dict)["n"] == 2
    assert names(file.root_dir) == [LOCK, STATE]


def test_save_needs_the_lock(file: StateFile, new: StateFile) -> None:
    """Without the lock nothing is saved: not before, not after, and not with another object's lock."""
    assert new == file
    with file.hold(), pytest.raises(NotLockedError, match="save_locked"):
        new.save_locked({"n": 2})
    with pytest.raises(NotLockedError):
        file.save_locked({"n": 2})
    assert file.load(dict) == {"n": 1}


BAD_STATES: list[object] = [
    {"n": float("nan")},
    {"n": float("-inf")},
    {"n": 2**64},
    {"n": -(2**63) - 1},
    {"n": "\ud800"},
    {"\ud800": 1},
    {1: 1},
    {"n": object()},
    Model(n=1, text="\udcff"),
    [],
    None,
    "text",
]


@pytest.mark.parametrize("state", BAD_STATES, ids=plain)
def test_state_that_cannot_be_stored_changes_nothing(file: StateFile, state: object) -> None:
    """What JSON cannot hold is `UnstorableStateError`; the old file stays, the very same one, and the lock is still held."""
    before, inode = file.state_path.read_bytes(), file.state_path.stat().st_ino
    with file.hold():
        with pytest.raises(UnstorableStateError) as caught:
            file.save_locked(state)
        assert caught.value.path == str(file.state_path)
        assert file.locked
        assert (file.state_path.read_bytes(), file.state_path.stat().st_ino) == (before, inode)
        assert names(file.root_dir) == [LOCK, STATE]


def test_state_whose_serializer_fails_changes_nothing(file: StateFile) -> None:
    """The state is serialized whole before anything is opened: a serializer that fails half-way costs nothing."""

    class Failing(Model):
        @field_serializer("text")
        def _fail(self, _: str) -> str:
            raise ZeroDivisionError

    with file.hold():
        for state in (Failing(n=2), {"n": 2, "inner": Failing(n=2)}):
            with pytest.raises(UnstorableStateError):
                file.save_locked(state)
    assert file.load(dict) == {"n": 1}
    assert names(file.root_dir) == [LOCK, STATE]


def save_with_limit(root: Path, limit: int) -> None:
    """Save a state of 100 KB with a limit on file sizes."""
    file = state_file(root)
    with file.hold():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        file.save_locked({"text": "x" * 100_000})


@pytest.mark.parametrize("limit", [0, 50_000])
def test_save_beyond_the_file_size_limit_changes_nothing(file: StateFile, root: Path, spawn: Spawn, limit: int) -> None:
    """A save that the file-size limit cuts off leaves the old state, and the error has the errno."""
    with pytest.raises(StateIOError) as caught:
        spawn(fresh=True).call(save_with_limit, root, limit)
    assert caught.value.errno == errno.EFBIG
    assert file.load(dict) == {"n": 1}
    assert names(root) == [LOCK, STATE]


@pytest.mark.root
def test_full_disk_stops_saves_and_nothing_else(root: Path) -> None:
    """On a full file system a save says ENOSPC and the old state stays; a container can still be destroyed, and then made."""
    small = root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=0711", "tmpfs", small], check=True)
    try:
        one, two = state_file(small, "one"), state_file(small, "two")
        with one.hold_for_new():
            one.save_locked({"n": 1, "text": "x" * 8000})
            with pytest.raises(StateIOError, match="No space left") as caught:
                one.save_locked({"n": 2, "text": "x" * 9000})
            assert caught.value.errno == errno.ENOSPC
            assert one.load(Model).n == 1
        with pytest.raises(StateIOError), two.hold_for_new():
            two.save_locked({"text": "x" * 9000})
        assert names(small) == ["one_sandbox:one.lock", "one_sandbox:one.state"]
        one.destroy()
        assert names(small) == []
        with two.hold_for_new():
            two.save_locked({"text": "x" * 9000})
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


@pytest.mark.root
def test_no_inode_is_lost_over_many_containers(root: Path) -> None:
    """A file system with room for a handful of files sees thousands of containers come and go, half of them in vain."""
    small = root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=8,mode=0711", "tmpfs", small], check=True)
    try:
        for n in range(1000):
            file = state_file(small, f"c{n}", full=False)
            with contextlib.suppress(ZeroDivisionError), file.hold_for_new():
                if n % 2:
                    raise ZeroDivisionError
                file.save_locked({"n": n})
            file.destroy()
        assert names(small) == []
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


@pytest.mark.parametrize("what", ["removed", "replaced", "root renamed"])
def test_save_notices_that_the_lock_was_lost(file: StateFile, what: str) -> None:
    """If the lock file went behind our back, others may be inside: save and destroy say `LockLostError` and change nothing."""
    file.lock()
    moved = file.root_dir.with_name("moved")
    match what:
        case "removed":
            file.lock_path.unlink()
        case "replaced":
            file.lock_path.unlink()
            file.lock_path.touch()
        case "root renamed":
            file.root_dir.rename(moved)
    with pytest.raises(LockLostError) as caught:
        file.save_locked({"n": 2})
    assert caught.value.path == str(file.lock_path)
    with pytest.raises(LockLostError):
        file.destroy()
    if what == "root renamed":
        moved.rename(file.root_dir)
    assert file.load(dict) == {"n": 1}
    file.unlock()
    assert not file.locked
    with file.hold():
        file.save_locked({"n": 3})
    assert names(file.root_dir) == [LOCK, STATE]


def test_two_after_a_lost_lock_do_not_both_save(file: StateFile, root: Path, spawn: Spawn) -> None:
    """When a cleaner removes the lock file under a holder and another locks, only the other can save."""
    file.lock()
    file.lock_path.unlink()
    worker = spawn()
    assert worker.call(add_one, root) == 2
    with pytest.raises(LockLostError):
        file.save_locked({"n": 77})
    file.unlock()
    assert file.load(Model).n == 2


def add_one(root: Path) -> int:
    """Increase the counter in the state; what it is now."""
    file = state_file(root)
    with file.transaction(Model, timeout=30) as state:
        state.n += 1
    return state.n


def test_removed_root_is_named(file: StateFile, root: Path) -> None:
    """When the root is removed under a holder, a save says that the lock is lost; then nothing is found, and nothing made."""
    file.lock()
    for path in (file.state_path, file.lock_path):
        path.unlink()
    root.rmdir()
    with pytest.raises(LockLostError):
        file.save_locked({"n": 2})
    file.unlock()
    for use in (file.lock, file.stat, lambda: file.load(dict)):
        with pytest.raises(NotFoundError):
            use()
    file.destroy()
    assert not root.exists()
    with file.hold_for_new():
        file.save_locked({"n": 4})
    assert names(root) == [LOCK, STATE]


def test_removed_state_is_not_found_and_can_be_saved_again(file: StateFile) -> None:
    """When a cleaner takes the state from under a holder, reading says so, and the holder may save what it knows."""
    with file.hold():
        file.state_path.unlink()
        with pytest.raises(NotFoundError):
            file.load(dict)
        file.save_locked({"n": 2})
    assert file.load(dict) == {"n": 2}
    assert names(file.root_dir) == [LOCK, STATE]


def test_renamed_root_is_not_found(file: StateFile) -> None:
    """A root that was moved away is found where it is now, by a new object, and not where it was."""
    moved = file.root_dir.rename(file.root_dir.with_name("moved"))
    with pytest.raises(NotFoundError) as caught:
        file.load(dict)
    assert caught.value.path == str(file.state_path)
    assert state_file(moved).load(dict) == {"n": 1}


@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "FIFO"])
def test_planted_state_is_neither_read_nor_written(file: StateFile, kind: str) -> None:
    """A link, a directory or a FIFO in the state's place is refused by every primitive, at once, and left as it is."""
    victim = file.root_dir.parent / "victim"
    victim.write_bytes(b'{"n": 5}')
    file.lock()
    file.state_path.unlink()
    match kind:
        case "link":
            file.state_path.symlink_to(victim)
        case "dangling link":
            file.state_path.symlink_to(victim.with_name("nothing"))
        case "directory":
            file.state_path.mkdir()
        case "FIFO":
            os.mkfifo(file.state_path)
    before = file.state_path.lstat()
    for use in (lambda: file.save_locked({"n": 2}), lambda: file.load(dict), file.exists, file.stat):
        with pytest.raises(UnsafePathError) as caught:
            use()
        assert caught.value.path == str(file.state_path)
    file.unlock()
    for lock in (file.lock, file.lock_for_new):
        with pytest.raises(UnsafePathError):
            lock()
        assert not file.locked
        assert free_of_locks(file)
    assert file.state_path.lstat() == before
    assert victim.read_bytes() == b'{"n": 5}'
    assert not victim.with_name("nothing").exists()


def free_of_locks(file: StateFile) -> bool:
    """Whether nobody holds the lock file."""
    return lock_queue(file.lock_path) == ([], [])


@pytest.mark.parametrize("verb", ["lock", "lock_for_new", "destroy"])
def test_root_that_is_a_link_is_refused(file: StateFile, verb: str) -> None:
    """A link in the root's place is not followed where anything would be changed."""
    way = file.root_dir.with_name("way")
    way.symlink_to(file.root_dir)
    with pytest.raises(UnsafePathError, match="symbolic link") as caught:
        getattr(state_file(way), verb)()
    assert caught.value.path == str(way)
    assert names(file.root_dir) == [LOCK, STATE]


# -- records that count their saves ------------------------------------------------------------------------------------


class Counted(Revisioned):
    """A record of an embedder's that counts its saves."""

    n: int = 0


def test_each_save_is_the_next_revision(new: StateFile) -> None:
    """A record that counts its saves is one further after each, in the object as in the file, and not after a failed one."""
    state = Counted(n=1)
    with new.hold_for_new():
        for revision in (1, 2, 3):
            new.save_locked(state)
            assert state.revision == new.load(Counted).revision == revision
        state.n = 2**64
        with pytest.raises(UnstorableStateError):
            new.save_locked(state)
        assert state.revision == new.load(Counted).revision == 3
    with new.transaction(Counted) as state:
        state.n = 5
    assert new.load(dict) == {"revision": 4, "n": 5}


@pytest.mark.parametrize("loaded", ["never", "before", "under the lock"])
def test_record_older_than_the_file_is_refused(new: StateFile, loaded: str) -> None:
    """A save that would undo another's is `StaleStateError` and changes nothing, whatever this object has read before."""
    other = StateFile(root_dir=new.root_dir, id=new.id)
    with new.hold_for_new():
        new.save_locked(Counted(n=1))
    old = other.load(Counted)
    with new.transaction(Counted) as state:
        state.n = 2
    saver = StateFile(root_dir=new.root_dir, id=new.id) if loaded == "never" else other
    with saver.hold():
        if loaded == "under the lock":
            saver.load(Counted)
        with pytest.raises(StaleStateError) as caught:
            saver.save_locked(old)
        assert (caught.value.revision, caught.value.found, caught.value.path) == (1, 2, str(new.state_path))
        assert old.revision == 1
    assert new.load(Counted) == Counted(revision=2, n=2)


@pytest.mark.parametrize("loaded", ["never", "under the lock"])
def test_record_ahead_of_the_file_is_refused(new: StateFile, loaded: str) -> None:
    """A record whose revision the file has not reached was not made from it, and is `StaleStateError` too."""
    with new.hold_for_new():
        new.save_locked(Counted(n=1))
    with new.hold():
        if loaded == "under the lock":
            new.load(Counted)
        with pytest.raises(StaleStateError) as caught:
            new.save_locked(Counted(revision=7, n=2))
        assert (caught.value.revision, caught.value.found) == (7, 1)
    assert new.load(Counted) == Counted(revision=1, n=1)


def test_interrupt_after_the_rename_hides_no_save(new: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception out of a signal handler when the state is in place already never gives its revision to another state."""
    counter = Counted()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with new.hold_for_new():
        new.save_locked(counter)
        counter.n = 1
        with monkeypatch.context() as patch:
            patch.setattr("statefile._atomic.flush_directory", interrupted)
            with pytest.raises(KeyboardInterrupt):
                new.save_locked(counter)
        seen = StateFile(root_dir=new.root_dir, id=new.id).load(Counted)
        counter.n = 2
        with pytest.raises(StaleStateError):
            new.save_locked(counter)
    assert new.load(Counted) == seen == Counted(revision=2, n=1)


class FrozenCount(Counted):
    """One whose fields cannot be assigned."""

    model_config = ConfigDict(frozen=True)


def test_frozen_record_counts_its_saves(new: StateFile) -> None:
    """A frozen record is saved as the next revision like any other."""
    with new.hold_for_new():
        record = FrozenCount(n=1)
        new.save_locked(record)
        new.save_locked(record)
    assert new.load(FrozenCount).revision == record.revision == 2


class Bounded(BaseModel):
    """A model with a rule that serializing does not look at."""

    model_config = ConfigDict(extra="allow")

    n: Annotated[int, Field(ge=0)] = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        """What follows from the field."""
        return 2 * self.n


class Hidden(BaseModel):
    """A model that leaves out what it needs to be loaded."""

    secret: int = Field(exclude=True)


@dataclass
class Initial:
    """A dataclass that needs more than it keeps."""

    start: InitVar[int]
    n: int = 0


@pytest.mark.parametrize(
    "state",
    [Bounded.model_construct(n=-1), Hidden(secret=1), Initial(1)],
    ids=["a value against the rule", "a field that is left out", "an argument that is not kept"],
)
def test_what_could_not_be_loaded_again_is_not_saved(file: StateFile, state: object) -> None:
    """A state that its own type would refuse is refused with the reason when it is saved, and the old one stays."""
    before = file.state_path.read_bytes()
    with file.hold(), pytest.raises(UnstorableStateError, match="could not be loaded again"):
        file.save_locked(state)
    assert file.state_path.read_bytes() == before


def test_computed_field_is_no_state(new: StateFile) -> None:
    """What a model computes is not saved, so that an old value never stands beside the new one."""
    with new.hold_for_new():
        new.save_locked(Bounded(n=5))
    with new.transaction(Bounded) as state:
        state.n = 6
    assert new.state_path.read_bytes() == b'{"n":6}'
    assert new.load(Bounded).twice == 12


def test_destroy_that_cannot_look_does_not_claim_success(new: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system does not say whether there is a state, `destroy` says that, and not that it is gone."""
    new.state_path.write_text("{}")
    look = os.lstat

    def broken(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(".state"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return look(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", broken)
        with pytest.raises(StateIOError) as caught:
            new.destroy()
    assert caught.value.errno == errno.EIO
    new.destroy()
    assert not new.exists()


def test_what_was_read_under_an_earlier_lock_is_read_again(new: StateFile) -> None:
    """What an object knows of the file ends with its lock: another may have saved since."""
    other = StateFile(root_dir=new.root_dir, id=new.id)
    with new.hold_for_new():
        new.save_locked(Counted(n=1))
        mine = new.load(Counted)
    with other.transaction(Counted) as state:
        state.n = 2
    with new.hold(), pytest.raises(StaleStateError):
        new.save_locked(mine)
    assert new.load(Counted).n == 2


def test_counted_record_may_replace_what_is_no_record(file: StateFile) -> None:
    """Over a state without a revision, or a corrupt one, the first revision is saved: nothing that counts is lost."""
    for content in (b'{"n":1}', b"{", b'{"revision":"x"}'):
        file.state_path.write_bytes(content)
        state = Counted(n=2)
        with file.hold():
            file.save_locked(state)
        assert (state.revision, file.load(Counted)) == (1, state)


# -- load --------------------------------------------------------------------------------------------------------------


def test_load_does_not_wait_for_the_lock(file: StateFile, root: Path, spawn: Spawn) -> None:
    """Whoever holds the lock and however long, `load`, `exists` and `stat` answer at once with what was saved last."""
    worker = spawn()
    worker.start(save_and_stay, root)
    worker.hear()
    start = time.monotonic()
    assert file.load(dict) == {"n": 2}
    assert file.exists()
    assert file.stat().st_size == len(b'{"n":2}')
    assert time.monotonic() - start < 1
    with file.state_path.open("rb") as handle:
        assert handle.read() == b'{"n":2}'
    worker.tell()
    worker.result()


def save_and_stay(root: Path) -> None:
    """Save under the lock, and stay there."""
    file = state_file(root)
    with file.hold():
        file.save_locked({"n": 2})
        tell()
        hear()


def test_load_changes_nothing(file: StateFile) -> None:
    """`load` leaves both files as they are, and makes none: not for a good state, a corrupt one, or none at all."""
    state, lock = file.state_path.stat(), file.lock_path.stat()
    file.load(dict)
    assert (file.state_path.stat().st_ctime_ns, file.lock_path.stat().st_ctime_ns) == (state.st_ctime_ns, lock.st_ctime_ns)
    file.lock_path.unlink()
    file.state_path.write_bytes(b"{")
    with pytest.raises(CorruptStateError):
        file.load(dict)
    assert names(file.root_dir) == [STATE]
    assert file.state_path.read_bytes() == b"{"
    file.state_path.unlink()
    with pytest.raises(NotFoundError):
        file.load(dict)
    assert names(file.root_dir) == []


CORRUPT = [
    (b"", "empty"),
    (b"\0" * 22, "nul-filled"),
    (b'{"n":1,"text":"half', "truncated"),
    (b"\xff\xfe", "not utf-8"),
    (b"junk", "not json"),
    (b"null", "not an object"),
    (b"[" * 200_000, "too deep"),
    (b'{"n":18446744073709551616}', "integer out of range"),
    (b'{"n":"x"}', "invalid"),
    (b"{}", "invalid"),
]


@pytest.mark.parametrize(("data", "kind"), CORRUPT, ids=[kind for _, kind in CORRUPT[:-1]] + ["missing"])
def test_corrupt_state_is_named_kept_and_can_be_destroyed(file: StateFile, data: bytes, kind: str) -> None:
    """A file that holds no state is an error with path and kind, changes by no attempt to read it, and does not hold its ID."""
    file.state_path.write_bytes(data)
    with pytest.raises(CorruptStateError) as caught:
        file.load(Model)
    assert (caught.value.path, caught.value.kind) == (str(file.state_path), kind)
    assert free_of_locks(file)
    with pytest.raises(CorruptStateError), file.transaction(Model):
        pytest.fail("there is nothing to change")
    with pytest.raises(AlreadyExistsError):
        file.lock_for_new()
    assert file.state_path.read_bytes() == data
    with file.hold():
        file.save_locked({"n": 9})  # who knows better may repair it
    assert file.load(Model).n == 9
    file.state_path.write_bytes(data)
    file.destroy()
    assert names(file.root_dir) == []


def test_state_beyond_the_size_limit_is_named(file: StateFile) -> None:
    """A file of more than 64 MiB is refused by size, without being read to its end."""
    os.truncate(file.state_path, 2**40)
    with pytest.raises(CorruptStateError) as caught:
        file.load(dict)
    assert caught.value.kind == "too large"


def write_in_place(root: Path, data: str) -> None:
    """What a foreign program does: lock, truncate, write half, and after a while the other half."""
    file = state_file(root)
    with file.lock_path.open("r+b") as lock, file.state_path.open("r+") as state:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state.truncate(0)
        state.write(data[: len(data) // 2])
        state.flush()
        tell("half")
        hear()
        state.write(data[len(data) // 2 :])


def test_foreign_writer_is_waited_for(file: StateFile, root: Path, spawn: Spawn) -> None:
    """A file that a program like runsc is writing in place, under the lock, is read again when that has let go."""
    writer = spawn()
    writer.start(write_in_place, root, '{"n": 5, "text": "whole"}')
    writer.hear()
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(file.load, Model)
        until(lambda: waits_for(os.getpid(), file.lock_path))
        writer.tell()
        assert loaded.result(timeout=10) == Model(n=5, text="whole")
    writer.result()
    until(lambda: free_of_locks(file))


def test_foreign_writer_is_not_waited_for_for_ever(file: StateFile, root: Path, spawn: Spawn) -> None:
    """If the lock is not free within a second, a half-written file is called what it is; the lock is not kept."""
    writer = spawn()
    writer.start(write_in_place, root, '{"n": 5, "text": "whole"}')
    writer.hear()
    start = time.monotonic()
    with pytest.raises(CorruptStateError) as caught:
        file.load(Model)
    assert 0.9 < time.monotonic() - start < 5
    assert caught.value.kind == "truncated"
    writer.tell()
    writer.result()
    assert file.load(Model).n == 5
    until(lambda: free_of_locks(file))


def write_often(root: Path, seed: int) -> None:
    """Save states of many sizes, each of which proves that it is whole, until the end file is there."""
    file = state_file(root, full=False)
    chance = random.Random(seed)
    while not root.with_name("end").exists():
        letter, size = chance.choice("abcdef"), chance.choice([0, 10, 4000, 5000, 100_000])
        with file.hold():
            file.save_locked({"letter": letter, "size": size, "text": letter * size})


def read_often(root: Path) -> None:
    """Load, checking each state, until nearly all that there are were seen."""
    file = state_file(root)
    seen: set[tuple[str, int]] = set()
    loads = 0
    while len(seen) < 25 or loads < 500:
        state = file.load(dict)
        if "n" not in state:
            assert state["text"] == state["letter"] * state["size"]
            seen.add((state["letter"], state["size"]))
            loads += 1


def test_load_during_a_storm_of_saves_is_never_torn(file: StateFile, root: Path, spawn: Spawn) -> None:
    """Readers without a lock see whole states only, while writers replace them as fast as they can."""
    writers, readers = [spawn(), spawn()], [spawn(), spawn()]
    for seed, writer in enumerate(writers):
        writer.start(write_often, root, seed)
    for reader in readers:
        reader.start(read_often, root)
    for reader in readers:
        reader.result()
    root.with_name("end").touch()
    for writer in writers:
        writer.result()
    assert file.exists()
    assert names(root) == [LOCK, STATE]


def be_killed_often(root: Path, rounds: int, seed: int) -> list[tuple[int, int]]:
    """Fork children that save as fast as they can, kill each at a random moment; what it had said, and what is there then."""
    file = state_file(root)
    chance = random.Random(seed)
    seen = []
    for _ in range(rounds):
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            n = file.load(Model).n
            while True:
                n += 1
                with file.hold():
                    file.save_locked({"n": n, "text": "x" * (n * 37 % 9000)})
                os.write(writes, b"%d " % n)
        os.close(writes)
        said = os.read(reads, 100)  # it has begun
        time.sleep(chance.random() * 0.003)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while more := os.read(reads, 2**16):
            said += more
        os.close(reads)
        state = file.load(Model)
        assert len(state.text) == state.n * 37 % 9000 or not state.text
        seen.append((int(said.split()[-1]), state.n))
    return seen


def test_killed_writers_never_tear_nor_lose_a_state(file: StateFile, root: Path, spawn: Spawn) -> None:
    """A writer killed at any moment leaves a whole state, no older than the last save that it has finished, and no lock."""
    for said, found in spawn().call(be_killed_often, root, 100, 1):
        assert said <= found <= said + 1
    assert free(file)
    left = [name for name in names(root) if name.endswith(".tmp")]
    assert [path.name for path in StateDir(root).sweep()] == left
    assert names(root) == [LOCK, STATE]


# -- transaction -------------------------------------------------------------------------------------------------------


def test_transaction_saves_at_a_clean_end_alone(file: StateFile) -> None:
    """What the block changed is saved when it ends, and none of it when it raises; either way the lock is released."""
    with file.transaction(Model) as state:
        state.n = 2
        assert file.locked
        assert file.load(Model).n == 1
    assert file.load(Model).n == 2
    with pytest.raises(ZeroDivisionError):
        change_and_fail(file)
    assert file.load(Model).n == 2
    with pytest.raises(UnstorableStateError), file.transaction(dict) as plain:
        plain["n"] = float("nan")
    assert file.load(Model).n == 2
    assert not file.locked
    assert free(file)


def change_and_fail(file: StateFile) -> None:
    """Change the state in a transaction that does not end well."""
    with file.transaction(Model) as state:
        state.n = 3
        raise ZeroDivisionError


def test_transaction_keeps_what_the_model_does_not_know(file: StateFile) -> None:
    """Keys of another version survive the round trip through a model that allows them."""
    with file.hold():
        file.save_locked({"n": 1, "x-new": {"deep": [1, None, 2**63]}})
    with file.transaction(Model) as state:
        state.n += 1
    assert file.load(dict) == {"n": 2, "text": "", "x-new": {"deep": [1, None, 2**63]}}


def test_transaction_needs_a_container(new: StateFile) -> None:
    """There is nothing to change where no state is, and nothing is left of the attempt."""
    with pytest.raises(NotFoundError), new.transaction(dict):
        pytest.fail("there is nothing to change")
    assert names(new.root_dir) == []


def add_often(root: Path, rounds: int) -> None:
    """Increase the counter over and over."""
    meet()
    for _ in range(rounds):
        add_one(root)


def test_transactions_lose_no_update(file: StateFile, root: Path, spawn: Spawn) -> None:
    """Processes that each add to one counter in transactions add up."""
    workers = [spawn() for _ in range(4)]
    for worker in workers:
        worker.start(add_often, root, 100)
    for worker in workers:
        worker.hear()
    for worker in workers:
        worker.tell()
    for worker in workers:
        worker.result()
    assert file.load(Model).n == 401


# -- destroy -----------------------------------------------------------------------------------------------------------


def test_destroy_under_the_lock_keeps_the_name_taken(file: StateFile, root: Path) -> None:
    """With the lock held the state goes at once and the lock file with `unlock`: until then nobody can have the name."""
    other = state_file(root)
    file.lock()
    file.destroy()
    assert file.locked
    assert not file.exists()
    assert names(root) == [LOCK]
    with ThreadPoolExecutor(1) as pool, pytest.raises(LockTimeoutError):
        pool.submit(other.lock_for_new, timeout=0).result()
    file.destroy()
    file.unlock()
    assert names(root) == []
    with other.hold_for_new():
        other.save_locked({"n": 7})
    assert other.load(dict) == {"n": 7}


def test_destroyed_container_can_be_made_again_under_the_same_lock(file: StateFile) -> None:
    """A save after `destroy`, before `unlock`, is a new state: it and its lock file stay."""
    with file.hold():
        file.destroy()
        file.save_locked({"n": 8})
    assert names(file.root_dir) == [LOCK, STATE]
    assert file.load(dict) == {"n": 8}


def test_destroy_without_the_lock_takes_it_first(file: StateFile, root: Path, spawn: Spawn) -> None:
    """`destroy` waits for a holder, so that nothing is pulled away under it, and leaves nothing."""
    worker = spawn()
    worker.start(save_and_stay, root)
    worker.hear()
    with pytest.raises(LockTimeoutError):
        file.destroy(timeout=0.01)
    assert names(root) == [LOCK, STATE]
    with ThreadPoolExecutor(1) as pool:
        destroyed = pool.submit(file.destroy)
        until(lambda: waits_for(os.getpid(), file.lock_path))
        worker.tell()
        worker.result()
        destroyed.result(timeout=10)
    assert names(root) == []


def test_destroy_is_idempotent(file: StateFile, new: StateFile, root: Path) -> None:
    """Nothing there is success: after a first call, from another object, for half a container or for none."""
    for _ in range(2):
        file.destroy()
        new.destroy()
    assert names(root) == []
    file.lock_path.touch()
    file.destroy()
    assert names(root) == []
    file.state_path.touch()
    file.destroy()
    assert names(root) == []
    StateFile(root_dir=root, id="never").destroy()
    assert names(root) == []


def test_destroy_removes_a_planted_link_and_spares_its_target(file: StateFile) -> None:
    """What frees the ID removes the name that is in the way, not what it points to; a directory it leaves alone."""
    victim = file.root_dir.parent / "victim"
    victim.write_bytes(b"precious")
    file.state_path.unlink()
    file.state_path.symlink_to(victim)
    file.destroy()
    assert victim.read_bytes() == b"precious"
    assert names(file.root_dir) == []
    file.state_path.mkdir()
    with pytest.raises(UnsafePathError, match="a directory"):
        file.destroy()
    assert file.state_path.is_dir()


def test_destroying_at_once_succeeds_for_all(root: Path, spawn: Spawn) -> None:
    """Processes that destroy one container at the same moment all succeed, and nothing is left."""
    workers = [spawn() for _ in range(3)]
    for worker in workers:
        worker.start(destroy_often, root, 100)
    for n in range(100):
        made = state_file(root, f"c{n}", full=False)
        with made.hold_for_new():
            made.save_locked({})
        for worker in workers:
            worker.hear()
        for worker in workers:
            worker.tell()
    for worker in workers:
        worker.result()
    assert names(root) == []


def destroy_often(root: Path, rounds: int) -> None:
    """Destroy one container after the other, each together with others."""
    for n in range(rounds):
        file = state_file(root, f"c{n}", full=False)
        meet()
        file.destroy()


# -- the order of system calls -----------------------------------------------------------------------------------------

TRACED = "trace=/^(open|openat|creat|write|pwrite64|fsync|fdatasync|rename.*|link.*|unlink.*|mkdir.*|f?chmod.*|flock)$"


def make_and_destroy(root: Path, *, full: bool, name: FullID | str = ID) -> None:
    """One container's life."""
    file = state_file(root, name, full=full)
    file.lock_for_new()
    file.save_locked({"n": 1})
    file.save_locked({"n": 2})
    file.destroy()
    file.unlock()


def calls_of_a_life(root: Path, log: Path, spawn: Spawn, *, full: bool) -> list[str]:
    """What a process asks of the kernel in the life of one container, as far as it is about its files."""
    worker = spawn(*STRACE, str(log), "-y", "-e", TRACED, quiet=True)
    worker.call(make_and_destroy, root, full=full)
    worker.let_go()
    worker.wait()
    said = []
    for line in log.read_text().splitlines():
        found = re.match(r"\d+ +(\w+)\((.*)\) += (.*)", line)
        if not found or "ENOENT" in line or f"{root}" not in found[2]:
            continue
        name, arguments = found[1], found[2]
        about = re.findall(rf"{re.escape(str(root))}([^\">]*)", arguments)
        kinds = ["temporary" if place.endswith(".tmp") else place.rpartition(".")[2] or "directory" for place in about]
        flags = " new" if "O_EXCL" in arguments else ""
        said.append(f"{re.sub('at2?$', '', name)} {kinds[-1] if name.startswith('rename') else kinds[0]}{flags}")
    return said


@needs_strace
def test_save_is_flushed_renamed_and_flushed(tmp_path: Path, spawn: Spawn) -> None:
    """A durable save writes aside, flushes the file, renames it and flushes the directory; then destruction is flushed too."""
    root = tmp_path / "root"
    said = calls_of_a_life(root, tmp_path / "log", spawn, full=True)
    save = ["open temporary new", "fchmod temporary", "write temporary", "fsync temporary", "rename state"]
    save += ["open directory", "fsync directory"]
    lock = [call for call in said if call.endswith(("lock", "lock new"))]
    rest = [call for call in said if call not in lock and not call.startswith(("mkdir", "chmod"))]
    assert rest == [*save, *save, "unlink state", "open directory", "fsync directory"]
    assert lock == ["open lock new", "fchmod lock", "flock lock", "unlink lock", "flock lock"]
    assert said.index("unlink lock") > said.index("unlink state")


@needs_strace
def test_save_for_the_process_alone_flushes_no_directory(tmp_path: Path, spawn: Spawn) -> None:
    """With `Durability.PROCESS` a save is as atomic, a power cut included: the file is flushed, the directory not."""
    root = tmp_path / "root"
    said = calls_of_a_life(root, tmp_path / "log", spawn, full=False)
    save = ["open temporary new", "fchmod temporary", "write temporary", "fsync temporary", "rename state"]
    lock = [call for call in said if call.endswith(("lock", "lock new"))]
    rest = [call for call in said if call not in lock and not call.startswith(("mkdir", "chmod"))]
    assert rest == [*save, *save, "unlink state"]


def save_two(root: Path) -> None:
    """Replace the state, by a temporary file whose name is no secret."""
    os.urandom = bytes
    file = state_file(root)
    with file.hold(timeout=5):
        file.save_locked({"n": 2})


def injected(root: Path, call: str, what: str, nth: int) -> tuple[str, ...]:
    """A command that does something to the nth such system call of its process that is about a file under the root."""
    places = [root, *(root / name for name in (LOCK, STATE, f".{STATE}.{bytes(6).hex()}.tmp"))]
    watched = [argument for place in places for argument in ("-P", str(place))]
    return (*STRACE, os.devnull, *watched, "-e", f"trace={call}", "-e", f"inject={call}:{what}:when={nth}")


def die_in(root: Path, call: str, nth: int) -> None:
    """Replace the state, and die in the nth such call: a write when half of it is done, any other just before it."""
    real = getattr(os, call)
    calls = 0
    file = state_file(root)
    file.lock()

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            if call == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, call, dying)
    file.save_locked({"n": 2, "text": "x" * 10_000})
    file.unlock()


# In which call a writer dies, which state must be there then, and whether it leaves a temporary file.
DEATHS = [
    ("open", 1, 1, False),
    ("fchmod", 1, 1, True),
    ("write", 1, 1, True),
    ("fsync", 1, 1, True),
    ("close", 1, 1, True),
    ("rename", 1, 1, True),
    ("open", 2, 2, False),
    ("fsync", 2, 2, False),
    ("close", 2, 2, False),
]


@pytest.mark.parametrize(("call", "nth", "found", "left"), DEATHS, ids=[f"{row[0]}-{row[1]}" for row in DEATHS])
def test_writer_killed_in_any_call_leaves_a_state(
    file: StateFile, spawn: Spawn, *, call: str, nth: int, found: int, left: bool
) -> None:
    """SIGKILL at each step of a save leaves the old state before the rename and the new one after it, whole, and no lock."""
    root = file.root_dir
    worker = spawn(fresh=True)
    worker.start(die_in, root, call, nth)
    assert worker.wait() == -signal.SIGKILL
    assert file.load(Model).n == found
    with file.transaction(Model, timeout=0) as state:
        state.n = 3
    temporaries = [name for name in names(root) if name.endswith(".tmp")]
    assert len(temporaries) == left
    assert [path.name for path in StateDir(root).sweep()] == temporaries
    assert names(root) == [LOCK, STATE]


FAULTS = [
    ("write", "ENOSPC", 1, False),
    ("/^rename.*", "EROFS", 1, False),
    ("fsync", "EIO", 2, True),
]


@needs_strace
@pytest.mark.parametrize(
    ("call", "code", "nth", "applied"), FAULTS, ids=[f"{row[0].strip('/^.*')}-{row[1]}-{row[2]}" for row in FAULTS]
)
def test_kernel_that_fails_a_save_is_quoted(
    file: StateFile, spawn: Spawn, *, call: str, code: str, nth: int, applied: bool
) -> None:
    """Whatever the kernel answers in the middle of a save is told with its errno, and the old state stays until the rename."""
    root = file.root_dir
    worker = spawn(*injected(root, call, f"error={code}", nth), quiet=True)
    with pytest.raises(StateIOError) as caught:
        worker.call(save_two, root)
    assert errno.errorcode[caught.value.errno or 0] == code
    assert caught.value.applied is applied
    assert file.load(Model).n == (2 if applied else 1)
    assert names(root) == [LOCK, STATE]
    assert free(file)


# -- who may not -------------------------------------------------------------------------------------------------------


def what_may_be_done(root: Path) -> dict[str, str]:
    """Try each primitive; "fine", or the errno of the refusal."""
    file = state_file(root)
    new = StateFile(root_dir=root, id="new")
    absent = StateFile(root_dir=root, id="absent")

    def save() -> None:
        with file.hold(timeout=0):
            file.save_locked({"n": 2})

    def create() -> None:
        with new.hold_for_new():
            pass

    tries: dict[str, Callable[[], object]] = {
        "load": lambda: file.load(dict),
        "ids": StateDir(root).ids,
        "exists": file.exists,
        "holder": file.holder,
        "save": save,
        "create": create,
        "destroy": file.destroy,
        "lock nothing": absent.lock,
        "destroy nothing": absent.destroy,
    }
    found = {}
    for name, do in tries.items():
        try:
            do()
            found[name] = "fine"
        except StateIOError as error:
            found[name] = errno.errorcode[error.errno or 0]
        except StateFileError as error:
            found[name] = type(error).__name__
    return found


def test_reader_who_may_not_write_can_read(file: StateFile, root: Path, nobody: Worker) -> None:
    """In a root where one may only read, reading works and makes nothing; what would change something says EACCES."""
    root.chmod(0o555)
    file.state_path.chmod(0o444)
    file.lock_path.chmod(0o444)
    fine = dict.fromkeys(["load", "ids", "exists", "holder", "destroy nothing"], "fine")
    refused = dict.fromkeys(["save", "create", "destroy"], "EACCES")
    assert nobody.call(what_may_be_done, root) == fine | refused | {"lock nothing": "NotFoundError"}
    assert names(root) == [LOCK, STATE]
    root.chmod(0o755)


def test_stranger_may_nothing_and_is_told(file: StateFile, root: Path, nobody: Worker) -> None:
    """Where one may not even search, each primitive says EACCES: no container is reported as absent that may well be there."""
    root.chmod(0o000)
    assert set(nobody.call(what_may_be_done, root).values()) == {"EACCES"}
    root.chmod(0o711)
    file.state_path.chmod(0o000)
    found = nobody.call(what_may_be_done, root)
    assert (found["load"], found["exists"], found["ids"]) == ("EACCES", "fine", "EACCES" if os.geteuid() == 0 else found["ids"])


# -- the storm ---------------------------------------------------------------------------------------------------------


def live_often(root: Path, rounds: int) -> tuple[int, int]:
    """Create, save and destroy one container over and over, with a witness that finds a second one inside."""
    file = StateFile(root_dir=root, id="c", durability=Durability.PROCESS)
    witness = root.parent / "witness"
    lost = 0
    meet()
    for n in range(rounds):
        while True:
            try:
                file.lock_for_new()
                break
            except AlreadyExistsError:
                lost += 1  # never: whoever makes it destroys it before letting go
        os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
        mine = {"by": os.getpid(), "round": n}
        file.save_locked(mine)
        assert file.load(dict) == mine
        file.destroy()
        assert not file.exists()
        os.unlink(witness)
        file.unlock()
    return rounds, lost


def test_storm_of_lives_on_one_id(root: Path, spawn: Spawn) -> None:
    """8 processes, 200 lives each, on one ID: never two inside at once, none lost, nothing left in the directory."""
    workers = [spawn() for _ in range(8)]
    for worker in workers:
        worker.start(live_often, root, 200)
    for worker in workers:
        worker.hear()
    for worker in workers:
        worker.tell()
    assert [worker.result(60) for worker in workers] == [(200, 0)] * 8
    assert names(root) == []
    assert names(root.parent) == ["root"]


def test_nothing_is_left_to_the_garbage_collector(file: StateFile, root: Path) -> None:
    """What the primitives are done with is gone at once: no cycle keeps a lock, a state or the caller's frames alive."""

    def live() -> None:
        make_and_destroy(root, full=False, name="other")
        with file.transaction(dict) as state:
            state["n"] = 2
        for fails in (file.unlock, lambda: file.save_locked({}), file.lock_for_new, lambda: file.load(Other)):
            with contextlib.suppress(StateFileError):
                fails()
        StateDir(root).sweep()

    live()
    gc.collect()
    gc.disable()
    try:
        live()
        assert gc.collect() == 0
    finally:
        gc.enable()


class Other(BaseModel):
    """What no state here is."""

    absent: int


@pytest.mark.slow
def test_ten_thousand_lives_leave_nothing(root: Path) -> None:
    """10,000 containers come and go, some in vain, and not a file, a descriptor or a thread is left."""
    for n in range(10_000):
        file = state_file(root, f"c{n}", full=False)
        with file.hold_for_new():
            if n % 10:
                file.save_locked({"n": n})
        file.destroy()
    assert names(root) == []
    assert lock_descriptors() == []


class Tally(BaseModel):
    """A user's own model."""

    n: int = 0


@dataclass
class Counter:
    """A user's own dataclass."""

    n: int = 0


class Count(StandardTypedDict):
    """A user's own TypedDict, from the standard library."""

    n: int
    more: NotRequired[str]


@pytest.mark.parametrize("type_", [Tally, Counter])
def test_field_of_the_wrong_type_is_not_saved(root: Path, type_: type[Any]) -> None:
    """What could not be loaded again is refused, and the old state is there."""
    file = StateFile(root_dir=root, id="c")
    with file.hold_for_new():
        file.save_locked({"n": 1})
    with pytest.raises(UnstorableStateError, match="n"), file.transaction(type_) as state:
        state.n = "oops"
    assert file.load(type_) == type_(n=1)


def test_typed_dict_of_the_standard_library(root: Path) -> None:
    """`typing.TypedDict` is understood on every version of Python."""
    file = StateFile(root_dir=root, id="c")
    with file.hold_for_new():
        file.save_locked({"n": 1})
    with file.transaction(Count) as state:
        state["n"] += 1
    assert file.load(Count) == {"n": 2}
    file.lock()
    file.save_locked({"more": "x"})
    file.unlock()
    with pytest.raises(CorruptStateError, match="n"):
        file.load(Count)
