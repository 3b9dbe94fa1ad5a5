"""The steps of a save, of the lock and of an action, by name, and where they are in the library.

Seen from outside, while a block runs: the library's own functions are wrapped, and say when they have done their work.
"""

# ruff: noqa: ANN401
# What is wrapped has arguments of its own, which are passed on.

from __future__ import annotations

import contextlib
import threading
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from statefile import _atomic
from statefile._claim import Claim, owner_of
from statefile._container import Container
from statefile._container_state import ContainerState
from statefile._driving import Drivable
from statefile._ids import LOCK_SUFFIX, STATE_SUFFIX
from statefile.testing._patching import own_system_calls, replaced, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Step(StrEnum):
    """A step of the library, which is done when the process dies there."""

    LOCK_OPENED = "lock opened"
    """The lock file is open, and there if it was not; the lock is not taken yet."""
    LOCK_TAKEN = "lock taken"
    """Nobody else has the lock; nothing was read or written under it."""
    LOCK_REMOVED = "lock removed"
    """The lock file of a container that is gone was removed; the lock on it is still held."""
    LOCK_RELEASED = "lock released"
    """Others can have it; the verb has not returned."""

    TEMPORARY_MADE = "temporary made"
    """The temporary file of a save is there, and empty."""
    HALF_WRITTEN = "half written"
    """It has half of the state."""
    WRITTEN = "written"
    """It has all of it; nothing is flushed."""
    FLUSHED = "flushed"
    """It is on the disk, but not in place."""
    RENAMED = "renamed"
    """The new state is in place; the directory is not flushed."""
    DIRECTORY_FLUSHED = "directory flushed"
    """The new state would survive a power cut (only with `Durability.FULL`); the caller does not know."""

    INTENT_SAVED = "intent saved"
    """The record of a container says what is about to be done; the runtime was not asked."""
    RUNTIME_ASKED = "runtime asked"
    """The runtime's method is called; it has done nothing."""
    RUNTIME_RETURNED = "runtime returned"
    """It has done its work; the record does not say so."""
    RESULT_SAVED = "result saved"
    """The record says so; the lock is still held."""

    STATE_REMOVED = "state removed"
    """The state file is gone; its lock file is there, and locked."""


@contextlib.contextmanager
def counting(reached: Callable[[Step], None]) -> Generator[None]:
    """In the block `reached` is called with each step that this process comes to."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_saves(reached))
        stack.enter_context(_locks(reached))
        stack.enter_context(_removals(reached))
        stack.enter_context(_actions(reached))
        yield


@contextlib.contextmanager
def _saves(reached: Callable[[Step], None]) -> Generator[None]:  # noqa: C901  # one small function for each step
    """The steps of the write sequence, where it writes a state."""
    inside = threading.local()

    def within(step: Step) -> None:
        if getattr(inside, "save", False):
            reached(step)

    def replace(original: Any, path: str, *args: Any, **kwargs: Any) -> None:
        inside.save = path.endswith(STATE_SUFFIX)
        try:
            original(path, *args, **kwargs)
        finally:
            inside.save = False

    def adopt(original: Any, *args: Any) -> None:  # called once the file is made
        within(Step.TEMPORARY_MADE)
        original(*args)

    def write_all(original: Any, fd: int, data: bytes) -> None:
        half = len(data) // 2
        original(fd, data[:half])
        within(Step.HALF_WRITTEN)
        original(fd, data[half:])
        within(Step.WRITTEN)

    def flush(original: Any, fd: int) -> None:
        original(fd)
        if not getattr(inside, "directory", False):
            within(Step.FLUSHED)

    def flush_directory(original: Any, *args: Any, **kwargs: Any) -> None:
        inside.directory = True
        try:
            original(*args, **kwargs)
        finally:
            inside.directory = False
        within(Step.DIRECTORY_FLUSHED)

    with contextlib.ExitStack() as stack:
        system = stack.enter_context(own_system_calls())
        rename = system.rename

        def renaming(*args: Any, **kwargs: Any) -> None:
            rename(*args, **kwargs)
            within(Step.RENAMED)

        system.rename = renaming
        for name, wrapper in (
            ("replace", replace),
            ("_adopt", adopt),
            ("_write_all", write_all),
            ("_flush", flush),
            ("flush_directory", flush_directory),
        ):
            stack.enter_context(wrapped(_atomic, name, wrapper))
        yield


@contextlib.contextmanager
def _locks(reached: Callable[[Step], None]) -> Generator[None]:
    def init(original: Any, claim: Claim, *args: Any, **kwargs: Any) -> None:
        original(claim, *args, **kwargs)
        reached(Step.LOCK_OPENED)

    def own(original: Any, claim: Claim, owner: object) -> None:
        original(claim, owner)
        reached(Step.LOCK_TAKEN)

    def close(original: Any, claim: Claim) -> bool:
        owned = claim.is_owned_by(owner_of(claim.key))
        closed: bool = original(claim)
        if owned and closed:
            reached(Step.LOCK_RELEASED)
        return closed

    with wrapped(Claim, "__init__", init), wrapped(Claim, "own", own), wrapped(Claim, "close", close):
        yield


@contextlib.contextmanager
def _removals(reached: Callable[[Step], None]) -> Generator[None]:
    def remove(original: Any, path: str) -> bool:
        removed: bool = original(path)
        if removed and path.endswith(STATE_SUFFIX):
            reached(Step.STATE_REMOVED)
        elif removed and path.endswith(LOCK_SUFFIX):
            reached(Step.LOCK_REMOVED)
        return removed

    with wrapped(_atomic, "remove", remove):
        yield


_ACTIONS = frozenset({"create", "start", "restore", "pause", "resume", "checkpoint", "update", "destroy"})
"""What a container asks of its runtime between an intent and a result."""


class _Watched:
    """A runtime whose actions are steps."""

    def __init__(self, runtime: object, reached: Callable[[Step], None]) -> None:
        self._runtime = runtime
        self._reached = reached

    def __getattr__(self, name: str) -> Any:
        method: Any = getattr(self._runtime, name)
        if name not in _ACTIONS or not callable(method):
            return method

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._reached(Step.RUNTIME_ASKED)
            value = method(*args, **kwargs)
            self._reached(Step.RUNTIME_RETURNED)
            return value

        return watched


@contextlib.contextmanager
def _actions(reached: Callable[[Step], None]) -> Generator[None]:
    def save(original: Any, state: ContainerState) -> None:
        original(state)
        reached(Step.RESULT_SAVED if state.pending is None else Step.INTENT_SAVED)

    def make(original: Any, container: Container, runtime: object) -> None:
        original(container, _Watched(runtime, reached))

    def runtime_of(container: Container) -> object:
        runtime: object = vars(container).get("_runtime")
        return runtime if runtime is None or isinstance(runtime, _Watched) else _Watched(runtime, reached)

    with (
        wrapped(ContainerState, "_save_locked", save),
        wrapped(Container, "_make_locked", make),
        replaced(Drivable, "_runtime", property(runtime_of)),
    ):
        yield
