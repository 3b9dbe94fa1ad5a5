"""A container in any status, as it is found after any accident."""

# ruff: noqa: ANN401
# The fields of a subclass can be anything.

from __future__ import annotations

import inspect
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar, overload

from statefile._container import Container
from statefile._container_state import Pending, now
from statefile._lifecycle import Action, Status, allowed_actions
from statefile._process import PID_MAX, ProcessRef
from statefile.runtime import ExitStatus
from statefile.testing._arguments import a_container_class, declared, of_type, one_of
from statefile.testing._fake_runtime import FakeRuntime

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from statefile._ids import FullID
    from statefile.testing._plain_runtime import PlainRuntime

C = TypeVar("C", bound=Container)


class ProcessFate(StrEnum):
    """What became of the process that a record names."""

    LIVE = "live"
    DEAD = "dead"
    """It was killed, and nobody has noticed."""
    REUSED = "reused"
    """It has ended, and its PID is another process's by now, one that does nothing and must not be hit."""
    REBOOTED = "rebooted"
    """The record is of an earlier boot; its PID is another process's by now."""
    UNKNOWN = "unknown"
    """It cannot be told from here: the record is of another PID namespace."""


EXITED = ExitStatus.model_construct(code=0, signal=None)  # to check it, pydantic would have to be set up on import


