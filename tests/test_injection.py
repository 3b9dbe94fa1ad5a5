"""Every system call of every verb fails once in each way it can, and is once the last that the process makes."""

from __future__ import annotations

import collections
import errno
import json
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from statefile import CorruptStateError, StateDir, StateFile, StateFileError, StateIOError
from tests import faults
from tests.faults import KILL, Case, between_marks, cases_of, run_with
from tests.harness import names, needs_strace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Spawn

pytestmark = needs_strace

STATE, LOCK = "c_sandbox:c.state", "c_sandbox:c.lock"
OLD, NEW = {"n": 1, "text": "old" * 100}, {"n": 2, "text": "new" * 1000}


def nothing(_: StateFile) -> None:
    """Needs no preparation."""


def lock_and_destroy(file: StateFile) -> None:
    """So that the unlock has something to remove."""
    file.lock()
    file.destroy()


@dataclass(frozen=True)
class Verb:
    """A verb, what comes before it, and what may be on the disk after it."""

    act: Callable[[StateFile], object]
    before: Callable[[StateFile], object] = nothing
    old: bytes | None = b"old"  # stands for OLD as it is saved; `None` for no state file
    root: bool = True  # whether there is one beforehand
    holds: bool = False  # whether it holds the lock after an error
    on_error: str = "old"  # which state there is then: the "old" one, "either", or the new one if "applied" is said
    fails: type[StateFileError] | None = None  # what it says without a fault
    least: int = 10  # that many faults, at the least


VERBS = {
    "lock_for_new": Verb(lambda file: file.lock_for_new(timeout=5), old=None, least=25),
    "lock_for_new_root": Verb(lambda file: file.lock_for_new(timeout=5), old=None, root=False, least=40),
    "lock": Verb(lambda file: file.lock(timeout=5), least=15),
    "save_first": Verb(
        lambda file: file.save_locked(NEW), StateFile.lock_for_new, None, holds=True, on_error="applied", least=40
    ),
    "save_over": Verb(lambda file: file.save_locked(NEW), StateFile.lock, holds=True, on_error="applied", least=40),
    "load": Verb(lambda file: file.load(dict), least=10),
    "load_corrupt": Verb(lambda file: file.load(dict), old=b"{", fails=CorruptStateError, least=25),
    "unlock": Verb(StateFile.unlock, StateFile.lock, least=6),
    "unlock_new": Verb(StateFile.unlock, StateFile.lock_for_new, None, least=10),
    "unlock_destroyed": Verb(StateFile.unlock, lock_and_destroy, on_error="either", least=10),
    "destroy": Verb(lambda file: file.destroy(timeout=5), on_error="either", least=40),
    "destroy_locked": Verb(lambda file: file.destroy(timeout=5), StateFile.lock, holds=True, on_error="either", least=15),
}


class Report(NamedTuple):
    """What the child says of itself."""

    error: BaseException | None
    held: bool
    unlocking: BaseException | None
    grown: int


class Found(NamedTuple):
    """What came of a fault, for the table."""

    case: Case
    state: str
    error: str
    left: list[str]


def at(root: Path) -> StateFile:
    """The container."""
    return StateFile(root_dir=root, id="c")


def lay_out(root: Path, old: bytes | None, *, exists: bool) -> None:
    """What is there before the verb."""
    shutil.rmtree(root, ignore_errors=True)
    if exists:
        root.mkdir(mode=0o711)
    if old is not None:
        (root / STATE).write_bytes(old)
        (root / LOCK).touch(mode=0o600)


def bytes_of(root: Path) -> bytes | None:
    """The state file, or `None`."""
    try:
        return (root / STATE).read_bytes()
    except FileNotFoundError:
        return None


def saved(root: Path, state: object) -> bytes:
    """How `state` is saved."""
    file = at(root)
    with file.hold_for_new():
        file.save_locked(state)
    data = file.state_path.read_bytes()
    file.destroy()
    return data


def do(verb: Verb, prepared: tuple[StateFile, int]) -> Report:
    """The verb; afterwards the lock is given back, if it is held."""
    file, open_before = prepared
    caught = between_marks(lambda: verb.act(file))
    held = file.locked
    unlocking = None
    if held:
        try:
            file.unlock()
        except BaseException as error:  # noqa: BLE001  # it is looked at elsewhere
            unlocking = error
    if caught is not None:
        caught.__traceback__ = None  # it holds frames, and they what is open
    return Report(caught, held, unlocking, faults.descriptors() - open_before)


def prepare(verb: Verb, root: Path) -> tuple[StateFile, int]:
    """In the child, untraced."""
    file = at(root)
    open_before = faults.descriptors()
    verb.before(file)
    return file, open_before


def every_fault(root: Path, name: str) -> list[Found]:
    """Trace the verb, and then do it once for every fault of every call. Runs in a worker, which is warm afterwards."""
    verb = VERBS[name]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        old = saved(root, OLD)
        StateDir(root).sweep()
        start = old if verb.old == b"old" else verb.old
        for _ in range(2):  # the first one is to warm up; only what it does in this process counts for that
            lay_out(root, start, exists=verb.root)
            done = do(verb, prepare(verb, root))
            assert type(done.error) is (verb.fails or type(None)), done.error
            assert (done.unlocking, done.grown) == (None, 0)
        lay_out(root, start, exists=verb.root)
        with run_with(lambda: prepare(verb, root), lambda prepared: do(verb, prepared), log) as finish:
            run = finish()
        assert run.status == 0
        after = bytes_of(root)
        calls = run.calls
        found = []
        assert verb.on_error != "applied" or (after is not None and json.loads(after) == NEW)
        for case in cases_of(calls):
            lay_out(root, start, exists=verb.root)
            try:
                found.append(look_at(verb, case, root, log, start=start, after=after))
            except AssertionError as error:
                error.add_note(f"{name}, {case}, of {[call for call, _ in calls]}")
                raise
        return found


