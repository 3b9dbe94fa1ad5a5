"""Disks without space, without inodes, that may not be written, and limits on files: refused by name, and nothing is left."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from examples.toy_runtime import ToyRuntime
from statefile import Container, Created, FullID, NotFoundError, StateDir, StateFile, StateIOError
from tests.harness import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness import Spawn

STATE, LOCK = "c_sandbox:c.state", "c_sandbox:c.lock"
OLD: dict[str, Any] = {"n": 1, "text": "old"}
NEW: dict[str, Any] = {"n": 2, "text": "x" * 5000}

FULL = {"bytes": "size=64k", "inodes": "nr_inodes=16"}


class Unasked(ToyRuntime):
    """A runtime that is not to be asked for anything."""

    def create(self, container: Container) -> NoReturn:
        raise AssertionError(f"asked to create {container.id}")

    def destroy(self, container: Container) -> NoReturn:
        raise AssertionError(f"asked to destroy {container.id}")


class Filling(ToyRuntime):
    """A runtime that uses up the disk at `place` when it creates, with its own process."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.pid = 0

    def create(self, container: Container) -> Created:
        created = super().create(container)
        self.pid = created.init.pid
        fill(self.place)
        return created

    def destroy(self, container: Container) -> None:
        super().destroy(container)
        if self.pid:
            os.waitpid(self.pid, os.WNOHANG)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts with those arguments on a directory of its own; whatever happens, it is unmounted."""
    places: list[Path] = []

    def mount(*arguments: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        subprocess.run(["mount", *arguments, place], check=True)
        places.append(place)
        return place

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", place], check=True)


def tmpfs(options: str) -> tuple[str, ...]:
    """How to mount a small disk."""
    return ("-t", "tmpfs", "-o", f"{options},mode=0711", "tmpfs")


def fill(disk: Path) -> None:
    """Use up every byte, or every inode, of the disk."""
    filler = disk / "filler"
    filler.mkdir(exist_ok=True)
    written = 0
    with contextlib.suppress(OSError):
        for written in range(1000):
            (filler / f"{written}").write_bytes(bytes(4096))
    assert 0 < written < 999
    with pytest.raises(OSError, match="No space left"):
        (filler / "last").write_bytes(bytes(4096))


def make(root: Path, id: str = "c", state: object = OLD) -> StateFile:
    """A container that is there."""
    file = StateFile(root_dir=root, id=id)
    with file.hold_for_new():
        file.save_locked(state)
    return file


def is_free(file: StateFile) -> bool:
    """Whether the lock of an existing container is to be had at once."""
    with file.hold(timeout=0):
        return True


@pytest.mark.root
@pytest.mark.parametrize("kind", FULL)
def test_full_disk_refuses_to_save_and_lets_destroy(mount: Callable[..., Path], kind: str) -> None:
    """On a full disk a save says ENOSPC, keeps the old bytes and leaves nothing; destroy works, and then a save does."""
    disk = mount(*tmpfs(FULL[kind]))
    root = disk / "root"
    file, other = make(root), make(root, "other", NEW)
    before = file.state_path.read_bytes()
    others = names(root)
    fill(disk)
    for _ in range(3):
        with pytest.raises(StateIOError) as caught, file.hold(timeout=0):
            file.save_locked(NEW)
        assert (caught.value.errno, caught.value.applied) == (errno.ENOSPC, False)
        assert file.state_path.read_bytes() == before
        assert names(root) == others
    assert is_free(file)
    assert StateDir(root).sweep() == []
    other.destroy(timeout=0)
    assert names(root) == [LOCK, STATE]
    with file.hold(timeout=0):
        file.save_locked(NEW)
    assert file.load(dict) == NEW
    fill(disk)
    file.destroy(timeout=0)
    assert names(root) == []


@pytest.mark.root
@pytest.mark.parametrize("kind", FULL)
def test_container_is_not_created_on_a_full_disk(mount: Callable[..., Path], kind: str) -> None:
    """On a full disk `Container.new` says ENOSPC, asks the runtime for nothing and leaves neither state nor lock file."""
    disk = mount(*tmpfs(FULL[kind]))
    root = disk / "root"
    file = make(root)
    before = file.state_path.read_bytes()
    fill(disk)
    for _ in range(3):
        with pytest.raises(StateIOError) as caught:
            Container.new(root, "new", runtime=Unasked(), timeout=0)
        assert caught.value.errno == errno.ENOSPC
        assert names(root) == [LOCK, STATE]
    assert file.state_path.read_bytes() == before


@pytest.mark.root
@pytest.mark.parametrize("kind", FULL)
def test_creation_that_fills_the_disk_undoes_itself(mount: Callable[..., Path], kind: str) -> None:
    """If the disk is full once the runtime has created, `Container.new` says ENOSPC and neither files nor process are left."""
    disk = mount(*tmpfs(FULL[kind]))
    root = disk / "root"
    runtime = Filling(disk)
    spec = {"process": {"args": ["true"]}, "annotations": {"long": "x" * 5000}}
    try:
        with pytest.raises(StateIOError) as caught:
            Container.new(root, "new", runtime=runtime, spec=spec, timeout=0)
        assert caught.value.errno == errno.ENOSPC
        assert runtime.pid
        assert names(root) == []
        with pytest.raises(ProcessLookupError):
            os.kill(runtime.pid, 0)
    finally:
        with contextlib.suppress(ChildProcessError):  # then it is reaped, as it should be
            if runtime.pid and os.waitpid(runtime.pid, os.WNOHANG) == (0, 0):
                os.kill(runtime.pid, signal.SIGKILL)
                os.waitpid(runtime.pid, 0)


@pytest.mark.root
def test_root_cannot_be_made_on_a_disk_without_inodes(mount: Callable[..., Path]) -> None:
    """If there is no room for the root directory, `lock_for_new` and `Container.new` say ENOSPC and nothing is there."""
    disk = mount(*tmpfs(FULL["inodes"]))
    fill(disk)
    root = disk / "far" / "root"
    file = StateFile(root_dir=root, id="c")
    for create in (lambda: file.lock_for_new(timeout=0), lambda: Container.new(root, "c", runtime=Unasked(), timeout=0)):
        with pytest.raises(StateIOError) as caught:
            create()
        assert caught.value.errno == errno.ENOSPC
        assert not file.locked
        assert names(disk) == ["filler"]
    file.destroy(timeout=0)  # nothing there is success


@pytest.mark.root
def test_disk_is_as_empty_as_before_after_a_thousand_containers(mount: Callable[..., Path]) -> None:
    """A thousand containers that come and go leave no file, no inode and no byte in use."""
    disk = mount(*tmpfs("size=64k,nr_inodes=16"))
    before = os.statvfs(disk)
    for n in range(1000):
        file = make(disk, f"c{n}", NEW)
        file.destroy(timeout=0)
    after = os.statvfs(disk)
    assert names(disk) == []
    assert (after.f_ffree, after.f_bfree) == (before.f_ffree, before.f_bfree)


# -- limits on files ---------------------------------------------------------------------------------------------------


def save_beyond_the_limit(root: Path, action: signal.Handlers) -> list[Any]:
    """Save, and create, more than the limit on file sizes lets through; the errors' numbers, and who has what."""
    signal.signal(signal.SIGXFSZ, action)
    file = StateFile(root_dir=root, id="c")
    file.lock(timeout=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    numbers = []
    for save in (lambda: file.save_locked(NEW), lambda: Container.new(root, "new", runtime=Unasked(), timeout=0)):
        try:
            save()
        except StateIOError as error:
            numbers.append(error.errno)
    held = file.locked
    file.unlock()
    return [*numbers, held]


def test_file_size_limit_is_told_where_its_signal_is_ignored(root: Path, spawn: Spawn) -> None:
    """With SIGXFSZ ignored, a save and a creation beyond the limit say EFBIG, and the old bytes are all that is there."""
    file = make(root)
    before = file.state_path.read_bytes()
    said = spawn(fresh=True).call(save_beyond_the_limit, root, signal.SIG_IGN)
    assert said == [errno.EFBIG, errno.EFBIG, True]
    assert file.state_path.read_bytes() == before
    assert names(root) == [LOCK, STATE]
    assert is_free(file)


def test_file_size_limit_that_kills_leaves_the_old_state(root: Path, spawn: Spawn) -> None:
    """Where SIGXFSZ kills the writer, the old bytes stay, the lock is free, and `sweep` removes what it left."""
    file = make(root)
    before = file.state_path.read_bytes()
    worker = spawn(fresh=True, quiet=True)
    worker.start(save_beyond_the_limit, root, signal.SIG_DFL)
    assert worker.wait() == -signal.SIGXFSZ
    assert file.state_path.read_bytes() == before
    assert len(StateDir(root).sweep()) == 1
    assert names(root) == [LOCK, STATE]
    assert is_free(file)


# -- read-only ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def read_only(root: Path, mount: Callable[..., Path]) -> Path:
    """A root that may not be written, with two containers and what a killed writer left."""
    make(root)
    make(root, "other", NEW)
    (root / f".{STATE}.{'0' * 12}.tmp").touch(mode=0o600)
    disk = mount("--bind", str(root))
    subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)
    return disk


