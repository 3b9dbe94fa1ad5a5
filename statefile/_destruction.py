"""How a container ends: every step is taken even if some fail, and the record goes last, once nothing of it runs."""

from __future__ import annotations

import contextlib
import signal as _signal
from typing import TYPE_CHECKING, cast

from statefile import _log, _oom
from statefile._driving import Drivable
from statefile._hooks import AFTER_DELETION, run_all_hooks
from statefile._lifecycle import Action, Status
from statefile._process import Presence
from statefile.errors import (
    CorruptStateError,
    DestroyError,
    NotFoundError,
    StateFileError,
    StateIOError,
    StillRunningError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from statefile._container import Container

HELPER_GRACE = 5.0
"""Seconds that a helper process has to end once it was killed."""


class Destroyable(Drivable):
    """A container that can be driven, and ended."""

    def _destroy(self, *, force: bool, unreadable: bool, timeout: float | None) -> None:
        with self._gone_is_success(), contextlib.ExitStack() as unlocked, self.saver.hold(timeout=timeout):
            try:
                self._reload()
            except (CorruptStateError, UnsupportedVersionError) as error:
                if not unreadable:
                    raise
                _log.warning("%s: destroying what cannot be read: %s", self.id, error)
                self._destroy_locked(unlocked, force=force, known=False)
            else:
                self._destroy_locked(unlocked, force=force)

    def _destroy_this_run(self) -> None:
        """Destroy it, unless that was done already: then what has its ID now is another's."""
        with self._gone_is_success(), contextlib.ExitStack() as unlocked, self.saver.hold():
            self._reload_this_run()
            self._destroy_locked(unlocked, force=False)

    def _destroy_locked(self, unlocked: contextlib.ExitStack, *, force: bool, known: bool = True) -> None:
        """What follows the removal is left to `unlocked`, for when the lock is no longer held.

        A record that is not `known`, because it cannot be read, is not replaced by the little that this object knows.
        """
        errors: list[Exception] = []
        try:
            if known:
                self._intend_locked(Action.DESTROY)
        except StateFileError as error:  # a full disk must not keep a container alive
            _log.warning("%s: destroying it, which could not be noted in its record before: %s", self.id, error)
        if self._runtime is not None:
            with collecting(errors):
                self._runtime.destroy(cast("Container", self))
        proved = self._runtime is not None and not errors
        self._end_helpers(errors)
        told = ExceptionGroup("", errors).subgroup(StillRunningError) if errors else None
        left = self._left(proved=proved)
        forgotten = self.status is Status.CREATING and not proved
        if (told or left or forgotten) and not force:
            if not told:
                reason = "or may be: its creation was interrupted, and only its runtime can tell" if forgotten else ""
                errors.append(StillRunningError(id=self.id, pids=[ref.pid for ref in left], reason=reason))
            if known:
                with collecting(errors):
                    self._settle_locked(self._probe())
        else:
            with collecting(errors):
                self._remove_locked(unlocked)
        if errors:
            raise DestroyError(f"destroying container {self.id!r}", errors, id=self.id)

    def _remove_locked(self, unlocked: contextlib.ExitStack) -> None:
        try:
            self.saver.destroy()
        except StateIOError as error:
            if error.applied:
                unlocked.callback(self._follow_removal)
            raise
        unlocked.callback(self._follow_removal)
        self.status = Status.STOPPED
        self.pending = None

    def _end_helpers(self, errors: list[Exception]) -> None:
        for name, helper in self.helpers.items():
            with collecting(errors):
                if helper.send_signal(_signal.SIGKILL) is Presence.ALIVE and helper.wait(HELPER_GRACE) is Presence.ALIVE:
                    raise StillRunningError(id=self.id, pids=[helper.pid], reason=f"helper {name}")

    def _follow_removal(self) -> None:
        _oom.release(self)
        run_all_hooks(self.spec, AFTER_DELETION, self._oci_state(Status.STOPPED))

    @contextlib.contextmanager
    def _gone_is_success(self) -> Generator[None]:
        try:
            yield
        except NotFoundError:
            self.status = Status.STOPPED
            self.pending = None


@contextlib.contextmanager
def collecting(errors: list[Exception]) -> Generator[None]:
    """Add a failure of the block to `errors`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # raised at the end, with the others
        errors.append(error)
