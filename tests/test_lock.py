"""The lock: one holder at a time whatever is removed, forked, killed, interrupted or planted, and errors that say who."""

from __future__ import annotations

import contextlib
import dis
import errno
import fcntl
import gc
import itertools
import logging
import math
import multiprocessing
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import portalocker.portalocker
import pytest
from pydantic import BaseModel

from statefile import (
    AlreadyExistsError,
    CorruptStateError,
    DeadlockError,
    FullID,
    LockTimeoutError,
    LockUnsupportedError,
    NotFoundError,
    NotLockedError,
    StateDir,
    StateFile,
    StateFileError,
    StateIOError,
    UnsafePathError,
    _claim,
)
from tests import harness
from tests.harness import (
    NOBODY,
    STRACE,
    Worker,
    hear,
    lock_descriptors,
    lock_queue,
    meet,
    names,
    needs_strace,
    tell,
    threads,
    until,
    waits_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from tests.harness import Spawn

ID = "c1"


def container(root: Path, name: str = ID) -> StateFile:
    """A container that exists, unlocked."""
    file = StateFile(root_dir=root, id=name)
    with file.hold_for_new():
        file.save_locked({"id": name})
    return file


def hold(root: Path, name: str = ID, timeout: float | None = None) -> None:
    """Hold the lock from when "in" is told until something is heard."""
    with StateFile(root_dir=root, id=name).hold(timeout=timeout):
        tell("in")
        hear()


def hold_new(root: Path, name: str = ID) -> None:
    """Hold the lock of a container that does not exist yet; make it when the test says so, and let go."""
    file = StateFile(root_dir=root, id=name)
    with file.hold_for_new():
        tell("in")
        hear()
        file.save_locked({"id": name})


def try_lock(root: Path, name: str = ID, timeout: float = 0) -> str:
    """What becomes of a try: "got it", or the name of the error."""
    try:
        with StateFile(root_dir=root, id=name).hold(timeout=timeout):
            return "got it"
    except StateFileError as error:
        return type(error).__name__


@pytest.fixture
def file(root: Path) -> StateFile:
    """A container that exists, unlocked."""
    return container(root)


@pytest.fixture
def held(file: StateFile, spawn: Spawn) -> Iterator[Worker]:
    """A worker that holds the lock of `file`."""
    worker = spawn()
    worker.start(hold, file.root_dir)
    assert worker.hear() == "in"
    yield worker
    if worker.busy:
        with contextlib.suppress(OSError, AssertionError):  # the test has killed it
            worker.tell()
            worker.result()


# -- one holder at a time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 30])
def test_stale_lock_file_is_not_taken_for_the_lock(file: StateFile, root: Path, spawn: Spawn, timeout: float | None) -> None:
    """Who gets the lock of a file that lost its name, while another holds the new one, drops it and waits again."""
    waiter, newcomer = spawn(), spawn()
    file.lock()
    waiter.start(hold, root, timeout=timeout)
    until(lambda: waits_for(waiter, file.lock_path))
    waiter.signal(signal.SIGSTOP)
    file.destroy()
    file.unlock()
    newcomer.start(hold_new, root)
    assert newcomer.hear() == "in"
    waiter.signal(signal.SIGCONT)  # now it gets the old file's lock, which nobody else wants
    until(lambda: waits_for(waiter, file.lock_path) or not waiter.silent())
    assert waiter.silent(), "two hold the lock"
    newcomer.tell()
    newcomer.result()
    assert waiter.hear() == "in"
    waiter.tell()
    waiter.result()


def test_waiter_for_a_destroyed_container_is_told(file: StateFile, root: Path, spawn: Spawn) -> None:
    """Who waited for a container that the holder destroyed gets `NotFoundError`, and no lock file comes back."""
    waiters = [spawn(), spawn()]
    file.lock()
    for waiter, timeout in zip(waiters, (None, 30), strict=True):
        waiter.start(hold, root, timeout=timeout)
    until(lambda: len(lock_queue(file.lock_path)[1]) == 2)
    file.destroy()
    file.unlock()
    for waiter in waiters:
        with pytest.raises(NotFoundError):
            waiter.hear()
    assert names(root) == []


def race(root: Path, rounds: int, timeout: float | None) -> int:
    """Create, mark as ours, unmark and destroy one container over and over, against others; how often it was ours."""
    file = StateFile(root_dir=root, id=ID)
    witness = root.parent / "witness"
    won = 0
    meet()
    for _ in range(rounds):
        try:
            file.lock_for_new(timeout=timeout)
        except AlreadyExistsError:
            with contextlib.suppress(NotFoundError):
                file.lock(timeout=timeout)
            if not file.locked:
                continue
        os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
        file.save_locked({"by": os.getpid()})
        won += 1
        if random.random() < 0.7:
            file.destroy()
        os.unlink(witness)
        file.unlock()
    return won


@pytest.mark.parametrize("timeout", [None, 30])
def test_removal_and_creation_never_let_two_in(root: Path, spawn: Spawn, timeout: float | None) -> None:
    """While containers of one name come and go, and lock files with them, there is never more than one holder."""
    workers = [spawn() for _ in range(4)]
    for worker in workers:
        worker.start(race, root, 150, timeout)
    for worker in workers:
        worker.hear()
    for worker in workers:
        worker.tell()
    assert sum(worker.result() for worker in workers) >= 150
    StateFile(root_dir=root, id=ID).destroy()
    assert names(root) == []


class Counter:
    """A counter that two threads cannot use at once without being found out."""

    def __init__(self) -> None:
        self.value = 0
        self.inside = 0
        self.clashes = 0

    def add(self) -> None:
        """Add one, slowly."""
        self.inside += 1
        value = self.value
        time.sleep(0)
        self.clashes += self.inside != 1
        self.value = value + 1
        self.inside -= 1


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("objects", ["one object", "an object each"])
def test_threads_exclude_each_other(file: StateFile, objects: str, timeout: float | None) -> None:
    """Threads are kept apart as processes are, whether they share an object or have one each."""
    counter = Counter()
    failures: list[BaseException] = []

    def work() -> None:
        mine = file if objects == "one object" else StateFile(root_dir=file.root_dir, id=ID)
        try:
            for _ in range(100):
                with mine.hold(timeout=timeout):
                    counter.add()
        except BaseException as error:  # noqa: BLE001  # raised again below
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    assert (counter.value, counter.clashes) == (400, 0)


def test_plain_flock_and_this_lock_exclude_each_other(file: StateFile) -> None:
    """The lock is `flock(2)` on the lock file, as runsc takes it: either keeps the other out."""
    with file.lock_path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError):
            file.lock(timeout=0)
        fcntl.flock(other, fcntl.LOCK_UN)
        with file.hold(), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def with_lockf_as_portalockers_default(root: Path) -> None:
    """Hold the lock in a process that has set portalocker's global to another kind of lock, and closes the file besides."""
    portalocker.portalocker.LOCKER = portalocker.portalocker.LockfLocker
    file = StateFile(root_dir=root, id=ID)
    with file.hold():
        with file.lock_path.open("r+b") as again:
            again.read()
        tell("in")
        hear()


