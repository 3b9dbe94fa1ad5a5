"""Power cuts on real file systems, before each system call of what the library does to a disk, and what is there afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

from statefile import CorruptStateError, Durability, NotFoundError, StateDir, StateFile
from statefile._codec import encode
from tests.disks import KINDS, Cut, Disk, DiskUnavailableError, Fuse, disk, loop_devices_of
from tests.harness import PATIENCE, Worker, names, tell, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.harness import Spawn

pytestmark = pytest.mark.root

STEM = "c_sandbox:c"
SMALL, LARGE = 10, 70_000
"""Characters in a state: less than a block, and many blocks."""


class Outcome(NamedTuple):
    """What was found after one cut."""

    how: str
    call: str
    """The call that came no more, and which of its name it would have been; "the end" if all had been made."""
    kept: bool
    """Nothing that was acknowledged is lost or undone."""
    damage: str
    """How what was found is no state at all, if so."""
    swept: int
    """How many files a sweep has removed."""


# -- in the worker: ways to save ---------------------------------------------------------------------------------------


def state_of(number: int, size: int) -> dict[str, object]:
    """A state like no other."""
    return {"number": number, "text": chr(ord("a") + number % 26) * size}


def bytes_of(number: int, size: int) -> bytes:
    """The file that it makes."""
    return encode(state_of(number, size), path="")


class Save(Protocol):
    """Puts a state there."""

    def __call__(self, root: Path, number: int, size: int) -> None: ...


def with_library(durability: Durability) -> Save:
    """As the library does it."""

    def save(root: Path, number: int, size: int) -> None:
        file = StateFile(root_dir=root, id="c", durability=durability)
        with file.hold(timeout=0):
            file.save_locked(state_of(number, size))

    return save


def in_place(root: Path, number: int, size: int) -> None:
    """Open to write, write, close."""
    write(root / f"{STEM}.state", bytes_of(number, size), flush=False)


def renamed(*, flush: bool) -> Save:
    """A file of another name, renamed; the directory is not flushed."""

    def save(root: Path, number: int, size: int) -> None:
        aside = root / f".{STEM}.state.0123456789ab.tmp"
        write(aside, bytes_of(number, size), flush=flush)
        os.rename(aside, root / f"{STEM}.state")

    return save


def write(path: Path, data: bytes, *, flush: bool) -> None:
    """All of it, in one call."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
        if flush:
            os.fsync(fd)
    finally:
        os.close(fd)


SAVES: dict[str, Save] = {
    "full": with_library(Durability.FULL),
    "process": with_library(Durability.PROCESS),
    "in place": in_place,
    "renamed": renamed(flush=False),
    "flushed and renamed": renamed(flush=True),
}


# -- in the worker: cuts -----------------------------------------------------------------------------------------------


def damage_of(data: bytes | None, states: Sequence[bytes | None]) -> str:
    """What is wrong with `data`, unless it is one of `states`; `None` is no file."""
    if data in states:
        return ""
    if not data:
        return "missing" if data is None else "empty"
    return "NULs" if not data.strip(b"\0") else "torn"


def found_in(root: Path) -> tuple[bytes | None, bool, int]:
    """What is there, whether it loads, and how many files a sweep removed. All else works, and no more than that is left."""
    path = root / f"{STEM}.state"
    folder = StateDir(root)
    data = path.read_bytes() if path.exists() else None
    assert folder.ids() == [("c", "c")] * (data is not None)
    loaded = [state for _, state in folder.load_all(dict)]
    assert len(loaded) == (data is not None)
    assert all(isinstance(state, dict | CorruptStateError) for state in loaded), loaded
    file = StateFile(root_dir=root, id="c")
    try:
        file.lock(timeout=0)
        file.unlock()
        assert data is not None
    except NotFoundError:
        assert data is None
    swept = folder.sweep()
    left = names(root) if root.exists() else []
    assert left == ([f"{STEM}.lock", f"{STEM}.state"] if data is not None else []), left
    assert (path.read_bytes() if path.exists() else None) == data
    return data, any(isinstance(state, dict) for state in loaded), len(swept)


def each_cut(powered: Disk, hows: Sequence[Cut], start: Callable[[], Callable[[], None]]) -> Iterator[Fuse]:
    """Cut the power before each call of what `start` returns, and at its end; each time the disk is back when it is yielded."""
    for how in hows:
        for at in itertools.count():
            fuse = Fuse(powered, how, at)
            fuse.over(start())
            powered.replug()
            yield fuse
            if not fuse.blown:
                break


def call_of(fuse: Fuse) -> str:
    """Before which call the power went."""
    return f"{fuse.calls[-1]} {fuse.calls.count(fuse.calls[-1])}" if fuse.blown else "the end"


