"""Faults in system calls: each call of a verb is found by tracing it, then made to fail, or to kill, in a run of its own.

A run is a forked child of a process that is warm, so that nothing is imported in it. The child prepares, then waits; strace is
attached to it, so that its counts begin there; then the child acts between two marks that can be seen in the trace. While it is
still alive, its parent looks at what is on the disk and whether the lock is free.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import re
import signal
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.harness import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BEGIN, END = "/begin-of-the-verb", "/end-of-the-verb"
KILL = "KILL"
"""The fault that is no errno."""

_PR_SET_PTRACER = 0x59616D61
_LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)")

_MEDIUM = ("ENOSPC", "EIO", "EDQUOT", "EROFS")
ERRNOS: dict[str, tuple[str, ...]] = {
    # What the descriptor table and the medium can refuse; see `errnos` for what only a call that writes can meet.
    "open": ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "EINTR"),
    "read": ("EIO", "EINTR"),
    "pread64": ("EIO", "EINTR"),
    "write": ("ENOSPC", "EIO", "EDQUOT", "EINTR"),
    # EROFS is among the answers of file systems that have nothing to flush: then the save goes on.
    "fsync": ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EINTR"),
    "close": ("ENOSPC", "EIO", "EDQUOT", "EINTR"),
    # On a file system that copies on write, removing and changing a mode need space too. None of these can be interrupted.
    "rename": _MEDIUM,
    "unlink": _MEDIUM,
    "mkdir": _MEDIUM,
    "chmod": _MEDIUM,
    "fchmod": _MEDIUM,
    "fchown": _MEDIUM,
    "fsetxattr": _MEDIUM,
    # These read: space, quotas and read-only file systems do not matter to them, and they make no descriptor.
    "stat": ("EIO",),
    "lstat": ("EIO",),
    "fstat": ("EIO",),
    "newfstatat": ("EIO",),
    "statx": ("EIO",),
    "lgetxattr": ("EIO",),
    # A network file system may say EIO, and the kernel ENOLCK instead of ENOSPC.
    "flock": ("EIO", "EINTR", "ENOLCK"),
    "fcntl": ("EIO", "EINTR", "ENOLCK"),
}
"""Which errors each call is made to say. EMFILE and ENFILE are for calls that make a descriptor."""

NEVER_FAIL = {
    *("getrandom", "geteuid", "getegid", "getuid", "getgid", "getpid", "gettid", "clock_gettime"),  # documented so, here
    *("brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "futex", "rt_sigprocmask"),  # the interpreter's, not the verb's
}
"""Calls that get no errno, but the SIGKILL."""


@dataclass(frozen=True)
class Case:
    """One fault: which call of the verb, the how-manieth of its name, and what happens to it."""

    call: str
    nth: int
    fault: str

    def __str__(self) -> str:
        return f"{self.call} {self.nth}: {self.fault}"

    @property
    def options(self) -> tuple[str, ...]:
        """For strace. A call that is made to fail is not made at all, so a process that is killed in it is killed before it."""
        what = "error=EIO:signal=KILL" if self.fault == KILL else f"error={self.fault}"
        return ("-e", f"inject={self.call}:{what}:when={self.nth}")


@dataclass
class Run:
    """What came of a run. `report` is what the child's function returned, `None` if it was killed."""

    report: Any
    status: int
    log: str

    @property
    def calls(self) -> list[tuple[str, str]]:
        """The calls between the marks, and what strace said of each."""
        return calls_between_marks(self.log)

    @property
    def injected(self) -> list[str]:
        """The calls between the marks that were made to fail, by what strace says."""
        return [call for call, rest in self.calls if "(INJECTED)" in rest]


def calls_between_marks(log: str) -> list[tuple[str, str]]:
    """Names and arguments; up to the end if the second mark is missing, as it is where the process was killed."""
    found: list[tuple[str, str]] | None = None
    for line in log.splitlines():
        if BEGIN in line:
            found = []
        elif END in line:
            break
        elif found is not None and (match := _LINE.match(line)):
            found.append((match[1], match[2]))
    assert found is not None, f"the verb did not begin:\n{log}"
    return found


def cases_of(calls: list[tuple[str, str]]) -> list[Case]:
    """Every fault for every call."""
    count: dict[str, int] = {}
    cases = []
    for call, arguments in calls:
        nth = count[call] = count.get(call, 0) + 1
        cases += [Case(call, nth, fault) for fault in (*errnos(call, arguments), KILL)]
    return cases


def errnos(call: str, arguments: str) -> tuple[str, ...]:
    """The errors that this call may meet."""
    if call in NEVER_FAIL:
        return ()
    plain = re.sub(r"(at2?)$", "", call) if call.startswith(("open", "rename", "unlink", "mkdir", "fchmod")) else call
    found = ERRNOS[{"renamea": "rename", "renameat2": "rename", "fchownat": "fchown"}.get(plain, plain)]
    if plain == "open" and "O_CREAT" not in arguments:
        found = tuple(code for code in found if code not in {"ENOSPC", "EDQUOT"})
    if plain == "open" and "O_RDWR" not in arguments and "O_WRONLY" not in arguments:
        found = tuple(code for code in found if code != "EROFS")
    return found


@contextlib.contextmanager
def run_with(prepare: Callable[[], Any], act: Callable[[Any], object], log: Path, *options: str) -> Iterator[Callable[[], Run]]:
    """Fork a child that prepares untraced and acts under strace. In the block it is still alive, unless it was killed.

    What is yielded lets it go, and returns what came of it.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    pid = os.fork()
    if pid == 0:
        _be_the_child(prepare, act, ours, theirs)
    theirs.close()
    tracer: subprocess.Popen[bytes] | None = None
    status: int | None = None
    try:
        assert ours.recv(1) == b"r", "the child could not prepare"
        command = ["strace", "-f", "-o", str(log), *options, "-p", str(pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        assert b"attached" in said, said
        ours.send(b"g")
        # What comes is either the report or the end of the child: both are waited for here.
        data = ours.recv(1 << 20)

        def finish() -> Run:
            nonlocal status
            if status is None:
                with contextlib.suppress(OSError):
                    ours.shutdown(socket.SHUT_RDWR)
                status = os.waitpid(pid, 0)[1]
                tracer.wait(PATIENCE)
            return Run(pickle.loads(data) if data else None, os.waitstatus_to_exitcode(status), log.read_text())

        yield finish
    finally:
        ours.close()
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if tracer is not None:
            tracer.wait(PATIENCE)
            assert tracer.stderr is not None
            tracer.stderr.close()


def _be_the_child(
    prepare: Callable[[], Any], act: Callable[[Any], object], parents: socket.socket, link: socket.socket
) -> None:
    status = 1
    try:
        parents.close()
        gc.disable()  # what it closes would come at any time
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, -1, 0, 0, 0)  # where only ancestors may trace: strace is a sister
        prepared = prepare()
        link.send(b"r")
        if link.recv(1) == b"g":
            report = act(prepared)
            link.send(pickle.dumps(report))
            link.recv(1)
        status = 0
    finally:
        os._exit(status)


def between_marks(act: Callable[[], object]) -> BaseException | None:
    """Do it, and return what it raised."""
    os.access(BEGIN, os.F_OK)
    try:
        act()
    except BaseException as error:  # noqa: BLE001  # whatever came out is what is looked at
        caught: BaseException | None = error
    else:
        caught = None
    os.access(END, os.F_OK)
    return caught


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
