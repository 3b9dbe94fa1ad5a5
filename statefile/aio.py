"""`AsyncStateFile`: the primitives of `StateFile` as coroutines. A face, no twin: every verb is the same steps.

System calls are made in a few worker threads of this module's own (the loop's default pool is left alone), and a wait for a
lock is a place in the process's queue for it, which needs no thread of its own however many tasks wait. Works with asyncio
and with loops that implement it, such as uvloop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from statefile._lock import Owner, this_thread
from statefile._state_file import Durability, StateFile, place_of
from statefile._waiter import Deadline

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from statefile._claim import Claim
    from statefile._holder import LockHolder
    from statefile._ids import FullID
    from statefile._lock import Blocked, Steps

T = TypeVar("T")

WORKERS = 8
"""Threads that make the system calls of all objects of this process."""


class AsyncStateFile:
    """`StateFile` for asyncio: the same names, the same promises, as coroutines.

    The event loop is never blocked. A lock belongs to the task that took it: another task waits, that task itself gets
    `DeadlockError`. A cancelled wait holds nothing afterwards. A cancelled save or load is over, one way or the other, when
    `CancelledError` comes out of it: nothing goes on behind the caller's back.
    """

    def __init__(self, *, root_dir: str | os.PathLike[str], id: FullID | str, durability: Durability = Durability.FULL) -> None:
        """As `StateFile`: no file is touched, a relative root is made absolute."""
        self._file = StateFile(root_dir=root_dir, id=id, durability=durability)
        self._place = place_of(self._file)

    def __repr__(self) -> str:
        return f"Async{self._file!r}"

    # -- names: no system call, no waiting -----------------------------------------------------------------------------

    @property
    def root_dir(self) -> Path:
        """As `StateFile.root_dir`."""
        return self._file.root_dir

    @property
    def id(self) -> FullID:
        """As `StateFile.id`."""
        return self._file.id

    @property
    def durability(self) -> Durability:
        """As `StateFile.durability`."""
        return self._file.durability

    @property
    def state_path(self) -> Path:
        """As `StateFile.state_path`."""
        return self._file.state_path

    @property
    def lock_path(self) -> Path:
        """As `StateFile.lock_path`."""
        return self._file.lock_path

    @property
    def locked(self) -> bool:
        """As `StateFile.locked`."""
        return self._file.locked

    # -- verbs: one line each ------------------------------------------------------------------------------------------

    async def exists(self) -> bool:
        """As `StateFile.exists`."""
        return await _call(self._file.exists)

    async def stat(self) -> os.stat_result:
        """As `StateFile.stat`."""
        return await _call(self._file.stat)

    async def holder(self) -> LockHolder | None:
        """As `StateFile.holder`."""
        return await _call(self._file.holder)

    async def lock(self, *, timeout: float | None = None) -> None:
        """As `StateFile.lock`."""
        await _take(partial(self._place.lock_existing, _this_task(), Deadline(timeout)), undo=self._file.unlock)

    async def lock_for_new(self, *, timeout: float | None = None) -> None:
        """As `StateFile.lock_for_new`."""
        await _take(partial(self._place.lock_new, _this_task(), Deadline(timeout)), undo=self._file.unlock)

    async def unlock(self) -> None:
        """As `StateFile.unlock`."""
        await _call(self._file.unlock)

    async def load(self, type_: type[T]) -> T:
        """As `StateFile.load`."""
        return await _call(partial(self._file.load, type_))

    async def save_locked(self, state: object) -> None:
        """As `StateFile.save_locked`."""
        await _call(partial(self._file.save_locked, state))

    async def destroy(self, *, timeout: float | None = None) -> None:
        """As `StateFile.destroy`."""
        await _take(partial(self._place.destroy, _this_task(), Deadline(timeout)))

    @contextlib.asynccontextmanager
    async def hold(self, *, timeout: float | None = None) -> AsyncGenerator[Self]:
        """As `StateFile.hold`."""
        await self.lock(timeout=timeout)
        async with self._unlocked_at_the_end():
            yield self

    @contextlib.asynccontextmanager
    async def hold_for_new(self, *, timeout: float | None = None) -> AsyncGenerator[Self]:
        """As `StateFile.hold_for_new`."""
        await self.lock_for_new(timeout=timeout)
        async with self._unlocked_at_the_end():
            yield self

    @contextlib.asynccontextmanager
    async def transaction(self, type_: type[T], *, timeout: float | None = None) -> AsyncGenerator[T]:
        """As `StateFile.transaction`."""
        async with self.hold(timeout=timeout):
            state = await self.load(type_)
            yield state
            await self.save_locked(state)

    @contextlib.asynccontextmanager
    async def _unlocked_at_the_end(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            if self.locked:
                await self.unlock()


# -- the funnel --------------------------------------------------------------------------------------------------------


async def _call(function: Callable[[], T]) -> T:
    """Run `function` in a worker thread. Whatever is cancelled meanwhile, it has ended when this ends."""
    loop = asyncio.get_running_loop()
    work = loop.run_in_executor(_workers(), function)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _ended(work)
        raise


async def _ended(work: asyncio.Future[Any]) -> None:
    """Wait until `work` has ended, though cancelled again and again; its result is nobody's any more."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])
    if not work.cancelled():
        work.exception()