class Trial:
    """What happens in one cut: the states that were acknowledged, and the one that is on its way."""

    def __init__(self) -> None:
        self.acknowledged: list[bytes | None] = []
        self.coming: bytes | None = None

    def acknowledge(self) -> None:
        """The one on its way has arrived."""
        self.acknowledged.append(self.coming)

    def outcome(self, fuse: Fuse, root: Path) -> Outcome:
        """What is to be said of what is under `root` after the cut."""
        data, loads, swept = found_in(root)
        damage = damage_of(data, [*self.acknowledged, self.coming])
        assert loads == (data is not None and not damage)
        kept = data in (self.acknowledged[-1], self.coming)  # both are the same once it has arrived
        return Outcome(fuse.how.name, call_of(fuse), kept, damage, swept)


def cut_saves(place: Path, kind: str, by: str, hows: Sequence[Cut], size: int, *, earlier: int) -> list[Outcome]:
    """Power cuts in a save, `earlier` saves after the disk was plugged in."""
    outcomes = []
    numbers = itertools.count()
    trial = Trial()
    with disk(kind, place) as powered:
        root = powered.path / "root"
        file = StateFile(root_dir=root, id="c")
        with file.hold_for_new(timeout=0):
            file.save_locked(state_of(next(numbers), size))
        path = file.state_path

        def start() -> Callable[[], None]:
            trial.acknowledged = [path.read_bytes()]
            for number in itertools.islice(numbers, earlier):
                trial.coming = bytes_of(number, size)
                SAVES[by](root, number, size)
                trial.acknowledge()
            number = next(numbers)
            trial.coming = bytes_of(number, size)

            def save() -> None:
                SAVES[by](root, number, size)
                trial.acknowledge()

            return save

        for fuse in each_cut(powered, hows, start):
            outcomes.append(trial.outcome(fuse, root))
            if outcomes[-1].damage:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                with file.hold_for_new(timeout=0):
                    file.save_locked(state_of(next(numbers), size))
    return outcomes


def cut_first_saves(place: Path, kind: str, by: str, hows: Sequence[Cut], size: int, *, root_there: bool) -> list[Outcome]:
    """Power cuts in the first save of a container, under a root that is made for it or that a dead process has just made."""
    numbers = itertools.count()
    trial = Trial()
    root = place
    with disk(kind, place) as powered:

        def start() -> Callable[[], None]:
            nonlocal root
            number = next(numbers)
            root = powered.path / str(number) / "root"
            trial.acknowledged = [None]
            trial.coming = bytes_of(number, size)
            if root_there:
                root.mkdir(0o711, parents=True)

            def save() -> None:
                file = StateFile(root_dir=root, id="c", durability=Durability(by))
                with file.hold_for_new(timeout=0):
                    file.save_locked(state_of(number, size))
                    trial.acknowledge()

            return save

        return [trial.outcome(fuse, root) for fuse in each_cut(powered, hows, start)]


def cut_destroys(place: Path, kind: str, by: str, hows: Sequence[Cut], size: int) -> list[Outcome]:
    """Power cuts in the end of a container."""
    trial = Trial()
    with disk(kind, place) as powered:
        file = StateFile(root_dir=powered.path, id="c")
        with contextlib.suppress(FileNotFoundError):
            (powered.path / "lost+found").rmdir()
            powered.replug()

        def start() -> Callable[[], None]:
            if not file.exists():
                with file.hold_for_new(timeout=0):
                    file.save_locked(state_of(0, size))
            trial.acknowledged = [file.state_path.read_bytes()]
            trial.coming = None

            def destroy() -> None:
                StateFile(root_dir=powered.path, id="c", durability=Durability(by)).destroy(timeout=0)
                trial.acknowledge()

            return destroy

        return [trial.outcome(fuse, powered.path) for fuse in each_cut(powered, hows, start)]


def plug_in(place: Path, kind: str) -> None:
    """Have a disk until the end."""
    with disk(kind, place):
        tell("plugged in")
        signal.pause()


# -- the tests ---------------------------------------------------------------------------------------------------------


class Cuts:
    """Has one of the functions above done by a worker of its own, on a mount point of its own."""

    def __init__(self, spawn: Spawn, place: Path) -> None:
        self._spawn = spawn
        self._place = place

    def __call__(self, do: Callable[..., list[Outcome]], *args: object, **options: object) -> list[Outcome]:
        """What it found; skips where the disk cannot be had."""
        worker = self._spawn(fresh=True)
        worker.start(do, self._place, *args, **options)
        try:
            outcomes: list[Outcome] = worker.result(2 * PATIENCE)
        except DiskUnavailableError as error:
            pytest.skip(str(error))
        return outcomes


@pytest.fixture
def cuts(spawn: Spawn, tmp_path: Path) -> Cuts:
    """Cuts power."""
    return Cuts(spawn, tmp_path)


