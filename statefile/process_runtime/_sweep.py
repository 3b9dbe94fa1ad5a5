"""Signalling all processes of a container; ending them and removing its directory, whatever was interrupted before.

A monitor is never killed here: it ends by itself once the kernel tells it that it has no child left, and that is the proof
that nothing of the container runs. Only files that were there before the processes were looked for are removed; so a
monitor that starts meanwhile leaves a file behind, the directory cannot be removed, and all is looked at again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import TYPE_CHECKING

from statefile._process import Presence
from statefile.errors import StateIOError, StillRunningError
from statefile.process_runtime._directory import list_names
from statefile.process_runtime._family import Roots, family, read_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from statefile._container import Container
    from statefile._process import ProcessRef
    from statefile.process_runtime._directory import RunDirectory

PATIENCE = 5.0
"""Seconds for the processes to end."""

_LOOK_AGAIN = 0.02
"""Seconds after which new processes are looked for, should the old ones still not have ended."""


def sweep(directory: RunDirectory, container: Container) -> None:
    """End every process of the container and remove its directory. Nothing there is success, and so is another sweeper.

    Raises:
        StillRunningError: something is still running after `PATIENCE` seconds, or may not be judged; the directory is kept.
        StateIOError: the directory cannot be read or removed.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        with directory.opened() as descriptor:
            names = [] if descriptor is None else list_names(descriptor)
            roots = Roots.of(container, descriptor, names)
            living, refusal = _end(roots, container.id)
            if not living and directory.remove(descriptor, names):
                _reap(roots)
                return
        if time.monotonic() > deadline:
            raise _outlived(directory, container, living, refusal)
        if living:
            living[0].wait(_LOOK_AGAIN)


def _end(roots: Roots, container_id: str) -> tuple[list[ProcessRef], str]:
    """Kill what runs; return what may still run, monitors first, and why something could not be killed.

    Raises:
        StillRunningError: it cannot be said what runs, or the caller is one of them.
    """
    undecided = [ref.pid for ref in roots.undecided()]
    if undecided:
        raise StillRunningError(id=container_id, pids=undecided, reason="or not: from here that cannot be decided")
    alive = [ref for ref in (*roots.monitors, *roots.leaders) if ref.presence() is Presence.ALIVE]
    if not alive and (roots.empty or not (roots.monitors or roots.leaders)):
        return [], ""
    monitors = [ref for ref in alive if ref in roots.monitors]
    members = family(roots)
    if any(ref.pid == os.getpid() for ref in members):
        raise StillRunningError(id=container_id, pids=[os.getpid()], reason="it is the caller, who belongs to the container")
    refusal = _send_to_each(members, signal.SIGKILL) or _send_to_each(monitors, signal.SIGCONT)
    return [*monitors, *members], str(refusal or "")


def signal_all(roots: Callable[[], Roots], number: int) -> None:
    """Send signal `number` to all that are there; SIGKILL also to those that appear meanwhile.

    Raises:
        StateIOError: there is no such signal, or one of them may not be signalled; all others were.
    """
    deadline = time.monotonic() + PATIENCE
    sent: set[ProcessRef] = set()
    while new := [ref for ref in family(roots()) if ref not in sent]:
        refusal = _send_to_each(new, number)
        if refusal is not None:
            raise refusal
        sent.update(new)
        if number != signal.SIGKILL or time.monotonic() > deadline:
            return


def _send_to_each(refs: Iterable[ProcessRef], number: int) -> StateIOError | None:
    """Send signal `number` to each that still runs; return the last refusal, if one of them may not be signalled.

    Raises:
        StateIOError: there is no such signal.
    """
    refusal: StateIOError | None = None
    for ref in refs:
        try:
            ref.send_signal(number)
        except StateIOError as error:
            if error.errno not in {errno.EPERM, errno.EACCES}:
                raise
            refusal = error
    return refusal


def _reap(roots: Roots) -> None:
    """Let go of those that have become the caller's own children: orphans are adopted by PID 1, or by a subreaper."""
    for ref in (*roots.monitors, *roots.leaders):
        row = read_row(str(ref.pid))
        if row is not None and row.is_of(ref) and row.dead and row.parent == os.getpid():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(ref.pid, os.WNOHANG)


def _outlived(directory: RunDirectory, container: Container, living: list[ProcessRef], refusal: str) -> Exception:
    if living:
        return StillRunningError(id=container.id, pids=[ref.pid for ref in living], reason=refusal)
    return StateIOError(path=directory.path, operation="empty", errno=errno.ENOTEMPTY)
