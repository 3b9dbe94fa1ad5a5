"""Replacing, reading and removing a file: old or new and nothing between, whatever fails and whatever was planted there."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statefile import StateFileError, StateIOError, UnsafePathError, _atomic
from tests.harness import NOBODY, Worker, hear, meet, names, tell, umask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Spawn

OLD = b"old " * 10
NEW = b"new state " * 1000


@pytest.fixture
def path(root: Path) -> Path:
    """A file with old content."""
    file = root / "file"
    file.write_bytes(OLD)
    file.chmod(0o600)
    return file


def replace(path: Path, data: bytes = NEW, *, durable: bool = True) -> None:
    """Replace the file, as a state is replaced."""
    _atomic.replace(str(path), data, durable=durable)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


# -- replacing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_replaced_file_is_another_file_of_the_same_name(path: Path, *, durable: bool) -> None:
    """The new bytes come as a new file under the old name: who has the old one open, or linked, keeps the old bytes."""
    linked = path.with_name("linked")
    os.link(path, linked)
    with path.open("rb") as reader:
        replace(path, durable=durable)
        assert reader.read() == OLD
    assert path.read_bytes() == NEW
    assert linked.read_bytes() == OLD
    assert names(path.parent) == ["file", "linked"]


def test_file_that_is_not_there_is_made(root: Path) -> None:
    """There need be no old file."""
    replace(root / "new")
    assert (root / "new").read_bytes() == NEW
    assert names(root) == ["new"]


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777], ids=oct)
def test_new_file_is_private_whatever_the_umask(root: Path, mask: int) -> None:
    """A new file has mode 0600, neither more nor less, and the umask is not touched."""
    with umask(mask):
        replace(root / "new")
        assert os.umask(mask) == mask
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400], ids=oct)
def test_old_files_mode_is_kept(path: Path, mode: int) -> None:
    """An administrator's choice of mode survives a save."""
    path.chmod(mode)
    replace(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.root
def test_old_files_owner_is_kept(path: Path) -> None:
    """Root may save another user's file, and it stays that user's."""
    os.chown(path, NOBODY, NOBODY)
    replace(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)
    assert path.read_bytes() == NEW


def _access_list(*entries: tuple[int, int, int]) -> bytes:
    """An access control list as the kernel stores it: a version, then tag, permissions and ID of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_old_files_access_list_is_kept(path: Path) -> None:
    """Whom a list lets in may come in afterwards, and nobody else: its mask, which the mode shows, is not the group's."""
    everybody = 2**32 - 1
    path.write_bytes(b"old")
    access = _access_list((1, 6, everybody), (2, 6, 1234), (4, 0, everybody), (16, 6, everybody), (32, 0, everybody))
    try:
        os.setxattr(path, "system.posix_acl_access", access)
    except OSError as error:
        pytest.skip(f"needs access control lists: {error}")
    assert path.stat().st_mode & 0o777 == 0o660
    replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o660
    assert os.getxattr(path, "system.posix_acl_access") == access


def test_owner_that_cannot_be_kept_is_no_error(root: Path, nobody: Worker) -> None:
    """Who may replace a file in a directory but not give it away becomes its owner."""
    root.chmod(0o777)
    (root / "file").write_bytes(OLD)
    nobody.call(replace, root / "file")
    assert (root / "file").read_bytes() == NEW


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only some bytes is continued until all are there."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
    replace(path)
    assert path.read_bytes() == NEW


def test_write_that_takes_nothing_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes no byte at all ends in an error, not in an endless loop."""
    monkeypatch.setattr(os, "write", lambda _fd, data: min(len(data), 100) if len(data) == len(NEW) else 0)
    with pytest.raises(StateIOError) as caught:
        replace(path)
    assert caught.value.errno == errno.ENOSPC
    assert (path.read_bytes(), names(path.parent)) == (OLD, ["file"])


def save_beyond_limit(path: Path, limit: int) -> None:
    """Replace the file in a process that may not write so much."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    replace(path)


@pytest.mark.parametrize("limit", [0, 1, 4096, len(NEW) - 1])
def test_file_size_limit_leaves_the_old_file(path: Path, limit: int, spawn: Spawn) -> None:
    """Where the limit stops the write half-way, after a short write or before any, the old bytes stay and nothing else."""
    with pytest.raises(StateIOError) as caught:
        spawn(fresh=True).call(save_beyond_limit, path, limit)
    assert (caught.value.errno, caught.value.path) == (errno.EFBIG, str(path))
    assert not caught.value.applied
    assert (path.read_bytes(), names(path.parent)) == (OLD, ["file"])


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A tmpfs with those options, for a block."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(("mode=0755", *options)), "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.root
@pytest.mark.parametrize("option", ["size=8k", "nr_inodes=3"])
def test_full_file_system_leaves_the_old_file(root: Path, option: str) -> None:
    """On a file system without space, or without inodes, the old bytes stay, nothing else, and removing still works."""
    with mounted(root / "small", option) as small:
        file = small / "file"
        file.write_bytes(OLD)
        if option.startswith("nr_inodes"):
            (small / "filler").touch()
        for durable in (True, False):
            with pytest.raises(StateIOError, match="No space left") as caught:
                replace(file, durable=durable)
            assert caught.value.errno == errno.ENOSPC
            assert file.read_bytes() == OLD
            assert names(small) == (["file", "filler"] if option.startswith("nr_inodes") else ["file"])
        assert _atomic.remove(str(file))


@pytest.mark.root
def test_read_only_file_system_leaves_the_old_file(root: Path) -> None:
    """On a read-only file system reading works, and replacing and removing say EROFS."""
    with mounted(root / "small") as small:
        (small / "file").write_bytes(OLD)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        path = str(small / "file")
        assert _atomic.read(path, 100) == OLD
        for change in (lambda: _atomic.replace(path, NEW, durable=True), lambda: _atomic.remove(path)):
            with pytest.raises(StateIOError) as caught:
                change()
            assert caught.value.errno == errno.EROFS


@contextmanager
def failing(name: str, code: int, *, which: int = 1, after: bool = False) -> Iterator[list[int]]:
    """Let the nth call of `os.<name>` fail, before it has done anything or, with `after`, after it."""
    real: Callable[..., Any] = getattr(os, name)
    calls: list[int] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls))
        if len(calls) != which:
            return real(*args, **kwargs)
        if after:
            real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, call)
        yield calls


