"""`oom_score_adj` of a sandbox and of helpers, which share memory limits with the containers that they serve.

A sandbox's process runs the processes of all its containers, so it gets the lowest score (the strongest protection) that any of
them asks for; when none is left that asks, the score that it had before. A container that asks for none changes nothing.
A process that has gone is no error, and one that may not be changed is worth a line in the log, never a failed start.

No lock is held. Two that change the score of one sandbox at once come to the same end: each looks again after it has written.
"""

from __future__ import annotations

import os
from typing import Any, cast

from statefile import _log
from statefile._container_state import ContainerState
from statefile._process import Presence, ProcessRef
from statefile._state_dir import StateDir
from statefile.errors import StateFileError
from statefile.oci import is_infrastructure
from statefile.runtime import Sandbox

_LOWEST, _HIGHEST = -1000, 1000
_LOOKS = 10
"""How often the sandbox's containers are looked at, at the most: others may come and go all the time."""


def protect(container: ContainerState) -> None:
    """After its start: on return its helpers have the score that it asks for, and its sandbox the lowest one asked for."""
    score = _score_asked(container)
    if score is None:
        return
    for helper in container.helpers.values():
        _set_score(helper, score)
    # It was started this moment, so the sandbox's number is the sandbox's, also where nothing but the number was recorded.
    _settle_sandbox(container, surely_alive=True)


def release(container: ContainerState) -> None:
    """After its removal: on return its sandbox has the lowest score asked for by those that are left."""
    if _score_asked(container) is not None:
        _settle_sandbox(container, surely_alive=False)


def sandbox_with_score(container: ContainerState, init: ProcessRef, given: Sandbox | None) -> Sandbox | None:
    """The sandbox of a container that was just created, with the score that its process had before any container asked.

    `given` is what the runtime says of it. One that is on its own is its own sandbox; another's is what the record of the
    sandbox's container says.
    """
    if given is not None and "original_oom_score_adj" in given.model_fields_set:
        return given
    full_id = container.saver.id
    if full_id.sandbox_id == full_id.container_id:
        given = given or Sandbox(id=full_id.sandbox_id, pid=init.pid)
        return given.model_copy(update={"original_oom_score_adj": _score_of(given.pid)})
    try:
        shared = StateDir(container.saver.root_dir).state_file(full_id.sandbox_id).load(ContainerState).sandbox
    except StateFileError:
        shared = None
    if given is None or shared is None:
        return given or shared
    return given.model_copy(update={"original_oom_score_adj": shared.original_oom_score_adj})


def _settle_sandbox(container: ContainerState, *, surely_alive: bool) -> None:
    sandbox = container.sandbox
    if sandbox is None or sandbox.pid <= 0 or is_infrastructure(container.spec):
        return
    written = None
    for _ in range(_LOOKS):
        others = _others(container)
        if others is None:
            return
        scores = [_score_asked(each) for each in others if not is_infrastructure(each.spec)]
        score = min((score for score in scores if score is not None), default=sandbox.original_oom_score_adj)
        if score == written:
            return
        _set_score(_process_of(sandbox, [container, *others]), score, surely_alive=surely_alive)
        written = score


def _others(container: ContainerState) -> list[ContainerState] | None:
    """The containers of its sandbox that can be read; `None` if they cannot be listed."""
    saver = container.saver
    found: list[ContainerState] = []
    try:
        for full_id, state in StateDir(saver.root_dir).load_sandbox(saver.id.sandbox_id, ContainerState):
            if isinstance(state, StateFileError):
                _log.info("%s: passed over for the score of its sandbox: %s", full_id, state)
            else:
                found.append(state)
    except StateFileError as error:
        _log.warning("oom_score_adj of sandbox %s stays as it is: %s", saver.id.sandbox_id, error)
        return None
    return found


def _process_of(sandbox: Sandbox, containers: list[ContainerState]) -> ProcessRef:
    """The sandbox's process: by its bare number, unless a record says more of it."""
    known = [ref for each in containers for ref in (each.init, *each.helpers.values()) if ref and ref.pid == sandbox.pid]
    alive = [ref for ref in known if ref.presence() is Presence.ALIVE]
    return (*alive, *known, ProcessRef(pid=sandbox.pid))[0]


def _score_asked(container: ContainerState) -> int | None:
    """`process.oomScoreAdj` of its spec; `None` if it asks for none."""
    process = container.spec.get("process")
    score = cast("dict[str, Any]", process).get("oomScoreAdj") if isinstance(process, dict) else None
    if score is None:
        return None
    if type(score) is not int or not _LOWEST <= score <= _HIGHEST:
        _log.warning("%s: process.oomScoreAdj is %.80r: no score that the kernel knows", container.id, score)
        return None
    return score


def _score_of(pid: int) -> int:
    """The score of a process or, where that cannot be read, of this one, from which it came."""
    for name in (str(pid), "self"):
        try:
            with open(f"/proc/{name}/oom_score_adj", encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return 0


def _set_score(process: ProcessRef, score: int, *, surely_alive: bool = False) -> None:
    """Give `process` the score; one that is gone, or cannot be told apart, is left alone, and a refusal is logged."""
    allowed = {Presence.ALIVE, Presence.UNKNOWN} if surely_alive else {Presence.ALIVE}
    try:
        # In one step, as in `_atomic`: an exception out of a signal handler loses no descriptor.
        opened = [*map(os.open, (f"/proc/{process.pid}/oom_score_adj",), (os.O_RDWR | os.O_CLOEXEC,))]
        try:
            # Opened first: from here on the descriptor means one process, and this says which.
            if process.presence() in allowed and int(os.read(opened[0], 32)) != score:
                os.pwrite(opened[0], str(score).encode(), 0)
        finally:
            os.close(opened[0])
    except (FileNotFoundError, ProcessLookupError):
        return
    except (OSError, ValueError) as error:
        _log.warning("oom_score_adj of process %d stays as it is: %s", process.pid, error)
