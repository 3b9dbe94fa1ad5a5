"""A storm of SIGKILL: writers that are killed at random moments lose nothing that they have acknowledged, and hold nobody up.

Writers, reader and killer are forked from one warmed process that has no threads, so a killed writer is replaced in
milliseconds. What they know of each other goes through files that a dead process leaves whole: one write appends one line.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import mmap
import os
import random
import select
import signal
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from statefile import AlreadyExistsError, Container, Durability, NotFoundError, StateDir, StateFile, StateFileError
from statefile._container_state import ContainerState
from tests.harness import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness import Spawn

WRITERS = 8
BYSTANDERS = ("a", "d", "z")
FREE_WITHIN = 0.1
LINE = 64


class Told(NamedTuple):
    """What a storm came to."""

    kills: int
    acknowledged: list[tuple[int, int]]  # by whom, and which value, in the order of the file
    final: int
    delays: list[float]  # from the kill of a holder to the next one's lock, in seconds
    reads: int
    failures: str
    left: list[str]


# -- the state, in each of its forms -------------------------------------------------------------------------------------


def text_of(n: int) -> str:
    """What proves that a state is whole."""
    return f"{n} " * (n * 37 % 900)


def step_of_dict(file: StateFile, inside: Callable[[], None]) -> int:
    """One more, in a plain state."""
    with file.transaction(dict) as state:
        inside()
        state["n"] += 1
        state["text"] = text_of(state["n"])
    n: int = state["n"]
    return n


def number_in_dict(state: dict[str, Any]) -> int:
    """What a plain state says, if it is whole."""
    assert state["text"] == text_of(state["n"])
    n: int = state["n"]
    return n


def step_of_container(file: StateFile, inside: Callable[[], None]) -> int:
    """One more, in an annotation of a container's record."""
    with file.transaction(Container) as container:
        inside()
        n = int(container.spec["annotations"]["n"]) + 1
        container.spec["annotations"] = {"n": str(n), "text": text_of(n)}
    return n


def number_in_container(container: Container) -> int:
    """What a record says, if it is whole; each step was one save."""
    n = int(container.annotations["n"])
    assert container.annotations["text"] == text_of(n)
    assert container.revision == n + 1
    return n


def step_of_life(file: StateFile, inside: Callable[[], None]) -> int:
    """One more, where any step may be the end of a container or the beginning of the next; the witness counts on."""
    chance = random.Random(os.urandom(8))
    while True:
        with contextlib.suppress(AlreadyExistsError, NotFoundError):
            if file.exists():
                with file.hold(), witnessed(file, inside) as witness:
                    n = max(number_in_dict(file.load(dict)), read_number(witness)) + 1
                    os.pwrite(witness, b"%20d" % n, 0)
                    if chance.random() < 0.3:
                        file.destroy()
                    else:
                        file.save_locked({"n": n, "text": text_of(n)})
                return n
            with file.hold_for_new(), witnessed(file, inside) as witness:
                n = read_number(witness) + 1
                os.pwrite(witness, b"%20d" % n, 0)
                file.save_locked({"n": n, "text": text_of(n)})
            return n


