"""What a test has left behind: found, named, and cleaned up.

A record alone is no leak, and neither is a process that is older than the test.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from statefile._atomic import list_names
from statefile._codec import build
from statefile._container import Container
from statefile._ids import LOCK_SUFFIX, STATE_SUFFIX, ids_of_files
from statefile._lifecycle import Status
from statefile._lock import FileLock
from statefile._process import Presence, ProcessRef, command_of
from statefile._state_dir import StateDir
from statefile.errors import StateFileError
from statefile.process_runtime import ProcessRuntime
from statefile.testing._fake_runtime import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


class Watch:
    """One test, from its beginning on: its roots and runtimes are looked at before they go, each when it goes.

    Attributes:
        left: what it has left behind, a sentence for each; all of that is cleaned up.
    """

    def __init__(self) -> None:
        """It begins now."""
        self.left: list[str] = []
        self._began = Moment.now()
        self._runtimes: list[FakeRuntime] = []
        self._seen: list[object] = []

    def add(self, value: object) -> None:
        """Remember a runtime whose containers may be under a root that is looked at before it."""
        if isinstance(value, FakeRuntime):
            self._runtimes.append(value)

    def look_at(self, value: object) -> None:
        """Find what is left of a test that is about to lose this root, or this `FakeRuntime`; of anything else, nothing."""
        if any(value is seen for seen in self._seen):
            return
        self._seen.append(value)
        try:
            if isinstance(value, FakeRuntime):
                self.left += _end_all(value.unscripted, self._began, None)
            elif isinstance(value, str | os.PathLike):
                root = Path(os.path.abspath(os.fspath(cast("os.PathLike[str]", value))))
                for runtime in self._runtimes:
                    self.left += _end_all(runtime.unscripted, self._began, root)
                self.left += _clean_up(root, self._began)
        except (StateFileError, OSError) as error:
            self.left.append(f"what cannot be looked at: {error}")


def is_replaced(container: Container, processes: Iterable[ProcessRef], created_at: str) -> bool:
    """Whether what has its ID by now is another one: made at another time; without a record, whether it has ended."""
    try:
        return container.saver.load(Container).created_at != created_at
    except StateFileError:
        return not any(process.presence() is Presence.ALIVE for process in processes)


def _end_all(runtime: PlainRuntime, began: Moment, root: Path | None) -> Iterator[str]:
    """End what a fake runtime and its forked children still run, under one root or wherever."""
    # Not every process of the machine, for each test: no PID comes round again within one.
    for path, processes in sorted(runtime.made.living(without=began.pids).items()):
        place, name = os.path.split(path)
        elsewhere = root is not None and os.path.realpath(place) != os.path.realpath(root)
        if elsewhere or not os.path.isabs(path) or not _of_this_test(processes, began):  # a bystander's is no path
            continue
        for full_id in ids_of_files([name], STATE_SUFFIX):
            yield from _let_go(Path(place), began, [full_id])
            yield from _end(StateDir(place).state_file(full_id), began, runtime)


def _clean_up(root: Path, began: Moment) -> Iterator[str]:
    """End and remove whatever else is left under the root."""
    directory = StateDir(root)
    # First: what is locked can be neither swept nor destroyed.
    yield from _let_go(root, began, ids_of_files(list_names(str(root)), LOCK_SUFFIX))
    for path in directory.sweep():
        dropped = ", or a lock_for_new that was neither saved nor released" if path.name.endswith(LOCK_SUFFIX) else ""
        yield f"file {path.name}: a killed process leaves such{dropped}; StateDir(root).sweep() removes it"
    for full_id in _suspects(root, began):
        yield from _end(directory.state_file(full_id), began, ProcessRuntime())


def _let_go(root: Path, began: Moment, full_ids: Iterable[FullID]) -> Iterator[str]:
    """Take their locks from those who still hold one."""
    for full_id in full_ids:
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


def _end(file: StateFile, began: Moment, runtime: ProcessRuntime | PlainRuntime) -> Iterator[str]:
    """End what still runs of one container, whether its record can be read or is gone."""
    name = file.id.container_id
    try:
        container = file.load(Container)
        status = str(container.status)
    except StateFileError:
        container = build(Container, file.state_path, id=name, status=Status.CREATING, saver=file)
        status = "without a readable record"
    alive = _of_this_test(_named(container), began)
    if alive or not _named(container) or not isinstance(runtime, ProcessRuntime):
        alive = [*dict.fromkeys((*alive, *_of_this_test(runtime.processes(container), began)))]
    if not alive:
        return
    running = ", ".join(f"pid {ref.pid} ({_command(ref, container)})" for ref in alive)
    runs = "still runs" if len(alive) == 1 else "still run"
    yield f"container {name}, {status}: {running} {runs}; destroy it, or make it with container_factory"
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


def _command(process: ProcessRef, container: Container) -> str:
    if process in container.helpers.values():
        return next(f"its {name}" for name, helper in container.helpers.items() if helper == process)
    return command_of(process.pid) or "it hides its command"