def bad(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Where something acknowledged was lost, or something was not whole."""
    return [outcome for outcome in outcomes if outcome.damage or not outcome.kept]


def damages(outcomes: Sequence[Outcome]) -> set[str]:
    """All the ways in which something was not whole."""
    return {outcome.damage for outcome in outcomes} - {""}


STEPS = {"write 1", "fsync 1", "rename 1", "fsync 2", "the end"}
"""Some of the places that a cut must have been at, or else it was not the library's calls that were watched."""

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_an_acknowledged_save_survives_a_power_cut_at_any_of_its_calls(cuts: Cuts, kind: str) -> None:
    """Wherever the power goes in a save with `FULL`, the old state or the new one is there; once it returned, the new one."""
    outcomes = cuts(cut_saves, kind, "full", Cut, SMALL, earlier=1)
    assert not bad(outcomes)
    assert {outcome.call for outcome in outcomes} >= STEPS


def test_a_first_save_survives_a_power_cut_at_any_of_its_calls(cuts: Cuts) -> None:
    """Wherever the power goes while `FULL` makes a root and its first state, it is there or not; once acknowledged, it is."""
    outcomes = cuts(cut_first_saves, "ext4", "full", Cut, SMALL, root_there=False)
    assert not bad(outcomes)
    assert {outcome.call for outcome in outcomes} >= {"mkdir 1", "mkdir 2", "rename 1", "the end"}


def test_an_acknowledged_destroy_is_not_undone_by_a_power_cut(cuts: Cuts) -> None:
    """Wherever the power goes in a destroy with `FULL`, the whole state is there or none; once it returned, none."""
    outcomes = cuts(cut_destroys, "ext4", "full", Cut, SMALL)
    assert not bad(outcomes)
    assert {outcome.call for outcome in outcomes} >= {"unlink 1", "fsync 1", "the end"}


@pytest.mark.slow
@pytest.mark.timeout(180)
@each_kind
def test_full_durability_survives_power_cuts_at_any_call(cuts: Cuts, kind: str) -> None:
    """With `FULL` no cut at any call of a save, a first save or a destroy loses, undoes or tears anything."""
    outcomes = []
    for size in (SMALL, LARGE):
        for earlier in (0, 2):
            outcomes += cuts(cut_saves, kind, "full", Cut, size, earlier=earlier)
        for root_there in (True, False):
            outcomes += cuts(cut_first_saves, kind, "full", Cut, size, root_there=root_there)
        outcomes += cuts(cut_destroys, kind, "full", Cut, size)
    assert not bad(outcomes)
    assert {outcome.call for outcome in outcomes} >= STEPS | {"unlink 1"}
    assert any(outcome.swept for outcome in outcomes), "then no cut was in the middle of anything"
    assert len(outcomes) >= 250


@pytest.mark.slow
@each_kind
def test_process_durability_leaves_a_whole_state_after_a_power_cut(cuts: Cuts, kind: str) -> None:
    """With `PROCESS` a power cut may bring an older state back, or none; whatever is there is whole."""
    replaced = []
    first = []
    for size in (SMALL, LARGE):
        replaced += cuts(cut_saves, kind, "process", Cut, size, earlier=2)
        first += cuts(cut_first_saves, kind, "process", Cut, size, root_there=True)
    assert not damages(replaced) | damages(first)
    assert any(not outcome.kept for outcome in replaced), "then `FULL` need not flush the directory either"


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("by", ["in place", "renamed", "flushed and renamed"])
def test_naive_writes_are_caught(cuts: Cuts, kind: str, by: str) -> None:
    """To write in place, or to rename without a flush of the file or of the directory, loses what was acknowledged."""
    outcomes = cuts(cut_saves, kind, by, Cut, LARGE, earlier=0)
    assert any(outcome.call == "the end" and not outcome.kept for outcome in outcomes)
    if by == "in place":
        assert damages(outcomes)
    if by == "renamed" and kind in {"ext4-writeback", "xfs"}:
        assert damages(outcomes)
    if by == "flushed and renamed":
        assert not damages(outcomes)


def test_a_flush_of_the_file_alone_is_caught(cuts: Cuts) -> None:
    """To flush the file and not the directory loses an acknowledged state: cuts are cuts."""
    assert bad(cuts(cut_saves, "ext4", "flushed and renamed", [Cut.LOG_LOST], SMALL, earlier=0))


def test_nothing_remains_of_a_disk_whose_process_was_killed(spawn: Spawn, tmp_path: Path) -> None:
    """A disk's process that is killed leaves neither a mount nor a loop device."""
    worker: Worker = spawn(fresh=True)
    worker.start(plug_in, tmp_path, "ext4")
    try:
        worker.hear()
    except DiskUnavailableError as error:
        pytest.skip(str(error))
    assert loop_devices_of(worker.pid)
    assert not os.path.ismount(tmp_path)
    worker.kill()
    until(lambda: not loop_devices_of(worker.pid))
    assert not os.path.ismount(tmp_path)