@contextlib.contextmanager
def witnessed(file: StateFile, inside: Callable[[], None]) -> Iterator[int]:
    """Alone in the block, says a lock of another kind on another file, which is gone before ours is when a process dies."""
    witness = os.open(file.root_dir.parent / "witness", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: two are inside
        inside()
        yield witness
    finally:
        os.close(witness)


def read_number(witness: int) -> int:
    """The last number of all lives."""
    return int(os.pread(witness, 20, 0) or b"0")


class Kind(NamedTuple):
    """One kind of storm."""

    type_: Any
    step: Callable[[StateFile, Callable[[], None]], int]
    number: Callable[[Any], int]
    lasts: bool = True


KINDS = {
    "dict": Kind(dict, step_of_dict, number_in_dict),
    "container": Kind(Container, step_of_container, number_in_container),
    "lives": Kind(dict, step_of_life, number_in_dict, lasts=False),
}


# -- who takes part ------------------------------------------------------------------------------------------------------


class Storm:
    """What the processes of a storm share."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root = root
        self.kind = KINDS[kind]
        self.base = root.parent
        self.log = os.open(self.base / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.shared = mmap.mmap(-1, mmap.PAGESIZE)  # byte 0: the end has come; byte 1: which writer was last inside

    def file(self, name: str = "counter") -> StateFile:
        """A state file of its own for whoever asks."""
        return StateFile(root_dir=self.root, id=name, durability=Durability.PROCESS)

    def fork(self, do: Callable[[], None]) -> int:
        """Run it in a process of its own."""
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            do()
            status = 0
        except BaseException:  # noqa: BLE001  # told at the end
            self.say_failed(traceback.format_exc())
        finally:
            os._exit(status)

    def say_failed(self, text: str) -> None:
        """For the test to show."""
        with (self.base / "failures").open("a") as out:
            out.write(text)

    def say(self, line: bytes) -> None:
        """Append a line. All have one length that divides a page: SIGKILL can cut a write where the next page begins."""
        os.write(self.log, line.ljust(LINE - 1) + b"\n")

    def write(self, slot: int) -> None:
        """Go one step further until the end, and acknowledge each when it has returned."""
        file = self.file()
        me = os.getpid()

        def inside() -> None:
            self.shared[1] = slot
            self.say(b"+ %d %d" % (me, time.monotonic_ns()))

        while not self.shared[0]:
            n = self.kind.step(file, inside)
            self.say(b"= %d %d" % (me, n))

    def read(self) -> None:
        """List and load without a lock until the end: nothing is hidden, torn or taken back."""
        directory = StateDir(self.root)
        others = {directory.state_file(name).id for name in BYSTANDERS}
        counter = directory.state_file("counter").id
        last = reads = 0
        while not self.shared[0] or reads < 10:
            ids = directory.ids()
            assert set(ids) - {counter} == others, ids
            assert counter in ids or not self.kind.lasts, ids
            found = dict(directory.load_all(self.kind.type_))
            assert set(found) - {counter} == others, found
            assert counter in found or not self.kind.lasts, found
            for full_id, state in found.items():
                assert not isinstance(state, StateFileError), state
                n = self.kind.number(state)
                assert n >= last if full_id == counter else n == 0, (full_id, n, last)
                last = n if full_id == counter else last
            reads += 1
        (self.base / "reads").write_text(str(reads))

    def make(self) -> None:
        """The counter and its neighbours, at 0."""
        warm = self.file("warm")
        for file in (*map(self.file, ("counter", *BYSTANDERS)), warm):
            with file.hold_for_new():
                if self.kind.type_ is Container:
                    spec = {"annotations": {"n": "0", "text": text_of(0)}}
                    file.save_locked(ContainerState(id=file.id.container_id, status="stopped", spec=spec, saver=file))
                else:
                    file.save_locked({"n": 0, "text": text_of(0)})
        with warm.transaction(self.kind.type_):
            pass  # what is made when first used is made here, once for all that are forked
        warm.destroy()


def rage(root: Path, kind: str, kills: int, seed: int) -> Told:
    """Kill writers at random moments, every other time the one that was last seen inside; what came of it."""
    storm = Storm(root, kind)
    storm.make()
    chance = random.Random(seed)
    processes: dict[int, int] = {}
    killed: list[tuple[int, int]] = []
    reader = 0
    try:
        for slot in range(WRITERS):
            processes[slot] = storm.fork(lambda slot=slot: storm.write(slot))  # type: ignore[misc]
        reader = storm.fork(storm.read)
        for n in range(kills):
            time.sleep(chance.random() * 0.006)  # the moment is to be any: there is no event to wait for
            slot = storm.shared[1] if n % 2 else chance.randrange(WRITERS)
            pid = processes.pop(slot)
            killed.append((pid, time.monotonic_ns()))
            os.kill(pid, signal.SIGKILL)
            if os.waitpid(pid, 0)[1] != signal.SIGKILL:
                break  # it had failed: the reason is in the file
            processes[slot] = storm.fork(lambda slot=slot: storm.write(slot))  # type: ignore[misc]
    finally:
        storm.shared[0] = 1
        for pid in (*processes.values(), *[reader][: bool(reader)]):
            wait_for(pid)
    return what_came_of_it(storm, killed)


def wait_for(pid: int) -> None:
    """Until it has ended by itself; one that hangs is killed."""
    watched = os.pidfd_open(pid)
    try:
        if not select.select([watched], [], [], 20)[0]:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(watched)


def what_came_of_it(storm: Storm, killed: list[tuple[int, int]]) -> Told:
    """Read the log, then sweep, and see what is left."""
    taken: list[int] = []
    inside: dict[int, bool] = {}  # who said last that it had the lock
    acknowledged: list[tuple[int, int]] = []
    for line in (storm.base / "log").read_text().splitlines():
        sign, who, what = line.split()
        inside[int(who)] = sign == "+"
        if sign == "+":
            taken.append(int(what))
        else:
            acknowledged.append((int(who), int(what)))
    taken.sort()
    delays = []
    for pid, when in killed:
        later = next_after(taken, when)
        if inside.get(pid) and later is not None:
            delays.append((later - when) / 1e9)
    file = storm.file()
    failures, reads = storm.base / "failures", storm.base / "reads"
    final = storm.kind.number(file.load(storm.kind.type_)) if file.exists() and not failures.exists() else 0
    if not storm.kind.lasts:
        witness = os.open(storm.base / "witness", os.O_RDONLY)
        final = max(final, read_number(witness))
        os.close(witness)
        file.destroy()
    os.close(storm.log)
    StateDir(storm.root).sweep()
    return Told(
        kills=len(killed),
        acknowledged=acknowledged,
        final=final,
        delays=sorted(delays),
        reads=int(reads.read_text()) if reads.exists() else 0,
        failures=failures.read_text() if failures.exists() else "",
        left=names(storm.root),
    )


def next_after(moments: list[int], when: int) -> int | None:
    """The first of the sorted moments that is later."""
    index = bisect.bisect_right(moments, when)
    return moments[index] if index < len(moments) else None


# -- the promise ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
def test_storm_of_kills_loses_nothing(
    root: Path, spawn: Spawn, record_property: Callable[[str, object], None], kind: str
) -> None:
    """Hundreds of writers killed at random lose no acknowledged update, tear nothing, hold nobody up, leave nothing to keep."""
    kills = 1000 if kind == "dict" else 400
    zygote = spawn(fresh=True)
    zygote.start(rage, root, kind, kills, 20240613)
    told: Told = zygote.result(timeout=150)
    assert told.failures == ""
    assert told.kills == kills

    values = [n for _, n in told.acknowledged]
    assert len(values) > kills, "hardly anything was written: no storm"
    assert len(set(values)) == len(values), "two writers were given the same turn"
    for pid in {pid for pid, _ in told.acknowledged}:
        own = [n for by, n in told.acknowledged if by == pid]
        assert own == sorted(own)
    # Each kill can hide one update that was made and not acknowledged, and none that was.
    assert max(values) <= told.final <= len(values) + kills

    assert len(told.delays) > kills / 20, "hardly any holder was killed"
    longest = told.delays[-1]
    record_property("longest", longest)
    print(f"{kind}: {len(values)} updates, {len(told.delays)} holders killed, free after {longest * 1000:.1f} ms at most")  # noqa: T201
    assert told.delays[len(told.delays) * 95 // 100] < FREE_WITHIN

    assert told.reads >= 10
    kept = [*BYSTANDERS, "counter"] if KINDS[kind].lasts else BYSTANDERS
    assert told.left == sorted(f"{name}_sandbox:{name}.{suffix}" for name in kept for suffix in ("lock", "state"))
