"""Stopping and continuing all processes of a container.

The first process is stopped last and continued last, and whether it is stopped is whether the container is paused. So a
killed pauser leaves a running container and a killed resumer a paused one, and the same action, done again, completes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import TYPE_CHECKING

from statefile.errors import StateFileError, StateIOError
from statefile.process_runtime._family import family, is_stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from statefile._process import ProcessRef
    from statefile.process_runtime._family import Roots

PATIENCE = 5.0
"""Seconds for the processes to stop."""

_PASSES = 5

_SHORTEST, _LONGEST = 0.0002, 0.02
"""Seconds between two looks: the kernel tells nobody but the parent that a process has stopped."""


def pause(roots: Callable[[], Roots]) -> None:
    """Stop all processes: on return none of them can run.

    Raises:
        StateIOError: one of them may not be stopped, did not stop in time, or is the caller. All run on then.
    """
    try:
        _stop_all(roots)
    except BaseException:
        # All, and not those that have stopped: one that was told to has not done so yet, perhaps. SIGCONT takes that back, too.
        for ref in reversed(family(roots())):
            with contextlib.suppress(StateFileError):
                ref.send_signal(signal.SIGCONT)
        raise


def _stop_all(roots: Callable[[], Roots]) -> None:
    deadline = time.monotonic() + PATIENCE
    rest = _SHORTEST
    while running := [ref for ref in reversed(family(roots())) if not is_stopped(ref.pid, debugged=True)]:
        pids = {ref.pid for ref in running}
        if os.getpid() in pids:
            raise StateIOError(path=f"/proc/{os.getpid()}", operation="pause the caller itself", errno=errno.EDEADLK)
        if time.monotonic() > deadline:
            raise StateIOError(path=", ".join(f"/proc/{pid}" for pid in pids), operation="stop", errno=errno.ETIMEDOUT)
        for ref in running:
            ref.send_signal(signal.SIGSTOP)
        time.sleep(rest)
        rest = min(rest * 2, _LONGEST)


def resume(roots: Callable[[], Roots]) -> None:
    """Continue all processes that are stopped, also if only some are.

    Raises:
        StateIOError: one of them may not be continued.
    """
    continued: set[ProcessRef] = set()
    for _ in range(_PASSES):  # bounded: a program may well stop its own children again and again
        stopped = [ref for ref in reversed(family(roots())) if ref not in continued and is_stopped(ref.pid, debugged=True)]
        if not stopped:
            return
        for ref in stopped:
            ref.send_signal(signal.SIGCONT)
        continued.update(stopped)
