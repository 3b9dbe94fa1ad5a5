"""Real processes for tests: each does what it is told, stops where it is told, and is reaped whatever happens.

A `Worker` is an interpreter of its own, started afresh and not forked, so that it shares nothing with the test. The test
sends it functions of test modules, one at a time, and within such a function `tell` and `hear` are numbered sequence points:
the worker says where it is and goes on when the test lets it. Nothing here waits by sleeping a guessed time.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pytest

from statefile import _lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class Spawn(Protocol):
        """The fixture `spawn`."""

        def __call__(self, *prefix: str, quiet: bool = False, fresh: bool = False) -> Worker:
            """A worker: started by the command `prefix`, silent on stderr, or used by nobody before and after."""
            ...


P = ParamSpec("P")
R = TypeVar("R")

PATIENCE = 30.0
"""Seconds after which what was waited for will not come any more."""

NOBODY = 65534
"""Any user that is not root and owns nothing here."""

STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-o")
"""What comes next is the file to write to; with the filter only the calls that are traced are slow."""

needs_strace = pytest.mark.usefixtures("strace")


# -- the side of the test ----------------------------------------------------------------------------------------------


class Worker:
    """A process that runs functions for a test."""

    def __init__(self, *prefix: str, quiet: bool = False) -> None:
        """Start it, by the command `prefix` if there is one; with `quiet` nothing that it says on stderr is shown."""
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if prefix:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"  # then what it writes is what it was told to write
        code = f"from tests.harness import serve; serve({theirs.fileno()})"
        with theirs:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-W", "error", "-c", code],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL if quiet else None,
                start_new_session=True,
            )
        self._link = ours
        self._stream = ours.makefile("rwb")
        self.busy = False
        self._pid: int | None = None if prefix else self.process.pid

    @property
    def pid(self) -> int:
        """The worker's own PID, also if a prefix stands between."""
        if self._pid is None:
            self._pid = self.call(os.getpid)
        return self._pid

    def start(self, do: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Let it run `do`, and do not wait."""
        assert not self.busy, "the worker has not finished what it was told before"
        self.busy = True
        self._send(("do", do, args, kwargs))

    def result(self, timeout: float = PATIENCE) -> Any:
        """What the function returned; what it raised is raised here."""
        kind, value = self._receive(timeout)
        assert kind == "returned", f"the worker was to return, but told {value!r}"
        return value

    def call(self, do: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Let it run `do`, and return what that returns."""
        self.start(do, *args, **kwargs)
        value: R = self.result()
        return value

    def hear(self, timeout: float = PATIENCE) -> Any:
        """What the function tells next; what it raised instead is raised here."""
        kind, value = self._receive(timeout)
        assert kind == "told", f"the worker was to tell something, but returned {value!r}"
        return value

    def tell(self, value: object = None) -> None:
        """Answer the function's `hear`."""
        self._send(("tell", value, (), {}))

    def silent(self) -> bool:
        """Whether it has said nothing that was not heard yet."""
        self._link.setblocking(False)
        try:
            return not self._link.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self._link.settimeout(PATIENCE)

    def _send(self, message: object) -> None:
        pickle.dump(message, self._stream)
        self._stream.flush()

    def _receive(self, timeout: float) -> tuple[str, Any]:
        self._link.settimeout(timeout)
        try:
            kind, value = pickle.load(self._stream)
        except TimeoutError:
            raise AssertionError(f"the worker said nothing for {timeout:g} s") from None
        except (EOFError, ConnectionResetError):
            raise AssertionError(f"the worker has died, status {self.process.poll()}") from None
        if kind != "told":
            self.busy = False
        if kind == "raised":
            raise value
        return kind, value

    def signal(self, number: int) -> None:
        """Send a signal to it alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to it alone, and reap it; what it has started lives on until `close`."""
        self.signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def wait(self) -> int:
        """Wait until it is dead; the status."""
        return self.process.wait(PATIENCE)

    def is_clean(self) -> bool:
        """Whether it is idle and keeps nothing, so that another test may have it."""
        return not self.busy and self.process.poll() is None and self.call(nothing_kept)

    def let_go(self) -> None:
        """Let it end by itself, if it is not in the middle of something."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        if self.busy:
            self._kill_all()

    def close(self) -> None:
        """See to it that it, and whatever it has started, is dead and reaped."""
        self.let_go()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE / 3)
        self._kill_all()
        self.process.wait(PATIENCE)
        with contextlib.suppress(OSError):
            self._stream.close()
        self._link.close()

    def _kill_all(self) -> None:
        # It leads a session of its own, so what it started is in its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


# -- the side of the worker --------------------------------------------------------------------------------------------


def tell(value: object = None) -> None:
    """Say to the test where we are."""
    _say("told", value)


def hear() -> Any:
    """Wait until the test lets us go on; what it says."""
    kind, value, _, _ = pickle.load(_stream)
    assert kind == "tell", kind
    return value


def meet() -> None:
    """Tell that we are ready, and wait for the others."""
    tell("ready")
    hear()


def serve(descriptor: int) -> None:
    """Run what the test sends, until it closes its end."""
    global _stream  # noqa: PLW0603  # one a process
    _stream = socket.socket(fileno=descriptor).makefile("rwb")
    sys.unraisablehook = unraisable.append
    while True:
        try:
            _, do, args, kwargs = pickle.load(_stream)
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001  # a module that cannot be imported here
            _raised(error)
            continue
        try:
            value = do(*args, **kwargs)
            assert not unraisable, f"{unraisable[0].err_msg}: {unraisable[0].exc_value!r}"
        except BaseException as error:  # noqa: BLE001  # the test gets whatever it was
            _raised(error)
        else:
            _say("returned", value)


def nothing_kept() -> bool:
    """Whether this worker has no lock file open, no child, and no thread but its own."""
    with contextlib.suppress(AssertionError):
        until(lambda: len(lasting_threads()) == 1 and not lock_descriptors(), timeout=2)
    return len(lasting_threads()) == 1 and not lock_descriptors() and not children()


def _raised(error: BaseException) -> None:
    error.add_note("in the worker:\n" + traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # whatever stands in the way
        error = RuntimeError("".join(traceback.format_exception(error)))
    _say("raised", error)


def _say(kind: str, value: object) -> None:
    pickle.dump((kind, value), _stream)
    _stream.flush()


_stream: Any = None
unraisable: list[Any] = []


def become_nobody(*modules: str) -> None:
    """Give up root's rights for good, after loading what is loaded when first used: its files may be out of reach then."""
    for module in ("encodings.ascii", "json", "portalocker.portalocker", "psutil", *modules):
        importlib.import_module(module)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


# -- what the kernel and the disk say ----------------------------------------------------------------------------------


def until(condition: Callable[[], R], timeout: float = PATIENCE) -> R:
    """Look, and look again, until `condition` holds; what it returned."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"did not come true within {timeout:g} s"
        time.sleep(0.001)


def until_gone(path: Path) -> None:
    """Look until nothing is there any more."""
    until(lambda: not os.path.lexists(path))


def lock_queue(path: Path) -> tuple[list[int], list[int]]:
    """Who holds the `flock` of the file at `path`, and who waits for it, as the kernel tells it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return [], []
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    queue = _queue_of(file)
    for _ in range(20):
        # The kernel tells of locks page by page: while other tests lock, one may be passed over, or told of twice.
        before, queue = queue, _queue_of(file)
        if queue == before:
            break
    return queue


def _queue_of(file: str) -> tuple[list[int], list[int]]:
    holders: list[int] = []
    waiters: list[int] = []
    for line in Path("/proc/locks").read_text().splitlines():
        match = re.match(r"\d+:\s*(->)?\s*FLOCK \s*\S+\s+\S+\s+(-?\d+) (\S+) ", line)
        if match and match[3] == file:
            (waiters if match[1] else holders).append(int(match[2]))
    return holders, waiters


def waits_for(worker: Worker | int, path: Path) -> bool:
    """Whether that process is blocked in the kernel's queue for the lock file at `path`."""
    return (worker if isinstance(worker, int) else worker.pid) in lock_queue(path)[1]


def plain(value: object) -> str:
    """`value` as a test's name: the same in every process, so without the addresses of objects."""
    return re.sub(r" at 0x[0-9a-f]+", "", f"{value!a:.60}")


def names(directory: Path) -> list[str]:
    """What is in the directory, sorted."""
    return sorted(os.listdir(directory))


def lock_descriptors(pid: int | None = None) -> list[str]:
    """Which lock files a process has open, by what `/proc` shows: all of them, one entry a descriptor."""
    found = []
    folder = f"/proc/{pid or 'self'}/fd"
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            target = os.readlink(f"{folder}/{name}")
            if target.removesuffix(" (deleted)").endswith(".lock"):
                found.append(target)
    return sorted(found)


def threads() -> set[str]:
    """The kernel's threads of this process, also those that `threading` knows nothing of."""
    return set(os.listdir("/proc/self/task"))


def lasting_threads() -> set[str]:
    """The threads, but for one that goes by itself in a second: it was to say for whom a long wait waits."""
    found = threads()
    if _lock._reminder._running.locked():
        found.discard(max(found, key=int))  # whichever it is, it is not the first
    return found


def children() -> list[int]:
    """The children of this process, zombies included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []
    with contextlib.suppress(OSError):  # a kernel that does not tell, or a thread that has just ended
        tasks = os.listdir("/proc/self/task")
        return [int(pid) for task in tasks for pid in Path(f"/proc/self/task/{task}/children").read_text().split()]
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int(Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(pid))
    return found


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """The process's umask, for a block."""
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)
