"""`Container`: what an embedder holds. One method a verb, in the order of a life; the creation in full.

The lock is held for every change, but for while OCI hooks run: a hook may ask for anything, and is never waited for in vain.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Self

from statefile import _atomic, _oom
from statefile._arguments import absolute_path, check_fields, check_signal
from statefile._codec import build
from statefile._container_state import Pending, now, user_name
from statefile._destruction import Destroyable
from statefile._driving import noting
from statefile._forwarding import forwarding
from statefile._hooks import AFTER_CREATION, AFTER_START, check_hooks, hooks_of, run_hooks
from statefile._ids import FullID
from statefile._lifecycle import LIFECYCLE, Action, Status
from statefile._process import Presence, ProcessRef
from statefile._state_dir import StateDir
from statefile._state_file import Durability, StateFile
from statefile._waiter import Deadline
from statefile.errors import SpecError
from statefile.oci import State, sandbox_joined
from statefile.runtime import ExitStatus, Runtime, check_runtime, checked_created

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager


PID_FILE_MODE = 0o644


class Container(Destroyable):
    """One container. Subclass it to add typed fields; each needs a default.

    An object shows what the file said when it was last read: `refresh` reads again, and every verb that takes the lock does.
    """

    # -- to get one ----------------------------------------------------------------------------------------------------

    @classmethod
    def new(
        cls,
        root_dir: str | os.PathLike[str],
        id: FullID | str,  # the field's name
        *,
        runtime: Runtime,
        spec: Mapping[str, Any] | None = None,
        bundle_dir: str | os.PathLike[str] = "",
        pid_file: str | os.PathLike[str] | None = None,
        console_socket: str | os.PathLike[str] = "",
        owner: str | None = None,
        durability: Durability = Durability.FULL,
        timeout: float | None = None,
        **fields: Any,  # noqa: ANN401  # a subclass's own
    ) -> Self:
        """Create a container: on return its first process exists, waits to be started, and the status is `created`.

        Saved as `creating` before the runtime is asked for anything, so that a creation that is killed can be found and
        destroyed, and still `creating` for others while the `prestart` and `createRuntime` hooks of the spec run. A spec that
        says by its annotations that it joins a sandbox is saved under that sandbox. `pid_file` is written last. `timeout` in
        seconds is for the lock. A failed creation undoes itself, and whatever else has the ID is not touched.

        Raises:
            TypeError: an argument is neither one of these nor a field.
            InvalidIDError, InvalidRootError, UnsupportedActionError: bad arguments; nothing was touched.
            SpecError: a hook in the spec is none; nothing was touched.
            AlreadyExistsError: the ID is taken.
            UnstorableStateError: a field has the wrong type, or JSON cannot hold the spec; the runtime was not asked.
            LockTimeoutError, UnsafePathError, StateIOError: as for `StateFile.lock_for_new`, or `pid_file` can be no path.
            HookError: a hook failed.
            NotFoundError, InvalidTransitionError: it was destroyed, or that was tried, while its hooks ran.
            Exception: whatever the runtime raised; clean-up that failed too is in its notes.
        """
        check_runtime(runtime)
        check_hooks(spec)
        check_fields(cls, fields)
        pid_path = absolute_path(pid_file)
        full_id = id if isinstance(id, FullID) else FullID(sandbox_joined(spec) or id, id)
        saver = StateFile(root_dir=root_dir, id=full_id, durability=durability)
        container = build(
            cls,
            saver.state_path,
            id=full_id.container_id,
            spec=spec,
            bundle_dir=absolute_path(bundle_dir) if bundle_dir else "",
            created_at=now(),
            owner=user_name() if owner is None else owner,
            console_socket=os.fspath(console_socket),
            status=Status.CREATING,
            pending=Pending(action=Action.CREATE, actor=ProcessRef.current(), since=now()),
            saver=saver,
            **fields,
        )
        return container._create(runtime, pid_path, timeout)  # noqa: SLF001  # its own class

    @classmethod
    def load(
        cls,
        root_dir: str | os.PathLike[str],
        id: FullID | str,  # the field's name
        *,
        runtime: Runtime | None = None,
        exact: bool = False,
        skip_check: bool = False,
        durability: Durability = Durability.FULL,
    ) -> Self:
        """Load a container by its ID or, unless `exact`, the unique beginning of one. Takes no lock and changes no file.

        If the record says that it has a process, and that process is gone, the object says `stopped`; `skip_check` shows the
        record as it is. Without a `runtime` it can be looked at, and destroyed once its process is gone.

        Raises:
            InvalidIDError, NotFoundError, AmbiguousIDError: as for `StateDir.resolve`.
            CorruptStateError, UnsafePathError, StateIOError: as for `StateFile.load`.
        """
        if runtime is not None:
            check_runtime(runtime)
        state_dir = StateDir(root_dir, durability=durability)
        full_id = FullID.of(id) if exact else state_dir.resolve(id)
        return cls._loaded(state_dir.state_file(full_id), runtime, check=not skip_check)

    @classmethod
    def run(
        cls,
        root_dir: str | os.PathLike[str],
        id: FullID | str,  # the field's name
        *,
        runtime: Runtime,
        keep: bool = False,
        **options: Any,  # noqa: ANN401  # those of `new`
    ) -> ExitStatus | None:
        """Create, start and wait; unless `keep`, destroy. Returns how it ended, `None` if nobody knows.

        Takes the options of `new`. Whatever fails, the container is destroyed before the error is passed on.
        """
        container = cls.new(root_dir, id, runtime=runtime, **options)
        try:
            container._begin(Action.START, None, this_run=True)  # noqa: SLF001  # its own class
            status = container.wait()
        except BaseException as error:
            with noting(error):
                container._destroy_this_run()  # noqa: SLF001  # its own class
            raise
        if not keep:
            container._destroy_this_run()  # noqa: SLF001  # its own class
        return status

    @classmethod
    def remove(
        cls,
        root_dir: str | os.PathLike[str],
        id: FullID | str,  # the field's name
        *,
        runtime: Runtime,
        durability: Durability = Durability.FULL,
        timeout: float | None = None,
    ) -> None:
        """Destroy the container that has exactly this ID, whatever its file says, also if it can no longer be read.

        On return nothing of it runs and the ID is free; nothing there is success. Of an unreadable record the runtime is
        handed a container that has its IDs alone.

        Raises:
            As `destroy`.
        """
        check_runtime(runtime)
        saver = StateDir(root_dir, durability=durability).state_file(id)
        container = build(cls, saver.state_path, id=saver.id.container_id, status=Status.CREATING, saver=saver)
        vars(container)["_runtime"] = runtime
        container._destroy(force=False, unreadable=True, timeout=timeout)  # noqa: SLF001  # its own class

    # -- verbs, in the order of a life ---------------------------------------------------------------------------------

    def start(self, *, timeout: float | None = None) -> None:
        """Let the created process run the user's program: on return it does, and the status is `running`.

        Then the `poststart` hooks of the spec have run, too. `timeout` in seconds, here and below, is for the lock.

        Raises:
            InvalidTransitionError: it is not `created`; nothing was changed.
            HookError: a hook failed, and the container was destroyed; clean-up that failed too is in its notes.
            SpecError: a hook in the record is none; nothing was changed.
            NotFoundError, LockTimeoutError, DeadlockError, CorruptStateError, StateIOError: as for `StateFile`.
            Exception: whatever the runtime raised; the status is what `probe` found then.
        """
        self._begin(Action.START, timeout)

    def restore(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        """Run the created container from the image at `path`: on return the status is `running`. Raises as `start`."""
        self._begin(Action.RESTORE, timeout, os.fspath(path))

    def pause(self, *, timeout: float | None = None) -> None:
        """Suspend it: on return none of its processes runs, and the status is `paused`. Raises as `start`."""
        self._act(Action.PAUSE, timeout)

    def resume(self, *, timeout: float | None = None) -> None:
        """Let it go on: on return the status is what it was before the pause. Raises as `start`."""
        self._act(Action.RESUME, timeout)

    def checkpoint(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        """Write an image of it to `path`: on return it is there, and the container goes on as it was. Raises as `start`."""
        self._act(Action.CHECKPOINT, timeout, os.fspath(path))

    def update(self, resources: Mapping[str, Any], *, timeout: float | None = None) -> None:
        """Change its limits: on return they hold. Raises as `start`."""
        self._act(Action.UPDATE, timeout, dict(resources))

    def execute(self, args: Sequence[str]) -> Any:  # noqa: ANN401  # what the runtime returns
        """Run another process in it, without the lock. Returns what the runtime returns: a `ProcessRef`, by convention."""
        if isinstance(args, str):
            raise SpecError(field="args", reason=f"is a list of strings, the program first, not the string {args!r:.80}")
        return self._ask(Action.EXECUTE, list(args))

    def events(self) -> Any:  # noqa: ANN401  # what the runtime returns
        """A snapshot of what it uses, without the lock."""
        return self._ask(Action.EVENTS)

    def processes(self) -> Any:  # noqa: ANN401  # what the runtime returns
        """Its living processes, as `ProcessRef`s, without the lock."""
        return self._ask(Action.PROCESSES)

    def signal(self, number: int, *, all: bool = False, process: ProcessRef | None = None, group: bool = False) -> None:
        """Send signal `number` to its first process, to that `process` of it, or to `all` of them, without the lock.

        With `group`, to those of its processes that are in the process group of that one. One that has ended is no error.

        Raises:
            ValueError: there is no such signal, `process` is not one of this container, or `all` goes with neither.
            InvalidTransitionError: its status does not allow it; nothing was sent.
            UnsupportedActionError: the runtime does not tell which `processes` it has, as is needed for one and for a group.
        """
        check_signal(number)
        if all and (process is not None or group):
            raise ValueError("all=True is for all processes: give neither process nor group with it")
        self.refresh()
        if process is not None or group:
            self._judge(Action.SIGNAL)
            for each in self._chosen(process, group=group):
                each.send_signal(number)
            return
        self._judge(Action.SIGNAL_ALL if all else Action.SIGNAL)
        self._need_runtime(Action.SIGNAL).signal(self, int(number), all=all)

    def forward_signals(self, signals: Iterable[int] | None = None) -> AbstractContextManager[None]:
        """While the block runs, pass each signal that this process gets on to the container's first process.

        For attached runs: `with container.forward_signals(): container.start(); status = container.wait()`. `signals` says
        which; if not, all but those that concern this process itself (its faults, timers, children and terminal stops). What
        this process ignored before, it goes on ignoring. At the end of the block what has come was passed on, and the
        handlers are again what they were. One that can no longer be delivered is logged.

        Raises:
            ValueError: this is not the main thread, or there is a signal that cannot be caught.
        """

        def send(number: int) -> None:
            current = self._loaded(self.saver, self._runtime, check=True)  # this object is the main thread's
            if (current.init, current.created_at) == (self.init, self.created_at):
                current.signal(number)

        return forwarding(send, signals, self.id)

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Wait until it has stopped, and return how its first process ended: `None` if nobody knows.

        Any number of processes may wait, also after the end. The status is written into the record once. `timeout` in seconds.

        Raises:
            ValueError: `timeout` is negative or NaN.
            WaitTimeoutError: it still runs.
            InvalidTransitionError: it is still being created.
            NotFoundError: there is no such container, or another one of its ID, made since.
        """
        timeout = Deadline(timeout).timeout
        self._reload_this_run()
        self._check_process()
        self._judge(Action.WAIT)
        if self.status is Status.STOPPED and self.exit_status is not None:
            return self.exit_status
        exit_status = self._wait_for_process(timeout)
        return self._record_exit(exit_status)

    def state(self) -> State:
        """Its state as the OCI runtime-spec defines it, read afresh, without the lock."""
        self.refresh()
        return self._oci_state(self.status)

    def recover(self, *, timeout: float | None = None) -> Status | str:
        """Mend under the lock what a dead actor left, and return the status that is true now.

        An interrupted creation stays `creating`: it can only be destroyed.
        """
        with self._locked(timeout):
            return self.status

    def delete(self, *, force: bool = False, timeout: float | None = None) -> None:
        """OCI's `delete`: remove a stopped container; with `force`, whatever its status (that is `destroy`).

        Raises:
            InvalidTransitionError: it has not stopped.
            Otherwise as `destroy`.
        """
        if force:
            self.destroy(timeout=timeout)
            return
        with contextlib.ExitStack() as unlocked, self._locked(timeout):
            self._judge(Action.DELETE)
            self._destroy_locked(unlocked, force=False)

    def destroy(self, *, force: bool = False, timeout: float | None = None) -> None:
        """End all its processes and remove it: on return nothing of it runs, and it cannot be loaded.

        Works from every status. Idempotent: if it is gone already, that is success. All steps are taken even if some fail.
        Only while processes are still alive is the record kept, so that it can be tried again; `force` drops it all the same,
        also when it has become unreadable: then what this object knows of it must do. Whoever has removed the record runs the
        `poststop` hooks of the spec, all of them: one that fails is logged.

        Raises:
            DestroyError: what failed, an `ExceptionGroup`; with a `StillRunningError` in it if the record was kept.
            LockTimeoutError, DeadlockError, LockUnsupportedError, UnsafePathError, StateIOError: as for `StateFile.lock`.
        """
        self._destroy(force=force, unreadable=force, timeout=timeout)

    def _chosen(self, process: ProcessRef | None, *, group: bool) -> list[ProcessRef]:
        """That process of this container or, with `group`, those in its process group; none if it has ended."""
        chosen = process or self.init
        if chosen is None or chosen.presence() is Presence.GONE:
            return []
        living: list[ProcessRef] = self._method(Action.PROCESSES)(self)
        if chosen not in living:
            if chosen.presence() is Presence.GONE:
                return []
            raise ValueError(f"process {chosen.pid} is not one of container {self.id!r}: see processes()")
        if not group:
            return [chosen]
        wanted = chosen.process_group()
        return [each for each in living if wanted is not None and each.process_group() == wanted]

    # -- creation and start --------------------------------------------------------------------------------------------

    def _create(self, runtime: Runtime, pid_file: str | None, timeout: float | None) -> Self:
        vars(self)["_runtime"] = runtime
        hooks = hooks_of(self.spec, AFTER_CREATION)
        with contextlib.ExitStack() as unlocked, self.saver.hold_for_new(timeout=timeout):
            try:
                self._save_locked()
            except BaseException as error:
                with noting(error):
                    self.saver.destroy()  # a save that failed in its last step is in place
                raise
            try:
                self._make_locked(runtime)
                if hooks:
                    self._save_locked()  # for a clean-up, and for hooks that ask: whose processes these are
                else:
                    self._finish_locked(pid_file)
            except BaseException as error:
                # The record is ours and we hold its lock: nothing of another container is touched.
                with noting(error):
                    self._destroy_locked(unlocked, force=False)
                raise
        if hooks:
            try:
                run_hooks(hooks, self._oci_state(Status.CREATED))
                self._finish_after_hooks(pid_file)
            except BaseException as error:
                with noting(error):
                    self._destroy_this_run()
                raise
        return self

    def _make_locked(self, runtime: Runtime) -> None:
        created = checked_created(runtime.create(self), runtime)
        self.init = created.init
        self.helpers = dict(created.helpers)
        self.sandbox = _oom.sandbox_with_score(self, created.init, created.sandbox)

    def _finish_after_hooks(self, pid_file: str | None) -> None:
        with self.saver.hold():
            self._reload_this_run(unchanged=True)
            self._finish_locked(pid_file)

    def _finish_locked(self, pid_file: str | None) -> None:
        self._settle_locked(LIFECYCLE[Status.CREATING][Action.CREATE])
        if pid_file is not None and self.init is not None:
            _atomic.replace(pid_file, str(self.init.pid).encode(), durable=False, mode=PID_FILE_MODE)

    def _begin(
        self,
        action: Action,
        timeout: float | None,
        *arguments: Any,  # noqa: ANN401  # the runtime's
        this_run: bool = False,
    ) -> None:
        """Start it, in one way or another, and then, without the lock, do what follows: the scores, and the hooks."""
        with self._locked(timeout, this_run=this_run):
            self._judge(action)
            hooks = hooks_of(self.spec, AFTER_START)
            self._act_locked(action, *arguments)
        _oom.protect(self)
        if not hooks:
            return
        try:
            run_hooks(hooks, self._oci_state(Status.RUNNING))
        except BaseException as error:
            with noting(error):
                self._destroy_this_run()
            raise
