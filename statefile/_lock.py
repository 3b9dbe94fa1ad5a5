"""The lock: exclusive `flock(2)` on a lock file, proved to be the file that its path names.

A lock file is removed together with its state, so a waiter may get the lock of a file that has lost its name while another
makes a new file there and locks that. Therefore the locked inode is compared with the path after every acquisition; a stale
one is dropped and the wait starts over.

How a lock is taken is written once, as steps that stop where somebody must wait: `run` waits for them in this thread, and an
event loop does it in its own way.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from statefile import _atomic, _log
from statefile._claim import Claim, owner_of
from statefile._holder import holder_of_file
from statefile._waiter import Deadline, NoThreadError, Reminder, Room
from statefile.errors import DeadlockError, LockTimeoutError, NotLockedError, StateIOError

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")
Steps: TypeAlias = "Generator[Blocked, Claim | None, T]"
"""What a verb does about a lock, stopping where somebody must wait for it."""

REMIND_AFTER = 1.0
"""Seconds of waiting after which one log line says for whom."""


class Owner(NamedTuple):
    """Who asks for a lock: a thread, or an asyncio task in it."""

    thread: object
    task: object = None

    def waits_for_itself(self, holder: object) -> bool:
        """Whether `holder`, an `Owner`, can never let go while this one waits: a thread that blocks stops all its tasks."""
        if not isinstance(holder, Owner):
            return False
        return holder.thread is self.thread if self.task is None else holder.task is self.task


class Blocked:
    """A lock file that another holds, and how long to wait for it."""

    __slots__ = ("left", "path")

    def __init__(self, path: str, left: float | None) -> None:
        """`left` in seconds; `None` waits for good."""
        self.path = path
        self.left = left

    def wait(self) -> Claim | None:
        """Wait in this thread, but not longer; the claim that has the lock, or `None` when the time is up."""
        return self.enter().wait(self.left) if self.left else None

    def enter(self) -> Room[Claim]:
        """Where to wait if this thread must not be blocked for good."""
        return _room(self.path)


def run(steps: Steps[T]) -> T:
    """Take the steps to their end, waiting in this thread where they say so."""
    try:
        blocked = next(steps)
        while True:
            try:
                granted = blocked.wait()
            except BaseException as error:  # noqa: BLE001  # the steps clean up, and say what it means
                blocked = steps.throw(error)
            else:
                blocked = steps.send(granted)
    except StopIteration as stop:
        value: T = stop.value
        return value


class FileLock:
    """The lock that one object holds, or does not hold, on the lock file at `path`."""

    __slots__ = ("_claim", "path")

    def __init__(self, path: str) -> None:
        """No file is touched yet."""
        self.path = path
        self._claim: Claim | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock now, in this process."""
        claim = self._claim
        return claim is not None and claim.valid

    def held_by(self, owner: Owner) -> bool:
        """Whether this object holds the lock now, and `owner` took it."""
        claim = self._claim
        return claim is not None and claim.is_owned_by(owner)

    def acquire(self, owner: Owner, deadline: Deadline, *, create: bool) -> Steps[None]:
        """Take the lock, step by step: at the end nobody else has it, and `path` names the locked file.

        With `create` a missing lock file is made.

        Raises:
            FileNotFoundError: there is no lock file, and `create` is false or there is no directory.
            LockTimeoutError: it was not free in time.
            DeadlockError: `owner` holds it already.
            LockUnsupportedError: the file system cannot lock.
            UnsafePathError: something that is no regular file stands there.
            StateIOError: another system call failed.
        """
        while True:
            claim = Claim(self.path, create=create)
            try:
                if not claim.try_lock():
                    claim = yield from _wait(claim, owner, deadline)
                if claim.is_current():
                    claim.own(owner)
                    self._claim = claim
                    return
            except FileNotFoundError:
                pass  # it was removed before the helper thread had opened it: stale too
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
        try:
            if remove and claim is not None and claim.valid and claim.is_current():
                _atomic.remove(self.path)
        finally:
            released = claim is not None and claim.close()
        if not released:
            raise NotLockedError(path=self.path, operation="unlock()")


def _wait(claim: Claim, owner: Owner, deadline: Deadline) -> Steps[Claim]:
    """A locked claim: `claim`, which has found the lock taken, or another in its place."""
    if owner.waits_for_itself(owner_of(claim.key)):
        raise DeadlockError(path=claim.path)
    reminded = _reminder.watch(partial(_say_who, claim.path, claim.key))
    try:
        if owner.task is None and deadline.timeout is None:
            claim.lock()  # nobody needs to call this thread back: it may wait in the kernel by itself
            return claim
        claim.close()  # the wait is a helper thread's, which has a claim of its own
        granted = yield Blocked(claim.path, deadline.left())
    except NoThreadError as error:
        raise StateIOError(path=claim.path, operation="start a thread to wait for", errno=errno.EAGAIN) from error
    finally:
        reminded.over = True
    if granted is None:
        raise LockTimeoutError(path=claim.path, timeout=deadline.timeout or 0.0, holder=holder_of_file(claim.key))
    return granted


def _room(path: str) -> Room[Claim]:
    """Where this process waits for the lock file at `path`; the room goes when nobody is in it."""
    room = _rooms.get(path)
    if room is None:
        room = _rooms.setdefault(path, Room(lambda wait: _take(path, wait=wait), Claim.close))
    return room


def _take(path: str, *, wait: bool) -> Claim | None:
    claim = Claim(path, create=False)
    if wait:
        claim.lock()
    elif not claim.try_lock():
        claim.close()
        return None
    return claim


def _say_who(path: str, key: tuple[int, int]) -> None:
    holder = holder_of_file(key)
    _log.info("waiting for %s, held by %s", path, holder or "a process that cannot be seen from here")


def this_thread() -> Owner:
    """The running thread as an owner; not its number, which is given to another when it has ended."""
    try:
        found: Owner = _local.owner
        return found
    except AttributeError:
        owner = _local.owner = Owner(object())
        return owner


def _forget_in_child() -> None:
    """After a fork, in the child: its helper threads are the parent's."""
    global _reminder  # noqa: PLW0603  # the child has its own
    _rooms.clear()
    _reminder = Reminder(REMIND_AFTER)


_local = threading.local()
_rooms: weakref.WeakValueDictionary[str, Room[Claim]] = weakref.WeakValueDictionary()
_reminder = Reminder(REMIND_AFTER)
os.register_at_fork(after_in_child=_forget_in_child)
