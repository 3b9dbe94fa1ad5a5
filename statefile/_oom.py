"""`oom_score_adj` of a sandbox and of helpers, which share memory limits with the containers that they serve.

A sandbox's process runs the processes of all its containers, so it gets the lowest score (the strongest protection) that any of
them asks for; when none is left that asks, the score that it had before. A process that has gone is no error, and one that may
not be changed is worth a line in the log, never a failed start.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from statefile import _log
from statefile._process import Presence
from statefile.oci import annotations_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from statefile._process import ProcessRef

_LOWEST, _HIGHEST = -1000, 1000
_CONTAINER_TYPES = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")


def score_asked(spec: Mapping[str, Any]) -> int | None:
    """`process.oomScoreAdj` of a spec; `None` if it asks for none."""
    process = spec.get("process")
    score = cast("dict[str, Any]", process).get("oomScoreAdj") if isinstance(process, dict) else None
    return score if type(score) is int and _LOWEST <= score <= _HIGHEST else None


def is_infrastructure(spec: Mapping[str, Any]) -> bool:
    """Whether the container only holds its sandbox up (a pause container): its score says nothing about the others'."""
    annotations = annotations_of(spec)
    return any(annotations.get(key) == "sandbox" for key in _CONTAINER_TYPES)


def score_of_sandbox(specs: Iterable[Mapping[str, Any]], original: int) -> int:
    """The lowest score that a container of the sandbox asks for, or `original`."""
    scores = (score_asked(spec) for spec in specs if not is_infrastructure(spec))
    return min((score for score in scores if score is not None), default=original)


def own_score() -> int:
    """The score of this process, which its children inherit."""
    try:
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def set_score(process: ProcessRef, score: int) -> None:
    """Give `process` the score; one that is gone, or cannot be told apart, is left alone, and a refusal is logged."""
    try:
        fd = os.open(f"/proc/{process.pid}/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        try:
            # Opened first: from here on the descriptor means one process, and this says which.
            if process.presence() is Presence.ALIVE and int(os.read(fd, 32)) != score:
                os.pwrite(fd, str(score).encode(), 0)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return
    except (OSError, ValueError) as error:
        _log.warning("oom_score_adj of process %d stays as it is: %s", process.pid, error)
