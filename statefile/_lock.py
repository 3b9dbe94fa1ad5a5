"""The lock: exclusive `flock(2)` on a lock file, proved to be the file that its path names.

A lock file is removed together with its state, so a waiter may get the lock of a file that has lost its name while another
makes a new file there and locks that. Therefore the locked inode is compared with the path after every acquisition; a stale
one is dropped and the wait starts over. Nothing is ever written to a lock file.

A forked child shares the open file: it must neither release the parent's lock nor keep it alive, so it closes its copies and
forgets them. Only this file calls portalocker, with `flock` pinned: its default is a global that any program may change.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from statefile import _atomic, _turn
from statefile._holder import holder_of_file
from statefile._waiter import Deadline, Reminder, Room
from statefile.errors import DeadlockError, LockTimeoutError, LockUnsupportedError, NotLockedError, StateFileError

if TYPE_CHECKING:
    from portalocker.portalocker import FlockLocker

logger = logging.getLogger("statefile")

REMIND_AFTER = 1.0
"""Seconds of waiting after which one log line says for whom."""

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_MAKE = _OPEN | os.O_CREAT | os.O_EXCL
_TRIES = 3
"""How often an open is tried that met a file which was just going (ENOENT beside O_CREAT, ESTALE)."""

_UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.EINVAL})


class FileLock:
    """The lock that one object holds, or does not hold, on the lock file at `path`."""

    __slots__ = ("_claim", "path")

    def __init__(self, path: str) -> None:
        """No file is touched yet."""
        self.path = path
        self._claim: _Claim | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock now, in this process."""
        claim = self._claim
        return claim is not None and claim.valid

    def acquire(self, *, create: bool, deadline: Deadline) -> None:
        """Take the lock: on return nobody else has it, and `path` names the locked file.

        With `create` a missing lock file is made.

        Raises:
            FileNotFoundError: there is no lock file, and `create` is false or there is no directory.
            LockTimeoutError: it was not free in time.
            DeadlockError: this thread holds it already.
            LockUnsupportedError: the file system cannot lock.
            UnsafePathError: something that is no regular file stands there.
            StateIOError: another system call failed.
        """
        while True:
            claim = _Claim(self.path, create=create)
            try:
                if not claim.try_lock():
                    claim = _wait(claim, deadline)
                if claim.is_current():
                    claim.own()
                    self._claim = claim
                    return
            except BaseException:
                if self._claim is claim:
                    self._claim = None
                claim.abandon()
                raise
            claim.close()

    def is_current(self) -> bool:
        """Whether this object holds the lock, and the file that it locked still has its name."""
        claim = self._claim
        return claim is not None and claim.valid and claim.is_current()

    def release(self, *, remove: bool) -> None:
        """Release the lock and, if `remove`, delete the lock file first.

        Raises:
            NotLockedError: this object does not hold it.
            StateIOError: the lock file could not be deleted; the lock is released all the same.
        """
        claim, self._claim = self._claim, None
        if claim is None or not claim.valid:
            raise NotLockedError(path=self.path, operation="unlock()")
        if not remove:
            claim.close()
            return
        try:
            if claim.is_current():
                _atomic.remove(self.path)
        finally:
            claim.close()


# -- one open lock file ------------------------------------------------------------------------------------------------