def look_at(verb: Verb, case: Case, root: Path, log: Path, *, start: bytes | None, after: bytes | None) -> Found:
    """Let it happen, and look at what came of it, while the process is alive."""
    with run_with(lambda: prepare(verb, root), lambda prepared: do(verb, prepared), log, *case.options) as finish:
        if case.fault == KILL:
            finish()
        there = names_in(root)
        state = bytes_of(root)
        assert state in (start, after), "neither the old state nor the new one"
        StateDir(root).sweep()
        assert names_in(root) in ([], [LOCK, STATE], [STATE])
        assert (STATE in names_in(root)) is (state is not None)
        with at(root).hold_for_new(timeout=0) if state is None else at(root).hold(timeout=0):
            pass  # this is another process, and that one, if it was not killed, still lives
        assert names(root) == ([] if state is None else [LOCK, STATE])
        assert bytes_of(root) == state
        run = finish()
    kind = "none" if state is None else "old" if state == start else "new"
    if case.fault == KILL:
        assert run.status == -signal.SIGKILL, run
        assert run.calls[-1][0] == case.call, "killed elsewhere"
        return Found(case, kind, KILL, there)
    assert run.injected == [case.call], run.log
    assert run.status == 0, run
    judge(case, run.report)
    assert not [name for name in there if name.endswith(".tmp")], "a process that lived left a temporary file behind"
    error = run.report.error
    if error is None:
        assert state == after, "it said that it was done"
    else:
        assert run.report.held is verb.holds, "after an error it holds the lock, or does not"
        if verb.on_error == "applied":
            assert state == (after if getattr(error, "applied", False) else start), "the error says it otherwise"
        elif verb.on_error == "old":
            assert state == start
    return Found(case, kind, type(error).__name__ if error else "", there)


def names_in(root: Path) -> list[str]:
    """What is in the root; nothing, if there is none."""
    return names(root) if root.exists() else []


def judge(case: Case, report: Report) -> None:
    """What the process says of itself."""
    error = report.error
    assert error is None or isinstance(error, StateFileError), f"no named error: {error!r}"
    assert report.unlocking is None, f"the lock could not be given back: {report.unlocking!r}"
    if error is not None and not isinstance(error, CorruptStateError):
        code = getattr(error, "errno", None)
        assert code is not None, f"no errno: {error!r}"
        assert errno.errorcode[code] == case.fault, f"another errno: {error!r}"
    # strace lets a call fail by not making it: a close that it lets fail leaves open what the kernel would have closed.
    assert report.grown == (case.call == "close"), f"{report.grown} descriptors more"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", VERBS)
def test_every_fault_of_every_call_leaves_a_state_and_a_free_lock(
    root: Path, spawn: Spawn, name: str, record_property: Callable[[str, object], None]
) -> None:
    """Whichever call fails or is the last, the state is the old or the new one, the error is named, and the lock is free."""
    worker = spawn(fresh=True)
    worker.start(every_fault, root, name)
    found: list[Found] = worker.result(timeout=100)
    table = collections.Counter((case.call, case.fault) for case, *_ in found)
    for (call, fault), times in sorted(table.items()):
        record_property(f"{name}: {call} {fault}", times)
    assert len(found) >= VERBS[name].least
    assert sum(case.fault != KILL for case, *_ in found) >= VERBS[name].least // 2
    assert sum(case.fault == KILL for case, *_ in found) >= 2


def failing(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let the calls of `os.NAME` act and then report an I/O error."""
    act = getattr(os, name)

    def fail(*args: object) -> None:
        act(*args)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    patch.setattr(os, name, fail)


def test_lock_file_that_could_not_be_finished_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `lock_for_new` that made the lock file and failed then leaves none."""
    file = StateFile(root_dir=tmp_path, id="c")
    failing(monkeypatch, "fchmod")
    with pytest.raises(StateIOError, match="look at"):
        file.lock_for_new()
    assert not list(tmp_path.iterdir())


def test_destroy_whose_flush_fails_says_that_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `destroy` that removed the state and could not flush the directory says so with `applied`."""
    file = StateFile(root_dir=tmp_path, id="c")
    with file.hold_for_new():
        file.save_locked({"n": 1})
    failing(monkeypatch, "fsync")
    with pytest.raises(StateIOError) as caught:
        file.destroy()
    assert caught.value.applied
    assert not list(tmp_path.iterdir())


def test_load_that_has_read_all_is_not_spoilt_by_the_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read whole is returned, though the system reports an error on closing."""
    file = StateFile(root_dir=tmp_path, id="c")
    with file.hold_for_new():
        file.save_locked({"n": 1})
    failing(monkeypatch, "close")
    assert file.load(dict) == {"n": 1}
