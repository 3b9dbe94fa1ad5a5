"""A disk that is full for whatever this process saves, and for nothing and nobody else."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from statefile.testing._arguments import whole
from statefile.testing._patching import own_system_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextlib.contextmanager
def full_disk(*, room: int | None = None) -> Generator[None]:
    """In the block no save of this process, or of a child that is forked in it, finds enough space.

    As on a real full disk a write is cut short first, for real: half of the bytes are in the temporary file, and the next call
    fails with ENOSPC. With `room` that many bytes are left, for all saves together, and those that fit succeed. So a save
    raises `StateIOError` with `errno.ENOSPC`, and the old state has to be there. The file system is not touched, no root is
    needed, and nothing but the writing of states and PID files is hit: not locks, not removals, not other programs.
    Of blocks in each other each has its own room, and a save needs room in every one.

    Raises:
        ValueError: `room` is negative.
        TypeError: it is no integer.
    """
    if room is not None and whole("room", room, _ROOM) < 0:
        raise ValueError(f"room={room!r}: give {_ROOM}")
    with own_system_calls() as system:
        system.write = _Disk(room, system.write).write
        yield


_ROOM = "the bytes that are left, 0 or more"


class _Disk:
    def __init__(self, room: int | None, write: Callable[[int, memoryview], int]) -> None:
        self._room = room
        self._write = write

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self._room is not None:
            fits = min(self._room, len(data))
            self._room -= fits
        else:
            # The second write to a file is what is left of it.
            fits = 0 if os.lseek(fd, 0, os.SEEK_CUR) else (len(data) + 1) // 2
            fits = min(fits, len(data) - 1)
        if data and fits <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(fd, memoryview(data)[:fits])
