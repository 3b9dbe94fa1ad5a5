"""A whole runtime on processes that do nothing: what `FakeRuntime` does where its script says nothing else."""

from __future__ import annotations

import errno
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statefile._lifecycle import Status
from statefile._process import Presence, ProcessRef
from statefile.errors import StateIOError, StillRunningError
from statefile.process_runtime._family import is_stopped
from statefile.runtime import Created
from statefile.testing._processes import Note, Processes, all_of, go_on, stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from statefile._container import Container
    from statefile.runtime import ExitStatus


class PlainRuntime:
    """Each container is one process that does nothing, and each `execute` one more. The spec is not looked at.

    Attributes:
        made: the processes.
    """

    def __init__(self, made: Processes) -> None:
        self.made = made

    def create(self, container: Container) -> Created:
        """Make the container's process."""
        return Created(init=self.made.make(_mark(container)))

    def start(self, container: Container) -> None:
        """Note that it has started: it does nothing all the same."""
        Note.STARTED.write(_living_init_of(container, "start"), 1)

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        """Send it."""
        init = _init_of(container, "signal")
        if init.presence() is Presence.UNKNOWN:
            raise _undecided(init, "signal")
        for process in self.family(container) if all else [init]:
            process.send_signal(number)

    def destroy(self, container: Container) -> None:
        """End all processes of the container, also those that no record names."""
        self.made.end(container.id, self.family(container))
        init = container.init
        if init is None:
            return
        if init.presence() is Presence.UNKNOWN:
            reason = "or may be: the record does not say enough to tell from here"
            raise StillRunningError(id=container.id, pids=[init.pid], reason=reason)
        self.made.reap(init)

    def probe(self, container: Container) -> Status | str:
        """What the kernel says of its process."""
        init = container.init
        presence = Presence.UNKNOWN if init is None else init.presence()
        if init is None or presence is Presence.UNKNOWN:
            return container.status
        if presence is Presence.GONE:
            return Status.STOPPED
        if is_stopped(init.pid):
            return Status.PAUSED
        return Status.RUNNING if Note.STARTED.of(init) else Status.CREATED

    def pause(self, container: Container) -> None:
        """Stop all processes, the first one last."""
        _living_init_of(container, "pause")
        for process in reversed(self.family(container)):
            stop(process)

    def resume(self, container: Container) -> None:
        """Let them go on, the first one last."""
        _living_init_of(container, "resume")
        for process in reversed(self.family(container)):
            go_on(process)

    def checkpoint(self, container: Container, path: str) -> None:
        """Write an image, a small file."""
        Path(path).write_text(json.dumps({_IMAGE: str(container.saver.id)}), encoding="utf-8")

    def restore(self, container: Container, path: str) -> None:
        """Start it from an image. Raises `ValueError` if the file at `path` is none."""
        try:
            image: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            image = None
        if not isinstance(image, dict) or _IMAGE not in image:
            raise ValueError(f"{path} is no image that this runtime has made")
        self.start(container)

    def execute(self, container: Container, args: Sequence[str]) -> ProcessRef:  # noqa: ARG002  # it does nothing
        """Make another process."""
        Note.NOT_ALONE.write(_living_init_of(container, "execute in"), 1)
        return self.made.make(_mark(container))

    def processes(self, container: Container) -> list[ProcessRef]:
        """The living processes, the first one first."""
        return self.family(container)

    def update(self, container: Container, resources: Mapping[str, Any]) -> None:  # noqa: ARG002  # it uses nothing
        """Do nothing, but only to a living container."""
        _living_init_of(container, "update")

    def events(self, container: Container) -> Mapping[str, float]:
        """What it uses: processes."""
        return {"pids": len(self.family(container))}

    def wait(self, container: Container, timeout: float | None) -> ExitStatus | None:
        """Wait for its process. How it ended is known to the process that made it, and to the one that made it end."""
        init = _init_of(container, "wait for")
        presence = init.wait(timeout)
        if presence is Presence.ALIVE:
            raise TimeoutError(f"process {init.pid} still runs")
        if presence is Presence.UNKNOWN:
            raise _undecided(init, "wait for")
        return self.made.exit_of(init)

    def family(self, container: Container) -> list[ProcessRef]:
        """The living processes, the first one first; also those that an interrupted creation has left."""
        init = container.init
        if init is not None and init.presence() is Presence.ALIVE and not Note.NOT_ALONE.of(init):
            return [init]  # `/proc` need not be searched
        return sorted(all_of(_mark(container)), key=lambda process: (process != init, process.start_ticks, process.pid))

    def end(self, container: Container, status: ExitStatus) -> None:
        """Let its first process end with `status`, now. Raises `ProcessLookupError` if it has no living one."""
        found = container.init or next(iter(self.family(container)), None)  # it is just being made
        if found is None:
            raise ProcessLookupError(errno.ESRCH, f"container {container.id} has no process")
        self.made.exit(found, status)


_IMAGE = "imageOf"

FATAL = frozenset(signal.valid_signals()) - {
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
}
"""The signals that end a process which does not handle them."""


def _mark(container: Container) -> str:
    return str(container.saver.state_path)


def _init_of(container: Container, operation: str) -> ProcessRef:
    if container.init is None:
        raise StateIOError(path=f"container {container.id}", operation=f"{operation} a process of", errno=errno.ESRCH)
    return container.init


def _living_init_of(container: Container, operation: str) -> ProcessRef:
    init = _init_of(container, operation)
    presence = init.presence()
    if presence is Presence.UNKNOWN:
        raise _undecided(init, operation)
    if presence is Presence.GONE:
        raise StateIOError(path=f"/proc/{init.pid}", operation=f"{operation} the process", errno=errno.ESRCH)
    return init


def _undecided(init: ProcessRef, operation: str) -> StateIOError:
    return StateIOError(
        path=f"/proc/{init.pid}", operation=f"{operation} a process that cannot be told from here,", errno=errno.EPERM
    )
