"""What an embedder implements: `Runtime`, and the plain values that pass between it and a `Container`.

A runtime makes the real thing (processes, a sandbox, a VM) and tells what is true of it. It keeps no state of its own that
another process would need: everything that it must know later is in the container that it is handed, or can be found from it.
"""

from __future__ import annotations

import os
import signal as _signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from pydantic import ConfigDict, Field

from statefile._ids import FullID
from statefile._process import PID_MAX, ProcessRef
from statefile._record import Record
from statefile.errors import InvalidRuntimeError, UnsupportedActionError

if TYPE_CHECKING:
    from statefile._container import Container
    from statefile._lifecycle import Status


class Sandbox(Record):
    """What several containers share: a pod, a VM, a pause process. The keys are runsc's.

    Attributes:
        id: the sandbox's ID.
        pid: its process.
        original_oom_score_adj: the sandbox process's score before any container asked for one.
    """

    id: str
    pid: int = Field(default=0, strict=True, ge=0, le=PID_MAX)
    original_oom_score_adj: int = Field(default=0, strict=True)


class ExitStatus(Record):
    """How a process ended: exactly one of the two is set.

    Attributes:
        code: what it exited with, 0 to 255.
        signal: the signal that killed it.
    """

    model_config = ConfigDict(frozen=True)

    code: int | None = Field(default=None, strict=True, ge=0, le=255)
    signal: int | None = Field(default=None, strict=True, ge=1, le=64)

    def __hash__(self) -> int:
        """By what `==` compares."""
        return hash((self.code, self.signal))

    @classmethod
    def from_wait_status(cls, status: int) -> ExitStatus:
        """From what `waitpid(2)` reports."""
        code = os.waitstatus_to_exitcode(status)
        return cls(signal=-code) if code < 0 else cls(code=code)

    def __str__(self) -> str:
        """`exit code 3`, or `killed by SIGKILL`."""
        if self.signal is None:
            return f"exit code {self.code}"
        try:
            return f"killed by {_signal.Signals(self.signal).name}"
        except ValueError:
            return f"killed by signal {self.signal}"


@dataclass(frozen=True, slots=True)
class Created:
    """What `Runtime.create` made.

    Attributes:
        init: the container's first process: its PID is final, and it waits to be started.
        sandbox: the sandbox that it runs in, if it has one.
        helpers: processes that live and die with the container (a gofer, a monitor), by name.
    """

    init: ProcessRef
    sandbox: Sandbox | None = None
    helpers: Mapping[str, ProcessRef] = field(default_factory=dict[str, ProcessRef])


@runtime_checkable
class Runtime(Protocol):
    """The five methods that every runtime has. A `Container` calls them with its lock held, but for those named below.

    Further methods are optional, and a container finds them by their presence; one that is missing makes the action an
    `UnsupportedActionError`:

    | method | holds on return |
    | --- | --- |
    | `pause(container)` | no process of the container runs until it is resumed |
    | `resume(container)` | they run (or, if never started, wait to be started) |
    | `checkpoint(container, path)` | an image of it is at `path`; it goes on as it was |
    | `restore(container, path)` | it runs, from the image at `path` |
    | `execute(container, args)` → `ProcessRef` | another process runs in it |
    | `processes(container)` → list of `ProcessRef` | the living ones |
    | `update(container, resources)` | the limits hold |
    | `events(container)` → mapping | a snapshot of what it uses |
    | `wait(container, timeout)` → `ExitStatus` or `None` | its first process has ended; `None`: how is unknown |

    `wait` raises `TimeoutError` when its time (seconds; `None` is for good) is up. It, `signal` and what only asks
    (`processes`, `events`, `execute`) are called without the lock, by any number of processes at once.

    An exception out of a method is passed on to the caller, after the container has asked `probe` what is true now.
    """

    def create(self, container: Container) -> Created:
        """Make the container's first process, waiting to be started. On an exception nothing of it is left running."""
        ...

    def start(self, container: Container) -> None:
        """Let the created process run the user's program. On return it does."""
        ...

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        """Send signal `number` to the first process, or to `all` of them. One that is gone meanwhile is no error."""
        ...

    def destroy(self, container: Container) -> None:
        """End every process and free every resource of the container, also what an interrupted `create` left.

        Idempotent: nothing there is success. Raises if something is left running (`StillRunningError` after a bounded time).
        """
        ...

    def probe(self, container: Container) -> Status | str:
        """Say what is true now, whatever the record says. For what cannot be told, return what the record says."""
        ...


REQUIRED = ("create", "start", "signal", "destroy", "probe")
"""The methods that a runtime must have; checked when it is handed over."""


def missing_methods(runtime: object) -> list[str]:
    """The required methods that `runtime` lacks."""
    return [name for name in REQUIRED if not callable(getattr(runtime, name, None))]


def checked_created(created: object, runtime: object) -> Created:
    """What `create` returned, if a record can hold it.

    Raises:
        InvalidRuntimeError: it cannot.
    """
    found: Any = created
    wrong = None
    if not isinstance(created, Created):
        wrong = f"a Created, not {created!r:.80}"
    elif not isinstance(found.init, ProcessRef):
        wrong = f"a Created whose init is a ProcessRef (ProcessRef.of(pid)), not {found.init!r:.80}"
    elif not _are_processes(found.helpers):
        wrong = f"a Created whose helpers are ProcessRefs by name, not {found.helpers!r:.80}"
    elif not isinstance(found.sandbox, Sandbox | None):
        wrong = f"a Created whose sandbox is a Sandbox or None, not {found.sandbox!r:.80}"
    if wrong is not None:
        raise InvalidRuntimeError(runtime=type(runtime).__name__, reason=f"create must return {wrong}")
    return cast("Created", created)


def _are_processes(helpers: object) -> bool:
    named = list(cast("Mapping[str, object]", helpers).values()) if isinstance(helpers, Mapping) else [None]
    return all(isinstance(helper, ProcessRef) for helper in named)


def check_runtime(runtime: object) -> None:
    """Refuse a runtime that lacks a required method.

    Raises:
        InvalidRuntimeError: it is `None`, or a class and no object of it.
        UnsupportedActionError: which methods it lacks.
    """
    if runtime is None:
        raise InvalidRuntimeError(runtime="None", reason=f"hand over an object with {', '.join(REQUIRED)}")
    if isinstance(runtime, type):
        raise InvalidRuntimeError(runtime=runtime.__name__, reason="this is the class: hand over an object of it")
    missing = missing_methods(runtime)
    if missing:
        raise UnsupportedActionError(action=" and ".join(missing), runtime=type(runtime).__name__)


__all__ = [
    "REQUIRED",
    "Created",
    "ExitStatus",
    "FullID",
    "ProcessRef",
    "Runtime",
    "Sandbox",
    "check_runtime",
    "checked_created",
    "missing_methods",
]
