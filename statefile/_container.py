"""`Container`: the lifecycle of a container whose drivers may die at any instruction.

Every verb that changes the status has one shape, written once in `_act`: lock, read again, mend what a dead actor left,
judge by `LIFECYCLE`, save the intent, ask the runtime, save the result, unlock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal as _signal
from typing import TYPE_CHECKING, Any, Self

from pydantic import PrivateAttr

from statefile import _atomic
from statefile._container_state import ContainerState, Pending, now, user_name
from statefile._ids import FullID
from statefile._lifecycle import LIFECYCLE, Action, Status, allowed_actions
from statefile._process import Presence, ProcessRef
from statefile._state_dir import StateDir
from statefile._state_file import Durability, StateFile
from statefile.errors import (
    InvalidTransitionError,
    LockTimeoutError,
    NotFoundError,
    StateFileError,
    StillRunningError,
    UnsupportedActionError,
    WaitTimeoutError,
)
from statefile.oci import OCI_VERSION, State, sandbox_joined
from statefile.runtime import ExitStatus, Runtime, Sandbox, missing_methods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

logger = logging.getLogger("statefile")

HELPER_GRACE = 5.0
"""Seconds that a helper process has to end once it was killed."""

_RECORD_EXIT_WITHIN = 1.0
"""Seconds that `wait` waits for the lock to write down an exit status that it knows already."""

_RUNS = frozenset({Status.CREATED, Status.RUNNING, Status.PAUSED})  # has a process, says the record


class Container(ContainerState):
    """One container. Subclass it to add typed fields; each needs a default.

    An object shows what the file said when it was last read: `refresh` reads again, and every verb that takes the lock does.
    """

    _runtime: Runtime | None = PrivateAttr(default=None)

    # -- to get one ----------------------------------------------------------------------------------------------------

    @classmethod
    def new(
        cls,
        root_dir: str | os.PathLike[str],
        id: FullID | str,  # noqa: A002  # the field's name
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
        destroyed. A spec that says by its annotations that it joins a sandbox is saved under that sandbox. `pid_file` is
        written last. `timeout` in seconds is for the lock. A failed creation undoes itself, and whatever else has the ID is
        not touched.

        Raises:
            InvalidIDError, InvalidRootError, UnsupportedActionError: bad arguments; nothing was touched.
            AlreadyExistsError: the ID is taken.
            UnstorableStateError: JSON cannot hold the spec.
            LockTimeoutError, UnsafePathError, StateIOError: as for `StateFile.lock_for_new`.
            Exception: whatever the runtime raised; clean-up that failed too is in its notes.
        """
        check_runtime(runtime)
        spec = dict(spec or {})
        full_id = id if isinstance(id, FullID) else FullID(sandbox_joined(spec) or id, id)
        saver = StateFile(root_dir=root_dir, id=full_id, durability=durability)
        container = cls(
            id=full_id.container_id,
            spec=spec,
            bundle_dir=os.path.abspath(bundle_dir) if bundle_dir else "",
            created_at=now(),
            owner=user_name() if owner is None else owner,
            console_socket=os.fspath(console_socket),
            status=Status.CREATING,
            pending=Pending(action=Action.CREATE, actor=ProcessRef.current(), since=now()),
            saver=saver,
            **fields,
        )
        container._runtime = runtime
        with saver.hold_for_new(timeout=timeout):
            container._save_locked()
            try:
                container._create_locked(runtime, pid_file)
            except BaseException as error:
                container._undo_creation_locked(runtime, error)
                raise
        return container

    @classmethod
    def load(
        cls,
        root_dir: str | os.PathLike[str],
        id: FullID | str,  # noqa: A002  # the field's name
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
        container = state_dir.state_file(full_id).load(cls)
        container._runtime = runtime
        if not skip_check:
            container._check_process()
        return container

    @classmethod
    def run(
        cls,
        root_dir: str | os.PathLike[str],
        id: FullID | str,  # noqa: A002  # the field's name
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
            container.start()
            status = container.wait()
        except BaseException as error:
            with _noting(error):
                container.destroy()
            raise
        if not keep:
            container.destroy()
        return status

    # -- verbs, in the order of a life ---------------------------------------------------------------------------------

    def start(self, *, timeout: float | None = None) -> None:
        """Let the created process run the user's program: on return it does, and the status is `running`.

        `timeout` in seconds, here and below, is for the lock.

        Raises:
            InvalidTransitionError: it is not `created`; nothing was changed.
            NotFoundError, LockTimeoutError, DeadlockError, CorruptStateError, StateIOError: as for `StateFile`.
            Exception: whatever the runtime raised; the status is what `probe` found then.
        """
        self._act(Action.START, timeout)

    def restore(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        """Run the created container from the image at `path`: on return the status is `running`. Raises as `start`."""
        self._act(Action.RESTORE, timeout, os.fspath(path))

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
        return self._ask(Action.EXECUTE, list(args))

    def events(self) -> Any:  # noqa: ANN401  # what the runtime returns
        """A snapshot of what it uses, without the lock."""
        return self._ask(Action.EVENTS)

    def processes(self) -> Any:  # noqa: ANN401  # what the runtime returns
        """Its living processes, as `ProcessRef`s, without the lock."""
        return self._ask(Action.PROCESSES)

    def signal(self, number: int, *, all: bool = False) -> None:
        """Send signal `number` to its first process, or to `all` of them, without the lock.

        Raises:
            ValueError: there is no such signal.
            InvalidTransitionError: its status does not allow it; nothing was sent.
        """
        number = _signal.Signals(number) if number in set(_signal.Signals) else _checked_signal(number)
        self.refresh()
        self._judge(Action.SIGNAL_ALL if all else Action.SIGNAL)
        self._need_runtime(Action.SIGNAL).signal(self, int(number), all=all)

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Wait until it has stopped, and return how its first process ended: `None` if nobody knows.

        Any number of processes may wait, also after the end. The status is written into the record once. `timeout` in seconds.

        Raises:
            WaitTimeoutError: it still runs.
            InvalidTransitionError: it is still being created.
            NotFoundError: there is no such container.
        """
        self.refresh()
        self._judge(Action.WAIT)
        if self.status is Status.STOPPED and self.exit_status is not None:
            return self.exit_status
        exit_status = self._wait_for_process(timeout)
        return self._record_exit(exit_status)

    def state(self) -> State:
        """Its state as the OCI runtime-spec defines it, read afresh, without the lock."""
        self.refresh()
        process = self.process
        return State(
            oci_version=str(self.spec.get("ociVersion") or OCI_VERSION),
            id=self.id,
            status=self.status.value,
            pid=process.pid if process is not None and self.status is not Status.STOPPED else 0,
            bundle=self.bundle_dir,
            annotations=self.annotations,
        )

    def refresh(self) -> None:
        """Read the file again, without the lock, and check the process: on return the object shows what is true now.

        Raises:
            NotFoundError, CorruptStateError, UnsafePathError, StateIOError: as for `StateFile.load`.
        """
        self._reload()
        self._check_process()

    def recover(self, *, timeout: float | None = None) -> Status:
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
        with self._locked(timeout):
            self._judge(Action.DELETE)
            self._destroy_locked(force=False)

    def destroy(self, *, force: bool = False, timeout: float | None = None) -> None:
        """End all its processes and remove it: on return nothing of it runs, and it cannot be loaded.

        Works from every status. Idempotent: if it is gone already, that is success. All steps are taken even if some fail.
        Only while processes are still alive is the record kept, so that it can be tried again; `force` drops it all the same.

        Raises:
            ExceptionGroup: what failed; with a `StillRunningError` in it if the record was kept.
            LockTimeoutError, DeadlockError, LockUnsupportedError, UnsafePathError, StateIOError: as for `StateFile.lock`.
        """
        try:
            with self._locked(timeout, mend=False):
                self._destroy_locked(force=force)
        except NotFoundError:
            return

    # -- the one shape -------------------------------------------------------------------------------------------------

    def _act(self, action: Action, timeout: float | None, *arguments: Any) -> None:  # noqa: ANN401  # the runtime's
        with self._locked(timeout):
            self._judge(action)
            act = self._method(action)
            after = self._after(action)
            before = self.status
            self._intend_locked(action)
            try:
                act(self, *arguments)
            except BaseException as error:
                with _noting(error):
                    self._settle_locked(self._probe())
                raise
            self.paused_from = before if action is Action.PAUSE and before is not Status.PAUSED else self.paused_from
            self._settle_locked(after)

    def _ask(self, action: Action, *arguments: Any) -> Any:  # noqa: ANN401  # the runtime's
        """A question, or an action that changes no status: judged by a fresh snapshot, done without the lock."""
        self.refresh()
        self._judge(action)
        return self._method(action)(self, *arguments)

    @contextlib.contextmanager
    def _locked(self, timeout: float | None, *, mend: bool = True) -> Iterator[None]:
        """Hold the lock, on a record that was read under it and, if `mend`, says what is true."""
        with self.saver.hold(timeout=timeout):
            self._reload()
            if mend:
                self._mend_locked()
            yield

    def _mend_locked(self) -> None:
        """Make the record true. A `pending` found under the lock was left by a dead actor: whoever acts holds the lock."""
        if self.status is Status.CREATING:
            return
        status = self.status
        if self.pending is not None:
            if self._runtime is not None:
                status = self._probe()
            logger.warning("%s: %s by %s was interrupted; now %s", self.id, self.pending.action, self.pending.actor.pid, status)
        if status in _RUNS and self._presence() is Presence.GONE:
            status = Status.STOPPED
        if status is not self.status or self.pending is not None:
            self._settle_locked(status)

    def _intend_locked(self, action: Action) -> None:
        self.pending = Pending(action=action, actor=ProcessRef.current(), since=now())
        self._save_locked()

    def _settle_locked(self, status: Status) -> None:
        """Record that the container is in `status`, and that nobody is at work on it."""
        self.pending = None
        self.status = status
        if status is not Status.PAUSED:
            self.paused_from = None
        if status is Status.STOPPED and self.exit_status is None:
            self.exit_status = self._known_exit()
        self._save_locked()

    def _judge(self, action: Action) -> None:
        """Refuse what the table does not allow."""
        if action in LIFECYCLE[self.status]:
            return
        interrupted = self.status is Status.CREATING
        hint = "; unless its creation is still going on, it was interrupted" if interrupted else ""
        raise InvalidTransitionError(
            id=self.id, action=action, status=self.status, allowed=allowed_actions(self.status), hint=hint
        )

    def _after(self, action: Action) -> Status:
        """Where the table leads; a resumed container is again what it was before the pause."""
        if action is Action.RESUME and self.paused_from is not None:
            return self.paused_from
        return LIFECYCLE[self.status][action]

    # -- creation and destruction --------------------------------------------------------------------------------------

    def _create_locked(self, runtime: Runtime, pid_file: str | os.PathLike[str] | None) -> None:
        created = runtime.create(self)
        self.init = created.init
        self.helpers = dict(created.helpers)
        self.sandbox = created.sandbox or self._sandbox_of(created.init)
        self._settle_locked(LIFECYCLE[self.status][Action.CREATE])
        if pid_file is not None:
            _atomic.replace(os.path.abspath(pid_file), str(created.init.pid).encode(), durable=False, mode=_PID_FILE_MODE)

    def _sandbox_of(self, init: ProcessRef) -> Sandbox | None:
        """A container on its own is its own sandbox; one that joins shows the sandbox that its first container has."""
        full_id = self.saver.id
        if full_id.sandbox_id == full_id.container_id:
            return Sandbox(id=full_id.sandbox_id, pid=init.pid)
        with contextlib.suppress(StateFileError):
            return StateDir(self.saver.root_dir).state_file(full_id.sandbox_id).load(ContainerState).sandbox
        return None

    def _undo_creation_locked(self, runtime: Runtime, error: BaseException) -> None:
        """The record is ours and we hold its lock: nothing of another container is touched. `error` stays the cause."""
        with _noting(error):
            runtime.destroy(self)
            self.saver.destroy()

    def _destroy_locked(self, *, force: bool) -> None:
        errors: list[Exception] = []
        with _collecting(errors, only=StateFileError):  # a full disk must not keep a container alive
            self._intend_locked(Action.DESTROY)
        if self._runtime is not None:
            with _collecting(errors):
                self._runtime.destroy(self)
        unproved = bool(errors) or self._runtime is None
        with _collecting(errors):
            self._end_helpers()
        presence = self._presence()
        if (presence is Presence.ALIVE or (presence is Presence.UNKNOWN and unproved)) and not force:
            process = self.process
            errors.append(StillRunningError(id=self.id, pids=[process.pid] if process else []))
            with _collecting(errors):
                self._settle_locked(self._probe())
        else:
            with _collecting(errors):
                self.saver.destroy()
            self.status = Status.STOPPED
            self.pending = None
        _raise_group(f"destroying container {self.id!r}", errors)

    def _end_helpers(self) -> None:
        for name, helper in self.helpers.items():
            if helper.send_signal(_signal.SIGKILL) is Presence.ALIVE and helper.wait(HELPER_GRACE) is Presence.ALIVE:
                raise StillRunningError(id=self.id, pids=[helper.pid], reason=f"helper {name}")

    # -- what is true --------------------------------------------------------------------------------------------------

    def _presence(self) -> Presence:
        process = self.process
        return Presence.GONE if process is None else process.presence()

    def _check_process(self) -> None:
        """Show `stopped` if the process is gone; the file is not changed."""
        if self.status in _RUNS and self._presence() is Presence.GONE:
            logger.info("%s: the record says %s, but its process %s is gone", self.id, self.status, self.process)
            self.status = Status.STOPPED

    def _probe(self) -> Status:
        if self._runtime is None or self.status is Status.CREATING:
            return self.status
        return Status(self._runtime.probe(self))

    def _wait_for_process(self, timeout: float | None) -> ExitStatus | None:
        wait = getattr(self._runtime, "wait", None)
        if wait is not None:
            try:
                return _as_exit_status(wait(self, timeout))
            except TimeoutError as error:
                raise WaitTimeoutError(id=self.id, timeout=timeout or 0.0) from error
        process = self.process
        presence = Presence.GONE if process is None else process.wait(timeout)
        if presence is Presence.ALIVE:
            raise WaitTimeoutError(id=self.id, timeout=timeout or 0.0)
        if presence is Presence.UNKNOWN:
            raise UnsupportedActionError(action=Action.WAIT, runtime=type(self._runtime).__name__)
        return None

    def _known_exit(self) -> ExitStatus | None:
        """How the first process ended, if the runtime can tell at once."""
        wait = getattr(self._runtime, "wait", None)
        if wait is None or self._presence() is not Presence.GONE:
            return None
        try:
            return _as_exit_status(wait(self, 0.0))
        except Exception as error:  # noqa: BLE001  # how it ended is worth a line, not a failure
            logger.info("%s: how its process ended is unknown: %s", self.id, error)
            return None

    def _record_exit(self, exit_status: ExitStatus | None) -> ExitStatus | None:
        """Write down how this run ended, unless another has, or the ID means another run by now."""
        init = self.init
        try:
            with self.saver.hold(timeout=_RECORD_EXIT_WITHIN):
                current = self.saver.load(type(self))
                if current.init != init:
                    return exit_status
                self._become(current)
                if self.exit_status is None:
                    self.exit_status = exit_status
                if self.status is not Status.STOPPED or current.exit_status is None:
                    self._settle_locked(Status.STOPPED)
        except (NotFoundError, LockTimeoutError):  # it is being, or was, destroyed: we know what we have seen
            self.status = Status.STOPPED
            return exit_status
        return self.exit_status

    # -- the runtime ---------------------------------------------------------------------------------------------------

    def _need_runtime(self, action: Action) -> Runtime:
        if self._runtime is None:
            raise UnsupportedActionError(action=action, runtime="None: load the container with runtime=…")
        return self._runtime

    def _method(self, action: Action) -> Callable[..., Any]:
        runtime = self._need_runtime(action)
        method = getattr(runtime, action.value, None)
        if not callable(method):
            raise UnsupportedActionError(action=action, runtime=type(runtime).__name__)
        return method


_PID_FILE_MODE = 0o644


def check_runtime(runtime: object) -> None:
    """Refuse a runtime that lacks a required method.

    Raises:
        UnsupportedActionError: which methods it lacks.
    """
    missing = missing_methods(runtime)
    if missing:
        raise UnsupportedActionError(action=" and ".join(missing), runtime=type(runtime).__name__)


def _checked_signal(number: int) -> int:
    if not 0 < number < _signal.NSIG:
        raise ValueError(f"there is no signal {number!r}")
    return number


def _as_exit_status(value: ExitStatus | None) -> ExitStatus | None:
    return value if value is None or isinstance(value, ExitStatus) else ExitStatus.model_validate(value)


@contextlib.contextmanager
def _noting(error: BaseException) -> Iterator[None]:
    """Add a failure of the block to `error`, which stays the one that is raised."""
    try:
        yield
    except Exception as another:  # noqa: BLE001  # it is not lost: it is in the note
        error.add_note(f"then, cleaning up: {type(another).__name__}: {another}")


@contextlib.contextmanager
def _collecting(errors: list[Exception], *, only: type[Exception] = Exception) -> Iterator[None]:
    try:
        yield
    except only as error:
        errors.append(error)


def _raise_group(what: str, errors: list[Exception]) -> None:
    if errors:
        raise ExceptionGroup(what, errors)