def test_portalockers_global_changes_nothing(file: StateFile, root: Path, spawn: Spawn) -> None:
    """The lock stays `flock` when a program sets portalocker's default to `lockf`, whose locks end with any `close`."""
    worker = spawn(fresh=True)
    worker.start(with_lockf_as_portalockers_default, root)
    worker.hear()
    assert lock_queue(file.lock_path) == ([worker.pid], [])
    assert try_lock(root) == "LockTimeoutError"
    worker.tell()
    worker.result()


def test_killed_holder_frees_the_lock_at_once(root: Path, spawn: Spawn) -> None:
    """SIGKILL of the holder lets a waiter in within 100 ms: the kernel releases, nobody has to find out."""
    file = container(root)
    holders, waiter = [spawn() for _ in range(4)], spawn()
    took = []
    for n, holder in enumerate(holders):
        holder.start(hold, root)
        holder.hear()
        waiter.start(hold, root, timeout=None if n % 2 else 30)
        until(lambda: waits_for(waiter, file.lock_path))
        start = time.monotonic()
        holder.signal(signal.SIGKILL)
        assert waiter.hear() == "in"
        took.append(time.monotonic() - start)
        waiter.tell()
        waiter.result()
    assert sorted(took)[1] < 0.1, took  # not the slowest: a busy machine may be late once


def test_any_thread_may_release(file: StateFile) -> None:
    """A lock that one thread took may be released by another, and then be taken by either."""
    file.lock()
    releaser = threading.Thread(target=file.unlock)
    releaser.start()
    releaser.join()
    assert not file.locked
    assert try_lock(file.root_dir) == "got it"
    file.lock(timeout=0)
    file.unlock()


def test_release_without_the_lock_is_an_error_and_no_more(file: StateFile, held: Worker) -> None:
    """`unlock` of an object that does not hold the lock changes nothing for the one that does."""
    for _ in range(2):
        with pytest.raises(NotLockedError, match="lock\\(\\) first"):
            file.unlock()
    assert lock_queue(file.lock_path)[0] == [held.pid]
    held.tell()
    held.result()
    file.lock()
    file.unlock()
    with pytest.raises(NotLockedError):
        file.unlock()


# -- waiting -----------------------------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[StateFile, Any], object]] = {
    "lock": lambda file, timeout: file.lock(timeout=timeout),
    "lock_for_new": lambda file, timeout: file.lock_for_new(timeout=timeout),
    "destroy": lambda file, timeout: file.destroy(timeout=timeout),
    "hold": lambda file, timeout: file.hold(timeout=timeout).__enter__(),
    "hold_for_new": lambda file, timeout: file.hold_for_new(timeout=timeout).__enter__(),
    "transaction": lambda file, timeout: file.transaction(dict, timeout=timeout).__enter__(),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("timeout", [-1, -0.001, -math.inf, math.nan], ids=repr)
def test_timeout_that_is_none_is_refused(root: Path, verb: str, timeout: object) -> None:
    """A negative timeout or NaN is a `ValueError`, before any file is touched."""
    with pytest.raises(ValueError, match="timeout"):
        VERBS[verb](StateFile(root_dir=root / "absent", id=ID), timeout)
    assert names(root) == []


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("timeout", [0, 0.0, 0.05])
def test_timeout_ends_the_wait_and_names_the_holder(file: StateFile, held: Worker, verb: str, timeout: float) -> None:
    """0 tries once, 0.05 waits that long; the error says who holds the lock, and nothing has changed."""
    start = time.monotonic()
    with pytest.raises(LockTimeoutError) as caught:
        VERBS[verb](file, timeout)
    took = time.monotonic() - start
    assert timeout <= took < timeout + 2
    assert caught.value.timeout == timeout
    assert caught.value.path == str(file.lock_path)
    assert caught.value.holder.pid == held.pid
    assert "tests.harness" in caught.value.holder.command
    assert f"pid {held.pid}" in str(caught.value)
    assert not file.locked
    assert file.load(dict) == {"id": ID}
    assert names(file.root_dir) == [file.lock_path.name, file.state_path.name]


@pytest.mark.parametrize("timeout", [None, 30, 30.0, 10**9, math.inf], ids=repr)
def test_wait_ends_when_the_lock_is_free(
    file: StateFile, held: Worker, root: Path, spawn: Spawn, timeout: float | None
) -> None:
    """Without a timeout, or with one that is long enough, even for ever, the waiter gets the lock when it comes free."""
    waiter = spawn()
    waiter.start(hold, root, timeout=timeout)
    until(lambda: waits_for(waiter, file.lock_path))
    assert waiter.silent()
    held.tell()
    assert waiter.hear() == "in"
    assert lock_queue(file.lock_path) == ([waiter.pid], [])
    held.result()
    waiter.tell()
    waiter.result()


