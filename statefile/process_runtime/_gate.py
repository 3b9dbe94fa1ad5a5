"""Letting the created process run the program, and hearing whether it does."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import time
from typing import TYPE_CHECKING

from statefile._process import Presence
from statefile.errors import StateIOError
from statefile.process_runtime._directory import told
from statefile.process_runtime._launch import raise_refusal

if TYPE_CHECKING:
    from statefile._process import ProcessRef
    from statefile.process_runtime._directory import RunDirectory

_START = "start"

_WITHOUT_PIDFD = 10
"""Milliseconds between two looks at the process where the kernel has no pidfds."""

PATIENCE = 10.0
"""Seconds for the process to go through the gate: it needs no time for that unless something has stopped it."""

_LAST_BREATH = 5
"""Seconds for a process that has said its last word to end."""


def is_waiting(directory: RunDirectory) -> bool | None:
    """Whether the first process has yet to be let through; `None` if the directory is not there, or not ours, to tell."""
    with contextlib.suppress(StateIOError), directory.opened() as descriptor:
        return None if descriptor is None else _has_gate(descriptor)
    return None


def let_through(directory: RunDirectory, init: ProcessRef) -> None:
    """Let `init` run the program: on return it does, or did already.

    Raises:
        StateIOError: it has ended before; or the program cannot be run, then it has ended too; or it does not come (it was
            stopped by somebody, say), then it waits as before.
    """
    with contextlib.ExitStack() as stack:
        descriptor = stack.enter_context(directory.opened())
        fifo = None if descriptor is None else _open_gate(directory, descriptor)
        if descriptor is None or fifo is None:
            if init.presence() is not Presence.ALIVE:
                raise _ended(init)
            return  # an earlier starter was killed after it had opened the gate
        stack.callback(os.close, fifo)
        last_words = _listen(fifo, init)
        if last_words:
            init.wait(_LAST_BREATH)  # so that nobody finds it running
            raise_refusal(last_words)
        if _has_gate(descriptor):
            raise _ended(init)


def _has_gate(descriptor: int) -> bool:
    try:
        os.stat(_START, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_gate(directory: RunDirectory, descriptor: int) -> int | None:
    with told("open", f"{directory.path}/{_START}"), contextlib.suppress(FileNotFoundError):
        return os.open(_START, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=descriptor)
    return None


def _listen(fifo: int, init: ProcessRef) -> bytes:
    """What `init` says before it closes its end: nothing, if it runs the program (or has ended).

    Raises:
        StateIOError: it says nothing and does not close it.
    """
    words = b""
    deadline = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        poller = select.poll()
        poller.register(fifo, select.POLLIN)
        rest: float = _WITHOUT_PIDFD
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(init.pid)
            stack.callback(os.close, pidfd)
            poller.register(pidfd, select.POLLIN)
            rest = math.inf
        while True:
            # Asked with the pidfd open: a number that has changed hands does not keep us here.
            gone = init.presence() is not Presence.ALIVE
            left = deadline - time.monotonic()
            if left < 0:
                raise StateIOError(path=f"/proc/{init.pid}", operation="start the process", errno=errno.ETIMEDOUT)
            ready = {number for number, _ in poller.poll(0 if gone else min(rest, left * 1000 + 1))}
            if fifo in ready or gone:
                part = _read(fifo)
                words += part or b""
                if part == b"" or (part is None and gone):
                    return words


def _read(fifo: int) -> bytes | None:
    """What can be read now: nothing at the end, `None` while the writer is silent."""
    try:
        return os.read(fifo, 4096)
    except BlockingIOError:
        return None


def _ended(init: ProcessRef) -> StateIOError:
    return StateIOError(path=f"/proc/{init.pid}", operation="start the process", errno=errno.ESRCH)
