"""The lifecycle, whole: one table of what each status allows and where it leads.

Gate, transitions, error texts and the documentation read `LIFECYCLE`; there is no second list anywhere.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping


class Status(StrEnum):
    """What a container is, in the words of the OCI runtime-spec, and `paused`, which the spec leaves to the runtime."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class Action(StrEnum):
    """What can be done to a container, or (`create`, `exit`) what happens to it."""

    CREATE = "create"
    START = "start"
    RESTORE = "restore"
    PAUSE = "pause"
    RESUME = "resume"
    EXIT = "exit"
    CHECKPOINT = "checkpoint"
    EXECUTE = "execute"
    UPDATE = "update"
    EVENTS = "events"
    PROCESSES = "processes"
    SIGNAL = "signal"
    SIGNAL_ALL = "signal all"
    WAIT = "wait"
    DELETE = "delete"
    DESTROY = "destroy"


LIFECYCLE: Mapping[Status, Mapping[Action, Status]] = MappingProxyType({
    # An interrupted creation is found in this status: only a clean-up leads out of it.
    Status.CREATING: MappingProxyType({
        Action.CREATE: Status.CREATED,
        Action.EXIT: Status.STOPPED,
        Action.DESTROY: Status.STOPPED,
    }),
    Status.CREATED: MappingProxyType({
        Action.START: Status.RUNNING,
        Action.RESTORE: Status.RUNNING,
        # runc allows it too; resuming leads back to created, not to running, since nothing was started.
        Action.PAUSE: Status.PAUSED,
        Action.EXIT: Status.STOPPED,
        Action.CHECKPOINT: Status.CREATED,
        Action.EXECUTE: Status.CREATED,
        Action.UPDATE: Status.CREATED,
        Action.EVENTS: Status.CREATED,
        Action.SIGNAL: Status.CREATED,
        Action.SIGNAL_ALL: Status.CREATED,
        Action.WAIT: Status.CREATED,
        Action.DESTROY: Status.STOPPED,
    }),
    Status.RUNNING: MappingProxyType({
        Action.PAUSE: Status.PAUSED,
        Action.EXIT: Status.STOPPED,
        Action.CHECKPOINT: Status.RUNNING,
        Action.EXECUTE: Status.RUNNING,
        Action.UPDATE: Status.RUNNING,
        Action.EVENTS: Status.RUNNING,
        Action.PROCESSES: Status.RUNNING,
        Action.SIGNAL: Status.RUNNING,
        Action.SIGNAL_ALL: Status.RUNNING,
        Action.WAIT: Status.RUNNING,
        Action.DESTROY: Status.STOPPED,
    }),
    Status.PAUSED: MappingProxyType({
        # … or to created, if it was paused from there: the record keeps that in `paused_from`.
        Action.RESUME: Status.RUNNING,
        Action.EXIT: Status.STOPPED,
        Action.CHECKPOINT: Status.PAUSED,
        Action.UPDATE: Status.PAUSED,
        Action.EVENTS: Status.PAUSED,
        Action.PROCESSES: Status.PAUSED,
        Action.SIGNAL: Status.PAUSED,
        Action.SIGNAL_ALL: Status.PAUSED,
        Action.WAIT: Status.PAUSED,
        Action.DESTROY: Status.STOPPED,
    }),
    Status.STOPPED: MappingProxyType({
        # A container without a PID namespace of its own may leave processes behind: they can still be signalled.
        Action.SIGNAL_ALL: Status.STOPPED,
        Action.WAIT: Status.STOPPED,
        # Only here: OCI's `delete`. A forced delete is `destroy`.
        Action.DELETE: Status.STOPPED,
        Action.DESTROY: Status.STOPPED,
    }),
})  # fmt: skip
"""`LIFECYCLE[status][action]` is the status after `action`; an action that is absent is refused."""


UNKNOWN: Mapping[Action, Status] = MappingProxyType({Action.DESTROY: Status.STOPPED})
"""The row of a status that a later version wrote: the container can be looked at and destroyed."""


def row_of(status: Status | str) -> Mapping[Action, Status]:
    """What `status` allows, and where that leads."""
    return LIFECYCLE.get(cast("Status", status), UNKNOWN)


def allowed_actions(status: Status | str) -> tuple[Action, ...]:
    """The actions that a caller may ask for in `status`: the table's row without what merely happens."""
    return tuple(action for action in row_of(status) if action not in {Action.CREATE, Action.EXIT})
