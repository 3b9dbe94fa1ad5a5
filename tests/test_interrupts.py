"""Exceptions out of signal handlers at random moments, and interpreters that end while others wait: nothing is kept."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tests
from statefile import LockTimeoutError, StateDir, StateFile, StateFileError
from tests import harness
from tests.harness import hear, lock_descriptors, lock_queue, names, tell, threads, until, waits_for
from tests.test_lock import ID, Interrupted, file, hold, try_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Spawn

__all__ = ["file"]  # fixtures: pytest finds them by name


class Alarm:
    """Raises once, at a random moment: out of a SIGALRM handler, or as the KeyboardInterrupt of a SIGINT."""

    def __init__(self, seed: int, within: float) -> None:
        warnings.simplefilter("ignore", ResourceWarning)  # an interrupted `unlock` may leave it to the last reference
        self._chance = random.Random(seed)
        self._within = within
        self._armed = False
        self.raised = 0
        signal.signal(signal.SIGALRM, self._ring)
        signal.signal(signal.SIGINT, self._interrupt)

    def during(self, do: Callable[[], object]) -> None:
        """Run `do`, into which the exception comes, or not at all; it goes no further."""
        try:
            self._armed = True
            # It comes again if it was lost in a `__del__`.
            signal.setitimer(signal.ITIMER_REAL, self._chance.random() * self._within + 1e-6, 0.05)
            do()
            self._armed = False
        except (Interrupted, KeyboardInterrupt):
            self._armed = False
            self.raised += 1
        self.rest()

    def rest(self) -> None:
        """No more of it."""
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, *_: object) -> None:
        if self._armed and self._chance.random() < 0.5:
            os.kill(os.getpid(), signal.SIGINT)
        elif self._armed:
            raise Interrupted

    def _interrupt(self, *_: object) -> None:
        if self._armed:
            raise KeyboardInterrupt

    @staticmethod
    def forget() -> None:
        """Python drops what a handler raises in a `__del__`, and says so: that is no fault of ours."""
        gc.collect()
        excused = (Interrupted, KeyboardInterrupt)
        harness.unraisable[:] = [found for found in harness.unraisable if not isinstance(found.exc_value, excused)]


def step_by_step(file: StateFile, n: int) -> None:
    """The primitives, without a block that would clean up."""
    file.lock(timeout=None if n % 8 else 5)
    file.save_locked({"id": ID, "n": n})
    file.unlock()


def in_a_block(file: StateFile, n: int) -> None:
    """Save in a block."""
    with file.hold(timeout=5 if n % 8 else None):
        file.save_locked({"id": ID, "n": n})


def in_a_transaction(file: StateFile, n: int) -> None:
    """Load, change and save."""
    with file.transaction(dict) as state:
        state["n"] = n


ACTIONS: list[Callable[[StateFile, int], None]] = [step_by_step, in_a_block, in_a_transaction]


def be_interrupted_while_working(root: Path, wanted: int) -> list[str]:
    """Work with one object until so many interrupts have come; where something was kept."""
    alarm = Alarm(1, 400e-6)
    file = StateFile(root_dir=root, id=ID)
    leaks: list[str] = []
    n = 0
    while alarm.raised < wanted:
        n += 1
        action = ACTIONS[n % 3]
        alarm.during(partial(action, file, n))
        if file.locked:
            file.unlock()
        if lock_descriptors():
            gc.collect()
            leaks.extend(f"{action.__name__} left {path}" for path in lock_descriptors())
        if lock_queue(file.lock_path) != ([], []):
            leaks.append(f"{action.__name__} left the lock taken")
        if leaks:
            break
    alarm.forget()
    tell(leaks)
    hear()
    return leaks


def test_thousands_of_interrupts_keep_nothing(file: StateFile, root: Path, spawn: Spawn) -> None:
    """After 2,000 interrupts of locking, saving and unlocking one object, nothing was ever kept and another locks at once."""
    worker, other = spawn(fresh=True), spawn()
    worker.start(be_interrupted_while_working, root, 2000)
    assert worker.hear() == []
    assert other.call(try_lock, root) == "got it"
    worker.tell()
    worker.result()
    StateDir(root).sweep()
    assert names(root) == [file.lock_path.name, file.state_path.name]
    assert set(file.load(dict)) == {"id", "n"}


def be_interrupted_while_waiting(root: Path, wanted: int) -> int:
    """Wait with a deadline, among others, until so many interrupts have come; how often the lock was got."""
    before = threads()
    alarm = Alarm(2, 3e-3)
    chance = random.Random(3)
    file = StateFile(root_dir=root, id=ID)
    got = 0
    while alarm.raised < wanted:
        alarm.during(partial(wait_for, file, chance.choice([0.001, 0.004, 30])))
        if file.locked:
            got += 1
            file.unlock()
        assert len(lock_descriptors()) <= 1, "more than the helper thread's"
        until(lambda: len(threads() - before) <= 2)  # a helper and the one that reminds
    alarm.forget()
    until(lambda: not lock_descriptors())
    tell(got)
    hear()
    return got


def wait_for(file: StateFile, timeout: float) -> None:
    """Lock, or wait in vain; whatever else comes out is an interrupt's."""
    with contextlib.suppress(LockTimeoutError):
        file.lock(timeout=timeout)


def come_and_go(root: Path) -> int:
    """Lock and unlock until the test has made a file of it."""
    file = StateFile(root_dir=root, id=ID)
    turns = 0
    while not (root.parent / "over").exists():
        with file.hold():
            turns += 1
    return turns