def test_timeouts_do_not_follow_the_wall_clock(file: StateFile, held: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the wall clock does meanwhile, a wait lasts as long as it was to last."""
    assert held.pid
    steps = iter([0.0, 1e9, -1e9] * 1000)
    monkeypatch.setattr(time, "time", lambda: next(steps))
    start = time.monotonic()
    with pytest.raises(LockTimeoutError):
        file.lock(timeout=0.1)
    assert 0.1 <= time.monotonic() - start < 2


def test_thousand_waits_in_vain_leave_next_to_nothing(file: StateFile, held: Worker) -> None:
    """However many waits have timed out, one helper thread and its descriptor are left, and when the lock is free none."""
    threads_before, locks_before = threads(), lock_descriptors()
    in_vain: list[int] = []

    def wait(offset: int) -> None:
        for n in range(offset, 1000, 10):
            try:
                file.lock(timeout=(0, 0.001, 0.003)[n % 3])
            except LockTimeoutError:
                in_vain.append(n)

    waiters = [threading.Thread(target=wait, args=(n,)) for n in range(10)]
    for waiter in waiters:
        waiter.start()
    for waiter in waiters:
        waiter.join()
    assert len(in_vain) == 1000
    until(lambda: len(threads() - threads_before) <= 1)
    assert len(lock_descriptors()) <= len(locks_before) + 1
    held.tell()
    held.result()
    until(lambda: threads() <= threads_before and lock_descriptors() == locks_before)
    file.lock(timeout=30)
    file.unlock()


def test_long_wait_says_once_for_whom(file: StateFile, held: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """After a second of waiting one INFO line names the lock file and its holder; shorter waits say nothing."""
    with caplog.at_level(logging.DEBUG, logger="statefile"):
        with pytest.raises(LockTimeoutError):
            file.lock(timeout=0.3)
        assert caplog.records == []
        with pytest.raises(LockTimeoutError):
            file.lock(timeout=1.5)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert str(file.lock_path) in record.getMessage()
    assert f"pid {held.pid}" in record.getMessage()


def test_many_threads_wait_and_all_get_it(file: StateFile, held: Worker) -> None:
    """Threads that wait with deadlines through one process all get the lock, one after the other, or time out: none is lost."""
    got: list[int] = []
    late: list[int] = []

    def wait(n: int) -> None:
        try:
            with StateFile(root_dir=file.root_dir, id=ID).hold(timeout=0.05 if n % 3 == 0 else 30):
                got.append(n)
        except LockTimeoutError:
            late.append(n)

    waiters = [threading.Thread(target=wait, args=(n,)) for n in range(12)]
    for waiter in waiters:
        waiter.start()
    for waiter in waiters[::3]:
        waiter.join()
    held.tell()
    held.result()
    for waiter in waiters:
        waiter.join()
    assert sorted(late) == [0, 3, 6, 9]
    assert sorted(got) == [1, 2, 4, 5, 7, 8, 10, 11]


# -- who holds it ------------------------------------------------------------------------------------------------------


def test_holder_is_who_holds_the_lock_now(file: StateFile, root: Path, spawn: Spawn) -> None:
    """`holder()` names process and command, here and elsewhere, and nobody when the lock is free or was never made."""
    assert StateFile(root_dir=root, id="absent").holder() is None
    assert file.holder() is None
    file.lock()
    mine = file.holder()
    assert mine is not None
    assert mine.pid == os.getpid()
    file.unlock()
    assert file.holder() is None
    worker = spawn()
    worker.start(hold, root)
    worker.hear()
    theirs = file.holder()
    assert theirs is not None
    assert theirs.pid == worker.pid
    assert theirs.command
    assert "tests.harness" in theirs.command
    assert str(theirs) == f"pid {worker.pid} ({theirs.command})"
    waiter = spawn()
    waiter.start(hold, root)
    until(lambda: waits_for(waiter, file.lock_path))
    assert file.holder() == theirs, "a waiter is no holder"
    worker.kill()
    waiter.hear()
    new = file.holder()
    assert new is not None
    assert new.pid == waiter.pid
    waiter.tell()
    waiter.result()
    assert file.holder() is None


def test_asking_who_holds_it_touches_nothing(file: StateFile, held: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """`holder()` does not open the lock file, so it can neither disturb the holder nor need a right on the file."""
    opened: list[str] = []
    real = os.open

    def note_and_open(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", note_and_open)
    before = file.lock_path.stat()
    found = file.holder()
    assert found is not None
    assert found.pid == held.pid
    assert not [path for path in opened if path.endswith(".lock")]
    assert file.lock_path.stat() == before


# -- the same thread ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("timeout", [None, 0, 30])
@pytest.mark.parametrize("other", ["another object", "another way to the directory"])
def test_thread_that_would_wait_for_itself_is_told(file: StateFile, verb: str, timeout: float | None, other: str) -> None:
    """Locking what this thread holds already raises `DeadlockError` at once, through whatever object and path."""
    way = file.root_dir.parent / "way"
    way.symlink_to(file.root_dir.parent)
    root = file.root_dir if other == "another object" else way / "root"
    with file.hold():
        with pytest.raises(DeadlockError) as caught:
            VERBS[verb](StateFile(root_dir=root, id=ID), timeout)
        assert caught.value.path == str(root / file.lock_path.name)
        assert file.locked, "the first lock is gone"
        file.save_locked({"id": ID})


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"destroy"}))
def test_object_that_holds_the_lock_does_not_take_it_again(file: StateFile, verb: str) -> None:
    """There is no silent re-entry: the very object that holds the lock raises `DeadlockError` too, and still holds it."""
    with file.hold():
        with pytest.raises(DeadlockError):
            VERBS[verb](file, None)
        assert file.locked
        assert lock_queue(file.lock_path)[0] == [os.getpid()]
    assert not file.locked


def test_another_thread_waits_and_is_no_deadlock(file: StateFile) -> None:
    """Another thread of the process waits its turn, even if it has the number of a thread that has ended."""
    taker = threading.Thread(target=file.lock)
    taker.start()
    taker.join()
    assert file.locked
    seen: list[str] = []
    for _ in range(3):
        trier = threading.Thread(target=lambda: seen.append(try_lock(file.root_dir, timeout=0.01)))
        trier.start()
        trier.join()
    assert seen == ["LockTimeoutError"] * 3
    file.unlock()


def test_sweep_and_load_do_not_wait_for_their_own_thread(file: StateFile, caplog: pytest.LogCaptureFixture) -> None:
    """Within the lock, `sweep` leaves the container alone without a word, and a corrupt file is found corrupt at once."""
    with file.hold():
        temporary = file.root_dir / f".{file.state_path.name}.0123456789ab.tmp"
        temporary.touch()
        assert StateDir(file.root_dir).sweep() == []
        assert caplog.records == []
        file.state_path.write_bytes(b"{")
        start = time.monotonic()
        with pytest.raises(CorruptStateError):
            file.load(dict)
        assert time.monotonic() - start < 0.5
        assert file.locked
    assert StateDir(file.root_dir).sweep() == [temporary]


# -- forks and programs ------------------------------------------------------------------------------------------------


def in_fork(do: Callable[[], object]) -> None:
    """Run `do` in a forked child, and raise here if it failed there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: that is what is tested
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            do()
            status = 0
        except BaseException:  # noqa: BLE001  # shown, and told by the status
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child failed"


def use_lock_in_child(file: StateFile) -> None:
    """In a child of a holder: whatever it does with the inherited object, the lock is its parent's."""
    assert not file.locked
    assert lock_descriptors() == []
    with pytest.raises(NotLockedError):
        file.unlock()
    with pytest.raises(NotLockedError):
        file.save_locked({"id": "stolen"})
    for one in (file, StateFile(root_dir=file.root_dir, id=ID)):
        for timeout in (0, 0.05):
            with pytest.raises(LockTimeoutError) as caught:
                one.lock(timeout=timeout)
            assert caught.value.holder.pid == os.getppid()


def fork_while_held(root: Path) -> None:
    """Hold the lock over forks whose children misuse it and end in different ways."""
    file = StateFile(root_dir=root, id=ID)
    with file.hold():
        in_fork(lambda: use_lock_in_child(file))
        assert file.locked
        tell("after the first child")
        hear()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(try_lock, [root] * 4) == ["LockTimeoutError"] * 4
            assert pool.map(is_locked, [file] * 4) == [False] * 4
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(is_locked, [file]) == [False]
            assert pool.map(try_lock, [root]) == ["LockTimeoutError"]
        file.save_locked({"id": ID, "by": "parent"})
        tell("after all children")
        hear()


def is_locked(file: StateFile) -> bool:
    """Whether an object that was pickled is locked."""
    return file.locked


def test_forked_child_neither_has_nor_releases_the_lock(file: StateFile, root: Path, spawn: Spawn) -> None:
    """A child that unlocks, saves, locks, ends or is a pool's leaves its parent's lock alone."""
    worker = spawn(fresh=True)
    worker.start(fork_while_held, root)
    for place in ("after the first child", "after all children"):
        assert worker.hear() == place
        assert lock_queue(file.lock_path)[0] == [worker.pid]
        with pytest.raises(LockTimeoutError) as caught:
            file.lock(timeout=0)
        assert caught.value.holder.pid == worker.pid
        worker.tell()
    worker.result()
    assert file.load(dict) == {"id": ID, "by": "parent"}
    assert try_lock(root) == "got it"


def fork_and_live_on(root: Path) -> None:
    """Fork a child while the lock is held, and tell of it; then release, when the test says so."""
    file = StateFile(root_dir=root, id=ID)
    file.lock()
    pid = os.fork()
    if pid == 0:
        signal.pause()
    tell(pid)
    hear()
    file.unlock()
    tell("released")
    hear()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("end", ["unlock", "kill"])
def test_forked_child_does_not_keep_the_lock_alive(file: StateFile, root: Path, spawn: Spawn, end: str) -> None:
    """A child that lives on, without a thought of locks, does not hold the lock when its parent unlocks or is killed."""
    worker = spawn(fresh=True)
    worker.start(fork_and_live_on, root)
    child = worker.hear()
    until(lambda: lock_descriptors(child) == [])
    if end == "kill":
        worker.kill()
    else:
        worker.tell()
        assert worker.hear() == "released"
    file.lock(timeout=5)
    file.unlock()
    os.kill(child, 0)  # it is still there
    if end == "unlock":
        worker.tell()
        worker.result()


def fork_while_waiting(root: Path) -> None:
    """Fork while another thread of this process waits for a lock; the child can lock all the same."""
    waiter = threading.Thread(target=try_lock, args=(root, ID, 30))
    waiter.start()
    until(lambda: os.getpid() in lock_queue(StateFile(root_dir=root, id=ID).lock_path)[1])

    def child() -> None:
        assert lock_descriptors() == []
        assert try_lock(root, "other") == "got it"
        assert try_lock(root, ID, 0.05) == "LockTimeoutError"
        assert try_lock(root, "other", 30) == "got it"
        with container(root, "of the child".replace(" ", "-")).hold():
            assert try_lock(root, "of-the-child") == "DeadlockError"

    in_fork(child)
    tell("forked")
    waiter.join()


def test_fork_beside_a_waiting_thread(file: StateFile, held: Worker, root: Path, spawn: Spawn) -> None:
    """A child forked while another thread waits, with a helper thread in the kernel, can lock, wait and time out by itself."""
    assert file.exists()
    container(root, "other")
    worker = spawn()
    worker.start(fork_while_waiting, root)
    assert worker.hear() == "forked"
    held.tell()
    held.result()
    worker.result()


def fork_often(root: Path) -> None:
    """Fork again and again while another thread locks and unlocks as fast as it can."""
    stop = threading.Event()
    file = StateFile(root_dir=root, id=ID)

    def churn() -> None:
        while not stop.is_set():
            with file.hold():
                pass

    churner = threading.Thread(target=churn)
    churner.start()
    try:
        for _ in range(100):
            in_fork(lambda: os._exit(bool(lock_descriptors())))
    finally:
        stop.set()
        churner.join()


def test_no_fork_catches_a_lock_file_half_open(file: StateFile, root: Path, spawn: Spawn) -> None:
    """At whatever moment a fork comes, the child has no lock file open."""
    spawn().call(fork_often, root)
    assert try_lock(file.root_dir) == "got it"


def start_program(root: Path, how: str) -> None:
    """Start a program that lives on, while the lock is held and by a call that closes no descriptors."""
    file = StateFile(root_dir=root, id=ID)
    with file.hold():
        if how == "subprocess":
            with subprocess.Popen(["sleep", "1000"], close_fds=False) as program:
                tell(program.pid)
                hear()
                file.unlock()
                tell("unlocked")
        else:
            pid = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)
            tell(pid)
            hear()
            file.unlock()
            tell("unlocked")
            os.waitpid(pid, 0)


