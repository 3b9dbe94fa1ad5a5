"""Where a container's files are, and what is done to them under the lock, as steps that stop where somebody must wait."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from statefile import _atomic
from statefile._ids import LOCK_SUFFIX, STATE_SUFFIX, FullID, file_stem
from statefile._lock import FileLock, Owner, Steps, this_thread
from statefile.errors import AlreadyExistsError, InvalidRootError, LockLostError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Generator

    from statefile._waiter import Deadline

_ROOT_TRIES = 3


class Place:
    """Where a container's files are, and this object's lock on them."""

    __slots__ = ("destroyed", "durable", "fresh", "id", "lock", "mark", "root", "spelling", "state")

    def __init__(self, root: str, full_id: FullID, *, durable: bool) -> None:
        stem = f"{root}/{file_stem(full_id)}"
        self.root = root
        self.id = full_id
        self.durable = durable
        self.state = stem + STATE_SUFFIX
        self.lock = FileLock(stem + LOCK_SUFFIX)
        self.spelling: object = None  # how a record in the file spells root and id, where that was read
        self.fresh = False  # under the lock: there has been no state yet
        self.destroyed = False  # under the lock: there is none any more
        self.mark: dict[str, object] | None = None  # under the lock: that of the record in the file, once it is known

    def exists(self) -> bool:
        """Whether there is a state file."""
        return _atomic.lstat_regular(self.state) is not None

    def lock_existing(self, owner: Owner, deadline: Deadline) -> Steps[None]:
        """The steps of `StateFile.lock`."""
        if not _atomic.check_root(self.root):
            raise NotFoundError(id=self.id, path=self.root)
        if not (yield from self._acquire_existing(owner, deadline)):
            raise NotFoundError(id=self.id, path=self.state)
        try:
            if not self.exists():
                self.destroyed = True
                raise NotFoundError(id=self.id, path=self.state)
        except BaseException:
            self.release()
            raise

    def lock_new(self, owner: Owner, deadline: Deadline) -> Steps[None]:
        """The steps of `StateFile.lock_for_new`."""
        for attempt in range(1, _ROOT_TRIES + 1):
            if not _atomic.check_root(self.root):
                _atomic.make_root(self.root, durable=self.durable)
            try:
                yield from self.lock.acquire(owner, deadline, create=True)
                break
            except FileNotFoundError as error:  # the root was removed this very moment
                if attempt == _ROOT_TRIES:
                    raise _atomic.system_error(error, "make lock file", self.lock.path) from error
        self.fresh, self.destroyed, self.mark = True, False, None
        try:
            if self.exists():
                raise AlreadyExistsError(id=self.id, path=self.state)
        except BaseException:
            self.release()
            raise

    def destroy(self, owner: Owner, deadline: Deadline) -> Steps[None]:
        """The steps of `StateFile.destroy`."""
        if self.lock.held:
            if not self.lock.is_current():
                raise LockLostError(path=self.lock.path)
            self._destroy_locked()
        elif _atomic.check_root(self.root) and (yield from self._acquire_existing(owner, deadline)):
            try:
                self._destroy_locked()
            finally:
                self.release()

    def _destroy_locked(self) -> None:
        removed = _atomic.remove(self.state)
        self.destroyed, self.mark = True, None
        if removed and self.durable:
            _atomic.flush_directory(self.root, applied=True)

    def _acquire_existing(self, owner: Owner, deadline: Deadline) -> Steps[bool]:
        """Take the lock of a container that exists; false, and nothing made, if there is neither lock nor state file."""
        try:
            yield from self.lock.acquire(owner, deadline, create=False)
        except FileNotFoundError:
            if not _atomic.is_there(self.state):
                return False
            try:
                yield from self.lock.acquire(owner, deadline, create=True)
            except FileNotFoundError:
                return False
        self.fresh, self.destroyed, self.mark = False, False, None
        return True

    @contextlib.contextmanager
    def released_at_the_end(self) -> Generator[None]:
        """Release the lock at the end of the block, if this thread has it: whatever came between taking it and the block."""
        owner = this_thread()  # the block may be left by another
        outside = self.lock.held_by(owner)
        try:
            yield
        finally:
            if not outside:
                self._release_for(owner)

    def _release_for(self, owner: Owner) -> None:
        try:
            if self.lock.held_by(owner):
                self.release()
        except BaseException:
            # An exception out of a signal handler may come before the release: then this is the last chance for it.
            if self.lock.held_by(owner):
                self.release()
            raise

    def release(self) -> None:
        """Release the lock, and delete its file if there is no state to go with it."""
        self.lock.release(remove=(self.fresh or self.destroyed) and not _atomic.may_be_there(self.state))


def absolute_root(value: object) -> str:
    """`value` as an absolute path.

    Raises:
        InvalidRootError: it can be no path.
    """
    try:
        path = os.fspath(value)  # type: ignore[call-overload]  # whatever else it is, the check names it
    except TypeError:
        path = None
    if not isinstance(path, str):
        raise InvalidRootError(root_dir=value, reason="it is no path of type str")
    if not path:
        raise InvalidRootError(root_dir=value, reason="it is empty")
    if "\0" in path:
        raise InvalidRootError(root_dir=value, reason="it holds a NUL")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidRootError(root_dir=value, reason="it is not UTF-8, so no state file could name it") from None
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise InvalidRootError(root_dir=value, reason="it is relative, and the working directory is gone") from None