@overload
def make_container(
    root_dir: str | os.PathLike[str],
    id: FullID | str = "c1",
    *,
    cls: None = None,
    status: Status | str = Status.RUNNING,
    process: ProcessFate | str | None = None,
    pending: Action | str | None = None,
    exit_status: ExitStatus | None = EXITED,
    runtime: FakeRuntime | None = None,
    spec: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Container: ...
@overload
def make_container(
    root_dir: str | os.PathLike[str],
    id: FullID | str = "c1",
    *,
    cls: type[C],
    status: Status | str = Status.RUNNING,
    process: ProcessFate | str | None = None,
    pending: Action | str | None = None,
    exit_status: ExitStatus | None = EXITED,
    runtime: FakeRuntime | None = None,
    spec: Mapping[str, Any] | None = None,
    **fields: Any,
) -> C: ...
def make_container(
    root_dir: str | os.PathLike[str],
    id: FullID | str = "c1",
    *,
    cls: type[Container] | None = None,
    status: Status | str = Status.RUNNING,
    process: ProcessFate | str | None = None,
    pending: Action | str | None = None,
    exit_status: ExitStatus | None = EXITED,
    runtime: FakeRuntime | None = None,
    spec: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Container:
    """A container that says it is in `status`, driven by `runtime`, or by a `FakeRuntime` of its own.

    A runtime of its own ends, with the container's process, when nobody has the returned object any more.

    It got there by the verbs that lead there; what no verb leads to is then written into the record. The object shows the
    record as it is: `refresh`, and every other load, looks at the process too. What this does is neither in `runtime.calls`,
    nor touched by its script.

    Args:
        root_dir: the root directory; made if it is missing.
        id: its ID, or both, which is free.
        cls: the subclass of `Container` that it is; if not given, `Container`.
        status: what the record says. `creating`: its creation was interrupted.
        process: what became of its process; if not given, it lives, but that of a stopped container is dead. Of an
            interrupted creation the record names none: either one is there all the same (live), or none was made (dead).
        pending: an action that the record says was begun, by a process that is dead; `creating` is always `create`.
        exit_status: of a stopped one: how it ended; `None` if nobody knows.
        runtime: what drives it.
        spec: its OCI spec.
        fields: further options of `Container.new`, and the subclass's own fields.

    Raises:
        ValueError: there is no such status, process or action, or they do not go together.
        TypeError: `cls`, `runtime`, `exit_status` or a keyword is none that can be given; nothing was made.
        AlreadyExistsError: the ID is taken.
        Otherwise as `Container.new`.
    """
    made_as = Container if cls is None else a_container_class(cls)
    declared(made_as, fields, ["cls", "process", *inspect.signature(made_as.new).parameters])
    if runtime is not None:
        of_type("runtime", runtime, FakeRuntime)
    of_type("exit_status", exit_status, ExitStatus, type(None))
    status = one_of(Status, status)
    fate = _fate(status, process)
    begun = _begun(status, pending)
    if exit_status is not EXITED and status is not Status.STOPPED:
        raise ValueError(f"exit_status={exit_status!r}: a container that is {status} has none")
    runtime = FakeRuntime() if runtime is None else runtime
    plain = runtime.unscripted
    container = made_as.new(root_dir, id, runtime=plain, spec=spec, **fields)
    if status in {Status.RUNNING, Status.PAUSED, Status.STOPPED}:
        container.start()
    if status is Status.PAUSED:
        container.pause()
    if status is Status.STOPPED:
        plain.end(container, exit_status or EXITED)
        container.wait()
    elif fate is not ProcessFate.LIVE:
        plain.made.end(container.id, plain.family(container))
    changes = _unreachable(container, status, fate, begun, plain)
    if exit_status is None:
        changes["exit_status"] = None
    if changes:
        with container.saver.transaction(type(container)) as record:
            for name, value in changes.items():
                setattr(record, name, value)
    saver = container.saver
    return type(container).load(
        saver.root_dir, saver.id, exact=True, runtime=runtime, skip_check=True, durability=saver.durability
    )


def _fate(status: Status, process: ProcessFate | str | None) -> ProcessFate:
    if process is None:
        return ProcessFate.DEAD if status is Status.STOPPED else ProcessFate.LIVE
    fate = one_of(ProcessFate, process)
    if status is Status.STOPPED and fate in {ProcessFate.LIVE, ProcessFate.UNKNOWN}:
        raise ValueError(f"process={str(fate)!r}: that of a stopped container has ended: dead, reused or rebooted")
    if status is Status.CREATING and fate not in {ProcessFate.LIVE, ProcessFate.DEAD}:
        raise ValueError(f"process={str(fate)!r}: the record of an interrupted creation names no process: live or dead")
    return fate


def _begun(status: Status, pending: Action | str | None) -> Action | None:
    if pending is None:
        return Action.CREATE if status is Status.CREATING else None
    action = one_of(Action, pending)
    if action not in {*allowed_actions(status), *([Action.CREATE] if status is Status.CREATING else [])}:
        raise ValueError(f"pending={str(action)!r} cannot be begun in status {status}")
    return action


def _unreachable(
    container: Container, status: Status, fate: ProcessFate, begun: Action | None, plain: PlainRuntime
) -> dict[str, object]:
    """What the record has to say that no verb leads to."""
    changes: dict[str, object] = {}
    if begun is not None:
        changes["pending"] = Pending(action=begun, actor=_dead_process(), since=now())
    if status is Status.CREATING:
        return changes | {"status": Status.CREATING, "init": None}
    if fate in {ProcessFate.REUSED, ProcessFate.REBOOTED, ProcessFate.UNKNOWN}:
        # Not this process: a test of code that gets it wrong must survive that.
        bystander = plain.made.make(f"bystander of {container.saver.state_path}")
        wrong: dict[ProcessFate, dict[str, object]] = {
            ProcessFate.REUSED: {"start_ticks": (bystander.start_ticks or 1) - 1},
            ProcessFate.REBOOTED: {"boot_id": "00000000-0000-4000-8000-000000000000"},
            ProcessFate.UNKNOWN: {"pid_namespace": (bystander.pid_namespace or 0) + 1},
        }
        changes["init"] = bystander.model_copy(update=wrong[fate])
    return changes


def _dead_process() -> ProcessRef:
    """A process that is gone: the kernel gives no process a number so large."""
    return ProcessRef.current().model_copy(update={"pid": PID_MAX})
