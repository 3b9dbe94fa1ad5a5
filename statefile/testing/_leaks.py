"""What a test has left behind: found, named, and cleaned up.

A record alone is no leak, and neither is a process that is older than the test.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from statefile._atomic import list_names
from statefile._codec import build
from statefile._container import Container
from statefile._ids import LOCK_SUFFIX, ids_of_files
from statefile._lifecycle import Status
from statefile._lock import FileLock
from statefile._process import Presence, ProcessRef, command_of
from statefile._state_dir import StateDir
from statefile.errors import StateFileError
from statefile.process_runtime import ProcessRuntime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from statefile._ids import FullID
    from statefile._state_file import StateFile
    from statefile.testing._plain_runtime import PlainRuntime


class Moment(NamedTuple):
    """When a test began, so that what it started can be told from what was there: the kernel's own clock is too coarse."""

    ticks: int
    pids: frozenset[str]

    @classmethod
    def now(cls) -> Moment:
        """This one."""
        ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        return cls(int(ticks), frozenset(filter(str.isdecimal, os.listdir("/proc"))))

    def is_before(self, process: ProcessRef) -> bool:
        """Whether the process, if that can be told, was started later."""
        ticks = process.start_ticks or 0
        return ticks > self.ticks or (ticks == self.ticks and str(process.pid) not in self.pids)


def clean_up(root: Path, began: Moment) -> list[str]:
    """End and remove whatever is left under the root of a test that began then; a sentence for each."""
    directory = StateDir(root)
    left = list(_let_go(root, began))  # first: what is locked can be neither swept nor destroyed
    left += [f"file {path.name}: a killed process leaves such; StateDir(root).sweep() removes it" for path in directory.sweep()]
    for full_id in _suspects(root, began):
        left += end(directory.state_file(full_id), began, ProcessRuntime())
    return left


def _let_go(root: Path, began: Moment) -> Iterator[str]:
    """Take their locks from those who still hold one."""
    for full_id in ids_of_files(list_names(str(root)), LOCK_SUFFIX):
        file = StateDir(root).state_file(full_id)
        holder = file.holder()
        if holder is None:
            continue
        yield f"lock of container {full_id.container_id}: {holder} holds it; release it, as `with file.hold():` does"
        if holder.pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                _kill(_of_this_test([ProcessRef.of(holder.pid)], began))
            continue
        for lock in gc.get_objects():  # whoever holds it may be known to nobody else any more
            if type(lock) is FileLock and lock.held and lock.path == str(file.lock_path):
                lock.release(remove=not file.exists())


def _suspects(root: Path, began: Moment) -> list[FullID]:
    """The containers that may still run: by their records, or by what `ProcessRuntime` keeps apart from those."""
    started = ids_of_files(list_names(str(root / ".processes")), "")
    loaded = StateDir(root).load_all(Container)
    running = (full_id for full_id, found in loaded if isinstance(found, Container) and _of_this_test(_named(found), began))
    return sorted({*started, *running})


def end(file: StateFile, began: Moment, runtime: ProcessRuntime | PlainRuntime) -> Iterator[str]:
    """End what still runs of one container, whether its record can be read or is gone."""
    name = file.id.container_id
    try:
        container = file.load(Container)
        status = str(container.status)
    except StateFileError:
        container = build(Container, file.state_path, id=name, status=Status.CREATING, saver=file)
        status = "without a readable record"
    alive = _of_this_test(_named(container), began)
    if alive or not _named(container):
        alive = [*dict.fromkeys((*alive, *_of_this_test(runtime.processes(container), began)))]
    if not alive:
        return
    running = ", ".join(f"pid {ref.pid} ({_command(ref)})" for ref in alive)
    yield f"container {name}, {status}: {running} still runs; destroy it, or make it with container_factory"
    with contextlib.suppress(StateFileError):
        Container.remove(file.root_dir, file.id, runtime=runtime, timeout=5)
    _kill(alive)


def _named(container: Container) -> list[ProcessRef]:
    """The processes in its record."""
    return [process for process in (container.init, *container.helpers.values()) if process]


def _of_this_test(processes: Iterable[ProcessRef], began: Moment) -> list[ProcessRef]:
    """Those that live, and that are not older than the test."""
    return [ref for ref in processes if began.is_before(ref) and ref.presence() is Presence.ALIVE]


def _kill(processes: Iterable[ProcessRef]) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=5)


def _command(process: ProcessRef) -> str:
    return command_of(process.pid) or "it hides its command"
