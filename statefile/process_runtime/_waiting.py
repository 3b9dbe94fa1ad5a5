"""Waiting for the exit status, in the kernel, in any number of processes."""

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
from statefile.process_runtime._family import leader_of
from statefile.runtime import ExitStatus

if TYPE_CHECKING:
    from statefile._process import ProcessRef
    from statefile.process_runtime._directory import RunDirectory

_LONGEST = 2**31 - 1
"""Milliseconds that `poll` can be asked to wait."""

_MOMENT = 1.0
"""Seconds that the monitor has to say how a process has ended, whatever the timeout."""

_STILL_RUNNING = "the container's first process is still running"


def wait_for_exit(directory: RunDirectory, init: ProcessRef, timeout: float | None) -> ExitStatus | None:
    """Wait until `init` has ended and return how; `None` if that was not recorded, because the monitor was killed.

    Raises:
        TimeoutError: it runs still after `timeout` seconds.
        StateIOError: the directory cannot be read, or it cannot be decided from here whether `init` has ended.
    """
    deadline = None if timeout is None or timeout == math.inf else time.monotonic() + timeout
    with directory.opened() as descriptor:
        if descriptor is not None and init in leader_of(descriptor):
            status = _recorded(directory, descriptor, init, deadline)
            if status is not None:
                return status
    found = init.wait(_left(deadline))
    if found is Presence.ALIVE:
        raise TimeoutError(_STILL_RUNNING)
    if found is Presence.UNKNOWN:  # it may well run: that it has ended is for nobody to write down
        raise StateIOError(path=f"/proc/{init.pid}", operation="tell from here whether it runs,", errno=errno.EPERM)
    return None


def parse_exit(text: str) -> ExitStatus | None:
    """The status that a monitor has recorded, or `None` if that is not what the text says."""
    kind, _, number = text.partition("\n")[0].strip().partition(" ")
    with contextlib.suppress(ValueError):  # of `int` or of the model
        if kind == "code":
            return ExitStatus(code=int(number))
        if kind == "signal":
            return ExitStatus(signal=int(number))
    return None


def _recorded(directory: RunDirectory, descriptor: int, init: ProcessRef, deadline: float | None) -> ExitStatus | None:
    """The status, as soon as the monitor has recorded it or was killed; the directory may vanish meanwhile."""
    with contextlib.ExitStack() as stack:
        opened: list[int] = []
        for name in ("alive", "exit"):
            with told("open", f"{directory.path}/{name}"), contextlib.suppress(FileNotFoundError):
                opened.append(os.open(name, _FLAGS, dir_fd=descriptor))
                stack.callback(os.close, opened[-1])
        if len(opened) != 2:  # noqa: PLR2004  # the two above
            return None
        alive, record = opened
        try:
            _until_closed(alive, deadline)
        except TimeoutError:
            if init.presence() is Presence.ALIVE:
                raise
            _until_closed(alive, time.monotonic() + _MOMENT)
        return parse_exit(os.read(record, 4096).decode("ascii", "replace"))


_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW


def _until_closed(fifo: int, deadline: float | None) -> None:
    """Wait until nobody has the FIFO open for writing.

    Raises:
        TimeoutError: somebody still has.
    """
    poller = select.poll()
    poller.register(fifo, select.POLLIN)
    while True:
        try:
            if not os.read(fifo, 4096):
                return
        except BlockingIOError:
            left = _left(deadline)
            if left == 0:
                raise TimeoutError(_STILL_RUNNING) from None
            poller.poll(None if left is None else int(min(left * 1000 + 1, _LONGEST)))


def _left(deadline: float | None) -> float | None:
    """Seconds until `deadline`, at least 0."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