@pytest.mark.parametrize("end", ["unlock", "kill"])
@pytest.mark.parametrize("how", ["subprocess", "posix_spawn"])
def test_program_started_under_the_lock_does_not_inherit_it(
    file: StateFile, root: Path, spawn: Spawn, how: str, end: str
) -> None:
    """A daemon that was started while the lock was held does not keep it when its starter unlocks, or is killed."""
    worker = spawn()
    worker.start(start_program, root, how)
    program = worker.hear()
    until(lambda: b"sleep" in Path(f"/proc/{program}/cmdline").read_bytes())
    assert lock_descriptors(program) == []
    if end == "kill":
        worker.kill()
    else:
        worker.tell()
        assert worker.hear() == "unlocked"
    file.lock(timeout=5)
    file.unlock()
    os.kill(program, signal.SIGKILL)
    if end == "unlock":
        worker.result()


# -- signals, and the end ----------------------------------------------------------------------------------------------


class Interrupted(Exception):  # noqa: N818  # it stands for a KeyboardInterrupt
    """What a signal handler raises."""


def interrupt(*_: object) -> None:
    """A signal handler."""
    raise Interrupted


def be_interrupted(root: Path, timeout: float | None) -> None:
    """Wait for the lock until a signal handler raises; then show that nothing was kept."""
    signal.signal(signal.SIGUSR1, interrupt)
    before = threads()
    file = StateFile(root_dir=root, id=ID)
    tell("waits")
    with pytest.raises(Interrupted) as kept:  # whoever keeps the error keeps no place in the queue with it
        file.lock(timeout=timeout)
    assert not file.locked
    assert len(threads() - before) <= 2  # a helper, and for a second the one that reminds
    assert len(lock_descriptors()) <= 1
    tell("interrupted")
    hear()
    until(lambda: threads() <= before and lock_descriptors() == [])
    file.lock(timeout=30)
    file.unlock()
    assert isinstance(kept.value, Interrupted)


