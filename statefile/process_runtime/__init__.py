"""`ProcessRuntime`: a real, complete runtime on plain Linux processes, without root, images or cgroups.

Every action may come from another short-lived process: what one needs to know of another's work is in the container, in its
run directory, and in the kernel. See `_monitor` for who watches, `_directory` for what is written where, `_plan` for what is
read of a spec.
"""

# ruff: noqa: PLC0415
# One command needs one or two of the modules below, and `import statefile` none of them: each is imported where it is used.

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from statefile._lifecycle import Status
from statefile._process import Presence
from statefile.errors import StateIOError
from statefile.process_runtime._errors import SpecError
from statefile.runtime import Created

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from statefile._container import Container
    from statefile._process import ProcessRef
    from statefile.process_runtime._creation import Setting
    from statefile.process_runtime._directory import RunDirectory
    from statefile.process_runtime._family import Roots
    from statefile.runtime import ExitStatus

__all__ = ["ProcessRuntime", "SpecError"]


class ProcessRuntime:
    """Runs each container as plain processes under a small monitor that outlives whoever created it.

    The caller holds the container's lock for every method but `signal`, `wait`, `probe`, `processes` and `events`.

    A process stays found whatever it does (a new session, a daemon's two forks) as long as the monitor lives. Should that be
    killed with SIGKILL, the container goes on, but its exit status stays unknown, and a process that has left the session of
    its container and lost its parents is no longer found.

    Attributes:
        run_dir: where containers have their run directories; `None` for `.processes` in the root directory of each.
        stdio: where stdout and stderr of a container go: `"null"`, `"inherit"` (the creator's), or the path of a file to
            append to. stdin is always empty.
        interpreter: the Python that runs the monitor; `None` for the one that runs now.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str] | None = None,
        *,
        stdio: str | os.PathLike[str] = "null",
        interpreter: str | None = None,
    ) -> None:
        self.run_dir = None if run_dir is None else os.path.abspath(run_dir)
        self.stdio = os.fspath(stdio) if stdio in {"null", "inherit"} else os.path.abspath(stdio)
        self.interpreter = interpreter or sys.executable

    def create(self, container: Container) -> Created:
        """Make the container's first process, waiting to be started.

        What a container of that name has left, whose record is lost, is ended first.

        Raises:
            SpecError: the spec cannot be run here; nothing was touched.
            StateIOError: the system refuses a step; nothing is left.
            StillRunningError: what a former container has left does not end.
        """
        from statefile.process_runtime._creation import create

        launched = create(self._setting, self._directory(container), container)
        return Created(init=launched.leader, helpers={"monitor": launched.monitor})

    def start(self, container: Container) -> None:
        """Let the created process run the user's program; if it does already, that is success.

        Raises:
            StateIOError: the program cannot be run (`errno` and `path` say why), or the process was killed; it is gone.
        """
        from statefile.process_runtime._gate import let_through

        let_through(self._directory(container), _init_of(container, "start"))

    def pause(self, container: Container) -> None:
        """Stop every process with SIGSTOP, the first one last.

        A process that something else had stopped is continued with the others later on.

        Raises:
            StateIOError: the first process has ended, or one may not be stopped; then all run on.
        """
        from statefile.process_runtime._freeze import pause

        _living_init_of(container, "pause")
        pause(lambda: self._roots(container))

    def resume(self, container: Container) -> None:
        """Continue every process with SIGCONT, the first one last; also after a pause that was interrupted.

        Raises:
            StateIOError: the first process has ended, or one may not be continued.
        """
        from statefile.process_runtime._freeze import resume

        _living_init_of(container, "resume")
        resume(lambda: self._roots(container))

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        """Send signal `number` to the first process, or to `all`, also after the first one has ended.

        SIGKILL is sent until no new process appears (for 5 s at most); any other reaches those that are there now, so that
        what they start to clean up is not hit too.

        Raises:
            StateIOError: there is no such signal, it may not be sent, or the process is in another PID namespace.
        """
        from statefile.process_runtime._sweep import signal_all

        if all:
            signal_all(lambda: self._roots(container), number)
            return
        init = _init_of(container, "signal")
        if init.send_signal(number) is Presence.UNKNOWN:
            raise _undecided(init, "signal")

    def destroy(self, container: Container) -> None:
        """End every process and remove the run directory, whatever was interrupted; idempotent, also for two at once.

        Raises:
            StillRunningError: something is still running after 5 s, or may be: its identity cannot be decided from here.
            StateIOError: the directory cannot be read or removed.
        """
        from statefile.process_runtime._sweep import sweep

        sweep(self._directory(container), container)

    def probe(self, container: Container) -> Status | str:
        """Say what is true now. A container is paused if and only if its first process is stopped, by whomever."""
        from statefile.process_runtime._family import is_stopped
        from statefile.process_runtime._gate import is_waiting

        init = container.init
        if init is None:
            return Status.CREATING
        presence = init.presence()
        if presence is Presence.GONE:
            return Status.STOPPED
        if presence is Presence.UNKNOWN:
            return container.status
        if is_stopped(init.pid):
            return Status.PAUSED
        waiting = is_waiting(self._directory(container))
        if waiting is None:
            return container.status
        return Status.CREATED if waiting else Status.RUNNING

    def wait(self, container: Container, timeout: float | None) -> ExitStatus | None:
        """Wait until the first process has ended and return how; `None` if the monitor was killed before it knew.

        Sleeps in the kernel; any number of processes may wait, also long after the end.

        Raises:
            TimeoutError: the process is still running after `timeout` seconds.
            StateIOError: there is no first process, or the run directory cannot be read.
        """
        from statefile.process_runtime._waiting import wait_for_exit

        return wait_for_exit(self._directory(container), _init_of(container, "wait for"), timeout)

    def processes(self, container: Container) -> list[ProcessRef]:
        """The living processes, the first one first."""
        from statefile.process_runtime._family import family

        return sorted(family(self._roots(container)), key=lambda ref: (ref != container.init, ref.pid))

    def execute(self, container: Container, args: Sequence[str]) -> ProcessRef:
        """Run another program with the environment, the directory and the limits of the container's own.

        On return it runs, under a monitor of its own and in a session of its own.

        Raises:
            SpecError: `args` cannot be run.
            StateIOError: the container's first process has ended, or the system refuses; nothing runs then.
        """
        from statefile.process_runtime._creation import execute

        _living_init_of(container, "execute in")
        return execute(self._setting, self._directory(container), container, args)

    def update(self, container: Container, resources: Mapping[str, object]) -> None:
        """Set `rlimits` (as in an OCI process), `nice` and `oomScoreAdj` of all processes, present and to come.

        Raises:
            SpecError: something else is asked for; nothing was changed.
            StateIOError: the system refuses; some of the processes may have the new values already.
        """
        from statefile.process_runtime._resources import limit

        _living_init_of(container, "update")
        limit(lambda: self._roots(container), resources)

    def events(self, container: Container) -> Mapping[str, float]:
        """What all processes use together: `cpuSeconds` (of those that have ended too), `memoryBytes`, `pids`."""
        from statefile.process_runtime._resources import usage

        return usage(self._roots(container))

    @property
    def _setting(self) -> Setting:
        from statefile.process_runtime._creation import Setting

        return Setting(self.interpreter, self.stdio)

    def _directory(self, container: Container) -> RunDirectory:
        from statefile.process_runtime._directory import RunDirectory

        return RunDirectory(str(container.saver.root_dir), container.saver.id, self.run_dir)

    def _roots(self, container: Container) -> Roots:
        from statefile.process_runtime._family import Roots, leader_of

        with self._directory(container).opened() as descriptor:
            leader = [] if descriptor is None or container.init is None else leader_of(descriptor)
            another_run = leader and container.init not in leader  # of its name, made since it was destroyed
            roots = Roots.of(container, None if another_run else descriptor)
        undecided = roots.undecided()
        if undecided:
            raise _undecided(undecided[0], "look for")
        return roots


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
    """Which process it is cannot be said from here: it is left alone."""
    return StateIOError(
        path=f"/proc/{init.pid}", operation=f"{operation} a process of another PID namespace,", errno=errno.EPERM
    )
