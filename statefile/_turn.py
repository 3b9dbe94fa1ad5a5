"""Whose turn it is: marks by which waiters keep their place before a newcomer who happens to be awake.

The kernel wakes the waiters of a `flock(2)` in the order in which they came, but only wakes them: until the first one runs,
whoever asks gets the lock, and a process that releases and comes straight back wins for seconds. So a waiter shows a mark on
the lock file, and so does a holder who has waited. A newcomer who sees waiters and no holder knows that the lock is just being
handed over, and lets that happen: it waits until a holder shows, but never for long, since a mark may belong to a waiter that
is stopped (Ctrl-Z, a frozen cgroup) and cannot come.

A mark is a shared open-file-description lock (`F_OFD_SETLK`, fcntl(2)) on one byte: nobody ever waits for it, it ends with the
descriptor, so a killed process leaves none, and it does not touch `flock`, which alone excludes. That holds on local file
systems; where the two kinds of lock may be one (NFS, CIFS, FUSE) no mark is shown, and the lock is plain `flock`.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from typing import Final

COURTESY: Final = 0.010
"""Seconds that a newcomer lets waiters go first, at the most."""

_LOOK_AGAIN = 250e-6
_DISTRUST = 1.0
"""Seconds for which marks on a file are not believed, once a courtesy was in vain."""

_GETLK = getattr(fcntl, "F_OFD_GETLK", 36)
_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid


def _on(byte: int, kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


_WAITER, _HOLDER = 1, 2
_SHOW_WAITER, _SHOW_HOLDER = _on(_WAITER, fcntl.F_RDLCK), _on(_HOLDER, fcntl.F_RDLCK)
_LOOK_FOR_WAITER, _LOOK_FOR_HOLDER = _on(_WAITER, fcntl.F_WRLCK), _on(_HOLDER, fcntl.F_WRLCK)
_HIDE_BOTH = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _WAITER, 2, 0)
_NOBODY = struct.pack("h", fcntl.F_UNLCK)

_LOCAL = frozenset({
    "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ntfs3", "overlay", "ramfs",
    "reiserfs", "rootfs", "tmpfs", "udf", "vfat", "xfs", "zfs",
})  # fmt: skip


def let_waiters_go_first(fd: int, key: tuple[int, int]) -> bool:
    """Return once no waiter is about to get the lock file open at `fd`; false if `COURTESY` has passed before that."""
    if not _shown(fd, _LOOK_FOR_WAITER) or _distrusted(key):
        return True
    end = time.monotonic() + COURTESY
    while _shown(fd, _LOOK_FOR_WAITER) and not _shown(fd, _LOOK_FOR_HOLDER):
        if time.monotonic() >= end:
            return False
        time.sleep(_LOOK_AGAIN)
    return True


def show_waiting(fd: int, key: tuple[int, int]) -> bool:
    """Show that somebody waits; false where marks are not safe."""
    return _marks_are_safe(key[0]) and _set(fd, _SHOW_WAITER)


def show_holding(fd: int) -> None:
    """The waiter has become the holder: beside a holder's mark, a waiter's says nothing, so it may stay."""
    _set(fd, _SHOW_HOLDER)


def hide(fd: int) -> None:
    """The holder is about to release."""
    _set(fd, _HIDE_BOTH)


def distrust(key: tuple[int, int]) -> None:
    """A courtesy was in vain: whoever shows the mark cannot come."""
    global _in_vain  # noqa: PLW0603  # the last such file is memory enough
    _in_vain = (key, time.monotonic() + _DISTRUST)


def _distrusted(key: tuple[int, int]) -> bool:
    return _in_vain[0] == key and time.monotonic() < _in_vain[1]


def _shown(fd: int, mark: bytes) -> bool:
    try:
        return fcntl.fcntl(fd, _GETLK, mark)[:2] != _NOBODY
    except OSError:
        return False


def _set(fd: int, mark: bytes) -> bool:
    try:
        fcntl.fcntl(fd, _SETLK, mark)
    except OSError:
        return False
    return True


def _marks_are_safe(device: int) -> bool:
    """Whether the file system on `device` is a local one; asked once a device."""
    if device not in _safe:
        found = _file_system_of(device)
        if not found:  # no descriptor was left to look it up with, or no /proc: ask again next time
            return False
        _safe[device] = found in _LOCAL
    return _safe[device]


def _file_system_of(device: int) -> str:
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                if before.split()[2:3] == [number]:
                    return after.split()[0]
    except (OSError, IndexError):
        pass
    return ""


_in_vain: tuple[tuple[int, int] | None, float] = (None, 0.0)
_safe: dict[int, bool] = {}