@pytest.mark.parametrize("timeout", [None, 30])
def test_signal_during_a_wait_leaves_nothing(file: StateFile, held: Worker, root: Path, spawn: Spawn, timeout: float) -> None:
    """An exception out of a signal handler ends a wait with neither the lock nor a place in the queue kept."""
    waiter, next_one = spawn(fresh=True), spawn()
    waiter.start(be_interrupted, root, timeout)
    waiter.hear()
    until(lambda: waits_for(waiter, file.lock_path))
    next_one.start(hold, root, timeout=30)
    until(lambda: waits_for(next_one, file.lock_path))
    waiter.signal(signal.SIGUSR1)
    assert waiter.hear() == "interrupted"
    held.tell()
    held.result()
    assert next_one.hear() == "in", "the interrupted waiter stands in the way"
    waiter.tell()
    next_one.tell()
    next_one.result()
    waiter.result()


AFTER = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "RESUME"}
"""The instructions after which Python looks for signals."""


def interrupted_at(nth: int, do: Callable[[], object]) -> str:
    """Run `do`, raising where for the nth time a signal handler could; where that was, or "" if it came to its end."""
    package = os.path.dirname(sys.modules["statefile"].__file__ or "")
    last: dict[FrameType, str] = {}
    seen = 0
    where = ""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen, where
        file = frame.f_code.co_filename
        if not (file.startswith(package) or file == contextlib.__file__):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before, now = last.get(frame), dis.opname[frame.f_code.co_code[frame.f_lasti]]
            last[frame] = now
            if before in AFTER and now != "PUSH_EXC_INFO":  # where a call has failed, it comes after no instruction
                seen += 1
                if seen == nth:
                    where = f"{os.path.basename(file)}:{frame.f_lineno} {frame.f_code.co_name}, before {now}"
                    sys.settrace(None)
                    raise Interrupted
        return trace

    sys.settrace(trace)
    try:
        do()
    except (Interrupted, LockTimeoutError):
        pass
    finally:
        sys.settrace(None)
        last.clear()
    return where


def be_interrupted_everywhere(root: Path, what: str, timeout: float | None) -> tuple[int, list[str]]:
    """Interrupt one action at each point in turn: how many there are, and at which a file stays open or a lock is kept."""
    warnings.simplefilter("ignore", ResourceWarning)

    def act() -> None:
        file = StateFile(root_dir=root, id="new" if what == "create" else ID)
        match what:
            case "save":
                with file.transaction(dict, timeout=timeout) as state:
                    state["n"] = 1
            case "create":
                with file.hold_for_new(timeout=timeout):
                    file.save_locked({})
                    file.destroy()
            case "corrupt":
                with contextlib.suppress(CorruptStateError):
                    file.load(Typed)
            case "sweep":
                (root / f".{file.state_path.name}.0123456789ab.tmp").touch()
                StateDir(root).sweep()
            case "wait":
                file.lock(timeout=timeout)

    leaks: list[str] = []
    waits = what == "wait"
    helpers = int(waits)  # a thread that waits for us has a descriptor of its own
    nth = 0
    while True:
        nth += 1
        where = interrupted_at(nth, act)
        if len(open_files(root)) > helpers:
            gc.collect()
        if len(open_files(root)) > helpers or (not waits and try_lock(root) != "got it"):
            leaks.append(where)
            for descriptor in open_files(root):
                os.close(descriptor)
        if not where:
            break
        StateFile(root_dir=root, id="new").destroy()
    if waits:
        tell(nth)
        hear()
        until(lambda: not lock_descriptors(), timeout=10)
    harness.unraisable[:] = [found for found in harness.unraisable if not isinstance(found.exc_value, Interrupted)]
    return nth, leaks


