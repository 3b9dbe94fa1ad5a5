"""Makes `docs/lifecycle.md` from the table in `statefile/_lifecycle.py`: `python -m tests.lifecycle_page`.

What leads where is read from the table; here is only why.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from statefile import LIFECYCLE, Action, Status
from statefile._lifecycle import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PAGE = Path(__file__).parent.parent / "docs" / "lifecycle.md"
COMMAND = "python -m tests.lifecycle_page"

CALLS: Mapping[Action, str] = {
    Action.CREATE: "the runtime has created it",
    Action.START: "`start()`",
    Action.RESTORE: "`restore(path)`",
    Action.PAUSE: "`pause()`",
    Action.RESUME: "`resume()`",
    Action.EXIT: "its process has ended",
    Action.CHECKPOINT: "`checkpoint(path)`",
    Action.EXECUTE: "`execute(args)`",
    Action.UPDATE: "`update(resources)`",
    Action.EVENTS: "`events()`",
    Action.PROCESSES: "`processes()`",
    Action.SIGNAL: "`signal(number)`",
    Action.SIGNAL_ALL: "`signal(number, all=True)`",
    Action.WAIT: "`wait()`",
    Action.DELETE: "`delete()`",
    Action.DESTROY: "`destroy()`, `delete(force=True)`",
}

REMOVES = frozenset({Action.DELETE, Action.DESTROY})
"""After these there is no record; the object that was used shows the status of the table."""

LATER = "a later version's word"
"""A status that this version does not know."""

REASONS: Mapping[tuple[Status | str, Action], str] = {
    (Status.CREATING, Action.DESTROY): (
        "Whoever creates holds the lock, but for while the hooks of the creation run. So who finds this status under the "
        "lock meets a creation that was interrupted, or one that is in its hooks. What there is of it only the runtime can "
        "tell, and `destroy` asks it to end all of it."
    ),
    (Status.CREATING, Action.START): ("Half a container is not started. It is destroyed, and made anew."),
    (Status.CREATING, Action.EXIT): (
        "The container has stopped, but the record stays `creating` and is shown so: as `stopped` a plain `delete` "
        "would do for it, and what the runtime may have left besides the process would be forgotten."
    ),
    (Status.CREATING, Action.WAIT): (
        "There may be no process to wait for. The error says that the creation goes on, or was interrupted."
    ),
    (Status.CREATED, Action.PAUSE): (
        "The process exists and can be stopped like any other; runc allows it too. It is no start: see `resume`."
    ),
    (Status.CREATED, Action.RESTORE): ("A start from an image. What is restored has to be created first, and not started."),
    (Status.CREATED, Action.EXECUTE): ("What the program will run in is there before the program is."),
    (Status.CREATED, Action.PROCESSES): (
        "The one process there is waits, and is the runtime's: the container's own program does not run yet."
    ),
    (Status.CREATED, Action.SIGNAL): ("It can be killed before it was started. The OCI runtime-spec asks for that."),
    (Status.CREATED, Action.DELETE): (
        "OCI's `delete` is for what has stopped; so it is refused here and in the statuses beside. "
        "`delete(force=True)` is `destroy`."
    ),
    (Status.RUNNING, Action.START): ("Of two that start one container the second is refused, and told why."),
    (Status.RUNNING, Action.CHECKPOINT): ("It goes on as it was. Whoever wants it to end afterwards says so."),
    (Status.PAUSED, Action.RESUME): (
        "A pause starts nothing. The record keeps in `pausedFrom` what the container was before, and resuming leads "
        "back to that: a container that was paused before its start is `created` again, and can be started."
    ),
    (Status.PAUSED, Action.START): ("Nothing of it runs while it is paused. It is resumed first."),
    (Status.PAUSED, Action.PAUSE): ("Somebody else has paused it, and may resume it: who pauses should know."),
    (Status.PAUSED, Action.EXECUTE): ("Nothing of it runs while it is paused, a new process neither."),
    (Status.PAUSED, Action.SIGNAL): (
        "It can be killed as it is. Other signals are delivered, and acted upon when it is resumed."
    ),
    (Status.STOPPED, Action.SIGNAL): ("The first process has ended, and its number may be somebody else's."),
    (Status.STOPPED, Action.SIGNAL_ALL): (
        "The end of the first process need not be the end of all: without a PID namespace of its own a container may "
        "leave others behind. They can be reached until it is destroyed."
    ),
    (Status.STOPPED, Action.WAIT): ("How it ended is kept in the record. Whoever asks late is told at once."),
    (Status.STOPPED, Action.START): ("A container has one life. Its ID can have another, after a `delete`."),
    (Status.STOPPED, Action.DESTROY): (
        "`destroy` works from every status, and of what is gone already it is success: no status is a trap, whoever died in it."
    ),
    (LATER, Action.DESTROY): (
        "Nobody knows here what that status allows. The container can be looked at, and it can be ended."
    ),
}
"""Why an arrow is there, or is not: in the order of the statuses."""

HEAD = f"""\
<!-- Made by `{COMMAND}` from statefile/_lifecycle.py. Change that table, or the reasons in tests/lifecycle_page.py. -->
# The lifecycle

