"""Waiting with a deadline, or from asyncio, for something that can only be waited for by blocking.

A thread that is blocked in `flock(2)` cannot be called back: neither a deadline nor a cancelled task ends the call. So one
helper thread per contended thing blocks in the kernel, where it keeps its place in the queue and uses no CPU, and hands what
it gets to whoever has waited longest and still wants it; if nobody does, it lets go at once. There are `HELPERS` such threads
at the most; what is contended beyond that is tried every `ROUND` seconds by one more thread, until one of them is free.

Nothing here takes a mutex, so an exception out of a signal handler, at any point, leaves nothing locked: who gets a thing is
decided by single calls that are atomic under the interpreter lock, and each waiter leaves through one `finally`.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

HELPERS = 32
"""Threads of a process that block, each for one contended thing."""
LINGER = 0.02
"""Seconds for which such a thread stays when nobody waits any more: to start one costs more than to wake one."""
ROUND = 0.005
"""Seconds between two tries for each thing that has no such thread."""


class NoThreadError(RuntimeError):
    """The system gives this process no further thread."""


def _start(run: Callable[[], object]) -> None:
    try:
        _thread.start_new_thread(run, ())
    except RuntimeError as error:
        raise NoThreadError(str(error)) from error


class Deadline:
    """Until when to wait."""

    __slots__ = ("_end", "timeout")

    def __init__(self, timeout: float | None) -> None:
        """`timeout` in seconds from now: `None` waits for good, 0 tries once.

        Raises:
            ValueError: it is negative, NaN or no number.
        """
        try:
            if timeout is not None:
                timeout = timeout + 0.0
                if not timeout >= 0:  # NaN is not
                    raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"a timeout is None or a number of seconds from 0, not {timeout!r:.80}") from None
        self.timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Seconds that are left, 0 at the least; `None` for good."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


class Outcome(Generic[T]):
    """What the helper has for a waiter: the thing, or the error that it met instead."""

    __slots__ = ("error", "value")

    def __init__(self, value: T | None, error: BaseException | None = None) -> None:
        """One of the two is `None`."""
        self.value = value
        self.error = error

    def collect(self) -> T | None:
        """Take the thing out, so that nobody else finds it.

        Raises:
            BaseException: what the helper met instead.
        """
        if self.error is not None:
            raise self.error
        value, self.value = self.value, None
        return value


_LEFT: Final[Outcome[object]] = Outcome(None)


class Ticket(Generic[T]):
    """One waiter's place, which has one outcome: what the helper grants, or that the waiter has left."""

    __slots__ = ("_outcome", "_ring")

    def __init__(self, ring: Callable[[], object]) -> None:
        """`ring` is called, from the helper thread, once something was granted."""
        self._ring = ring
        self._outcome: dict[None, Outcome[T]] = {}

    def grant(self, outcome: Outcome[T]) -> bool:
        """Hand over; false if the waiter has left."""
        if self._outcome.setdefault(None, outcome) is not outcome:
            return False
        try:
            self._ring()
        except RuntimeError:  # an event loop that was closed meanwhile: nobody will come for it
            self._outcome[None] = _LEFT  # type: ignore[assignment]  # as in `close`
            return False
        return True

    def close(self) -> Outcome[T] | None:
        """What was granted, or `None`: then nothing will be."""
        outcome = self._outcome.setdefault(None, _LEFT)  # type: ignore[arg-type]  # it holds nothing of any type
        return None if outcome is _LEFT else outcome


