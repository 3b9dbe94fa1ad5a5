"""Whose turn it is: waiters are served as they came, and nobody who is stopped or killed keeps the others from the lock."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from statefile import LockTimeoutError, StateFile, StateIOError, _lock, _turn
from tests.harness import Worker, hear, lock_descriptors, lock_queue, names, needs_strace, tell, until, waits_for
from tests.test_lock import ID, file, held, hold, try_lock

if TYPE_CHECKING:
    from tests.harness import Spawn

__all__ = ["file", "held"]  # fixtures: pytest finds them by name

DATA = Path(__file__).parent / "data" / "runsc-root"


def marks(path: Path) -> int:
    """How many marks are shown on a lock file, as the kernel tells it."""
    inode = str(path.stat().st_ino)
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return sum(fields[1] == "OFDLCK" and fields[5].rpartition(":")[2] == inode for fields in lines)


# -- in the order of arrival -------------------------------------------------------------------------------------------


def sign(root: Path, name: str, timeout: float | None) -> None:
    """Wait for the lock, and write the name down under it."""
    with StateFile(root_dir=root, id=ID).hold(timeout=timeout), (root.parent / "order").open("a") as order:
        order.write(name)


@pytest.mark.parametrize("timeouts", [(None, None), (30, 30), (None, 30)], ids=str)
def test_processes_are_served_as_they_came(
    file: StateFile, root: Path, spawn: Spawn, timeouts: tuple[float | None, float | None]
) -> None:
    """Processes get the lock in the order in which they began to wait, with deadlines and without."""
    workers = [spawn() for _ in range(6)]
    file.lock()
    for n, worker in enumerate(workers):
        worker.start(sign, root, str(n), timeouts[n % 2])
        until(lambda worker=worker: waits_for(worker, file.lock_path))  # type: ignore[misc]
    file.unlock()
    for worker in workers:
        worker.result()
    assert (root.parent / "order").read_text() == "012345"


def test_threads_are_served_as_they_came(file: StateFile, held: Worker, root: Path) -> None:
    """So do threads of one process, which share a place in the kernel's queue."""
    helpers = []
    for n in range(6):
        helpers.append(threading.Thread(target=sign, args=(root, str(n), 30)))
        helpers[-1].start()
        until(lambda n=n: len(getattr(_lock._rooms.get(str(file.lock_path)), "_queue", ())) == n + 1)  # type: ignore[misc]
    held.tell()
    held.result()
    for thread in helpers:
        thread.join()
    assert (root.parent / "order").read_text() == "012345"


