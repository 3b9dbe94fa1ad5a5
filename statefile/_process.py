"""Which process a PID meant: identity that survives PID reuse, reboots and clocks that are set.

A process is its PID, its start time in clock ticks since boot (field 22 of `/proc/PID/stat`), the boot's ID and the PID
namespace in which the PID was read. The kernel sets all four; none of them follows the wall clock. Compared with what runs
now the answer is one of three, and `UNKNOWN` is never read as either of the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ConfigDict, Field

from statefile._record import Record
from statefile.errors import StateIOError

if TYPE_CHECKING:
    from collections.abc import Generator

PID_MAX = 2**22
"""The kernel's own limit (PID_MAX_LIMIT): a larger number was never a process."""

_NOT_THERE = frozenset({errno.ENOENT, errno.ESRCH})
_PIDFD_GONE = frozenset({errno.ESRCH, errno.EINVAL, errno.ENOENT})  # EINVAL: no thread leader, so not our process
_PIDFD_DENIED = frozenset({errno.ENOSYS, errno.EPERM, errno.EMFILE, errno.ENFILE})
_DEAD_STATES = "ZXx"


class Presence(Enum):
    """What became of a process."""

    ALIVE = "alive"
    GONE = "gone"
    """It has ended; a zombie has ended too, and so has every process of an earlier boot."""
    UNKNOWN = "unknown"
    """It cannot be decided from here: another PID namespace, no permission, or too little was recorded."""


class ProcessRef(Record):
    """One process, for good: no later process is ever mistaken for it.

    Attributes:
        pid: its number, in `pid_namespace`.
        start_ticks: when it started, in clock ticks since boot; `None` if that was not recorded.
        boot_id: the boot in which it ran; `None` if that was not recorded.
        pid_namespace: inode number of the PID namespace; `None` stands for the reader's.
    """

    model_config = ConfigDict(frozen=True)

    pid: int = Field(strict=True, gt=0, le=PID_MAX)
    start_ticks: int | None = Field(default=None, strict=True, ge=0)
    boot_id: str | None = None
    pid_namespace: int | None = Field(default=None, strict=True, ge=0)

    def __hash__(self) -> int:
        """By what identifies the process."""
        return hash((self.pid, self.start_ticks, self.boot_id, self.pid_namespace))

    @classmethod
    def of(cls, pid: int) -> ProcessRef:
        """The process that has this PID now.

        Raises:
            ProcessLookupError: there is none, or `/proc` does not show it.
            StateIOError: it could not be looked at (no descriptor is left, say).
        """
        try:
            stat = _stat_of(pid)
        except OSError as error:
            if error.errno in {*_NOT_THERE, errno.EPERM, errno.EACCES}:
                raise ProcessLookupError(errno.ESRCH, f"no process {pid} can be seen") from None
            raise StateIOError(path=f"/proc/{pid}/stat", operation="read", errno=error.errno or errno.EIO) from error
        return cls(pid=pid, start_ticks=stat.start_ticks, boot_id=current_boot_id(), pid_namespace=_own_pid_namespace())

    @classmethod
    def current(cls) -> ProcessRef:
        """This process."""
        return cls.of(os.getpid())

    def presence(self) -> Presence:
        """Whether this very process runs now. Costs one or two reads of `/proc`; never blocks."""
        here = current_boot_id()
        if self.boot_id is not None and here is not None and self.boot_id != here:
            return Presence.GONE
        if self.pid_namespace is not None and self.pid_namespace != _own_pid_namespace():
            return Presence.UNKNOWN
        stat = _read_stat(self.pid)
        if not isinstance(stat, _Stat):
            return stat
        if stat.dead:
            return Presence.GONE
        if self.start_ticks is None or self.boot_id is None or here is None:
            # The number is in use, but by whom cannot be said.
            return Presence.UNKNOWN
        return Presence.ALIVE if stat.start_ticks == self.start_ticks else Presence.GONE

    def process_group(self) -> int | None:
        """The number of its process group, as getpgid(2) tells it; `None` if it is gone or cannot be told."""
        try:
            number = os.getpgid(self.pid)
        except OSError:
            return None
        return number if self.presence() is Presence.ALIVE else None

    def send_signal(self, number: int) -> Presence:
        """Send signal `number` to this very process, and say what was found: only `ALIVE` means that it was sent.

        Raises:
            StateIOError: the process is alive, but may not be signalled (EPERM).
        """
        with self._held() as (fd, presence):
            if presence is not Presence.ALIVE:
                return presence
            try:
                if fd is not None:
                    signal.pidfd_send_signal(fd, number)
                else:
                    os.kill(self.pid, number)
            except ProcessLookupError:
                return Presence.GONE
            except OSError as error:
                if fd is None or error.errno not in {errno.ENOSYS, errno.EPERM}:
                    raise self._refused(error) from error
                return self._kill_by_number(number)
            return Presence.ALIVE

    def wait(self, timeout: float | None = None) -> Presence:
        """Wait until the process has ended, at most `timeout` seconds, and return what is true then.

        `GONE` means that it has ended (it may be a zombie that its parent has not yet reaped); `ALIVE` that the time was
        up; `UNKNOWN` is returned at once. Sleeps in the kernel where it has pidfds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._held() as (fd, found):
            presence = found
            while presence is Presence.ALIVE:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                if fd is None:
                    time.sleep(_WITHOUT_PIDFD if left is None else min(left, _WITHOUT_PIDFD))
                else:
                    _wait_readable(fd, left)
                presence = self.presence()
            return presence

    @contextlib.contextmanager
    def _held(self) -> Generator[tuple[int | None, Presence]]:
        """A pidfd of whatever has this PID, and whether that is this process: asked afterwards, when it cannot change hands.

        `None` where there is no such process, or no pidfds.
        """
        opened: list[int] = []
        gone = False
        try:
            opened += map(os.pidfd_open, (self.pid,))
        except OSError as error:
            gone = error.errno in _PIDFD_GONE
            if not gone and error.errno not in _PIDFD_DENIED:
                raise self._refused(error) from error
        try:
            presence = self.presence()
            # What has no pidfd, but can be seen, is a thread: signalled by its number, its whole process would be hit.
            fd = opened[0] if opened else None
            yield fd, Presence.GONE if gone and presence is Presence.ALIVE else presence
        finally:
            any(map(os.close, opened))

    def _kill_by_number(self, number: int) -> Presence:
        """The way of kernels without pidfds: identity was checked a moment ago."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return Presence.GONE
        except OSError as error:
            raise self._refused(error) from error
        return Presence.ALIVE

    def _refused(self, error: OSError) -> StateIOError:
        return StateIOError(path=f"/proc/{self.pid}", operation="reach", errno=error.errno or errno.EIO)


