"""Who holds a lock: asked of the kernel, in `/proc/locks`. It costs the holder nothing, and a lock file stays empty."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from statefile import _atomic
from statefile._process import command_of


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who holds a lock.

    Attributes:
        pid: the process that took it, as numbered here.
        command: its command line, or `None` if it has ended (then a child that it left behind holds the lock) or hides it.
    """

    pid: int
    command: str | None = None

    def __str__(self) -> str:
        """`pid 17 (runsc start c1)`."""
        return f"pid {self.pid} ({self.command})" if self.command else f"pid {self.pid}"


def holder_of(path: str) -> LockHolder | None:
    """Who holds the lock file at `path` now; `None` if nobody does, or the kernel does not show it. Opens nothing.

    Raises:
        StateIOError: the directory may not be searched.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _atomic.system_error(error, "look at", path) from error
    return holder_of_file((found.st_dev, found.st_ino))


def holder_of_file(key: tuple[int, int]) -> LockHolder | None:
    """Look the file up in `/proc/locks`, which costs the holder nothing."""
    for _ in range(_LOOKS):
        with contextlib.suppress(OSError, ValueError), open("/proc/locks", encoding="ascii") as locks:  # no Path needed
            text = locks.read()
            pid = _holder_in(text, *key)
            if pid is not None:
                return _named(pid)
            if len(text) < _PAGE:
                break
    return None


_LOOKS = 3
_PAGE = 4096
"""Characters that the kernel tells at one moment. Of a longer list it may pass a lock over while others come and go."""
_LOCKS_FIELDS = 8


def _holder_in(text: str, device: int, inode: int) -> int | None:
    exact = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    alike: list[int] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < _LOCKS_FIELDS or fields[1] != "FLOCK":
            continue  # a waiter has `->` there
        if fields[5] == exact:
            return int(fields[4])
        if fields[5].rpartition(":")[2] == str(inode):
            alike.append(int(fields[4]))
    # Some file systems show another device number in stat than the kernel uses: then the inode alone must do.
    return alike[0] if len(alike) == 1 else None


def _named(pid: int) -> LockHolder | None:
    """A process of another PID namespace is shown as 0 or less: nobody that we could name."""
    return LockHolder(pid, command_of(pid)) if pid > 0 else None