def come_back(root: Path, name: str, rounds: int) -> None:
    """Lock, sign and unlock, and come straight back; however busy the machine is, no waiter is taken for a stopped one."""
    _turn.COURTESY = 0.2  # type: ignore[misc]
    order = os.open(root.parent / "order", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    file = StateFile(root_dir=root, id=ID)
    for _ in range(rounds):
        with file.hold():
            os.write(order, name.encode())
            time.sleep(0.001)
    os.close(order)


def test_who_comes_straight_back_does_not_overtake(file: StateFile, root: Path, spawn: Spawn) -> None:
    """A process that releases and asks again at once waits behind those who were there before it: nobody starves."""
    workers = [spawn(fresh=True) for _ in range(4)]
    file.lock()
    for n, worker in enumerate(workers):
        worker.start(come_back, root, str(n), 60)
    until(lambda: len(lock_queue(file.lock_path)[1]) == 4)
    file.unlock()
    for worker in workers:
        worker.result()
    order = (root.parent / "order").read_text()
    assert len(order) == 240
    first_end = min(order.rindex(name) for name in "0123")  # until here all four wanted it
    together = order[: first_end + 1]
    assert len(list(itertools.groupby(together))) > len(together) / 2, "one had it many times in a row"
    assert min(map(together.count, "0123")) >= 30


def test_waiter_goes_before_who_has_just_released(file: StateFile, root: Path, spawn: Spawn) -> None:
    """A holder that lets go and locks again finds that the one who waited has been in meanwhile."""
    waiter = spawn()
    for n in range(40):
        (root.parent / "order").write_text("")
        file.lock()
        waiter.start(sign, root, "w", None if n % 2 else 30)
        until(lambda: waits_for(waiter, file.lock_path))
        _turn._in_vain = (None, 0.0)
        file.unlock()
        file.lock(timeout=30)
        late = not (root.parent / "order").read_text()
        file.unlock()
        waiter.result()
        assert not late or _turn._in_vain[0] is not None, "overtaken, though nobody was late"


# -- stopped and killed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 30])
def test_stopped_waiter_blocks_nobody(file: StateFile, held: Worker, root: Path, spawn: Spawn, timeout: float | None) -> None:
    """A waiter that is stopped delays the next newcomer by a moment, and the later ones not at all; it gets its turn later."""
    stopped, behind = spawn(), spawn()
    for worker in (stopped, behind):
        worker.start(hold, root, timeout=timeout)
        until(lambda worker=worker: waits_for(worker, file.lock_path))  # type: ignore[misc]
    stopped.signal(signal.SIGSTOP)
    until(lambda: not waits_for(stopped, file.lock_path))
    held.tell()
    held.result()
    assert behind.hear(5) == "in"
    behind.tell()
    behind.result()
    assert marks(file.lock_path) == 1
    took = []
    for _ in range(200):
        start = time.monotonic()
        file.lock(timeout=0)
        file.unlock()
        took.append(time.monotonic() - start)
    assert sorted(took)[-10] < _turn.COURTESY / 2, "every newcomer waits for somebody who cannot come"
    stopped.signal(signal.SIGCONT)
    assert stopped.hear() == "in"
    stopped.tell()
    stopped.result()
    assert marks(file.lock_path) == 0


@pytest.mark.parametrize("stop", [False, True], ids=["running", "stopped"])
def test_killed_waiter_and_holder_block_nobody(file: StateFile, root: Path, spawn: Spawn, *, stop: bool) -> None:
    """When the holder and the next waiters are killed, the first who lives gets the lock, and no mark is left."""
    holder, *killed, last = [spawn() for _ in range(5)]
    holder.start(hold, root)
    assert holder.hear() == "in"
    for n, worker in enumerate((*killed, last)):
        worker.start(hold, root, timeout=30 if n % 2 else None)
        until(lambda worker=worker: waits_for(worker, file.lock_path))  # type: ignore[misc]
    if stop:
        for worker in (holder, *killed):
            worker.signal(signal.SIGSTOP)
    for worker in killed:
        worker.kill()
    assert last.silent()
    holder.kill()
    assert last.hear(5) == "in"
    last.tell()
    last.result()
    assert marks(file.lock_path) == 0
    assert try_lock(root) == "got it"


# -- without marks -----------------------------------------------------------------------------------------------------


def wait_on(root: Path, file_system: str | None, timeout: float | None) -> None:
    """Wait for the lock, and hold it, on what is said to be another file system; `None`: the kernel does not tell."""
    if file_system is None:
        _turn.open = refused  # type: ignore[attr-defined]
    else:
        _turn._file_system_of = lambda device: file_system  # noqa: ARG005
    hold(root, timeout=timeout)


def refused(*_: object, **__: object) -> None:
    """In place of `open`."""
    raise PermissionError


def wait_for_a_turn(root: Path) -> None:
    """Wait as a newcomer would, hold, and say so."""
    with StateFile(root_dir=root, id=ID).hold():
        tell("in")
        hear()


def test_newcomer_is_not_courteous_to_who_has_the_lock(
    file: StateFile, root: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a holder that has waited, a waiter's mark means nothing: a newcomer queues up at once, without a pause."""
    holder, waiter = spawn(fresh=True), spawn(fresh=True)
    file.lock()
    holder.start(wait_for_a_turn, root)
    until(lambda: waits_for(holder, file.lock_path))
    waiter.start(wait_for_a_turn, root)
    until(lambda: waits_for(waiter, file.lock_path))
    file.unlock()
    assert holder.hear() == "in"
    paused: list[float] = []
    monkeypatch.setattr(time, "sleep", paused.append)
    with pytest.raises(LockTimeoutError):
        file.lock(timeout=0)
    assert not paused
    monkeypatch.undo()
    holder.tell()
    holder.result()
    assert waiter.hear() == "in"
    waiter.tell()
    waiter.result()


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("system", ["nfs", "nfs4", "cifs", "smb3", "fuse", "fuse.sshfs", "9p", "", None, "ext4", "overlay"])
def test_marks_are_shown_on_local_file_systems_only(
    file: StateFile, root: Path, spawn: Spawn, system: str | None, timeout: float | None
) -> None:
    """Where a mark might block the lock itself, or nobody knows, none is shown; the lock excludes and waits all the same."""
    local = system in {"ext4", "overlay"}
    waiter = spawn(fresh=True)
    file.lock()
    waiter.start(wait_on, root, system, timeout)
    until(lambda: waits_for(waiter, file.lock_path))
    assert marks(file.lock_path) == local
    assert waiter.silent()
    file.unlock()
    assert waiter.hear() == "in"
    assert (marks(file.lock_path) > 0) == local
    with pytest.raises(LockTimeoutError):
        file.lock(timeout=0.01)
    waiter.tell()
    waiter.result()
    file.lock(timeout=5)
    file.unlock()
    until(lambda: not lock_descriptors())


# -- programs that know no marks ---------------------------------------------------------------------------------------


def test_flock_program_as_holder(file: StateFile) -> None:
    """A lock that flock(1) holds is waited for, and the holder is named."""
    flock = shutil.which("flock") or pytest.skip("needs flock(1)")
    with subprocess.Popen([flock, file.lock_path, "cat"], stdin=subprocess.PIPE) as other:
        until(lambda: lock_queue(file.lock_path)[0])
        with pytest.raises(LockTimeoutError) as caught:
            file.lock(timeout=0.01)
        assert caught.value.holder is not None
        assert caught.value.holder.pid == other.pid
        assert str(file.lock_path) in str(caught.value.holder.command)
        assert other.stdin is not None
        other.stdin.close()
        file.lock(timeout=10)
    file.unlock()


def test_flock_program_as_waiter(file: StateFile) -> None:
    """flock(1) waits while the lock is held here, and gets it then."""
    flock = shutil.which("flock") or pytest.skip("needs flock(1)")
    file.lock()
    with subprocess.Popen([flock, file.lock_path, "true"]) as other:
        until(lambda: waits_for(other.pid, file.lock_path))
        assert other.poll() is None
        file.unlock()
        assert other.wait(10) == 0


@pytest.fixture
def runsc(root: Path) -> list[str]:
    """The command of a real runsc on a root with one container, which has ended long since."""
    program = shutil.which("runsc") or pytest.skip("needs runsc")
    name = "batch-1_sandbox:batch-1"

    def without_processes(value: Any) -> Any:
        """Whoever has these numbers now is none of ours."""
        if isinstance(value, dict):
            return {key: 2**22 + 1 if key.lower().endswith("pid") else without_processes(found) for key, found in value.items()}
        return value

    state = json.loads((DATA / f"{name}.state").read_text())
    (root / f"{name}.state").write_text(json.dumps(without_processes(state)))
    (root / f"{name}.lock").touch(0o600)
    options = ["--platform=ptrace", "--network=none", "--ignore-cgroups"]
    return [program, "--root", str(root), *options, "state", "batch-1"]


@pytest.mark.root
def test_runsc_waits_for_us(root: Path, runsc: list[str]) -> None:
    """A runsc command waits while the lock is held here, and works then."""
    file = StateFile(root_dir=root, id="batch-1")
    file.lock()
    with subprocess.Popen(runsc, stdout=subprocess.PIPE) as other:
        until(lambda: waits_for(other.pid, file.lock_path))
        assert other.poll() is None
        file.unlock()
        said, _ = other.communicate(timeout=20)
    assert other.returncode == 0
    assert json.loads(said)["status"] == "stopped"
    assert try_lock(root, "batch-1", 5) == "got it"


@pytest.mark.root
@needs_strace
@pytest.mark.parametrize("end", ["goes on", "is killed"])
def test_we_wait_for_runsc(root: Path, runsc: list[str], spawn: Spawn, tmp_path: Path, end: str) -> None:
    """While a runsc holds the lock, here stopped in the middle, it is waited for and named; its end lets the waiter in."""
    file = StateFile(root_dir=root, id="batch-1")
    stop = ["-e", "trace=flock", "-e", "inject=flock:signal=SIGSTOP:when=1"]
    waiters = [spawn(), spawn()]
    with subprocess.Popen(["strace", "-f", "-qq", "-o", tmp_path / "trace", *stop, *runsc], stdout=subprocess.PIPE) as other:
        holder = until(lambda: lock_queue(file.lock_path)[0])[0]
        until(lambda: "stopped by SIGSTOP" in (tmp_path / "trace").read_text())
        for waiter, timeout in zip(waiters, (None, 30), strict=True):
            waiter.start(hold, root, "batch-1", timeout)
            until(lambda waiter=waiter: waits_for(waiter, file.lock_path))  # type: ignore[misc]
        with pytest.raises(LockTimeoutError, match="runsc") as caught:
            file.lock(timeout=0.01)
        assert caught.value.holder == file.holder()
        assert caught.value.holder is not None
        assert caught.value.holder.pid == holder
        assert "state batch-1" in str(caught.value.holder.command)
        assert all(waiter.silent() for waiter in waiters)
        os.kill(holder, signal.SIGCONT if end == "goes on" else signal.SIGKILL)
        for waiter in waiters:
            assert waiter.hear() == "in"
            waiter.tell()
            waiter.result()
        # Each of its threads is stopped at its first flock, so one that releases on another thread is stopped once more.
        until(lambda: ended(other, holder))
    assert try_lock(root, "batch-1", 5) == "got it"


def ended(tracer: subprocess.Popen[bytes], traced: int) -> bool:
    """Whether a traced program has ended; if not, it is told to go on."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(traced, signal.SIGCONT)
    return tracer.poll() is not None


# -- a storm -----------------------------------------------------------------------------------------------------------

PROCESSES = 16
SLOT = struct.Struct("=QQ")
"""What a process says: how often it has begun to wait or been served (odd: it waits), and how often it found another inside."""


def take_turns(root: Path, board: mmap.mmap, slot: int, token: str) -> None:
    """Lock, be inside alone, unlock; until the board says that it is over."""
    witness = root.parent / "witness"
    file = StateFile(root_dir=root, id=ID)
    turns, clashes = SLOT.unpack_from(board, slot * SLOT.size)
    turns += turns % 2
    while not board[PROCESSES * SLOT.size]:
        SLOT.pack_into(board, slot * SLOT.size, turns + 1, clashes)
        with file.hold(timeout=30 if slot % 2 else None):
            turns += 2
            while True:
                try:
                    os.symlink(token, witness)  # as O_EXCL, and it says by whom, in one step
                    break
                except FileExistsError:
                    with contextlib.suppress(FileNotFoundError):
                        if (root.parent / f"killed-{os.readlink(witness)}").exists():
                            os.unlink(witness)
                            continue
                    clashes += 1
                    SLOT.pack_into(board, slot * SLOT.size, turns, clashes)
                    return
            SLOT.pack_into(board, slot * SLOT.size, turns, clashes)
            time.sleep(0.0005)
            os.unlink(witness)


def forked(root: Path, board: mmap.mmap, slot: int, token: str) -> int:
    """A process that takes turns; its PID."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            take_turns(root, board, slot, token)
            status = 0
        except BaseException as error:  # noqa: BLE001  # a child must not return
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(status)
    return pid


class Storm:
    """Processes that take turns, and are stopped, continued and killed meanwhile."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock_path = StateFile(root_dir=root, id=ID).lock_path
        self.board = mmap.mmap(-1, PROCESSES * SLOT.size + 1)
        self.tokens = [f"{slot}-0" for slot in range(PROCESSES)]
        self.pids = [forked(root, self.board, slot, self.tokens[slot]) for slot in range(PROCESSES)]
        self.stopped: set[int] = set()
        self.births = itertools.count(1)
        self.waited = [0.0] * PROCESSES
        self.longest = 0.0
        self._turns = [0] * PROCESSES
        self._looked = time.monotonic()

    def look(self) -> None:
        """Add the time since the last look to the waits that nobody who is stopped inside can explain."""
        holders = lock_queue(self.lock_path)[0]
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        excused = any(pid in holders for pid in (self.pids[slot] for slot in self.stopped))
        for slot in range(PROCESSES):
            turns, clashes = SLOT.unpack_from(self.board, slot * SLOT.size)
            assert not clashes, "two were inside"
            if turns != self._turns[slot]:
                self._turns[slot] = turns
                self.waited[slot] = 0.0
            elif turns % 2 and slot not in self.stopped and not excused:
                self.waited[slot] += passed
                self.longest = max(self.longest, self.waited[slot])

    def strike(self, chance: random.Random) -> int:
        """Stop, continue or kill one, often the one that is inside; the signal."""
        inside = [slot for slot in range(PROCESSES) if self.pids[slot] in lock_queue(self.lock_path)[0]]
        slot = inside[0] if inside and chance.random() < 0.3 else chance.randrange(PROCESSES)
        kind = chance.choice([signal.SIGSTOP, signal.SIGSTOP, signal.SIGCONT, signal.SIGCONT, signal.SIGKILL])
        if kind == signal.SIGCONT and self.stopped:
            slot = chance.choice(sorted(self.stopped | set(inside)))
        if kind == signal.SIGKILL:
            (self.root.parent / f"killed-{self.tokens[slot]}").touch()
        os.kill(self.pids[slot], kind)
        if kind == signal.SIGSTOP:
            self.stopped.add(slot)
        else:
            self.stopped.discard(slot)
        self.waited[slot] = 0.0  # a process that was stopped comes to the end of the queue
        if kind == signal.SIGKILL:
            os.waitpid(self.pids[slot], 0)
            self.tokens[slot] = f"{slot}-{next(self.births)}"
            self.pids[slot] = forked(self.root, self.board, slot, self.tokens[slot])
        return kind

    def end(self) -> list[int]:
        """Let all of them end; how they did."""
        self.board[PROCESSES * SLOT.size] = 1
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        statuses = []
        for pid in self.pids:
            with contextlib.suppress(AssertionError):
                until(lambda pid=pid: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), 20)  # type: ignore[misc]
            os.kill(pid, signal.SIGKILL)
            statuses.append(os.waitpid(pid, 0)[1])
        return statuses


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_storm_of_signals_blocks_nobody(file: StateFile, root: Path) -> None:
    """Whoever is stopped, continued or killed, never are two inside, and nobody waits long behind one who is not inside."""
    chance = random.Random(1)
    storm = Storm(root)
    statuses: list[int] = []
    try:
        for _ in range(400):
            storm.strike(chance)
            pause = time.monotonic() + chance.random() * 0.03
            while time.monotonic() < pause:
                storm.look()
                time.sleep(0.002)
        turns = sum(storm._turns) // 2
    finally:
        statuses = storm.end()
    storm.look()
    assert statuses == [0] * PROCESSES
    assert turns > 400
    assert storm.longest < 1.0
    assert lock_queue(file.lock_path) == ([], [])
    assert marks(file.lock_path) == 0
    assert try_lock(root) == "got it"
    assert names(root) == [file.lock_path.name, file.state_path.name]


# -- when the system has nothing left --------------------------------------------------------------------------------------


def test_marks_are_asked_for_again_after_a_failure(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that could not be looked up is not taken for one without marks for good."""
    monkeypatch.setattr(_turn, "_safe", {})
    device = root.stat().st_dev
    with monkeypatch.context() as patch:
        patch.setattr(_turn, "_file_system_of", lambda _: "")
        assert not _turn._marks_are_safe(device)
    assert _turn._marks_are_safe(device)


def _wait_without_threads(root: Path, timeout: float | None) -> str:
    """Wait for the lock where no thread can be started, as under a limit on processes."""

    def none(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    tell("waiting")
    try:
        with mock.patch("_thread.start_new_thread", none), StateFile(root_dir=root, id=ID).hold(timeout=timeout):
            return "held"
    except StateIOError as error:
        return f"errno {error.errno}"


def test_no_further_thread_is_a_named_error(file: StateFile, root: Path, spawn: Spawn) -> None:
    """A deadline needs a thread: if there is none, the error says so; a wait for good needs none."""
    file.lock()
    worker = spawn()
    worker.start(_wait_without_threads, root, 10.0)
    assert worker.hear() == "waiting"
    assert worker.result() == f"errno {errno.EAGAIN}"
    worker.start(_wait_without_threads, root, None)
    assert worker.hear() == "waiting"
    until(lambda: waits_for(worker, file.lock_path))
    file.unlock()
    assert worker.result() == "held"