_WITHOUT_PIDFD = 0.01
"""Seconds between two looks where the kernel has no pidfds."""


def current_boot_id() -> str | None:
    """The kernel's ID of this boot, or `None` where `/proc` does not tell."""
    return _boot_id()


def _boot_id() -> str | None:
    """Kept once it is known; a failure (no descriptor left) is not: what is saved without it is nobody's for good."""
    if not _boot_ids:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # no Path needed
                _boot_ids.append(file.read().strip())
        except (OSError, ValueError):
            return None
    return _boot_ids[0] or None


_boot_ids: list[str] = []


def command_of(pid: int) -> str | None:
    """The command line of `pid` as one string, its name where it has none (a zombie), or `None`."""
    for name, separator in (("cmdline", "\0"), ("comm", "\n")):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:  # no Path needed
                text = file.read(4096).decode("utf-8", "replace").strip(separator)
        except OSError:
            return None
        if text:
            return text.replace("\0", " ")
    return None


def descendants(pid: int) -> list[ProcessRef]:
    """The living processes below `pid`, children first; empty if there is no such process."""
    import psutil  # noqa: PLC0415  # 8 ms that most commands never need

    found: list[ProcessRef] = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(ProcessLookupError):
                ref = ProcessRef.of(child.pid)
                if ref.presence() is Presence.ALIVE:  # and no zombie
                    found.append(ref)
    return found


class _Stat(NamedTuple):
    dead: bool
    start_ticks: int


def _read_stat(pid: int) -> _Stat | Presence:
    """What `/proc/PID/stat` says of the thread group `pid`, or why it says nothing."""
    try:
        return _stat_of(pid)
    except OSError as error:
        return _without_stat(pid) if error.errno in _NOT_THERE else Presence.UNKNOWN


def _stat_of(pid: int) -> _Stat:
    # In one step, as in `_atomic`: an exception out of a signal handler loses no descriptor.
    opened = [*map(os.open, (f"/proc/{pid}/stat",), (os.O_RDONLY | os.O_CLOEXEC,))]
    try:
        text = os.read(opened[0], 4096)
    finally:
        try:  # noqa: SIM105  # a context manager costs more than the call
            os.close(opened[0])
        except OSError:
            pass  # all was read
    # The name (field 2) stands in parentheses and may hold anything, more parentheses included.
    fields = text[text.rfind(b")") + 2 :].split()
    state, threads, start_ticks = fields[0].decode(), int(fields[17]), int(fields[19])
    # A leader that has ended while other threads live looks like a zombie, but its process lives.
    return _Stat(dead=state in _DEAD_STATES and threads <= 1, start_ticks=start_ticks)


def _without_stat(pid: int) -> Presence:
    """`/proc` shows nothing: either there is no such process, or it is hidden (`hidepid`), or there is no `/proc`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Presence.GONE
    except OSError:
        return Presence.UNKNOWN
    return Presence.UNKNOWN


def _own_pid_namespace() -> int | None:
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # no Path needed
    except OSError:
        return None


_LONGEST_POLL = 86_400.0
"""Seconds that poll(2) can surely count in milliseconds; who waits longer looks again."""


def _wait_readable(fd: int, seconds: float | None) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    # Rounded up, so that a short rest is slept and not spun.
    poller.poll(None if seconds is None else int(min(seconds, _LONGEST_POLL) * 1000) + 1)