STEPS = [
    ("lstat", errno.EIO, 1, False),
    ("open", errno.EMFILE, 1, False),
    ("open", errno.EACCES, 1, False),
    ("fchmod", errno.EPERM, 1, False),
    ("write", errno.ENOSPC, 1, False),
    ("write", errno.EIO, 1, False),
    ("fsync", errno.EIO, 1, False),
    ("fsync", errno.ENOSPC, 1, False),
    ("close", errno.EIO, 1, True),
    ("rename", errno.EIO, 1, False),
    ("rename", errno.ENOSPC, 1, False),
    ("rename", errno.EXDEV, 1, False),
]


@pytest.mark.parametrize(
    ("name", "code", "which", "after"), STEPS, ids=[f"{row[0]}-{errno.errorcode[row[1]]}" for row in STEPS]
)
def test_every_failing_step_leaves_the_old_file(path: Path, name: str, code: int, which: int, *, after: bool) -> None:
    """Whichever system call fails, the old bytes stay, the temporary file and its descriptor go, and the errno is told."""
    before = descriptors()
    with pytest.raises(StateIOError) as caught, failing(name, code, which=which, after=after) as calls:
        replace(path)
    assert len(calls) >= which
    assert (caught.value.errno, caught.value.path) == (code, str(path))
    assert not caught.value.applied
    assert (path.read_bytes(), names(path.parent), descriptors()) == (OLD, ["file"], before)