@pytest.mark.root
def test_read_only_root_can_be_read(read_only: Path) -> None:
    """In a read-only root everything that only looks works."""
    directory, file = StateDir(read_only), StateFile(root_dir=read_only, id="c")
    ids = [FullID("c", "c"), FullID("other", "other")]
    assert directory.ids() == ids
    assert directory.sandboxes() == ["c", "other"]
    assert dict(directory.load_all(dict)) == dict(zip(ids, (OLD, NEW), strict=True))
    assert directory.resolve("oth") == ids[1]
    assert file.load(dict) == OLD
    assert file.exists()
    assert file.stat().st_size
    assert file.holder() is None


@pytest.mark.root
@pytest.mark.timeout(20)
def test_read_only_root_refuses_every_writing_verb(read_only: Path) -> None:
    """In a read-only root whatever would lock or write says EROFS at once, whether it would wait or not; nothing changes."""
    before = names(read_only)
    file, new, absent = (StateFile(root_dir=read_only, id=id) for id in ("c", "new", "absent"))
    saves: dict[str, Callable[[float | None], object]] = {
        "lock": lambda timeout: file.lock(timeout=timeout),
        "lock_for_new": lambda timeout: new.lock_for_new(timeout=timeout),
        "lock_for_new of what exists": lambda timeout: file.lock_for_new(timeout=timeout),
        "lock_for_new below": lambda timeout: StateFile(root_dir=read_only / "far", id="c").lock_for_new(timeout=timeout),
        "transaction": lambda timeout: file.transaction(dict, timeout=timeout).__enter__(),
        "destroy": lambda timeout: file.destroy(timeout=timeout),
        "new": lambda timeout: Container.new(read_only, "new", runtime=Unasked(), timeout=timeout),
    }
    for timeout in (None, 0, 5):
        for name, save in saves.items():
            with pytest.raises(StateIOError) as caught:
                save(timeout)
            assert caught.value.errno == errno.EROFS, name
    assert StateDir(read_only).sweep() == []
    with pytest.raises(NotFoundError):
        absent.lock()
    absent.destroy()  # nothing there is success
    assert [one.locked for one in (file, new, absent)] == [False] * 3
    assert names(read_only) == before
    assert file.load(dict) == OLD
