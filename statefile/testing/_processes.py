"""Real processes that stand for containers: a `cat` each, which does nothing, and ends by itself when the test process does.

All of them read one pipe that nobody writes to. Its other end is held by the process that made this object, so however that
process dies, they see the end of the file; and a child of it that makes one and is then killed leaves it running, as a real
runtime's process would be. Each leads a process group in the session of its maker: one that is stopped cannot see the end of a
file, but when its maker dies, its group is orphaned, and the kernel hangs it up.

Whatever another process has to know of one is kept by the kernel: which container it belongs to is in its environment, what is
said of it (see `Note`) in resource limits that never bind, which any process of the same user can read and set at once.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import resource
import signal
import time
import weakref
from typing import TYPE_CHECKING

from statefile._process import Presence, ProcessRef
from statefile.errors import StillRunningError
from statefile.process_runtime._family import is_stopped, read_row
from statefile.runtime import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GRACE = 10.0
"""Seconds that a process has to stop, go on or end after the signal that makes it."""

_AGAIN = 0.0002
"""Seconds between two looks."""

_OWNER = "STATEFILE_TESTING_OWNER"
_CONTAINER = "STATEFILE_TESTING_CONTAINER"
_RESET = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


class Note(enum.Enum):
    """What is said of a process for all to know: a number, kept in the soft value of a resource limit without an effect."""

    STARTED = resource.RLIMIT_RTTIME
    """1: the user's program runs. The limit is on real-time processes alone."""
    NOT_ALONE = resource.RLIMIT_RSS
    """1: there are or were other processes in its container. Linux 2.6 and later have the limit's name, but not the limit."""
    EXIT_CODE = 10
    """1 and what it exits with when it is killed with SIGKILL. RLIMIT_LOCKS, which is no limit any more either."""

    def of(self, process: ProcessRef) -> int:
        """What is noted; 0 if nothing is, or the process is no more. A zombie is still there."""
        with contextlib.suppress(OSError):
            soft, _ = resource.prlimit(process.pid, self.value)
            return soft - _BASE if 0 < soft - _BASE <= _LARGEST else 0
        return 0

    def write(self, process: ProcessRef, number: int) -> None:
        """Note `number`, 1 to 256. Raises `OSError` if the process is no more."""
        _, hard = resource.prlimit(process.pid, self.value)
        resource.prlimit(process.pid, self.value, (_BASE + number, hard))


_LARGEST = 256
_BASE = 10**15  # what no machine has set


