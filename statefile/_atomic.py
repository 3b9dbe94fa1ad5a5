"""Replace, read and remove a file so that no crash, full disk or planted link can do harm.

One write sequence serves states and PID files alike: a temporary file of a random name in the same directory, written whole,
flushed as asked, renamed over the old one. A reader sees the old bytes or the new ones, never a mixture, and on every failure
the old file stays as it was and the temporary one goes.

A descriptor is opened as `[*map(os.open, …)]`: an exception out of a signal handler can come between a call and the
assignment of its result, but not inside this expression, so the descriptor is never lost. For the same reason it is closed
by one call, `os.close(opened[0])`, with no other before it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from statefile.errors import StateFileError, StateIOError, UnsafePathError

FILE_MODE = 0o600
ROOT_MODE = 0o711
TEMPORARY_SUFFIX = ".tmp"

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_CANNOT_FLUSH = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EROFS})
"""What file systems answer that have nothing to flush."""

_ACCESS_LIST = "system.posix_acl_access"
_NO_LIST = frozenset({errno.ENODATA, errno.ENOTSUP, errno.ENOENT})

_CANNOT_GIVE = frozenset({errno.EPERM, errno.EINVAL, errno.EOVERFLOW})
"""What `fchown` answers to whoever may not, and about an owner that this user namespace has no number for."""


def replace(path: str, data: bytes, *, durable: bool, mode: int = FILE_MODE) -> None:
    """Put `data` in place of the regular file `path`, which need not exist.

    On return the new bytes are there for every reader, and if `durable` they survive a power cut. If not, one may bring the
    old file back, but never half a new one: what is renamed before its bytes are on the disk can come back empty. An
    existing file's mode, access control list and (where the system allows it) owner are kept; a new one has `mode`, whatever
    the umask.

    Raises:
        UnsafePathError: a link, a directory or a device stands at `path`.
        StateIOError: the system failed; the old file is there unchanged, unless `applied` is set.
    """
    directory, _, name = path.rpartition("/")
    old = lstat_regular(path)
    temporary = f"{directory}/.{name}.{os.urandom(6).hex()}{TEMPORARY_SUFFIX}"
    try:
        opened = [*map(os.open, (temporary,), (_CREATE,), (FILE_MODE,))]
    except OSError as error:
        raise system_error(error, "create a temporary file for", path) from error
    try:
        try:
            _adopt(opened[0], old, mode, path)
            _write_all(opened[0], data)
            _flush(opened[0])
        finally:
            os.close(opened[0])  # before the rename: some file systems report only now what they could not write
        os.rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise system_error(error, "write", path) from error
        raise
    if durable:
        flush_directory(directory, applied=True)


def lstat_regular(path: str) -> os.stat_result | None:
    """What the regular file `path` is like; `None` if there is none.

    Raises:
        UnsafePathError: a link, a directory or a device stands there.
        StateIOError: the system refused.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise system_error(error, "look at", path) from error
    check_regular(found, path)
    return found