async def _take(begin: Callable[[], Steps[T]], undo: Callable[[], object] | None = None) -> T:
    """Take the steps to their end, in worker threads, and wait between them as a task does.

    Cancelled, it gives up what it has; if the end was reached in that very moment, `undo` takes it back.
    """
    steps = begin()
    granted: Claim | None = None
    failed: Exception | None = None
    while True:
        reached: list[T] = []
        try:
            blocked = await _call(partial(_next, steps, granted, failed, reached))
            if blocked is None:
                return reached[0]
            granted = failed = None
            try:
                granted = await _wait(blocked)
            except Exception as error:  # noqa: BLE001  # the steps clean up, and say what it means
                failed = error
        except asyncio.CancelledError:
            await _call_uncancelled(partial(_give_up, steps, granted, undo if reached else None))
            raise


def _next(steps: Steps[T], granted: Claim | None, failed: Exception | None, reached: list[T]) -> Blocked | None:
    """To the next wait; `None` at the end, whose value is then in `reached`."""
    try:
        return steps.send(granted) if failed is None else steps.throw(failed)
    except StopIteration as stop:
        reached.append(stop.value)
        return None


def _give_up(steps: Steps[Any], granted: Claim | None, undo: Callable[[], object] | None) -> None:
    steps.close()
    if undo is not None:
        undo()
    if granted is not None:
        granted.close()


async def _call_uncancelled(function: Callable[[], object]) -> None:
    work = asyncio.get_running_loop().run_in_executor(_workers(), function)
    await _ended(work)


async def _wait(blocked: Blocked) -> Claim | None:
    """Wait in the queue for the lock; `None` when the time is up."""
    if blocked.left == 0:
        return None
    loop = asyncio.get_running_loop()
    bell = asyncio.Event()
    room = blocked.enter()
    ticket = room.enter(partial(loop.call_soon_threadsafe, bell.set))
    try:
        room.serve()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(blocked.left):
                await bell.wait()
        outcome = ticket.close()
        return None if outcome is None else outcome.collect()
    finally:
        room.leave(ticket)


def _this_task() -> Owner:
    return Owner(this_thread().thread, asyncio.current_task())


def _workers() -> ThreadPoolExecutor:
    """The worker threads, made when first used; a forked child makes its own."""
    global _pool  # noqa: PLW0603  # one a process
    if _pool is None:
        _pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="statefile")
    return _pool


def _forget_in_child() -> None:
    global _pool  # noqa: PLW0603  # its threads are the parent's
    _pool = None


_pool: ThreadPoolExecutor | None = None
os.register_at_fork(after_in_child=_forget_in_child)