class _Claim:
    """An open lock file, and perhaps the lock on it. Losing the last reference closes it, which frees the lock."""

    __slots__ = ("__weakref__", "_made", "_marked", "_opened", "_owned", "_process", "key", "path")

    def __init__(self, path: str, *, create: bool) -> None:
        self.path = path
        self._owned = False
        self._marked = False
        self._process = _this_process
        self._opened: list[int] = []
        with _fork_gate:
            self._made = _open_lock_file(self._opened, path, create=create)
            _open_files.update(self._opened)
        found = os.fstat(self._opened[0])
        _atomic.check_regular(found, path)
        self.key = (found.st_dev, found.st_ino)
        if self._made:
            os.fchmod(self._opened[0], _atomic.FILE_MODE)  # whatever the umask took away

    @property
    def valid(self) -> bool:
        """Whether it is open in this process: it is not after `close`, nor in a forked child."""
        return bool(self._opened) and self._process is _this_process

    def try_lock(self) -> bool:
        """Whether the lock was free and now is ours. Waiters go first, for which it may take some milliseconds."""
        fd = self._opened[0]
        polite = _turn.let_waiters_go_first(fd, self.key)
        locked = _flock(fd, self.path, wait=False)
        if locked and not polite:
            _turn.distrust(self.key)
        return locked

    def lock(self) -> None:
        """Block until it is our turn and the lock is ours."""
        fd = self._opened[0]
        self._marked = _turn.show_waiting(fd, self.key)
        _flock(fd, self.path, wait=True)
        if self._marked:
            _turn.show_holding(fd)

    def is_current(self) -> bool:
        """Whether `path` still names this file."""
        try:
            named = os.lstat(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _atomic.system_error(error, "look at", self.path) from error
        return (named.st_dev, named.st_ino) == self.key

    def own(self) -> None:
        """Note that the running thread holds the lock from now on."""
        self._owned = True
        _owners[self.key] = _this_thread()

    def abandon(self) -> None:
        """Close, and remove the file if this claim made it and nobody else uses it."""
        with contextlib.suppress(StateFileError):
            if self._made and self.valid and self._unused() and self.is_current():
                _atomic.remove(self.path)
        self.close()

    def _unused(self) -> bool:
        try:
            return self.try_lock()
        except LockUnsupportedError:
            return True  # then nobody can be using it

    def close(self) -> None:
        """Release and close. What was done already is not done again, and a forked child does nothing."""
        if not self._opened or self._process is not _this_process:
            return
        fd = self._opened[0]
        if self._owned:
            self._owned = False
            _owners.pop(self.key, None)
        try:
            if self._marked:
                _turn.hide(fd)
            _unlock(fd)
        finally:
            with _fork_gate, contextlib.suppress(IndexError, OSError):  # FUSE and NFS report old errors on closing
                _open_files.discard(self._opened.pop())
                os.close(fd)

    def __del__(self) -> None:
        dropped = self._owned and self.valid
        self.close()
        if dropped and not sys.is_finalizing():
            warnings.warn(f"{self.path} was still locked when its last reference went", ResourceWarning, stacklevel=2)


def _open_lock_file(opened: list[int], path: str, *, create: bool) -> bool:
    """Add its descriptor to `opened`; whether this call made the file.

    It is made only if it is not there: in a sticky directory O_CREAT is refused for another's file.
    """
    error = OSError()
    for _ in range(_TRIES):
        try:
            opened += map(os.open, (path,), (_OPEN,))
            return False
        except OSError as failed:
            error = failed
        if create and error.errno == errno.ENOENT:
            try:
                opened += map(os.open, (path,), (_MAKE,), (_atomic.FILE_MODE,))
                return True
            except OSError as failed:
                error = failed
        if error.errno not in ({errno.ENOENT, errno.EEXIST, errno.ESTALE} if create else {errno.ESTALE}):
            break
    if error.errno == errno.ENOENT:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    raise _atomic.system_error(error, "open lock file", path) from error


# -- waiting -----------------------------------------------------------------------------------------------------------


def _wait(claim: _Claim, deadline: Deadline) -> _Claim:
    """Return a locked claim in place of `claim`, which has found the lock taken."""
    if _owners.get(claim.key) is _this_thread():
        raise DeadlockError(path=claim.path)
    path, key = claim.path, claim.key
    left = deadline.left()
    if left is not None:
        claim.close()  # the helper thread has its own
    granted = None
    reminded = _reminder.watch(lambda: _say_who(path, key))
    try:
        if left is None:
            claim.lock()
            return claim
        granted = _room(path).wait(left) if left else None
    finally:
        reminded.over = True
    if granted is None:
        raise LockTimeoutError(path=path, timeout=deadline.timeout or 0.0, holder=holder_of_file(key))
    return granted


def _room(path: str) -> Room[_Claim]:
    """Where this process waits for the lock file at `path`; the room goes when nobody is in it."""
    room = _rooms.get(path)
    if room is None:
        room = _rooms.setdefault(path, Room(lambda: _take(path), _Claim.close))
    return room


def _take(path: str) -> _Claim:
    claim = _Claim(path, create=False)
    claim.lock()
    return claim


def _say_who(path: str, key: tuple[int, int]) -> None:
    holder = holder_of_file(key)
    logger.info("waiting for %s, held by %s", path, holder or "a process that cannot be seen from here")


# -- the primitive -----------------------------------------------------------------------------------------------------


class _Primitive:
    """portalocker's `flock`, loaded when the first lock is taken: importing it costs more than many locks."""

    def __init__(self) -> None:
        import portalocker  # noqa: PLC0415  # see above
        from portalocker.portalocker import FlockLocker  # noqa: PLC0415

        self.locker: FlockLocker = FlockLocker()
        self.exclusive = portalocker.LOCK_EX
        self.exclusive_at_once = portalocker.LOCK_EX | portalocker.LOCK_NB
        self.taken = portalocker.AlreadyLocked
        self.failed = portalocker.LockException


def _primitive() -> _Primitive:
    global _loaded  # noqa: PLW0603  # filled once
    if _loaded is None:
        _loaded = _Primitive()
    return _loaded


_loaded: _Primitive | None = None


def _flock(fd: int, path: str, *, wait: bool) -> bool:
    """Lock `fd`; false if another holds it and `wait` is false."""
    use = _primitive()
    try:
        use.locker.lock(fd, use.exclusive if wait else use.exclusive_at_once)
    except use.taken:
        return False
    except use.failed as error:
        cause = error.__cause__
        code = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EIO
        if code in _UNSUPPORTED:
            raise LockUnsupportedError(path=path, errno=code) from error
        raise _atomic.system_error(OSError(code, os.strerror(code)), "lock", path) from error
    return True


def _unlock(fd: int) -> None:
    """Release explicitly: a child between fork and exec may still share the open file."""
    use = _primitive()
    try:  # noqa: SIM105  # a context manager costs more than the system call, and everybody waits for this one
        use.locker.unlock(fd)
    except use.failed:
        pass  # closing, which comes next, releases too


# -- threads and processes ---------------------------------------------------------------------------------------------


def _this_thread() -> object:
    """A token of the running thread; a thread's number is given to another when it has ended."""
    try:
        return _local.token
    except AttributeError:
        _local.token = object()
        return _local.token


def _forget_in_child() -> None:
    """After a fork, in the child: the parent's locks are the parent's. Closing a copy releases nothing."""
    global _this_process, _reminder  # noqa: PLW0603  # the child is another process
    for fd in _open_files:
        with contextlib.suppress(OSError):
            os.close(fd)
    _open_files.clear()
    _owners.clear()
    _rooms.clear()
    _reminder = Reminder(REMIND_AFTER)
    _this_process = object()
    _fork_gate.release()


_local = threading.local()
_this_process = object()
_fork_gate = threading.RLock()
"""Held while a lock file is opened or closed, so that no fork comes between the system call and the note of it."""
_open_files: set[int] = set()
_owners: dict[tuple[int, int], Any] = {}
"""Which thread of this process holds which file."""
_rooms: weakref.WeakValueDictionary[str, Room[_Claim]] = weakref.WeakValueDictionary()
_reminder = Reminder(REMIND_AFTER)
os.register_at_fork(before=_fork_gate.acquire, after_in_parent=_fork_gate.release, after_in_child=_forget_in_child)