class Processes:
    """The processes that one object has made, in this process and in its forked children."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()  # close-on-exec
        self._owner = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._maker = os.getpid()
        self._made: dict[ProcessRef, int] = {}  # and which process made it: a forked child has copies of what it did not make
        self._ended: dict[ProcessRef, ExitStatus | None] = {}
        self._open = True
        # Also when the last reference goes, and when the interpreter ends.
        self.close = weakref.finalize(self, _close, self._owner, self._maker, self._made, [self._reader, self._writer])

    def make(self, container: str) -> ProcessRef:
        """A new process of `container`, which is any text: it runs on return."""
        if not self.close.alive:
            raise RuntimeError("this runtime was closed: what it ran has ended, and it makes nothing new")
        pid = os.posix_spawnp(
            "cat",
            ["cat"],
            {_OWNER: self._owner, _CONTAINER: container},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, self._reader, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setpgroup=0,
            setsigmask=(),
            setsigdef=_RESET,
        )
        process = ProcessRef.of(pid)  # it is our child: even if it has ended, it is there
        self._made[process] = os.getpid()
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))  # a test that aborts it wants no file of that
        while process.presence() is Presence.ALIVE and not _has(pid, f"{_CONTAINER}={container}\0".encode()):
            time.sleep(_AGAIN)  # the call returns a moment before the kernel shows the environment
        return process

    def end(self, container_id: str, processes: Iterable[ProcessRef]) -> None:
        """Kill and reap them, whoever made them.

        Raises:
            StillRunningError: one does not end.
        """
        alive = [process for process in processes if process.send_signal(signal.SIGKILL) is Presence.ALIVE]
        left = [process.pid for process in alive if process.wait(GRACE) is Presence.ALIVE]
        for process in processes:
            self.reap(process)
        if left:
            raise StillRunningError(id=container_id, pids=left)

    def exit(self, process: ProcessRef, status: ExitStatus) -> None:
        """Let it end with `status`, now: on return it has.

        Raises:
            ProcessLookupError: it has ended already.
        """
        if status.code is not None:
            with contextlib.suppress(ProcessLookupError):  # it is found out below
                Note.EXIT_CODE.write(process, status.code + 1)
        if process.send_signal(status.signal or signal.SIGKILL) is not Presence.ALIVE:
            raise ProcessLookupError(errno.ESRCH, f"process {process.pid} has ended already")
        process.send_signal(signal.SIGCONT)  # a stopped process takes no other signal
        if process.wait(GRACE) is Presence.ALIVE:
            raise StillRunningError(id=f"PID {process.pid}", pids=[process.pid], reason=f"{status} does not end it")
        self._ended[process] = status

    def exit_of(self, process: ProcessRef) -> ExitStatus | None:
        """How it ended, if this process can know: it made it, or made it end. A child is not reaped by asking."""
        if self._made.get(process) == os.getpid():
            with contextlib.suppress(ChildProcessError):  # reaped since: then it is written down
                found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None:
                    return None
                if found.si_code == os.CLD_EXITED:
                    return ExitStatus(code=found.si_status)
                code = Note.EXIT_CODE.of(process) - 1
                if found.si_status == signal.SIGKILL and code >= 0:
                    return ExitStatus(code=code)
                return ExitStatus(signal=found.si_status)
        return self._ended.get(process)

    def reap(self, process: ProcessRef) -> None:
        """If it has ended and is a child of this process, remove the zombie; how it ended stays known."""
        if self._made.get(process) == os.getpid() and process.presence() is Presence.GONE:
            self._ended[process] = self.exit_of(process)
            _reap(process.pid)
            self._made.pop(process, None)

    def living(self, *, without: frozenset[str] = frozenset()) -> dict[str, list[ProcessRef]]:
        """The living processes that this object has made, here and in forked children, by the text of their container.

        Those whose PIDs are in `without` are not looked at.
        """
        found: dict[str, list[ProcessRef]] = {}
        for process in _marked(_OWNER, self._owner, without):
            found.setdefault(_container_of(process), []).append(process)
        return found


def all_of(container: str) -> list[ProcessRef]:
    """The living processes of `container`, whoever made them."""
    return list(_marked(_CONTAINER, container))


def stop(process: ProcessRef) -> None:
    """Stop it with SIGSTOP: on return it does not run, unless it has ended."""
    process.send_signal(signal.SIGSTOP)
    _until_stopped(process, stopped=True)


def go_on(process: ProcessRef) -> None:
    """Let it go on with SIGCONT: on return it is not stopped, unless it has ended."""
    process.send_signal(signal.SIGCONT)
    _until_stopped(process, stopped=False)


def _until_stopped(process: ProcessRef, *, stopped: bool) -> None:
    end = time.monotonic() + GRACE
    while process.presence() is Presence.ALIVE and is_stopped(process.pid) is not stopped:
        if time.monotonic() > end:
            raise TimeoutError(f"process {process.pid} has not {'stopped' if stopped else 'gone on'} within {GRACE:g} s")
        time.sleep(_AGAIN)  # the kernel has no event for who is not its parent


def _marked(name: str, value: str, without: frozenset[str] = frozenset()) -> Iterator[ProcessRef]:
    """The living processes that have this variable in their environment."""
    mark = f"{name}={value}\0".encode()
    for pid in map(int, filter(str.isdecimal, {*os.listdir("/proc")} - without)):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            if not _has(pid, mark):
                continue
            process = ProcessRef.of(pid)
            if _has(pid, mark) and process.presence() is Presence.ALIVE:  # it has been this one all the time
                yield process


def _container_of(process: ProcessRef) -> str:
    """What it was made for; empty if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/environ", "rb") as file:
        for variable in file.read().split(b"\0"):
            name, _, value = variable.partition(b"=")
            if name == _CONTAINER.encode():
                return os.fsdecode(value)
    return ""


def _has(pid: int, mark: bytes) -> bool:
    while True:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
        row = None if environment else read_row(str(pid))
        if row is None or row.state not in "RD":
            break
        time.sleep(_AGAIN)  # at work without an environment: in the middle of an exec
    return environment.startswith(mark) or b"\0" + mark in environment


def _close(owner: str, maker: int, made: dict[ProcessRef, int], descriptors: list[int]) -> None:
    """End what this process has made and, if it is the one that made the object, what its children have."""
    here = os.getpid()
    mine = [process for process, by in list(made.items()) if by == here]
    for process in mine:
        process.send_signal(signal.SIGKILL)
    others = list(_marked(_OWNER, owner)) if here == maker else []
    for process in others:
        process.send_signal(signal.SIGKILL)
    for process in (*mine, *others):
        process.wait(GRACE)
    for process in mine:
        _reap(process.pid)
        made.pop(process, None)
    while descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptors.pop())


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
