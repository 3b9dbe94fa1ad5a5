"""What a container uses and what it may use, as far as the kernel knows that of plain processes."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from statefile.errors import StateIOError
from statefile.process_runtime._directory import told
from statefile.process_runtime._errors import SpecError
from statefile.process_runtime._family import family, process_table
from statefile.process_runtime._plan import nice, oom_score_adj, rlimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statefile._process import ProcessRef
    from statefile.process_runtime._family import Roots

_PASSES = 3
_KNOWN = ("rlimits", "nice", "oomScoreAdj")


def usage(roots: Roots) -> dict[str, float]:
    """What all processes of the container use together.

    `cpuSeconds` is what they have used so far, those that have ended included; `memoryBytes` the resident memory (shared
    pages count once for each process); `pids` how many processes there are.
    """
    table = process_table()
    rows = list(family(roots, table).values())
    parents = [table[ref.pid] for ref in roots.monitors if ref.pid in table and table[ref.pid].is_of(ref)]
    ticks = sum(row.own_ticks + row.children_ticks for row in rows) + sum(row.children_ticks for row in parents)
    return {
        "cpuSeconds": ticks / os.sysconf("SC_CLK_TCK"),
        "memoryBytes": sum(row.resident_pages for row in rows) * os.sysconf("SC_PAGE_SIZE"),
        "pids": len(rows),
    }


def limit(roots: Callable[[], Roots], resources: Mapping[str, object]) -> None:
    """Set `rlimits`, `nice` and `oomScoreAdj`: on return they hold for all processes, and for those to come.

    Raises:
        SpecError: something else is asked for, or a value is none; nothing was changed.
        StateIOError: the system refuses; some processes may have the new value already.
    """
    for key in resources:
        if key not in _KNOWN:
            raise SpecError(field=f"resources.{key}", reason=f"needs cgroups; without them there are {', '.join(_KNOWN)}")
    limits = rlimits(resources.get("rlimits"), "resources.rlimits")
    priority = nice(resources.get("nice"), "resources.nice")
    score = oom_score_adj(resources.get("oomScoreAdj"), "resources.oomScoreAdj")
    done: set[ProcessRef] = set()
    for _ in range(_PASSES):  # of those that come later, all have inherited it
        new = [ref for ref in family(roots()) if ref not in done]
        for ref in new:
            try:
                _limit(ref.pid, limits, priority, score)
            except StateIOError as error:
                if error.errno not in {errno.ENOENT, errno.ESRCH}:  # that it has ended meanwhile is no refusal
                    raise
        done.update(new)


def _limit(pid: int, limits: list[tuple[str, int, int, int]], priority: int | None, score: int | None) -> None:
    if limits:
        import resource  # noqa: PLC0415  # few containers have limits

        for name, number, soft, hard in limits:
            with told(f"set {name} (soft {soft}, hard {hard}) in", f"/proc/{pid}/limits"):
                resource.prlimit(pid, number, (soft, hard))
    if priority is not None:
        with told(f"set the nice value {priority} in", f"/proc/{pid}/task"):
            for thread in os.listdir(f"/proc/{pid}/task"):  # on Linux each thread has its own
                os.setpriority(os.PRIO_PROCESS, int(thread), priority)
    if score is not None:
        path = f"/proc/{pid}/oom_score_adj"
        with told(f"set oomScoreAdj to {score} in", path), open(path, "w", encoding="ascii") as file:
            file.write(str(score))