def is_there(path: str) -> bool:
    """Whether anything stands at `path`; unlike `os.path.lexists`, what cannot be looked at does not count as absent.

    Raises:
        StateIOError: the system refused.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise system_error(error, "look at", path) from error
    return True


def may_be_there(path: str) -> bool:
    """Whether anything stands at `path`, or that cannot be told."""
    try:
        return is_there(path)
    except StateFileError:
        return True


def _adopt(fd: int, old: os.stat_result | None, mode: int, path: str) -> None:
    """Give the new file the old one's mode, its access control list and, as far as the system allows it, its owner."""
    if old is not None:
        mode = stat.S_IMODE(old.st_mode)
        new = os.fstat(fd)
        # One by one: a member may give a file to a group, but to no other owner.
        if new.st_gid != old.st_gid and not _give(fd, -1, old.st_gid):
            mode &= ~stat.S_IRWXG  # meant for another group than the one that it has now
        if new.st_uid != old.st_uid:
            _give(fd, old.st_uid, -1)
    os.fchmod(fd, mode)
    if old is not None and mode & stat.S_IRWXG:
        # With a list the group's bits are its mask: without it they would let in whom it keeps out.
        try:
            access = os.getxattr(path, _ACCESS_LIST, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LIST:
                raise
        else:
            os.setxattr(fd, _ACCESS_LIST, access)


def _give(fd: int, uid: int, gid: int) -> bool:
    """Whether the file could be given to that owner or group."""
    try:
        os.fchown(fd, uid, gid)
    except OSError as error:
        if error.errno not in _CANNOT_GIVE:
            raise
        return False
    return True


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        step = os.write(fd, memoryview(data)[written:])
        if step == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += step


def read(path: str, limit: int) -> bytes:
    """Return the bytes of the regular file `path`, as they were at one moment; one byte more than `limit` at the most.

    Raises:
        FileNotFoundError: there is none.
        UnsafePathError: a link, a FIFO, a directory or a device stands there.
        StateIOError: the system failed.
    """
    try:
        opened = [*map(os.open, (path,), (_READ,))]
        try:
            fd = opened[0]
            found = os.fstat(fd)
            check_regular(found, path)
            data = os.read(fd, min(found.st_size, limit) + 1)
            # Short of its size (a signal), or grown meanwhile (a foreign writer in place): go on to the end.
            while len(data) != found.st_size and len(data) <= limit:
                more = os.read(fd, limit + 1 - len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            try:  # noqa: SIM105  # a context manager costs more than the call
                os.close(opened[0])
            except OSError:
                pass  # all was read
    except FileNotFoundError:
        raise
    except StateFileError:
        raise
    except OSError as error:
        raise system_error(error, "read", path) from error


def remove(path: str) -> bool:
    """Remove the file `path`; a link is removed, not what it points to. Returns whether it was there.

    Raises:
        UnsafePathError: a directory stands there.
        StateIOError: the system refused.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise system_error(error, "remove", path) from error
    return True


def flush_directory(path: str, *, applied: bool = False, follow: bool = False) -> None:
    """Make the names in directory `path` survive a power cut; a file system that cannot is no error.

    A link to it is refused, unless `follow`: what stands above a root may be one, such as `/var/run`.

    Raises:
        StateIOError: the flush failed; `applied` is passed on in it.
    """
    try:
        opened = [*map(os.open, (path,), (_DIRECTORY | (0 if follow else os.O_NOFOLLOW),))]
        try:
            _flush(opened[0])
        finally:
            os.close(opened[0])
    except OSError as error:
        raise system_error(error, "flush directory", path, applied=applied) from error


def _flush(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def make_root(path: str, *, durable: bool, tries: int = 3) -> None:
    """Make directory `path` and what is missing above it; an existing one is left as it is.

    A new root has mode 0711, whatever the umask: others may open what they can name, and not list.

    Raises:
        UnsafePathError: something else stands there.
        StateIOError: the system refused.
    """
    try:
        os.mkdir(path, ROOT_MODE)
    except FileExistsError:
        check_root(path)
        return
    except FileNotFoundError as error:
        above = os.path.dirname(path)
        if tries == 0 or above == path:  # it is there, and takes no directory (/proc), or is removed again and again
            raise system_error(error, "create directory", path) from error
        make_root(above, durable=durable)
        make_root(path, durable=durable, tries=tries - 1)
        return
    except OSError as error:
        raise system_error(error, "create directory", path) from error
    with contextlib.suppress(OSError):
        os.chmod(path, ROOT_MODE | os.lstat(path).st_mode & stat.S_ISGID)  # which it has from the directory above
    if durable:
        flush_directory(os.path.dirname(path), follow=True)


def check_root(path: str) -> bool:
    """Whether directory `path` exists.

    Raises:
        UnsafePathError: something else stands there, a link to a directory included.
        StateIOError: the system refused.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise system_error(error, "look at", path) from error
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafePathError(path=path, found=_kind(found.st_mode), expected="a directory", errno=errno.ENOTDIR)
    return True


def list_names(path: str) -> list[str]:
    """The names in directory `path`, in no order; an absent one has none.

    Raises:
        UnsafePathError: it is no directory, or a link to one.
        StateIOError: it may not be read.
    """
    if not check_root(path):
        return []
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise system_error(error, "list", path) from error


def check_regular(found: os.stat_result, path: str) -> None:
    """Raise `UnsafePathError` unless `found` describes a regular file."""
    if not stat.S_ISREG(found.st_mode):
        code = errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.EINVAL
        raise UnsafePathError(path=path, found=_kind(found.st_mode), expected="a regular file", errno=code)


def system_error(error: OSError, operation: str, path: str, *, applied: bool = False) -> StateFileError:
    """The named error for what the system answered about `path`."""
    if error.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENOTDIR}:
        directory_expected = error.errno == errno.ENOTDIR
        for place in (path, os.path.dirname(path)) if directory_expected else (path,):
            with contextlib.suppress(OSError):
                mode = os.lstat(place).st_mode
                if not (stat.S_ISREG(mode) and place is path) and not (stat.S_ISDIR(mode) and directory_expected):
                    expected = "a directory" if directory_expected else "a regular file"
                    return UnsafePathError(path=place, found=_kind(mode), expected=expected, errno=error.errno)
    return StateIOError(path=path, operation=operation, errno=error.errno or errno.EIO, applied=applied)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }
    return kinds.get(stat.S_IFMT(mode), "a regular file")
