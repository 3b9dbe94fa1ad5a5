"""How any verb moves a container whose drivers may die at any instruction.

Every verb that changes the status has one shape, written once in `_act`: lock, read again, mend what a dead actor left,
judge by `LIFECYCLE`, save the intent, ask the runtime, save the result, unlock.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from statefile import _log
from statefile._container_state import ContainerState, Pending, now
from statefile._lifecycle import Action, Status, allowed_actions, row_of
from statefile._process import Presence, ProcessRef
from statefile.errors import (
    InvalidRuntimeError,
    InvalidTransitionError,
    NotFoundError,
    StateFileError,
    UnsupportedActionError,
    WaitTimeoutError,
)
from statefile.runtime import ExitStatus, Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from statefile._container import Container
    from statefile._state_file import StateFile

_RECORD_EXIT_WITHIN = 1.0
"""Seconds that `wait` waits for the lock to write down an exit status that it knows already."""

_RUNS = frozenset({Status.CREATED, Status.RUNNING, Status.PAUSED})  # has a process, says the record


class Drivable(ContainerState):
    """A record, and the runtime that makes it true."""

    _runtime: ClassVar[Runtime | None] = None  # kept in `__dict__`: pydantic is slow to make and to find a private attribute

    @classmethod
    def _loaded(cls, saver: StateFile, runtime: Runtime | None, *, check: bool) -> Self:
        """From the file, driven by `runtime`; with `check`, `stopped` if its process is gone."""
        self = saver.load(cls)
        vars(self)["_runtime"] = runtime
        if check:
            self._check_process()
        return self

    def refresh(self) -> None:
        """Read the file again, without the lock, and check the process: on return the object shows what is true now.

        Raises:
            NotFoundError, CorruptStateError, UnsafePathError, StateIOError: as for `StateFile.load`.
        """
        self._reload()
        self._check_process()

    # -- the one shape -------------------------------------------------------------------------------------------------

    def _act(self, action: Action, timeout: float | None, *arguments: Any) -> None:  # noqa: ANN401  # the runtime's
        with self._locked(timeout):
            self._act_locked(action, *arguments)

    def _act_locked(self, action: Action, *arguments: Any) -> None:  # noqa: ANN401  # the runtime's
        self._judge(action)
        act = self._method(action)
        after = self._after(action)
        self._intend_locked(action)
        try:
            act(self, *arguments)
        except BaseException as error:
            with noting(error):
                self._settle_locked(self._probe())
            raise
        self._settle_locked(after)

    def _reload_this_run(self, *, unchanged: bool = False) -> None:
        """Become what the file says now.

        Raises:
            NotFoundError: it is of another container, made under that ID since.
            InvalidTransitionError: it is not `unchanged`, as it has to be: its creation is not the pending action any more.
            Otherwise as `_reload`.
        """
        current = self.saver.load(type(self))
        if current.created_at != self.created_at or self.init not in {None, current.init}:
            raise NotFoundError(id=self.saver.id, path=str(self.saver.state_path))
        if unchanged and current.pending != self.pending:
            hint = ": somebody tried to destroy it while its hooks ran"
            allowed = allowed_actions(current.status)
            raise InvalidTransitionError(id=self.id, action=Action.CREATE, status=current.status, allowed=allowed, hint=hint)
        self._become(current)

    def _ask(self, action: Action, *arguments: Any) -> Any:  # noqa: ANN401  # the runtime's
        """A question, or an action that changes no status: judged by a fresh snapshot, done without the lock."""
        self.refresh()
        self._judge(action)
        return self._method(action)(self, *arguments)

    @contextlib.contextmanager
    def _locked(self, timeout: float | None, *, this_run: bool = False) -> Generator[None]:
        """Hold the lock, on a record that was read under it and says what is true. On a failure the object shows the file."""
        with self.saver.hold(timeout=timeout):
            if this_run:
                self._reload_this_run()
            else:
                self._reload()
            try:
                self._mend_locked()
                yield
            except BaseException:
                with contextlib.suppress(StateFileError):
                    self._reload()
                raise

    def _mend_locked(self) -> None:
        """Make the record true. A `pending` found under the lock was left by a dead actor: whoever acts holds the lock.

        Without a runtime to ask, it is left for one.
        """
        if self.status is Status.CREATING:
            return
        status = self.status
        if self.pending is not None:
            if self._runtime is not None:
                status = self._finish_half_done(self._probe())
            elif self._presence() is not Presence.GONE:
                return
            actor = self.pending.actor.pid
            _log.warning("%s: %s by process %d was interrupted; now %s", self.id, self.pending.action, actor, status)
        if status in _RUNS and self._presence() is Presence.GONE:
            status = Status.STOPPED
        if status is not self.status or self.pending is not None:
            self._settle_locked(status)

    def _finish_half_done(self, status: Status | str) -> Status | str:
        """A pause or a resume that was interrupted may have reached some processes only: take all of them to `status`."""
        finish_by = {Status.PAUSED: Action.PAUSE, Status.RUNNING: Action.RESUME, Status.CREATED: Action.RESUME}.get(
            cast("Status", status)
        )
        if finish_by is None or self.pending is None or self.pending.action not in {Action.PAUSE, Action.RESUME}:
            return status
        self._method(finish_by)(self)
        return self._probe()

    def _intend_locked(self, action: Action) -> None:
        self.pending = Pending(action=action, actor=ProcessRef.current(), since=now())
        self._save_locked()

    def _settle_locked(self, status: Status | str) -> None:
        """Record that the container is in `status`, and that nobody is at work on it."""
        self.pending = None
        if status is not Status.PAUSED:
            self.paused_from = None
        elif self.status is not Status.PAUSED:
            self.paused_from = self.status
        self.status = status
        if status is Status.STOPPED and self.exit_status is None:
            self.exit_status = self._known_exit()
        self._save_locked()

    def _judge(self, action: Action) -> None:
        """Refuse what the table does not allow."""
        if action in row_of(self.status):
            return
        hint = ""
        if self.status is Status.CREATING:
            # Whoever creates has the lock, but for while its hooks run.
            alive = self.pending is not None and self.pending.actor.presence() is not Presence.GONE
            going_on = alive or not self.saver.locked
            hint = ": its creation is going on, or was interrupted" if going_on else ": its creation was interrupted"
        raise InvalidTransitionError(
            id=self.id, action=action, status=self.status, allowed=allowed_actions(self.status), hint=hint
        )

    def _after(self, action: Action) -> Status | str:
        """Where the table leads; a resumed container is again what it was before the pause."""
        if action is Action.RESUME and self.paused_from is not None:
            return self.paused_from
        return row_of(self.status)[action]

    # -- what is true --------------------------------------------------------------------------------------------------

    def _presence(self) -> Presence:
        process = self.process
        return Presence.GONE if process is None else process.presence()

    def _left(self, *, proved: bool) -> list[ProcessRef]:
        """Its processes that still run or, unless it is `proved` that all have ended, may."""
        may = {Presence.ALIVE} if proved else {Presence.ALIVE, Presence.UNKNOWN}
        known = (self.process, *self.helpers.values())
        return [ref for ref in known if ref is not None and ref.presence() in may]

    def _check_process(self) -> None:
        """Show `stopped` if the process is gone; the file is not changed."""
        if self.status in _RUNS and self._presence() is Presence.GONE:
            _log.info("%s: the record says %s, but its process %s is gone", self.id, self.status, self.process)
            self.status = Status.STOPPED

    def _probe(self) -> Status | str:
        if self._runtime is None or self.status is Status.CREATING:
            return self.status
        found = self._runtime.probe(cast("Container", self))
        try:
            return found if found == self.status else Status(found)
        except ValueError:
            reason = f"probe must return a Status, not {found!r:.80}"
            raise InvalidRuntimeError(runtime=type(self._runtime).__name__, reason=reason) from None

    def _wait_for_process(self, timeout: float | None) -> ExitStatus | None:
        wait = getattr(self._runtime, "wait", None)
        if wait is not None:
            try:
                return self._as_exit_status(wait(self, timeout))
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
            return self._as_exit_status(wait(self, 0.0))
        except Exception as error:  # noqa: BLE001  # how it ended is worth a line, not a failure
            _log.info("%s: how its process ended is unknown: %s", self.id, error)
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
                if self.status is not Status.STOPPED or self.exit_status != current.exit_status:
                    self._settle_locked(Status.STOPPED)
                return self.exit_status
        except StateFileError as error:  # it is being, or was, destroyed, or may not be written: we know what we have seen
            _log.info("%s: how it ended (%s) was not written down: %s", self.id, exit_status, error)
        self.status = Status.STOPPED
        self.exit_status = exit_status
        return exit_status

    def _as_exit_status(self, value: object) -> ExitStatus | None:
        if value is None or isinstance(value, ExitStatus):
            return value
        reason = f"wait must return an ExitStatus or None, not {value!r:.80}"
        raise InvalidRuntimeError(runtime=type(self._runtime).__name__, reason=reason)

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
        return cast("Callable[..., Any]", method)


@contextlib.contextmanager
def noting(error: BaseException) -> Generator[None]:
    """Add a failure of the block to `error`, which stays the one that is raised; of a group, each one in it."""
    try:
        yield
    except Exception as another:  # noqa: BLE001  # it is not lost: it is in the note
        several = cast("tuple[Exception, ...]", getattr(another, "exceptions", (another,)))
        for each in several:
            error.add_note(f"then, cleaning up: {type(each).__name__}: {each}")