def test_interrupted_waits_keep_nothing(file: StateFile, root: Path, spawn: Spawn) -> None:
    """Waits with a deadline that are interrupted while the lock changes hands keep neither the lock nor a thread."""
    worker, *others = [spawn(fresh=True), spawn(), spawn()]
    for other in others:
        other.start(come_and_go, root)
    worker.start(be_interrupted_while_waiting, root, 500)
    got = worker.hear()
    (root.parent / "over").touch()
    assert all(other.result() > 0 for other in others)
    assert got > 0
    assert lock_queue(file.lock_path) == ([], [])
    assert others[0].call(try_lock, root) == "got it"
    worker.tell()
    worker.result()


def test_interrupted_waits_behind_one_that_hangs(file: StateFile, root: Path, spawn: Spawn) -> None:
    """However many waits behind a holder that hangs are interrupted, one helper is left, and the lock is free in the end."""
    worker, holder = spawn(fresh=True), spawn()
    holder.start(hold, root)
    assert holder.hear() == "in"
    worker.start(be_interrupted_in_vain, root, 300)
    assert worker.hear() <= 1
    holder.tell()
    holder.result()
    assert holder.call(try_lock, root, ID, 5) == "got it"
    worker.tell()
    worker.result()
    assert lock_queue(file.lock_path) == ([], [])


def be_interrupted_in_vain(root: Path, wanted: int) -> None:
    """Wait for what does not come free, until so many interrupts have come."""
    alarm = Alarm(4, 2e-3)
    file = StateFile(root_dir=root, id=ID)
    n = 0
    while alarm.raised < wanted:
        n += 1
        alarm.during(partial(file.lock, timeout=30 if n % 2 else None))
    alarm.forget()
    tell(len(lock_descriptors()))
    hear()
    until(lambda: not lock_descriptors())


# -- the end of the interpreter ----------------------------------------------------------------------------------------

EXITS = {
    "a loop ends over waiting tasks": """
        async def main():
            async with mine().hold():
                tasks = [asyncio.create_task(mine().lock(timeout=t)) for t in (None, 30, None)]
                await seen()
        asyncio.run(main())
    """,
    "a loop ends with a lock held and tasks waiting": """
        async def main():
            await mine().lock()
            kept.extend(asyncio.create_task(mine().lock(timeout=t)) for t in (None, 30, None))
            await seen()
        asyncio.run(main())
    """,
    "exit within a task": """
        async def main():
            async with mine().transaction(dict):
                task = asyncio.create_task(mine().lock())
                await seen()
                sys.exit(0)
        asyncio.run(main())
    """,
    "exit at once over waiting tasks": """
        async def main():
            await mine().lock()
            task = asyncio.create_task(mine().lock())
            await seen()
            os._exit(0)
        asyncio.run(main())
    """,
    "threads of all kinds wait": """
        file = StateFile(root_dir=root, id=id)
        file.lock()
        def wait(timeout):
            other = StateFile(root_dir=root, id=id)
            with contextlib.suppress(LockTimeoutError):
                other.lock(timeout=timeout)
        for timeout in (None, 60, 60):
            threading.Thread(target=wait, args=[timeout], daemon=True).start()
        threading.Thread(target=wait, args=[0.1]).start()
        until(lambda: len(lock_queue(file.lock_path)[1]) == 2)
    """,
    "a thread waits for another container than a task": """
        new = StateFile(root_dir=root, id="new")
        new.lock_for_new()
        file = StateFile(root_dir=root, id="new")
        threading.Thread(target=file.lock_for_new, kwargs=dict(timeout=60), daemon=True).start()
        until(lambda: lock_queue(file.lock_path)[1])
        async def main():
            await mine().lock()
            task = asyncio.create_task(mine().lock())
            await seen()
        asyncio.run(main())
    """,
}

PRELUDE = """
import asyncio, contextlib, os, sys, threading
from statefile import LockTimeoutError, StateFile
from statefile.aio import AsyncStateFile
from tests.harness import lock_queue, until
root, id, kept = sys.argv[1], sys.argv[2], []
def mine():
    kept.append(AsyncStateFile(root_dir=root, id=id))  # a task may get the lock in the last moment, and end before its object
    return kept[-1]
async def seen():
    while not lock_queue(mine().lock_path)[1]:
        await asyncio.sleep(0.001)
"""


def program(root: Path, text: str) -> subprocess.Popen[str]:
    """Start an interpreter that takes warnings for errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "dev", "-c", PRELUDE + textwrap.dedent(text), str(root), ID],
        env=os.environ | {"PYTHONPATH": str(Path(tests.__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("how", EXITS)
def test_interpreter_ends_silently_while_others_wait(file: StateFile, root: Path, how: str) -> None:
    """However a program ends while its tasks and threads wait, under `-W error`, it says nothing, ends well, and is free."""
    with program(root, EXITS[how]) as ended:
        said, _ = ended.communicate(timeout=40)
    assert (ended.returncode, said) == (0, "")
    assert try_lock(root) == "got it"
    with contextlib.suppress(StateFileError):
        StateFile(root_dir=root, id="new").destroy()
    StateDir(root).sweep()
    assert names(root) == [file.lock_path.name, file.state_path.name]


@pytest.mark.parametrize("timeout", [None, 60])
def test_thread_is_served_while_the_interpreter_ends(file: StateFile, root: Path, timeout: float | None) -> None:
    """A thread that the end of the program waits for gets the lock when another process lets go, and the program ends well."""
    text = f"""
        def work():
            with StateFile(root_dir=root, id=id).hold(timeout={timeout}):
                pass
        threading.Thread(target=work).start()
    """
    file.lock()
    with program(root, text) as ended:
        until(lambda: waits_for(ended.pid, file.lock_path))
        file.unlock()
        said, _ = ended.communicate(timeout=40)
    assert (ended.returncode, said) == (0, "")
    assert try_lock(root) == "got it"
