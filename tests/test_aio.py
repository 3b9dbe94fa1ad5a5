"""The lock under asyncio: tasks exclude each other, the loop never blocks, and a cancelled task holds nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from statefile import (
    AlreadyExistsError,
    DeadlockError,
    LockTimeoutError,
    NotFoundError,
    NotLockedError,
    StateFile,
    _lock,
    _waiter,
    aio,
)
from statefile.aio import WORKERS, AsyncStateFile
from tests.harness import PATIENCE, Worker, hear, lock_descriptors, lock_queue, names, tell, threads, until, waits_for
from tests.test_lock import ID, Counter, container, file, held, hold, hold_new, try_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from tests.harness import Spawn

__all__ = ["file", "held"]  # fixtures: pytest finds them by name

A_FEW = 4
"""Threads beside the workers and helpers: the main one, one that goes the rounds, one that reminds, one in passing."""


class Runner:
    """Runs a coroutine in a loop of its own, which is closed at the end."""

    def __init__(self, kind: str) -> None:
        self._factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if kind == "uvloop":
            self._factory = pytest.importorskip("uvloop").new_event_loop

    def __call__(self, main: Coroutine[Any, Any, object]) -> None:
        """As `asyncio.run`."""
        with asyncio.Runner(loop_factory=self._factory) as runner:
            runner.run(asyncio.wait_for(main, PATIENCE))


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Runs a coroutine; the worker threads, which are kept for good, end with the test."""
    yield Runner(request.param)
    pool, aio._pool = aio._pool, None
    if pool is not None:
        pool.shutdown()


def also(file: StateFile) -> AsyncStateFile:
    """Another object for the same container."""
    return AsyncStateFile(root_dir=file.root_dir, id=file.id)


