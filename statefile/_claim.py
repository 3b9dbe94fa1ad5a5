"""One open lock file, and the `flock(2)` on it.

A forked child shares the open file: it must neither release the parent's lock nor keep it alive, so it closes its copies and
forgets them. Nothing is ever written to a lock file. Only this file calls portalocker, with `flock` pinned: its default is a
global that any program may change.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING

from statefile import _atomic, _turn
from statefile.errors import LockUnsupportedError, StateFileError, StateIOError

if TYPE_CHECKING:
    from collections.abc import Callable

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_MAKE = _OPEN | os.O_CREAT | os.O_EXCL
_TRIES = 100
"""How often an open is tried that met a file which was just going, or coming (ENOENT and then EEXIST, ESTALE): others may make
and remove it all the time."""

_TAKEN = frozenset({errno.EAGAIN, errno.EACCES})
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.EINVAL})


class Claim:
    """An open lock file, and perhaps the lock on it. Losing the last reference closes it, which frees the lock."""

    __slots__ = ("__weakref__", "_made", "_marked", "_opened", "_owned", "_process", "key", "path")

    def __init__(self, path: str, *, create: bool) -> None:
        self.path = path
        self._owned = False
        self._marked = False
        self._process = _this_process
        self._opened: list[int] = []
        self.key = (0, 0)  # no file's, until it is known
        try:
            _primitive()
        except (OSError, ImportError) as failure:  # read from files when first used: no descriptor may be left
            code = getattr(failure, "errno", None) or errno.EIO
            raise StateIOError(path=path, operation="load what is needed to lock", errno=code) from failure
        with _fork_gate:
            self._made = _open_lock_file(self._opened, path, create=create)
            _open_files.update(self._opened)
        try:
            found = os.fstat(self._opened[0])
            _atomic.check_regular(found, path)
            self.key = (found.st_dev, found.st_ino)
            if self._made:
                os.fchmod(self._opened[0], _atomic.FILE_MODE)  # whatever the umask took away
        except BaseException as error:
            self.abandon()  # not left to the last reference: whoever keeps the error keeps this frame
            if isinstance(error, OSError) and not isinstance(error, StateFileError):
                raise _atomic.system_error(error, "look at", path) from error
            raise

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

    def own(self, owner: object) -> None:
        """Note that `owner` holds the lock from now on."""
        self._owned = True
        _owners[self.key] = owner

    def is_owned_by(self, owner: object) -> bool:
        """Whether the lock is held, and `owner` took it."""
        return self._owned and self.valid and _owners.get(self.key) == owner

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

    def close(self) -> bool:
        """Release and close; false if that was done already, or this is a forked child, which does nothing."""
        opened = self._opened
        if not opened or self._process is not _this_process:
            return False
        fd = opened[0]
        if self._owned:
            self._owned = False
            _owners.pop(self.key, None)
        try:
            if self._marked:
                _turn.hide(fd)
            use = _primitive()
            use.flock(fd, use.release)  # explicitly: a child between fork and exec may still share the open file
            if self._marked:
                os.sched_yield()  # the one who waited wakes up, often on this very processor
        except OSError:
            pass  # closing releases too
        finally:
            with _fork_gate:
                _open_files.discard(fd)
                try:  # noqa: SIM105  # a context manager costs more than the call
                    any(map(os.close, iter(opened.pop, None)))  # taken out and closed in one step: no signal between
                except (IndexError, OSError):
                    pass  # FUSE and NFS report old errors on closing
        return True

    def __del__(self) -> None:
        if not getattr(self, "_opened", None):
            return  # interrupted before it was opened, or closed
        dropped = self._owned and self.valid
        self.close()
        if dropped and not sys.is_finalizing():
            warnings.warn(f"{self.path} was still locked when its last reference went", ResourceWarning, stacklevel=2)


def _open_lock_file(opened: list[int], path: str, *, create: bool) -> bool:
    """Add its descriptor to `opened`; whether this call made the file.

    It is made only if it is not there: in a sticky directory O_CREAT is refused for another's file.
    """
    code = errno.EIO  # and not the error: it would hold this frame, and with it every caller's, until the garbage is collected
    for _ in range(_TRIES):
        try:
            opened += map(os.open, (path,), (_OPEN,))
            return False
        except OSError as error:
            code = error.errno or errno.EIO
        if create and code == errno.ENOENT:
            try:
                opened += map(os.open, (path,), (_MAKE,), (_atomic.FILE_MODE,))
                return True
            except OSError as error:
                code = error.errno or errno.EIO
        if code not in ({errno.ENOENT, errno.EEXIST, errno.ESTALE} if create else {errno.ESTALE}):
            break
    if code == errno.ENOENT:
        raise FileNotFoundError(code, os.strerror(code), path)
    raise _atomic.system_error(OSError(code, os.strerror(code), path), "open lock file", path)


def owner_of(key: tuple[int, int]) -> object:
    """Who in this process holds the file `key`: what was given to `Claim.own`, or `None`."""
    return _owners.get(key)


# -- the primitive -----------------------------------------------------------------------------------------------------


class _Primitive:
    """portalocker's `flock`, loaded when the first lock is taken: importing it costs more than many locks."""

    def __init__(self) -> None:
        import portalocker  # noqa: PLC0415  # see above
        from portalocker.portalocker import FlockLocker  # noqa: PLC0415

        # Its `locker` is used, the call itself: `lock` and `unlock` reckon with enum flags for longer than the call takes.
        self.flock: Callable[[int, int], object] = FlockLocker().locker
        self.exclusive = int(portalocker.LOCK_EX)
        self.exclusive_at_once = int(portalocker.LOCK_EX | portalocker.LOCK_NB)
        self.release = int(portalocker.LockFlags.UNBLOCK)


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
        use.flock(fd, use.exclusive if wait else use.exclusive_at_once)
    except OSError as error:
        code = error.errno or errno.EIO
        if code in _TAKEN:
            return False
        if code in _UNSUPPORTED:
            raise LockUnsupportedError(path=path, errno=code) from error
        raise _atomic.system_error(error, "lock", path) from error
    return True


# -- forks -------------------------------------------------------------------------------------------------------------


def _forget_in_child() -> None:
    """After a fork, in the child: the parent's locks are the parent's. Closing a copy releases nothing."""
    global _this_process  # noqa: PLW0603  # the child is another process
    for fd in _open_files:
        with contextlib.suppress(OSError):
            os.close(fd)
    _open_files.clear()
    _owners.clear()
    _this_process = object()
    _fork_gate.release()


_this_process = object()
_fork_gate = threading.RLock()
"""Held while a lock file is opened or closed, so that no fork comes between the system call and the note of it."""
_open_files: set[int] = set()
_owners: dict[tuple[int, int], object] = {}
os.register_at_fork(before=_fork_gate.acquire, after_in_parent=_fork_gate.release, after_in_child=_forget_in_child)