@pytest.mark.parametrize(("name", "which", "after"), [("open", 2, False), ("fsync", 2, False), ("close", 2, True)])
def test_failed_flush_of_the_directory_leaves_the_new_file(path: Path, name: str, which: int, *, after: bool) -> None:
    """Only when the last step fails, the flush of the directory, is the new file in place, whole, and the error says so."""
    with pytest.raises(StateIOError) as caught, failing(name, errno.EIO, which=which, after=after):
        replace(path)
    assert caught.value.applied
    assert (path.read_bytes(), names(path.parent)) == (NEW, ["file"])


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_file_system_with_nothing_to_flush_is_no_error(path: Path, code: int, which: int) -> None:
    """Where the file system says that it cannot flush a file or a directory, there is nothing more to be done."""
    with failing("fsync", code, which=which) as calls:
        replace(path)
    assert len(calls) == 2
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("name", ["lstat", "open", "fchmod", "write", "fsync", "close", "rename"])
def test_interruption_leaves_no_temporary_file(path: Path, name: str) -> None:
    """An exception that is no error of the system, as out of a signal handler, passes through and leaves nothing behind."""
    before = descriptors()

    def interrupt(*_: object, **__: object) -> Any:
        raise KeyboardInterrupt

    def close_and_interrupt(fd: int) -> None:
        close(fd)
        raise KeyboardInterrupt

    close = os.close
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, close_and_interrupt if name == "close" else interrupt)
        with pytest.raises(KeyboardInterrupt):
            replace(path)
    assert (path.read_bytes(), names(path.parent), descriptors()) == (OLD, ["file"], before)


def test_leftover_temporary_is_in_nobodys_way(path: Path) -> None:
    """Temporary names are random: one that a killed writer left, or another writes now, does not make a save fail."""
    made: set[str] = set()
    rename = os.rename

    def leave_and_rename(source: str, target: str) -> None:
        made.add(source)
        Path(f"{source}~").touch()
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", leave_and_rename)
        for _ in range(20):
            replace(path)
    assert len(made) == 20
    assert all(os.path.dirname(name) == str(path.parent) for name in made)
    assert all(os.path.basename(name).startswith(".") for name in made)


def replace_often(path: Path, letter: bytes, end: Path) -> None:
    """Replace the file over and over by a text of one letter, until the end file is there."""
    n = 0
    while not end.exists():
        n += 1
        replace(path, letter * (n * 997 % 20_000 + 1), durable=False)


def test_two_writers_never_mix(path: Path, spawn: Spawn) -> None:
    """Writers that replace one file at the same time each win or lose whole, and leave no temporary file."""
    workers = [spawn() for _ in range(3)]
    for worker, letter in zip(workers, (b"a", b"b", b"c"), strict=True):
        worker.start(replace_often, path, letter, path.parent.parent / "end")
    seen: set[bytes] = set()
    while len(seen) < 200:
        data = _atomic.read(str(path), 2**20)
        assert len(set(data)) == 1 or data == OLD
        seen.add(data[:1] + b"%d" % len(data))
    path.parent.with_name("end").touch()
    for worker in workers:
        worker.result()
    assert names(path.parent) == ["file"]


# -- what was planted --------------------------------------------------------------------------------------------------


def plant(kind: str, place: Path) -> None:
    """Put something that is no regular file at `place`."""
    match kind:
        case "a symbolic link":
            target = place.with_name("target")
            target.write_bytes(OLD)
            target.chmod(0o644)
            place.symlink_to(target)
        case "a symbolic link to nothing":
            place.symlink_to(place.with_name("nothing"))
        case "a symbolic link to itself":
            place.symlink_to(place)
        case "a directory":
            place.mkdir()
        case "a FIFO":
            os.mkfifo(place)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(place))
        case "a character device":
            os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        case _:
            raise AssertionError(kind)