What each status allows, and where it leads. Gate, error texts and this page are made from one table, `LIFECYCLE`. What is not
in it is refused with `InvalidTransitionError`, which has the status, the action and what is allowed as attributes; nothing was
changed then, and the runtime was not asked.
"""

BELOW_TABLE = f"""\
*Stays*: allowed, and the status is the same afterwards. *Removed*: nothing of it runs, the record is gone, the ID is free. An
empty cell is a refusal. *{LATER.capitalize()}*: a status that this version does not know.

A new container is `creating` from before the runtime is asked. An ID that is taken cannot be created, whatever the status:
`AlreadyExistsError`.
"""

IN_THE_TABLE_ALONE = """\
What leaves the status as it is stands in the table alone.

## Why
"""

HOW = """\
## How an action is judged

- An action that may change the status, and `checkpoint` and `update`, take the lock, read the record again, mend it if its last
  actor died (`pending`) or its process is gone, and are judged by what it says then.
- `execute`, `events`, `processes`, `signal` and `wait` take no lock to be judged: they read a snapshot. (`wait` takes it at its
  end, for 1 s at most, to write down how the process ended.)
- An action that the runtime could not do leaves the status that `probe` finds, and not a guess.
- `load`, `refresh` and `state` show `stopped` if the process of a created, running or paused container is gone, and write
  nothing. A process of which that cannot be decided does not count as gone.
"""


def back() -> list[Status]:
    """What a container can be paused from, and so what it can be resumed to."""
    return [status for status in Status if LIFECYCLE[status].get(Action.PAUSE) is Status.PAUSED]


def targets(status: Status | str, action: Action) -> list[Status | None]:
    """Where `action` leads from `status`: to one of these, `None` for no record; to nowhere if it is refused."""
    row = UNKNOWN if status == LATER else LIFECYCLE[Status(status)]
    if action not in row:
        return []
    if action in REMOVES:
        return [None]
    return [*back()] if action is Action.RESUME else [row[action]]


def outcome(status: Status | str, action: Action) -> str:
    """The same in words, `""` for a refusal."""
    found = targets(status, action)
    if found == [None]:
        return "removed"
    if found == [status]:
        return "stays"
    return "→ " + " or ".join(str(target) for target in found) if found else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """As markdown."""
    cells = [list(head), *map(list, rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |").replace("|  |", "| |") for row in cells)


def transitions() -> str:
    """The table of all statuses and all actions."""
    columns = [*Status, LATER]
    return table(["action", *columns], ([CALLS[action], *(outcome(status, action) for status in columns)] for action in Action))


def diagram() -> str:
    """What moves a container, as mermaid draws it."""
    arrows: dict[tuple[str, str], list[str]] = {("[*]", Status.CREATING): ["new"]}
    for status in Status:
        for action in Action:
            for target in targets(status, action):
                if target is not status:
                    arrows.setdefault((status, target or "[*]"), []).append(action)
    lines = [f"    {here} --> {there}: {', '.join(labels)}" for (here, there), labels in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def reasons() -> str:
    """The table of what may surprise."""
    return table(
        ["status", "action", "outcome", "why"],
        ([status, CALLS[action], outcome(status, action) or "refused", why] for (status, action), why in REASONS.items()),
    )


def page() -> str:
    """`docs/lifecycle.md`, whole."""
    parts = (HEAD, transitions(), BELOW_TABLE, diagram(), IN_THE_TABLE_ALONE, reasons(), HOW)
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