async def true(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "did not come true"
        await asyncio.sleep(0.001)


def waiting_here(file: StateFile | AsyncStateFile) -> int:
    """How many waiters this process has for the lock."""
    room = _lock._rooms.get(str(file.lock_path))
    return 0 if room is None else len(room._queue)


def let_go(held: Worker) -> None:
    """Let the holder end its hold; it has done so when this returns."""
    held.tell()
    held.result()


def free(file: StateFile | AsyncStateFile) -> bool:
    """Whether nobody holds the lock, nor waits for it."""
    return lock_queue(file.lock_path) == ([], [])


# -- tasks are kept apart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("objects", ["one object", "an object each"])
def test_tasks_exclude_each_other(file: StateFile, run: Runner, objects: str, timeout: float | None) -> None:
    """Tasks are kept apart as processes are, whether they share an object or have one each."""
    counter = Counter()

    async def work(mine: AsyncStateFile) -> None:
        for _ in range(15):
            async with mine.hold(timeout=timeout):
                counter.inside += 1
                value = counter.value
                await asyncio.sleep(0)
                counter.clashes += counter.inside != 1
                counter.value = value + 1
                counter.inside -= 1

    async def main() -> None:
        shared = also(file)
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(work(shared if objects == "one object" else also(file)))

    run(main())
    assert (counter.value, counter.clashes) == (120, 0)
    assert free(file)


def test_task_that_would_wait_for_itself_is_told(file: StateFile, run: Runner) -> None:
    """A task that locks what it holds gets `DeadlockError` at once, through whatever object and verb, and holds it still."""

    async def main() -> None:
        mine = also(file)
        async with mine.hold():
            for again in (mine, also(file)):
                for timeout in (None, 0, 30):
                    for verb in (again.lock, again.lock_for_new):
                        with pytest.raises(DeadlockError):
                            await verb(timeout=timeout)
            with pytest.raises(DeadlockError):
                await also(file).destroy()
            assert mine.locked
            assert lock_queue(file.lock_path) == ([os.getpid()], [])
        assert free(file)

    run(main())


@pytest.mark.parametrize("timeout", [None, 30])
def test_another_task_waits_and_is_no_deadlock(file: StateFile, run: Runner, timeout: float | None) -> None:
    """Another task, also one that the holder has started, waits its turn: ownership is the task's and not the thread's."""

    async def main() -> None:
        mine, theirs = also(file), also(file)
        async with mine.hold():
            task = asyncio.create_task(theirs.lock(timeout=timeout))
            await true(lambda: waiting_here(file))
            assert not task.done()
        await task
        assert theirs.locked
        with pytest.raises(NotLockedError):
            await mine.unlock()
        await theirs.unlock()  # any task may release

    run(main())


def test_plain_objects_and_tasks_share_one_lock(file: StateFile, run: Runner) -> None:
    """In the loop's thread a plain `lock` beside a task that holds raises `DeadlockError`; a task waits for a plain holder."""

    async def main() -> None:
        mine = also(file)
        async with mine.hold():
            for timeout in (None, 30):
                with pytest.raises(DeadlockError):  # it would stop the loop, and with it the holder
                    file.lock(timeout=timeout)
            threaded = StateFile(root_dir=file.root_dir, id=ID)
            thread = threading.Thread(target=threaded.lock)
            thread.start()
            await true(lambda: waits_for(os.getpid(), file.lock_path))
        thread.join()  # it was served when the task let go
        task = asyncio.create_task(mine.lock())
        await true(lambda: waiting_here(file))
        threaded.unlock()
        await task
        await mine.unlock()
        file.lock()
        task = asyncio.create_task(mine.lock(timeout=30))
        await true(lambda: waiting_here(file))
        file.unlock()
        await task
        await mine.unlock()

    run(main())


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_timeout_ends_the_wait_of_a_task(file: StateFile, held: Worker, run: Runner, timeout: float) -> None:
    """0 tries once, 0.05 waits that long; the error names the holder, and nothing is held or open afterwards."""

    async def main() -> None:
        mine = also(file)
        for verb in (mine.lock, mine.lock_for_new, mine.destroy):
            start = time.monotonic()
            with pytest.raises(LockTimeoutError) as caught:
                await verb(timeout=timeout)
            assert time.monotonic() - start >= timeout
            assert caught.value.timeout == timeout
            assert caught.value.holder is not None
            assert caught.value.holder.pid == held.pid
            assert not mine.locked
        with pytest.raises(ValueError, match="timeout"):
            await mine.lock(timeout=-1)
        holder = await mine.holder()
        assert holder is not None
        assert holder.pid == held.pid
        assert len(lock_descriptors()) <= 1
        let_go(held)
        await true(lambda: not lock_descriptors())
        assert try_lock(file.root_dir, timeout=5) == "got it"
        await mine.lock(timeout=0)
        await mine.unlock()

    run(main())


# -- cancelled ---------------------------------------------------------------------------------------------------------


async def cancelled(task: asyncio.Task[object]) -> bool:
    """Wait for a task that may be cancelled; whether it was."""
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def some_time(chance: random.Random, most: float) -> None:
    """Some turns of the loop, or some part of a second."""
    if chance.random() < 0.5:
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(chance.random() * most)


def test_cancelled_at_any_moment_while_another_holds(file: StateFile, held: Worker, run: Runner, spawn: Spawn) -> None:
    """Whenever a task is cancelled that waits behind another process, it holds nothing, and others lock at once later."""
    chance = random.Random(1)
    other = spawn()

    async def main() -> None:
        for n in range(150):
            mine = also(file)
            task = asyncio.create_task(mine.lock(timeout=None if n % 2 else 30))
            await some_time(chance, 0.003)
            task.cancel()
            assert await cancelled(task)
            assert not mine.locked
        assert waiting_here(file) == 0
        assert len(lock_descriptors()) <= 1
        let_go(held)
        assert other.call(try_lock, file.root_dir, ID, 5) == "got it"
        await true(lambda: not lock_descriptors())
        assert other.call(try_lock, file.root_dir) == "got it"

    run(main())


def test_cancelled_at_any_moment_of_a_block(file: StateFile, run: Runner, spawn: Spawn) -> None:
    """Whenever a task is cancelled that locks, works and unlocks, the lock is free by the time that it has ended."""
    chance = random.Random(2)
    other = spawn()
    outcomes = []

    async def work(mine: AsyncStateFile) -> None:
        async with mine.transaction(dict) as state:
            state["n"] = state.get("n", 0) + 1

    async def main() -> None:
        for _ in range(150):
            mine = also(file)
            task = asyncio.create_task(work(mine))
            await some_time(chance, 0.002)
            task.cancel()
            outcomes.append(await cancelled(task))
            assert not mine.locked
            assert free(file)
            assert lock_descriptors() == []

    run(main())
    assert set(outcomes) == {True, False}
    assert other.call(try_lock, file.root_dir) == "got it"


def test_cancelled_while_the_lock_is_handed_over(file: StateFile, run: Runner) -> None:
    """Cancelled in the very moment in which it would get the lock, a task either has it or does not keep it from the next."""
    chance = random.Random(3)
    got = []

    async def main() -> None:
        for n in range(150):
            first, second = also(file), also(file)
            file.lock()
            task = asyncio.create_task(first.lock())
            await true(lambda: waiting_here(file) == 1)
            behind = asyncio.create_task(second.lock(timeout=30))
            if n % 2:
                await true(lambda: waiting_here(file) == 2)
            file.unlock()
            await some_time(chance, 0.001)
            task.cancel()
            was_cancelled = await cancelled(task)
            got.append(not was_cancelled)
            assert first.locked is not was_cancelled
            if first.locked:
                await first.unlock()
            await behind
            await second.unlock()
            await true(lambda: free(file))

    run(main())
    assert set(got) == {True, False}


def test_cancelled_save_is_over_when_it_says_so(file: StateFile, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is cancelled, a save in a worker thread goes on under the lock, and has ended before the task does."""
    entered, gate = threading.Event(), threading.Event()
    seen: list[object] = []

    def slow(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            entered.set()
            assert gate.wait(PATIENCE)
            seen.append(lock_queue(file.lock_path)[0])
            return real(*args, **kwargs)

        return call

    async def save() -> None:
        async with also(file).hold() as mine:
            await mine.save_locked({"id": "new"})

    async def main() -> None:
        task = asyncio.create_task(save())
        await true(entered.is_set)
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0.005)
            assert not task.done()
            assert lock_queue(file.lock_path)[0] == [os.getpid()]
        gate.set()
        assert await cancelled(task)
        assert free(file)
        calls = len(seen)
        assert file.load(dict) == {"id": "new"}
        assert await also(file).load(dict) == {"id": "new"}
        assert len(seen) == calls

    for name in ("fsync", "fdatasync", "rename", "replace"):
        monkeypatch.setattr(os, name, slow(getattr(os, name)))
    run(main())
    assert seen
    assert all(holders == [os.getpid()] for holders in seen), "it went on without the lock"


def test_cancelled_block_lets_go(file: StateFile, run: Runner) -> None:
    """A task that is cancelled, or fails, inside a block leaves the state as it was and the lock free."""

    async def work(error: Exception | None) -> None:
        async with also(file).transaction(dict) as state:
            state["n"] = 1
            if error:
                raise error
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(work(None))
        await true(lambda: lock_queue(file.lock_path)[0])
        await true(lambda: also(file).locked or waiting_here(file) == 0)
        task.cancel()
        assert await cancelled(task)
        assert free(file)
        with pytest.raises(KeyError):
            await work(KeyError())
        assert free(file)
        assert file.load(dict) == {"id": ID}

    run(main())


# -- many tasks, few threads -------------------------------------------------------------------------------------------


def hold_many(root: Path, ids: list[str]) -> None:
    """Hold the locks of many containers; let go of those that are heard, until nothing is heard."""
    files = {name: StateFile(root_dir=root, id=name) for name in ids}
    for it in files.values():
        it.lock()
    tell("in")
    while wanted := hear():
        for name in wanted:
            files[name].unlock()
        tell("out")


def test_many_tasks_for_many_containers(root: Path, run: Runner, spawn: Spawn) -> None:
    """200 tasks that wait for 200 containers need a bounded number of threads, and all are served: also without a helper."""
    ids = [f"c{n}" for n in range(200)]
    for name in ids:
        container(root, name)
    holder = spawn()
    holder.start(hold_many, root, ids)
    assert holder.hear() == "in"
    files = {name: AsyncStateFile(root_dir=root, id=name) for name in ids}
    most = 0

    def count(*, files_too: bool = True) -> bool:
        nonlocal most
        most = max(most, len(threads()))
        assert not files_too or len(lock_descriptors()) <= _waiter.HELPERS + WORKERS + A_FEW
        return True

    async def main() -> None:
        tasks = {name: asyncio.create_task(it.lock()) for name, it in files.items()}
        await true(lambda: count() and sum(map(waiting_here, files.values())) == 200)
        await true(lambda: count() and not _waiter._places)
        helped: set[str] = set()

        def find_helped() -> bool:
            # The kernel tells of locks page by page: while others lock, one may be passed over.
            helped.clear()
            helped.update(name for name, it in files.items() if waits_for(os.getpid(), it.lock_path))
            return len(helped) == _waiter.HELPERS

        await true(find_helped)
        await true(lambda: len(threads()) <= _waiter.HELPERS + WORKERS + A_FEW)
        for wanted in (set(ids) - helped, helped):
            holder.tell(sorted(wanted))
            assert holder.hear() == "out"
            for name in wanted:
                await tasks[name]
                await files[name].unlock()
                count(files_too=False)  # others have been served meanwhile
        await true(lambda: len(_waiter._places) == _waiter.HELPERS)

    run(main())
    holder.tell()
    holder.result()
    assert most >= _waiter.HELPERS
    assert lock_descriptors() == []


def test_many_tasks_for_one_container(file: StateFile, held: Worker, run: Runner) -> None:
    """200 tasks that wait for one container share one thread and one descriptor, and are served in the order they came."""
    order: list[int] = []

    async def work(n: int) -> None:
        async with also(file).hold(timeout=None if n % 2 else 30):
            order.append(n)

    async def main() -> None:
        tasks = []
        for n in range(200):
            tasks.append(asyncio.create_task(work(n)))
            if n < 20:
                await true(lambda n=n: waiting_here(file) == n + 1)  # type: ignore[misc]
        await true(lambda: waiting_here(file) == 200)
        await true(lambda: len(threads()) <= 1 + WORKERS + A_FEW)
        await true(lambda: len(lock_descriptors()) == 1)
        let_go(held)
        await asyncio.gather(*tasks)
        await true(lambda: len(threads()) <= 1 + WORKERS + A_FEW)

    run(main())
    assert order[:20] == list(range(20))
    assert sorted(order) == list(range(200))
    assert lock_descriptors() == []


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_loop_is_never_blocked(file: StateFile, held: Worker, run: Runner) -> None:
    """While a lock is waited for, the loop turns as ever; here it is another task that sees to it that the holder lets go."""
    gaps = []

    async def tick() -> None:
        last = time.monotonic()
        for n in range(300):
            await asyncio.sleep(0.001)
            now = time.monotonic()
            gaps.append(now - last)
            last = now
            if n == 200:
                let_go(held)

    async def main() -> None:
        ticker = asyncio.create_task(tick())
        mine = also(file)
        with pytest.raises(LockTimeoutError):
            await mine.lock(timeout=0.05)
        async with mine.transaction(dict) as state:
            state["n"] = 1
        await ticker

    run(main())
    assert len(gaps) == 300
    assert sorted(gaps)[-3] < 0.25, "the loop stood still"  # a busy machine may be late once or twice


class NobodysPool(ThreadPoolExecutor):
    """The default pool of a loop, which is not ours to use."""

    used = 0

    def submit(self, *_: Any, **__: Any) -> NoReturn:
        self.used += 1
        raise AssertionError("the default executor was used")


def test_default_executor_is_left_alone(file: StateFile, held: Worker, run: Runner) -> None:
    """No verb uses the loop's default pool, which a program may have filled with work of its own."""
    pool = NobodysPool(1)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(pool)
        mine = also(file)
        task = asyncio.create_task(mine.lock())
        await true(lambda: waits_for(os.getpid(), file.lock_path))
        let_go(held)
        await task
        await mine.save_locked({"n": 1})
        assert await mine.load(dict) == {"n": 1}
        assert (await mine.stat()).st_size > 0
        assert await mine.holder() is not None
        await mine.destroy()
        await mine.unlock()
        assert not await mine.exists()

    run(main())
    assert pool.used == 0


def test_two_loops_one_after_the_other(file: StateFile, root: Path, run: Runner, spawn: Spawn) -> None:
    """The same object works in a second loop as in the first, and a lock may be kept from one to the next."""
    mine, holder = also(file), spawn()

    async def wait_and_keep() -> None:
        holder.start(hold, root)
        assert holder.hear() == "in"
        task = asyncio.create_task(mine.lock(timeout=30))
        await true(lambda: waits_for(os.getpid(), file.lock_path))
        holder.tell()
        await task
        holder.result()

    async def release() -> None:
        assert mine.locked
        await mine.unlock()

    for _ in range(2):
        run(wait_and_keep())
        assert lock_queue(file.lock_path)[0] == [os.getpid()]
        run(release())
    assert free(file)


def test_loop_that_ends_while_tasks_wait(file: StateFile, held: Worker, run: Runner) -> None:
    """Tasks that still wait when their loop ends are cancelled by it, and keep nothing."""
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        tasks.extend(asyncio.create_task(also(file).lock(timeout=None if n % 2 else 30)) for n in range(10))
        await true(lambda: waiting_here(file) == 10)

    run(main())
    assert all(task.cancelled() for task in tasks)
    let_go(held)
    until(lambda: free(file))
    until(lambda: not lock_descriptors())  # free first, closed then


def test_loop_that_is_closed_over_a_waiting_task(file: StateFile, held: Worker, run: Runner, spawn: Spawn) -> None:
    """A task whose loop was closed without a word can never come for the lock: it is not kept for it."""
    del run  # its worker threads end with the test
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!", which it is
    task = loop.create_task(also(file).lock())
    loop.run_until_complete(true(lambda: waits_for(os.getpid(), file.lock_path)))
    loop.close()
    let_go(held)
    assert spawn().call(try_lock, file.root_dir, ID, 5) == "got it"
    assert not task.done()
    file.lock(timeout=5)
    file.unlock()
    until(lambda: lock_descriptors() == [])
    del task
    gc.collect()
    assert free(file)


# -- the verbs ---------------------------------------------------------------------------------------------------------


def test_blocks_hold_and_release(root: Path, run: Runner, spawn: Spawn) -> None:
    """`hold_for_new`, `hold`, `transaction` and `destroy` do as coroutines what their namesakes do."""
    other = spawn()

    async def main() -> None:
        mine = AsyncStateFile(root_dir=root, id=ID)
        for block in (mine.hold(), mine.transaction(dict)):
            with pytest.raises(NotFoundError):
                async with block:
                    pass
        with pytest.raises(NotLockedError):
            await mine.save_locked({})
        async with mine.hold_for_new() as entered:
            assert entered is mine
            assert mine.locked
            assert other.call(try_lock, root) == "LockTimeoutError"
            await mine.save_locked({"n": 0})
        with pytest.raises(AlreadyExistsError):
            async with mine.hold_for_new():
                pass
        async with mine.hold() as entered:
            assert entered is mine
            assert other.call(try_lock, root) == "LockTimeoutError"
        assert other.call(try_lock, root) == "got it"
        async with mine.transaction(dict, timeout=5) as state:
            state["n"] += 1
        assert await mine.load(dict) == {"n": 1}
        async with mine.hold():
            await mine.unlock()  # let go early: the block's end does not mind
        async with mine.hold():
            await mine.destroy()
        assert not await mine.exists()
        await mine.destroy()
        assert names(root) == []

    run(main())


def test_destroy_waits_and_waiters_are_told(file: StateFile, held: Worker, root: Path, run: Runner, spawn: Spawn) -> None:
    """A `destroy` waits for the holder; tasks that waited behind it get `NotFoundError`, or make a new one."""
    newcomer = spawn()

    async def main() -> None:
        destroyer = asyncio.create_task(also(file).destroy())
        await true(lambda: waiting_here(file) == 1)
        late = [asyncio.create_task(also(file).lock(timeout=timeout)) for timeout in (None, 30)]
        await true(lambda: waiting_here(file) == 3)
        let_go(held)
        await destroyer
        for task in late:
            with pytest.raises(NotFoundError):
                await task
        newcomer.start(hold_new, root)
        assert newcomer.hear() == "in"
        behind = also(file)
        task = asyncio.create_task(behind.lock_for_new())
        await true(lambda: waits_for(os.getpid(), file.lock_path))
        newcomer.tell()
        with contextlib.suppress(AlreadyExistsError):
            await task
        assert not behind.locked
        newcomer.result()

    run(main())
    assert file.load(dict) == {"id": ID}
    assert free(file)