def open_files(root: Path) -> list[int]:
    """The descriptors of this process on files under the root."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith(f"{root}/"):
                found.append(int(name))
    return found


class Typed(BaseModel):
    """What no state of these tests is."""

    absent: int


@pytest.mark.parametrize("what", ["save", "create", "corrupt", "sweep"])
def test_signal_at_every_point_leaks_nothing(file: StateFile, root: Path, spawn: Spawn, what: str) -> None:
    """At no point at which Python can run a signal handler does an exception out of it leave a file open or a lock taken."""
    points, leaks = spawn(fresh=True).call(be_interrupted_everywhere, root, what, None)
    assert points > 30
    assert leaks == []
    StateDir(root).sweep()
    assert names(root) == [file.lock_path.name, file.state_path.name]


def test_signal_at_every_point_of_a_wait_leaks_nothing(file: StateFile, held: Worker, root: Path, spawn: Spawn) -> None:
    """The same while the lock is another's: at most the helper thread's descriptor stays, until the lock comes free."""
    worker = spawn(fresh=True)
    worker.start(be_interrupted_everywhere, root, "wait", 0.002)
    assert worker.hear() > 30
    held.tell()
    held.result()
    worker.tell()
    _, leaks = worker.result()
    assert leaks == []
    file.lock(timeout=5)
    file.unlock()


def be_interrupted_often(root: Path, rounds: int, seed: int) -> tuple[int, int]:
    """Lock, work and unlock while signals come at random moments; how many did, and what was left open."""
    sys.settrace(None)  # what measures coverage holds a lock of its own, and an exception in there leaves it locked
    warnings.simplefilter("ignore", ResourceWarning)  # an interrupted `unlock` may leave it to the last reference
    armed = False

    def interrupt_once(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Interrupted

    signal.signal(signal.SIGALRM, interrupt_once)
    chance = random.Random(seed)
    interrupted = 0
    for n in range(rounds):
        file = StateFile(root_dir=root, id=ID if n % 3 else f"new-{os.getpid()}-{n}")
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, chance.expovariate(1 / 150e-6) + 1e-6)
            if n % 3:
                with file.hold(timeout=None if n % 2 else 30):
                    file.save_locked({"n": n})
            else:
                with file.hold_for_new():
                    pass
            armed = False
        except Interrupted:
            interrupted += 1
        del file
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()
    with contextlib.suppress(AssertionError):
        until(lambda: not lock_descriptors(), timeout=5)
    # Python drops what a handler raises in a `__del__`, and says so: that is no fault of ours.
    harness.unraisable[:] = [found for found in harness.unraisable if not isinstance(found.exc_value, Interrupted)]
    return interrupted, len(lock_descriptors())


def test_signals_at_any_moment_leak_no_lock(file: StateFile, root: Path, spawn: Spawn) -> None:
    """Wherever in locking, saving and unlocking a signal handler raises, no descriptor and no lock is kept."""
    workers = [spawn(fresh=True), spawn(fresh=True)]
    for seed, worker in enumerate(workers):
        worker.start(be_interrupted_often, root, 600, seed)
    for worker in workers:
        interrupted, left_open = worker.result()
        assert interrupted > 50, "the signals came too late"
        assert left_open == 0
    assert try_lock(root) == "got it"
    StateDir(root).sweep()
    assert names(root) == [file.lock_path.name, file.state_path.name]


def test_dropped_lock_warns_and_is_free(file: StateFile) -> None:
    """An object that goes while it holds the lock says so in a `ResourceWarning` with the path, and lets go."""
    other = StateFile(root_dir=file.root_dir, id=ID)
    other.lock()
    files = [other]
    del other
    with pytest.warns(ResourceWarning, match=str(file.lock_path)):
        files.clear()
    assert lock_descriptors() == []
    assert try_lock(file.root_dir) == "got it"


EXITS = {
    "held by a global": "file.lock()",
    "held for a new one": "new = StateFile(root_dir=root, id='new'); new.lock_for_new()",
    "held in a cycle": "class Node: pass\nnode = Node(); node.self = node; node.file = file; file.lock(); del file",
    "exit within the block": "with file.hold():\n    sys.exit(0)",
    "exit within a transaction": "with file.transaction(dict):\n    sys.exit(0)",
    "held in a generator": "def g():\n    with file.hold():\n        yield\nstarted = g(); next(started)",
    "held by a thread": "t = threading.Thread(target=file.lock); t.start(); t.join()",
    "held at exit of a thread": "threading.Thread(target=lambda: (file.lock(), time.sleep(0.05))).start()",
    "released at exit": "file.lock(); atexit.register(file.unlock)",
    "taken at exit": "atexit.register(file.lock)",
    "daemon waits": "file.lock(); threading.Thread(target=other.lock, daemon=True).start(); wait_for_queue()",
    "daemon waits with a deadline": (
        "file.lock(); threading.Thread(target=lambda: other.lock(timeout=60), daemon=True).start(); wait_for_queue()"
    ),
    "a wait timed out": (
        "file.lock(); t = threading.Thread(target=lambda: timed_out(other)); t.start(); t.join(); assert done == [1]"
    ),
    "an error at the end": "file.lock()\nraise SystemExit(0)",
    "os._exit": "file.lock(); os._exit(0)",
    "a forked child ends first": (
        "file.lock(); pid = os.fork()\nif pid == 0:\n    del file\n    sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\nassert file.locked\nassert lock_queue(file.lock_path)[0] == [os.getpid()]"
    ),
}


@pytest.mark.parametrize("how", EXITS)
def test_interpreter_ends_silently_with_locks_held(file: StateFile, root: Path, how: str) -> None:
    """However a program ends while it holds or waits for locks, under `-W error`, it says nothing, ends well, and is free."""
    prelude = f"""
        import atexit, os, sys, threading, time
        from statefile import LockTimeoutError, StateFile
        from tests.harness import until, lock_queue
        root = {str(root)!r}
        file = StateFile(root_dir=root, id={ID!r})
        other = StateFile(root_dir=root, id={ID!r})
        done = []
        def wait_for_queue():
            until(lambda: lock_queue(other.lock_path)[1])
        def timed_out(file):
            try:
                file.lock(timeout=0.05)
            except LockTimeoutError:
                done.append(1)
    """
    program = textwrap.dedent(prelude) + EXITS[how]
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "")
    assert try_lock(file.root_dir, timeout=5) == "got it"
    StateDir(root).sweep()
    assert names(root) == [file.lock_path.name, file.state_path.name]


# -- file systems and strangers ----------------------------------------------------------------------------------------


def break_flock(patch: pytest.MonkeyPatch, code: int, *, times: int | None = None, name: str = ID) -> list[int]:
    """Let `flock` answer with an error; the calls that were made."""
    calls: list[int] = []

    def flock(fd: int, flags: int) -> None:
        calls.append(flags)
        if name in os.readlink(f"/proc/self/fd/{fd}") and (times is None or len(calls) <= times):
            raise OSError(code, os.strerror(code))
        fcntl.flock(fd, flags)

    patch.setattr(portalocker.portalocker.FlockLocker, "_locker", staticmethod(flock))
    patch.setattr(_claim, "_loaded", None)  # the call is looked up once
    return calls


UNSUPPORTED = [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF]


@pytest.mark.parametrize("timeout", [None, 0, 5])
@pytest.mark.parametrize("code", UNSUPPORTED, ids=errno.errorcode.get)
def test_file_system_without_flock_is_refused(file: StateFile, code: int, timeout: float | None) -> None:
    """Where `flock` is not supported the error comes at once and names the file: no retry, no other kind of lock."""
    new = StateFile(root_dir=file.root_dir, id=f"{ID}-new")
    with pytest.MonkeyPatch.context() as patch:
        calls = break_flock(patch, code)
        uses: list[Callable[[], object]] = [lambda: file.lock(timeout=timeout), lambda: new.lock_for_new(timeout=timeout)]
        for use in uses:
            start = time.monotonic()
            with pytest.raises(LockUnsupportedError) as caught:
                use()
            assert time.monotonic() - start < 2
            assert caught.value.errno == code
            assert caught.value.path.endswith(".lock")
        assert len([flags for flags in calls if flags & fcntl.LOCK_EX]) <= 4
        assert file.load(dict) == {"id": ID}
    assert (file.locked, new.locked, lock_descriptors()) == (False, False, [])
    assert names(file.root_dir) == [file.lock_path.name, file.state_path.name]
    file.lock(timeout=0)
    file.unlock()


@needs_strace
@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK"])
def test_kernel_without_flock_is_refused(file: StateFile, root: Path, spawn: Spawn, code: str) -> None:
    """The same where the kernel itself answers so."""
    worker = spawn(*STRACE, os.devnull, "-e", "trace=flock", "-e", f"inject=flock:error={code}", quiet=True)
    assert worker.call(try_lock, root, ID, 5) == "LockUnsupportedError"
    assert worker.call(try_lock_new, root, "new") == "LockUnsupportedError"
    assert names(root) == [file.lock_path.name, file.state_path.name]


def try_lock_new(root: Path, name: str) -> str:
    """What becomes of a try to make a container."""
    try:
        with StateFile(root_dir=root, id=name).hold_for_new():
            return "got it"
    except StateFileError as error:
        return type(error).__name__


@pytest.mark.parametrize("timeout", [None, 5])
def test_other_failure_of_flock_is_raised_at_once(file: StateFile, timeout: float | None) -> None:
    """An error of `flock` that means neither "taken" nor "not supported" is told with its errno, once, and holds nothing."""
    with pytest.MonkeyPatch.context() as patch:
        calls = break_flock(patch, errno.EIO)
        with pytest.raises(StateIOError) as caught:
            file.lock(timeout=timeout)
        assert len([flags for flags in calls if flags & fcntl.LOCK_EX]) == 1
    assert (caught.value.errno, caught.value.path) == (errno.EIO, str(file.lock_path))
    assert (file.locked, lock_descriptors()) == (False, [])


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES], ids=errno.errorcode.get)
def test_both_ways_to_say_taken_mean_taken(file: StateFile, code: int) -> None:
    """File systems say EAGAIN or EACCES for a lock that another holds: either is a wait, not a failure."""
    with pytest.MonkeyPatch.context() as patch:
        break_flock(patch, code)
        with pytest.raises(LockTimeoutError) as caught:
            file.lock(timeout=0)
        assert caught.value.holder is None


@pytest.mark.parametrize("name", ["open", "fstat", "lstat"])
def test_failing_system_call_leaves_the_object_usable(file: StateFile, name: str) -> None:
    """Whichever call of locking fails, at whichever file, nothing is kept open or locked, and the next try works."""
    real: Callable[..., Any] = getattr(os, name)
    fails: Iterator[bool] = iter(())

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(fails, False):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*args, **kwargs)

    failed = []
    for nth in range(100):
        fails = itertools.chain(itertools.repeat(False, nth), [True])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, name, call)
            try:
                file.lock(timeout=0)
            except StateIOError as error:
                failed.append(error.errno)
            else:
                file.unlock()
                break
        assert (file.locked, lock_descriptors()) == (False, [])
        file.lock(timeout=0)
        file.unlock()
        assert names(file.root_dir) == [file.lock_path.name, file.state_path.name]
    assert failed
    assert set(failed) == {errno.EIO}


def test_error_on_closing_the_lock_file_is_no_error_of_ours(file: StateFile) -> None:
    """Some file systems report an old error when a file is closed: the lock is released all the same, and nobody is told."""
    real = os.close

    def close_and_fail(fd: int) -> None:
        real(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    file.lock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "close", close_and_fail)
        file.unlock()
    assert (file.locked, lock_descriptors()) == (False, [])
    assert try_lock(file.root_dir) == "got it"


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE], ids=errno.errorcode.get)
def test_file_that_was_just_going_is_opened_again(root: Path, code: int) -> None:
    """A file system that answers once that a file has just gone (FUSE, NFS) is asked again."""
    real = os.open
    failed: list[str] = []

    def call(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if path.endswith(".lock") and flags & os.O_CREAT and not failed:
            failed.append(path)
            raise OSError(code, os.strerror(code), path)
        return real(path, flags, *args, **kwargs)

    file = StateFile(root_dir=root, id=ID)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", call)
        with file.hold_for_new():
            pass
    assert failed


def test_file_that_goes_again_and_again_is_waited_for(root: Path, spawn: Spawn) -> None:
    """However often the lock file is gone when a helper thread comes to open it, a wait with a deadline goes on."""
    holder = spawn()
    holder.start(hold_nothing, root)
    holder.hear()
    real, mine = os.open, threading.get_ident()
    gone: list[str] = []

    def call(path: Any, *args: Any, **kwargs: Any) -> int:
        if threading.get_ident() != mine and str(path).endswith(".lock") and len(gone) < 8:
            gone.append(path)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if len(gone) == 8:
            gone.append("")
            holder.tell()
        return real(path, *args, **kwargs)

    file = StateFile(root_dir=root, id=ID)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", call)
        with file.hold_for_new(timeout=30):
            file.save_locked({})
    assert len(gone) == 9
    holder.result()


def test_file_that_comes_and_goes_is_opened_in_the_end(root: Path) -> None:
    """Others may make and remove the lock file so fast that it is neither there to open nor absent to make: that ends."""
    real = os.open
    met: list[int] = []

    def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".lock") and len(met) < 40:
            met.append(errno.EEXIST if flags & os.O_CREAT else errno.ENOENT)
            raise OSError(met[-1], os.strerror(met[-1]), path)
        return real(path, flags, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", call)
        with StateFile(root_dir=root, id=ID).hold_for_new():
            pass
    assert met == [errno.ENOENT, errno.EEXIST] * 20


def hold_nothing(root: Path) -> None:
    """Hold the lock of a container that is not made in the end."""
    with StateFile(root_dir=root, id=ID).hold_for_new():
        tell()
        hear()


def test_existing_lock_file_is_not_opened_as_if_it_were_new(file: StateFile) -> None:
    """A lock file that is there is opened without O_CREAT, which a sticky directory refuses for another user's file."""
    real = os.open
    flags: list[int] = []

    def call(path: Any, how: int, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".lock"):
            flags.append(how)
        return real(path, how, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", call)
        with file.hold():
            pass
        with pytest.raises(AlreadyExistsError):
            file.lock_for_new()
    assert len(flags) == 2
    for how in flags:
        assert how & os.O_ACCMODE == os.O_RDWR  # on NFS a lock is refused to a reader
        assert not how & (os.O_CREAT | os.O_TRUNC)
        assert how & os.O_NOFOLLOW
        assert how & os.O_CLOEXEC


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "transaction"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "FIFO", "device"])
def test_planted_lock_file_is_not_used(file: StateFile, verb: str, kind: str) -> None:
    """A link, a directory, a FIFO or a device where the lock file belongs is refused by name, at once, and left alone."""
    place = file.lock_path
    place.unlink()
    victim = file.root_dir.parent / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o644)
    match kind:
        case "link":
            place.symlink_to(victim)
        case "dangling link":
            place.symlink_to(victim.with_name("nothing"))
        case "directory":
            place.mkdir()
        case "FIFO":
            os.mkfifo(place)
        case "device":
            if os.geteuid() != 0:
                pytest.skip("needs root")
            os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    before = place.lstat()
    if verb.endswith("for_new"):
        file.state_path.unlink()
    try:
        with pytest.raises((UnsafePathError, StateIOError)) as caught:
            VERBS[verb](file, 5)
    finally:
        gc.collect()
    # A device may be refused by the mount (`nodev`) before we can look at it.
    unsafe = isinstance(caught.value, UnsafePathError)
    assert unsafe or (kind == "device" and isinstance(caught.value, StateIOError) and caught.value.errno == errno.EACCES)
    assert place.lstat() == before
    assert (victim.read_bytes(), stat.S_IMODE(victim.stat().st_mode)) == (b"precious", 0o644)
    assert not victim.with_name("nothing").exists()
    assert not file.locked


