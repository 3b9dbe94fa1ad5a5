"""Which processes belong to a container: found by descent and by session, never by a bare number.

The monitor adopts the orphans below it, so as long as it lives everything of the container descends from it, daemons
included. Should it have been killed, what is left are the processes in the session of the one that it was started for, and
their descendants: a process that has left that session and lost its parents cannot be told from a stranger any more.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from statefile._process import Presence, ProcessRef
from statefile.process_runtime._directory import list_names, read_text, refuse_shortage, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from statefile._container import Container

_DEAD = "ZXx"


class Row(NamedTuple):
    """One process as `/proc/PID/stat` shows it."""

    pid: int
    state: str
    parent: int
    session: int
    own_ticks: int
    children_ticks: int
    threads: int
    start_ticks: int
    resident_pages: int

    @property
    def dead(self) -> bool:
        """Whether it has ended; a leader that ended before its threads has not."""
        return self.state in _DEAD and self.threads <= 1

    def is_of(self, ref: ProcessRef) -> bool:
        """Whether it is that very process, which belongs to this boot and this namespace."""
        return self.pid == ref.pid and self.start_ticks == ref.start_ticks


@dataclass(frozen=True, slots=True)
class Roots:
    """The processes from which all others of a container descend.

    Attributes:
        monitors: the parents, which are not of the container themselves; `helpers["monitor"]` of the record among them.
        leaders: those that the monitors were started for, each the leader of a session; `init` of the record among them.
        empty: whether a monitor has written that no process is left, and none was added since.
    """

    monitors: tuple[ProcessRef, ...]
    leaders: tuple[ProcessRef, ...]
    empty: bool

    @classmethod
    def of(cls, container: Container, descriptor: int | None, names: Sequence[str] | None = None) -> Roots:
        """What the record and the open directory tell; `names` are the files to look at, if not all."""
        monitors = [ref for name, ref in container.helpers.items() if name == "monitor"]
        leaders = [] if container.init is None else [container.init]
        if descriptor is None:
            return cls(tuple(monitors), tuple(leaders), empty=False)
        published = False
        for name in list_names(descriptor) if names is None else names:
            found = {"monitor": monitors, "leader": leaders}.get(name.partition("-")[0])
            if found is not None:
                published = True
                found += (ref for ref in parse_ref(read_text(descriptor, name) or "") if ref not in found)
        ended = (read_text(descriptor, "exit") or "").rstrip().endswith("empty")
        return cls(tuple(monitors), tuple(leaders), empty=ended and not published)

    def undecided(self) -> list[ProcessRef]:
        """Those of which cannot be said whether they run."""
        return [ref for ref in (*self.monitors, *self.leaders) if ref.presence() is Presence.UNKNOWN]


def parse_ref(text: str) -> Iterator[ProcessRef]:
    """The process that a monitor has published, or nothing if that is not what the text says."""
    fields = text.split()
    if len(fields) == _REF_FIELDS:
        pid, ticks, boot, namespace = fields
        with contextlib.suppress(ValueError):  # of `int` or of the model
            yield ProcessRef(pid=int(pid), start_ticks=int(ticks), boot_id=boot, pid_namespace=int(namespace))


_REF_FIELDS = 4


def leader_of(descriptor: int) -> list[ProcessRef]:
    """The first process of the run whose directory this is, also after its end; none if that cannot be read."""
    return list(parse_ref(read_text(descriptor, "leader") or read_text(descriptor, "ended") or ""))


def family(roots: Roots, table: Mapping[int, Row] | None = None) -> dict[ProcessRef, Row]:
    """The living processes of the container, leaders first, as one look at `/proc` (or `table`) shows them; no monitors."""
    here = ProcessRef.current()
    table = process_table() if table is None else table
    monitors = {ref.pid for ref in _running(roots.monitors, here, table)}
    leaders = {ref.pid for ref in _running(roots.leaders, here, table)}
    sessions = set(leaders)
    if not roots.empty and len(monitors) < max(1, len(roots.monitors)):  # a monitor was killed, or nobody knows of it
        sessions |= {ref.pid for ref in _local(roots.leaders, here) if ref.pid not in table}
    seeds = leaders | {row.pid for row in table.values() if row.session in sessions}
    members = _with_descendants(seeds, monitors, table) - monitors
    rows = sorted((table[pid] for pid in members if not table[pid].dead), key=lambda row: (row.pid not in leaders, row.pid))
    return {here.model_copy(update={"pid": row.pid, "start_ticks": row.start_ticks}): row for row in rows}


def _local(refs: Sequence[ProcessRef], here: ProcessRef) -> list[ProcessRef]:
    """Those of this boot and PID namespace: of no other can `/proc` tell anything."""
    return [ref for ref in refs if (ref.boot_id, ref.pid_namespace) == (here.boot_id, here.pid_namespace) and here.boot_id]


def _running(refs: Sequence[ProcessRef], here: ProcessRef, table: Mapping[int, Row]) -> list[ProcessRef]:
    return [ref for ref in _local(refs, here) if ref.pid in table and table[ref.pid].is_of(ref)]


def _with_descendants(seeds: set[int], parents: set[int], table: Mapping[int, Row]) -> set[int]:
    """`seeds`, and whatever descends from them or from `parents`."""
    children: dict[int, list[int]] = {}
    for row in table.values():
        children.setdefault(row.parent, []).append(row.pid)
    found = set(seeds)
    waiting = [*seeds, *parents]
    while waiting:
        new = [pid for pid in children.get(waiting.pop(), ()) if pid not in found]
        found.update(new)
        waiting.extend(new)
    return found


def process_table() -> dict[int, Row]:
    """All processes that can be seen, by PID: none is missing that was there at the last of several looks.

    One look would not do: a process can fork after its listing and be gone before its reading, and so hide its child.
    """
    table: dict[int, Row] = {}
    seen: set[str] = set()
    for _ in range(_LOOKS):
        with told("list", "/proc"):
            new = {name for name in os.listdir("/proc") if name.isdecimal()} - seen
        if not new:
            break
        seen |= new
        table.update((row.pid, row) for row in map(read_row, sorted(new, key=int)) if row is not None)
    for row in list(table.values()):
        if row.parent and row.parent not in table:  # it lost its parent while we looked: it has another one now
            again = read_row(str(row.pid))
            if again is not None:
                table[row.pid] = again
    return table


_LOOKS = 10
"""So many, should there always be new processes."""


def read_row(name: str) -> Row | None:
    """`/proc/NAME/stat`, where NAME is a PID or `PID/task/TID`; `None` if there is no such process."""
    try:
        # In one step, as in `_atomic`: an exception out of a signal handler loses no descriptor.
        opened = [*map(os.open, (f"/proc/{name}/stat",), (os.O_RDONLY | os.O_CLOEXEC,))]
    except OSError as error:
        refuse_shortage(error, f"/proc/{name}/stat")
        return None
    try:
        text = os.read(opened[0], 4096)
    except OSError:
        return None
    finally:
        os.close(opened[0])
    before, _, after = text.rpartition(b")")  # the program's name stands in parentheses and may hold any
    fields = after.split()
    return Row(
        pid=int(before.split(b" ", 1)[0]),
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        own_ticks=int(fields[11]) + int(fields[12]),
        children_ticks=int(fields[13]) + int(fields[14]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        resident_pages=int(fields[21]),
    )


def is_stopped(pid: int, *, debugged: bool = False) -> bool:
    """Whether no thread of the process can run its program, because it is stopped; or held by a debugger, if that counts.

    A thread that waits in the kernel undisturbed (for the disk, or after `vfork` for its child, which may be stopped itself)
    stops before it runs again: it counts if the stop is under way.
    """
    rows = [read_row(f"{pid}/task/{thread}") for thread in _threads(pid)]
    states = {row.state for row in rows if row is not None and row.state not in _DEAD}
    stopped = {"T", "t"} if debugged else {"T"}
    if not states or states - stopped - {"D"}:
        return False
    return bool(states & stopped) or _stop_is_pending(pid)


def _threads(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def _stop_is_pending(pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in {"SigPnd", "ShdPnd"} and int(value, 16) >> (signal.SIGSTOP - 1) & 1:
                return True
    return False