PLANTED = [
    "a symbolic link",
    "a symbolic link to nothing",
    "a symbolic link to itself",
    "a directory",
    "a FIFO",
    "a socket",
    pytest.param("a character device", marks=pytest.mark.root),
]


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_no_regular_file_is_neither_followed_nor_replaced(root: Path, kind: str) -> None:
    """A link, a directory, a FIFO, a socket or a device in a file's place is refused by name and left as it is, at once."""
    place = root / "place"
    plant(kind, place)
    before = place.lstat()
    for use in (lambda: replace(place), lambda: _atomic.read(str(place), 100), lambda: _atomic.lstat_regular(str(place))):
        with pytest.raises(UnsafePathError) as caught:
            use()
        assert caught.value.path == str(place)
        assert kind.startswith(caught.value.found)
    assert place.lstat() == before
    assert not place.with_name("nothing").exists()
    target = place.with_name("target")
    assert not target.exists() or (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (OLD, 0o644)
    assert names(root) == sorted({"place", *(["target"] if target.exists() else [])})


def test_link_planted_during_a_save_is_not_followed(path: Path) -> None:
    """A link that appears after the file was looked at is replaced; what it points to is not written."""
    victim = path.with_name("victim")
    victim.write_bytes(OLD)
    fsync = os.fsync

    def plant_and_flush(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            path.unlink()
            path.symlink_to(victim)
        fsync(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", plant_and_flush)
        replace(path)
    assert victim.read_bytes() == OLD
    assert not path.is_symlink()
    assert path.read_bytes() == NEW


def test_directory_planted_during_a_save_is_refused(path: Path) -> None:
    """A directory that appears after the file was looked at stays, and the temporary file goes."""
    fsync = os.fsync

    def plant_and_flush(fd: int) -> None:
        path.unlink()
        path.mkdir()
        fsync(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", plant_and_flush)
        with pytest.raises(UnsafePathError, match="a directory"):
            replace(path)
    assert names(path.parent) == ["file"]
    assert path.is_dir()


# -- reading and removing ----------------------------------------------------------------------------------------------


def test_file_is_read_to_its_end_or_the_limit(path: Path) -> None:
    """All bytes are read, and of a file beyond the limit one more than that, so that it can be told."""
    assert _atomic.read(str(path), 100) == OLD
    assert _atomic.read(str(path), len(OLD)) == OLD
    assert _atomic.read(str(path), 10) == OLD[:11]
    path.write_bytes(b"")
    assert _atomic.read(str(path), 10) == b""


@pytest.mark.parametrize("size", [0, 3, len(OLD), len(OLD) + 5])
def test_size_that_changes_while_reading_is_followed(path: Path, size: int) -> None:
    """A file that grew or shrank after its size was asked is read to its true end."""
    fstat = os.fstat

    def other_size(fd: int) -> os.stat_result:
        real = list(fstat(fd))
        real[6] = size
        return os.stat_result(real)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fstat", other_size)
        assert _atomic.read(str(path), 100) == OLD


def test_short_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that gives only some bytes is continued until all are there."""
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 7)))
    assert _atomic.read(str(path), 100) == OLD


@pytest.mark.parametrize("name", ["open", "fstat", "read"])
def test_failing_read_is_named(path: Path, name: str) -> None:
    """Whichever system call of a read fails, the error names the file and the errno, and no descriptor is lost."""
    before = descriptors()
    with pytest.raises(StateIOError) as caught, failing(name, errno.EIO):
        _atomic.read(str(path), 100)
    assert (caught.value.errno, caught.value.path) == (errno.EIO, str(path))
    assert descriptors() == before


def test_reading_nothing_says_so(root: Path) -> None:
    """A file that is not there is the builtin `FileNotFoundError`, for the caller to name."""
    with pytest.raises(FileNotFoundError) as caught:
        _atomic.read(str(root / "absent"), 10)
    assert not isinstance(caught.value, StateFileError)


def test_removing_a_link_spares_its_target(path: Path) -> None:
    """Removal takes the name away, not what a link points to, and says whether there was something."""
    link = path.with_name("link")
    link.symlink_to(path)
    assert _atomic.remove(str(link)) is True
    assert _atomic.remove(str(link)) is False
    assert path.read_bytes() == OLD


def test_removing_a_directory_is_refused(root: Path) -> None:
    """A directory in a file's place is not removed."""
    (root / "place").mkdir()
    with pytest.raises(UnsafePathError, match="a directory"):
        _atomic.remove(str(root / "place"))
    assert (root / "place").is_dir()


# -- the root ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777], ids=oct)
def test_root_is_made_with_its_mode_whatever_the_umask(root: Path, mask: int) -> None:
    """A root and what is missing above it are made with mode 0711: others may open what they can name, and not list."""
    place = root / "a/b/c"
    with umask(mask):
        _atomic.make_root(str(place), durable=True)
    for made in (place, place.parent, place.parent.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o711


def test_existing_root_is_left_as_it_is(root: Path) -> None:
    """An administrator's directory keeps its mode and what is in it."""
    root.chmod(0o750)
    (root / "file").touch()
    _atomic.make_root(str(root), durable=True)
    assert stat.S_IMODE(root.stat().st_mode) == 0o750
    assert names(root) == ["file"]


def make_root_at_once(place: Path) -> None:
    """Make one root together with others."""
    for n in range(100):
        meet()
        _atomic.make_root(f"{place}{n}/b/c", durable=False)


def test_root_can_be_made_by_many_at_once(root: Path, spawn: Spawn) -> None:
    """Processes that make one root at the same moment all succeed."""
    workers = [spawn() for _ in range(3)]
    for worker in workers:
        worker.start(make_root_at_once, root / "a")
    for _ in range(100):
        for worker in workers:
            worker.hear()
        for worker in workers:
            worker.tell()
    for worker in workers:
        worker.result()
    assert len(list(root.glob("a*/b/c"))) == 100


@pytest.mark.parametrize("kind", ["a symbolic link", "a regular file", "a FIFO"])
def test_root_that_is_no_directory_is_refused(root: Path, kind: str) -> None:
    """A link to a directory, a file or a FIFO where the root belongs is neither used nor followed."""
    place = root / "place"
    if kind == "a regular file":
        place.touch()
    elif kind == "a symbolic link":
        (root / "real").mkdir()
        place.symlink_to(root / "real")
    else:
        plant(kind, place)
    for use in (
        lambda: _atomic.make_root(str(place), durable=True),
        lambda: _atomic.check_root(str(place)),
        lambda: _atomic.list_names(str(place)),
    ):
        with pytest.raises(UnsafePathError) as caught:
            use()
        assert (caught.value.found, caught.value.errno) == (kind, errno.ENOTDIR)


def test_root_below_a_file_is_refused(root: Path) -> None:
    """A root that cannot be, because a file stands above it, is an error with the errno, not an endless climb."""
    (root / "file").touch()
    with pytest.raises(StateIOError) as caught:
        _atomic.make_root(str(root / "file/a/b"), durable=True)
    assert caught.value.errno == errno.ENOTDIR
    with pytest.raises(StateIOError) as caught:
        _atomic.make_root(str(root / ("x" * 300) / "b"), durable=True)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_absent_directory_has_no_names(root: Path) -> None:
    """A root that nobody has made yet is empty, which is no error."""
    assert _atomic.list_names(str(root / "absent")) == []
    assert _atomic.check_root(str(root / "absent")) is False


def refusal(use: Callable[..., object], *args: object) -> tuple[int, str]:
    """With which errno, and about which path, a call is refused."""
    with pytest.raises(StateIOError) as caught:
        use(*args)
    return caught.value.errno or 0, caught.value.path


def test_directory_that_may_not_be_used_is_named(root: Path, nobody: Worker) -> None:
    """Without the right to list, to write in or to search a directory the error says EACCES and which path."""
    inner = root / "inner"
    inner.mkdir()
    (inner / "file").touch(0o600)
    file = str(inner / "file")
    inner.chmod(0o111)
    assert nobody.call(refusal, _atomic.list_names, str(inner)) == (errno.EACCES, str(inner))
    inner.chmod(0o555)
    assert nobody.call(refusal, make, str(inner / "a")) == (errno.EACCES, str(inner / "a"))
    assert nobody.call(refusal, _atomic.remove, file) == (errno.EACCES, file)
    inner.chmod(0o000)
    assert nobody.call(refusal, _atomic.lstat_regular, file) == (errno.EACCES, file)
    assert nobody.call(refusal, _atomic.check_root, file) == (errno.EACCES, file)
    inner.chmod(0o700)


def make(path: str) -> None:
    """Make a root."""
    _atomic.make_root(path, durable=False)


def wait_for_flush(path: Path) -> None:
    """Replace the file, stopping before the rename."""
    rename = os.rename

    def stop_and_rename(source: str, target: str) -> None:
        tell(source)
        hear()
        rename(source, target)

    os.rename = stop_and_rename  # type: ignore[assignment]
    replace(path)


def test_reader_sees_the_old_file_until_the_rename(path: Path, spawn: Spawn) -> None:
    """Until the very rename a reader finds the old bytes; a writer killed just before it has changed nothing."""
    for end in ("killed", "let go"):
        writer = spawn(fresh=True)
        writer.start(wait_for_flush, path)
        temporary = Path(writer.hear())
        assert temporary.read_bytes() == NEW
        assert _atomic.read(str(path), 2**20) == OLD
        if end == "killed":
            writer.kill()
            assert _atomic.read(str(path), 2**20) == OLD
            temporary.unlink()
        else:
            writer.tell()
            writer.result()
            assert _atomic.read(str(path), 2**20) == NEW


# -- above the root --------------------------------------------------------------------------------------------------------


def test_root_below_a_link_is_made_at_once(tmp_path: Path) -> None:
    """A link above the root is followed, as that of `/var/run` has to be; only the root itself may be none."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    for durable in (True, False):
        root = tmp_path / "link" / str(durable) / "deep"
        _atomic.make_root(str(root), durable=durable)
        assert _atomic.check_root(str(root))


def test_place_that_takes_no_directory_is_no_endless_climb() -> None:
    """Where no directory can be made, though the one above is there, the system's answer is the error."""
    with pytest.raises(StateIOError):
        _atomic.make_root("/proc/nothing/root", durable=True)


def test_root_keeps_the_group_bit_of_the_directory_above(tmp_path: Path) -> None:
    """In a directory whose group is inherited, a new root has its mode and passes the group on."""
    tmp_path.chmod(0o2755)
    _atomic.make_root(str(tmp_path / "root"), durable=False)
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o2711


GROUP = 54321


@pytest.mark.root
@pytest.mark.parametrize(("groups", "expected"), [([GROUP], (GROUP, 0o660)), ([], (NOBODY, 0o600))], ids=["member", "stranger"])
def test_group_is_kept_by_who_may_give_it(path: Path, spawn: Spawn, groups: list[int], expected: tuple[int, int]) -> None:
    """A member of the file's group keeps it in that group; who is none lets his own group in no further than others."""
    os.chown(path, 0, GROUP)
    path.chmod(0o660)
    path.parent.chmod(0o777)
    assert spawn(fresh=True).call(_replace_as_nobody, path, groups) == expected
    assert path.read_bytes() == NEW


def _replace_as_nobody(path: Path, groups: list[int]) -> tuple[int, int]:
    os.setgroups(groups)
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    replace(path)
    found = path.stat()
    return found.st_gid, stat.S_IMODE(found.st_mode)