def test_loser_leaves_the_lock_file_as_it_is(file: StateFile) -> None:
    """Whoever does not get the lock has neither written to the lock file, nor truncated, chmod-ed or touched it."""
    file.lock_path.write_bytes(b"held by another program\n")
    file.lock_path.chmod(0o640)
    with file.lock_path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        before = file.lock_path.lstat()
        for verb in VERBS.values():
            for timeout in (0, 0.02):
                with pytest.raises(LockTimeoutError):
                    verb(file, timeout)
        assert StateDir(file.root_dir).sweep() == []
        after = file.lock_path.lstat()
        assert (after.st_ino, after.st_mode, after.st_size, after.st_mtime_ns, after.st_ctime_ns) == (
            *(before.st_ino, before.st_mode, before.st_size, before.st_mtime_ns, before.st_ctime_ns),
        )
        assert file.lock_path.read_bytes() == b"held by another program\n"
    with file.hold():
        file.save_locked({"id": ID})
    assert file.lock_path.read_bytes() == b"held by another program\n"
    assert stat.S_IMODE(file.lock_path.stat().st_mode) == 0o640


@pytest.mark.parametrize("mask", [0, 0o077, 0o777], ids=oct)
def test_new_lock_file_is_private_and_empty(root: Path, mask: int) -> None:
    """A lock file is made with mode 0600 whatever the umask, and nothing is ever written to it."""
    old = os.umask(mask)
    try:
        file = container(root)
    finally:
        os.umask(old)
    found = file.lock_path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_size) == (0o600, 0)
    with file.hold():
        assert file.lock_path.stat() == found