class Room(Generic[T]):
    """Where the waiters of this process wait for one thing, first come, first served."""

    def __init__(self, take: Callable[[bool], T | None], drop: Callable[[T], object]) -> None:
        """`take(True)` blocks until it has the thing, `take(False)` may come back with `None`; `drop` gives it back."""
        self._take = take
        self._drop = drop
        self._queue: deque[Ticket[T]] = deque()
        self._serving = _thread.allocate_lock()
        self._idle = _thread.allocate_lock()  # unlocked: whoever serves is to look again
        self._idle.acquire()

    def enter(self, ring: Callable[[], object]) -> Ticket[T]:
        """Take a place at the end. Whoever enters also leaves, whatever happens in between."""
        ticket: Ticket[T] = Ticket(ring)
        self._queue.append(ticket)
        return ticket

    def serve(self) -> None:
        """See to it that a helper thread is at work."""
        if self._serving.locked():
            with contextlib.suppress(RuntimeError):  # it has been told already
                self._idle.release()
        elif _places:
            _start(self._help)
        else:
            _rounds.include(self)

    def leave(self, ticket: Ticket[T]) -> None:
        """Give the place up; what was granted and not collected is given back."""
        outcome = ticket.close()
        if outcome is None:
            with contextlib.suppress(ValueError):  # the helper has taken it out this very moment
                self._queue.remove(ticket)
        elif outcome.value is not None:
            self._drop(outcome.value)

    def wait(self, seconds: float | None) -> T | None:
        """Block until the thing is ours and return it, or `None` once `seconds` have passed.

        Raises:
            BaseException: what `take` raised, or a signal handler; the place is given up.
        """
        bell = _thread.allocate_lock()
        bell.acquire()
        ticket = self.enter(bell.release)
        try:
            self.serve()
            bell.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))
            outcome = ticket.close()
            return None if outcome is None else outcome.collect()
        finally:
            self.leave(ticket)

    def _help(self) -> None:
        """Serve whoever waits here, in this thread if it is one of the few, and by the rounds otherwise."""
        try:
            place = _places.pop()
        except IndexError:
            _rounds.include(self)
            return
        try:
            self._serve()
        finally:
            _places.append(place)

    def _serve(self) -> None:
        # Look again after letting go: a waiter that came in between saw us at work and started nobody.
        while self._queue and self._serving.acquire(blocking=False):
            try:
                while self._queue or (_places and self._idle.acquire(timeout=LINGER)):
                    if self._queue:
                        self._serve_one(wait=True)
            finally:
                self._serving.release()

    def try_to_serve(self) -> bool:
        """Without blocking; whether this room needs no more tries, since nobody waits or a thread of its own can."""
        if not self._queue:
            return True
        if _places:
            self.serve()
            return True
        if self._serving.acquire(blocking=False):
            try:
                self._serve_one(wait=False)
            finally:
                self._serving.release()
        return False

    def _serve_one(self, *, wait: bool) -> None:
        outcome: Outcome[T]
        try:
            outcome = Outcome(self._take(wait))
            if outcome.value is None:
                return
        except BaseException as error:  # noqa: BLE001  # it is raised again, in the thread that waits
            outcome = Outcome(None, error)
        while self._queue:
            try:
                ticket = self._queue.popleft()
            except IndexError:  # the last one left this very moment
                break
            if ticket.grant(outcome):
                return
        if outcome.value is not None:
            self._drop(outcome.value)


class Rounds:
    """One thread that goes round the rooms without a thread of their own, while there are any."""

    def __init__(self) -> None:
        self._rooms: dict[int, Room[Any]] = {}
        self._running = _thread.allocate_lock()

    def include(self, room: Room[Any]) -> None:
        """Try for `room` until somebody else can, or nobody waits in it."""
        self._rooms[id(room)] = room
        if not self._running.locked():
            _start(self._run)

    def _run(self) -> None:
        while self._rooms and self._running.acquire(blocking=False):
            try:
                while self._rooms:
                    for key, room in list(self._rooms.items()):
                        if room.try_to_serve():
                            self._rooms.pop(key, None)
                    time.sleep(ROUND)
            finally:
                self._running.release()


class Wait:
    """A wait that is worth a line once it is due, unless it is over by then."""

    __slots__ = ("due", "over", "remind")

    def __init__(self, due: float, remind: Callable[[], object]) -> None:
        """`due` on the monotonic clock."""
        self.due = due
        self.remind = remind
        self.over = False


class Reminder:
    """Calls back once for every wait that lasts: one thread for the whole process, and only while somebody waits."""

    def __init__(self, after: float) -> None:
        """A wait of `after` seconds is worth a line."""
        self._after = after
        self._waits: deque[Wait] = deque()
        self._running = _thread.allocate_lock()

    def watch(self, remind: Callable[[], object]) -> Wait:
        """Call `remind` from another thread when `after` seconds have passed, unless the wait is `over` by then."""
        wait = Wait(time.monotonic() + self._after, remind)
        self._waits.append(wait)
        if not self._running.locked():
            with contextlib.suppress(NoThreadError):  # then there is no line: no reason not to wait
                _start(self._run)
        return wait

    def _run(self) -> None:
        while self._waits and self._running.acquire(blocking=False):
            try:
                while self._waits:
                    wait = self._waits[0]  # the oldest: the others are due later
                    if not wait.over:
                        time.sleep(max(0.0, wait.due - time.monotonic()))
                    self._waits.popleft()
                    if not wait.over:
                        wait.remind()
            finally:
                self._running.release()


def _forget_in_child() -> None:
    """After a fork, in the child: these threads are the parent's."""
    global _rounds  # noqa: PLW0603  # the child has its own
    _places[:] = range(HELPERS)
    _rounds = Rounds()


_places = list(range(HELPERS))
_rounds = Rounds()
os.register_at_fork(after_in_child=_forget_in_child)