def lock_as_another_user(root: Path) -> list[str]:
    """What another user may do with a container that is not theirs, in a directory where anybody may write."""
    file = StateFile(root_dir=root, id=ID)
    said = [try_lock(root)]
    with contextlib.suppress(StateFileError), file.hold(timeout=0):
        said.append(str(file.load(dict)))
        try:
            file.save_locked({"id": "theirs"})
        except StateIOError as error:
            said.append(errno.errorcode[error.errno or 0])
        try:
            file.destroy()
        except StateIOError as error:
            said.append(errno.errorcode[error.errno or 0])
    return said


@pytest.mark.root
def test_another_user_can_lock_in_a_sticky_directory(file: StateFile, root: Path, nobody: Worker) -> None:
    """In a world-writable sticky directory another user can lock a file that its owner shares, though not replace it."""
    root.chmod(0o1777)
    file.lock_path.chmod(0o666)
    file.state_path.chmod(0o644)
    assert nobody.call(lock_as_another_user, root) == ["got it", str({"id": ID}), "EPERM", "EPERM"]
    assert file.load(dict) == {"id": ID}
    assert names(root) == [file.lock_path.name, file.state_path.name]
    file.lock_path.chmod(0o600)
    assert nobody.call(lock_as_another_user, root) == ["StateIOError"]
    with file.hold():
        assert nobody.call(try_lock, root) == "StateIOError"


@pytest.mark.root
def test_each_user_keeps_containers_of_their_own_in_a_sticky_directory(root: Path, nobody: Worker) -> None:
    """Beside another's containers, a user can create, list and destroy containers of their own."""
    container(root, "roots")
    root.chmod(0o1777)
    nobody.call(container, root, "nobodys")
    assert (root / "nobodys_sandbox:nobodys.state").stat().st_uid == NOBODY
    assert nobody.call(StateDir(root).ids) == StateDir(root).ids() == [FullID("nobodys", "nobodys"), FullID("roots", "roots")]
    nobody.call(StateFile(root_dir=root, id="nobodys").destroy)
    assert StateDir(root).ids() == [FullID("roots", "roots")]
