"""State that a real runsc wrote: it is loaded, driven and saved as a `Container`, and every value of it stays as it was."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statefile import (
    AmbiguousIDError,
    Container,
    FullID,
    InvalidTransitionError,
    NotFoundError,
    ProcessRuntime,
    StateDir,
    StateFile,
    StateIOError,
    Status,
    StillRunningError,
    UnsupportedActionError,
)
from statefile._process import PID_MAX, Presence
from tests.harness import names
from tests.test_container import innocent
from tests.test_lifecycle import Script, script

if TYPE_CHECKING:
    from collections.abc import Callable

    from statefile import ProcessRef

__all__ = ["innocent", "script"]  # fixtures: pytest finds them by name

DATA = Path(__file__).parent / "data" / "runsc-root"

POD = "7f3c9a5d21be4c0e8d6f"
APP = "7f3c0b44e19d"
IDS = [FullID(POD, APP), FullID(POD, POD), FullID("batch-1", "batch-1"), FullID("batch-17", "batch-17")]

# What the files say, read with the eye.
FACTS = {
    APP: ("running", "2026-11-25T16:21:32.59172478Z", 9570, 9618),
    POD: ("running", "2026-11-25T16:21:32.470020497Z", 9570, 9567),
    "batch-1": ("created", "2026-11-25T16:21:32.86046024Z", 9694, 9693),
    "batch-17": ("paused", "2026-11-25T16:21:32.715931912Z", 9642, 9641),
}

OURS = {"init", "helpers", "exitStatus", "pending", "pausedFrom", "schemaVersion", "revision"}
"""The keys that statefile adds to a record of runsc's."""


@pytest.fixture
def runsc(root: Path) -> Path:
    """A copy of the root directory that runsc wrote. None of the processes in it is a process now."""
    for file in DATA.iterdir():
        shutil.copyfile(file, root / file.name)
    for full_id in IDS:
        edit(root, full_id, lambda record: record["sandbox"].update(pid=PID_MAX))
    return root


def path_of(root: Path, full_id: FullID) -> Path:
    """The state file, by the naming that runsc has."""
    return root / f"{full_id.container_id}_sandbox:{full_id.sandbox_id}.state"


def read(root: Path, full_id: FullID) -> dict[str, Any]:
    """What the file says, every integer exact."""
    found: dict[str, Any] = json.loads(path_of(root, full_id).read_bytes())
    return found


def edit(root: Path, full_id: FullID, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Change the file as another program would; what it says then."""
    record = read(root, full_id)
    change(record)
    path_of(root, full_id).write_text(json.dumps(record, ensure_ascii=False, separators=(",", ":")))
    return record


def values(record: object, at: str = "") -> dict[str, tuple[type, Any]]:
    """Every value in it, by where it stands, with its type: for JSON 1, 1.0 and true are three things."""
    if isinstance(record, dict):
        items = [(str(key), value) for key, value in record.items()]
    elif isinstance(record, list):
        items = [(str(index), value) for index, value in enumerate(record)]
    else:
        return {at: (type(record), record)}
    found: dict[str, tuple[type, Any]] = {at: (type(record), len(record))} if not items else {}
    for key, value in items:
        found |= values(value, f"{at}/{key}")
    return found


def rewritten(root: Path, full_id: FullID, before: dict[str, Any], *, changed: dict[str, Any] | None = None) -> None:
    """The file says what it said, but for `changed`, and has our own keys at the top besides, no others and nowhere else."""
    after = read(root, full_id)
    assert set(after) - set(before) == OURS
    expected = values(before) | {f"/{key}": (type(value), value) for key, value in (changed or {}).items()}
    assert values({key: value for key, value in after.items() if key in before}) == expected


def test_data_is_what_runsc_wrote() -> None:
    """The files are there under the names that runsc gave them, and say what is known of them."""
    assert [(DATA / path_of(Path(), full_id)).is_file() for full_id in IDS] == [True] * 4
    for full_id in IDS:
        record = read(DATA, full_id)
        facts = (record["status"], record["createdAt"], record["sandbox"]["pid"], record["goferPid"])
        assert facts == FACTS[full_id.container_id]
        assert not OURS & set(record)


def test_containers_of_runsc_are_listed(runsc: Path) -> None:
    """All four are found, under their sandboxes, and each loads."""
    state_dir = StateDir(runsc)
    assert state_dir.ids() == IDS
    assert state_dir.sandboxes() == [POD, "batch-1", "batch-17"]
    loaded = dict(state_dir.load_all(Container))
    assert [type(c) for c in loaded.values()] == [Container] * 4
    assert [full_id for full_id, _ in state_dir.load_sandbox(POD, Container)] == IDS[:2]


@pytest.mark.parametrize("full_id", IDS, ids=str)
def test_record_of_runsc_is_a_container(runsc: Path, full_id: FullID) -> None:
    """Status, times, annotations and sandbox are those of the file, and its place is the caller's."""
    c = Container.load(runsc, full_id, skip_check=True)
    status, created_at, _, gofer = FACTS[full_id.container_id]
    assert (c.id, c.status, c.created_at) == (full_id.container_id, status, created_at)
    assert c.model_extra is not None
    assert c.model_extra["goferPid"] == gofer
    assert c.sandbox is not None
    assert c.sandbox.id == full_id.sandbox_id
    assert c.sandbox.model_extra is not None
    assert c.sandbox.model_extra["cgroup"] == {"cgroupunknown": None}
    assert c.saver == StateFile(root_dir=runsc, id=full_id)
    assert (c.init, c.helpers, c.pending, c.exit_status, c.revision) == (None, {}, None, None, 0)
    if full_id.container_id.startswith("batch"):
        assert c.annotations == {"org.example.note": "größe ✓"}
        assert c.bundle_dir == "solo"
    state = Container.load(runsc, full_id).state()
    assert (state.oci_version, state.id, state.bundle) == ("1.0.2-dev", c.id, c.bundle_dir)


@pytest.mark.parametrize("full_id", IDS, ids=str)
def test_rewrite_keeps_every_value(runsc: Path, full_id: FullID) -> None:
    """A record of runsc's that is loaded and saved says what it said, digit by digit, and has only keys of ours besides."""
    before = read(runsc, full_id)
    for _ in range(2):
        with StateFile(root_dir=runsc, id=full_id).transaction(Container):
            pass
        rewritten(runsc, full_id, before)
    assert f'"createdAt":"{FACTS[full_id.container_id][1]}"'.encode() in path_of(runsc, full_id).read_bytes()
    assert read(runsc, full_id)["revision"] == 2


EXACT: list[Any] = [
    *(0, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1.5, 0.1, 1e300, -0.5),
    *(True, False, None, "", "größe ✓ \u2028 😀 \x7f", [], {}, [[]], {"": {}}, [1, "1", 1.0, None], {"a b": {"ç": [{}]}}),
]


@pytest.mark.parametrize("value", EXACT, ids=repr)
def test_keys_of_other_versions_are_kept_exactly(runsc: Path, value: Any) -> None:
    """What a later runsc adds, at the top, in sandbox, saver or spec, is kept, 64-bit integers to the unit."""
    (full_id, *_) = IDS

    def add(record: dict[str, Any]) -> None:
        for place in (record, record["sandbox"], record["saver"], record["saver"]["id"], record["spec"]):
            place["x-new"] = value
        record["spec"]["linux"]["resources"]["memory"] = {"limit": value}
        record["sandbox"]["startTime"] = "2026-11-25T16:21:32.470020497+02:00"

    before = edit(runsc, full_id, add)
    with StateFile(root_dir=runsc, id=full_id).transaction(Container):
        pass
    rewritten(runsc, full_id, before)


@pytest.mark.parametrize(
    "when",
    [
        "2026-11-25T16:21:32Z",
        "2026-11-25T16:21:32.5Z",
        "2026-11-25T16:21:32.591724780Z",
        "2026-11-25T16:21:32.123456789+02:00",
        "2026-11-25T16:21:32.1-11:30",
        "0001-01-01T00:00:00Z",
        "2016-12-31T23:59:60Z",
        "",
    ],
)
def test_time_stamps_are_kept_digit_by_digit(runsc: Path, when: str) -> None:
    """A time with any number of digits, in any zone, is saved as it was found."""
    full_id = IDS[2]
    before = edit(runsc, full_id, lambda record: record.update(createdAt=when))
    with StateFile(root_dir=runsc, id=full_id).transaction(Container) as c:
        assert c.created_at == when
    rewritten(runsc, full_id, before)


def test_exact_id_wins_over_a_longer_one(runsc: Path) -> None:
    """`batch-1` is told from `batch-17`, though it is the beginning of it; what fits several is ambiguous."""
    assert Container.load(runsc, "batch-1", skip_check=True).status is Status.CREATED
    assert Container.load(runsc, "batch-17", skip_check=True).status is Status.PAUSED
    assert Container.load(runsc, "7f3c0").id == APP
    assert Container.load(runsc, APP).saver.id == FullID(POD, APP)
    assert Container.load(runsc, POD).saver.id == FullID(POD, POD)
    for partial, candidates in (("batch", IDS[2:]), ("batch-", IDS[2:]), ("7f3c", IDS[:2])):
        with pytest.raises(AmbiguousIDError) as caught:
            Container.load(runsc, partial)
        assert list(caught.value.candidates) == candidates
    with pytest.raises(NotFoundError):
        Container.load(runsc, APP, exact=True)
    Container.load(runsc, "batch-1").destroy()
    assert StateDir(runsc).ids() == [*IDS[:2], IDS[3]]
    assert StateDir(runsc).resolve("batch-1") == IDS[3]


# -- its bare process numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full_id", IDS, ids=str)
def test_number_that_nobody_has_means_stopped(runsc: Path, full_id: FullID) -> None:
    """A container of runsc's whose sandbox is gone is stopped: shown so without a write, recorded so, and deleted as such."""
    before = read(runsc, full_id)
    content = path_of(runsc, full_id).read_bytes()
    c = Container.load(runsc, full_id)
    assert (c.status, c.state().pid) == (Status.STOPPED, 0)
    assert path_of(runsc, full_id).read_bytes() == content
    assert c.recover() is Status.STOPPED
    rewritten(runsc, full_id, before, changed={"status": "stopped"})
    assert c.wait() is None
    c.delete()
    assert not [name for name in names(runsc) if name.startswith(f"{full_id.container_id}_")]
    assert len(names(runsc)) == 6


@pytest.mark.parametrize("full_id", IDS, ids=str)
def test_number_that_is_in_use_decides_nothing(runsc: Path, innocent: ProcessRef, full_id: FullID) -> None:
    """A bare number may mean anybody: the status stays as it is recorded, and nobody is signalled or forgotten."""
    before = edit(runsc, full_id, lambda r: (r["sandbox"].update(pid=innocent.pid), r.update(goferPid=innocent.pid)))
    content = path_of(runsc, full_id).read_bytes()
    status = FACTS[full_id.container_id][0]
    for runtime in (None, ProcessRuntime()):
        c = Container.load(runsc, full_id, runtime=runtime)
        assert (c.status, c.state().pid) == (status, innocent.pid)
        for everybody in (False, True):
            with contextlib.suppress(StateIOError, UnsupportedActionError):  # or nobody is found to be signalled
                c.signal(signal.SIGKILL, all=everybody)
        with pytest.raises((StateIOError, UnsupportedActionError)):
            c.wait(0)
        with pytest.raises(InvalidTransitionError):
            c.delete()
        assert c.recover() == status
        assert path_of(runsc, full_id).read_bytes() == content
    c = Container.load(runsc, full_id)
    with pytest.raises(ExceptionGroup) as caught:
        c.destroy()
    assert caught.group_contains(StillRunningError)
    rewritten(runsc, full_id, before)
    c.destroy(force=True)
    assert innocent.presence() is Presence.ALIVE


def test_verbs_keep_what_runsc_wrote(runsc: Path, innocent: ProcessRef, script: Script) -> None:
    """A runtime can drive a container of runsc's: only the status changes, in its words, all else stays as it was."""
    full_id = IDS[2]
    before = edit(runsc, full_id, lambda record: record["sandbox"].update(pid=innocent.pid))
    c = Container.load(runsc, full_id, runtime=script)
    for verb, status in (("pause", "paused"), ("resume", "created"), ("start", "running"), ("pause", "paused")):
        getattr(c, verb)()
        assert c.status == status
        rewritten(runsc, full_id, before, changed={"status": status})
    paused = IDS[3]
    edit(runsc, paused, lambda record: record["sandbox"].update(pid=innocent.pid))
    c = Container.load(runsc, paused, runtime=script)
    c.resume()
    assert c.status is Status.RUNNING  # runsc does not say from where it was paused
    assert script.asked == ["pause", "resume", "start", "pause", "resume"]


def test_lock_is_the_one_of_runsc(runsc: Path) -> None:
    """Both programs lock the same file, which is neither replaced nor written, and goes with the container."""
    for full_id in IDS:
        lock = path_of(runsc, full_id).with_suffix(".lock")
        inode = lock.stat().st_ino
        c = Container.load(runsc, full_id)
        assert c.saver.lock_path == lock
        with c.saver.hold():
            assert (lock.stat().st_ino, lock.stat().st_size) == (inode, 0)
            holder = c.saver.holder()
            assert holder is not None
            assert holder.pid == os.getpid()
        c.destroy()
    assert names(runsc) == []


# -- where it is -------------------------------------------------------------------------------------------------------


def test_root_can_be_moved(runsc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's root counts, not the path that the file mentions: that is kept, as runsc knows it by that."""
    moved = runsc.with_name("moved")
    before = {full_id: read(runsc, full_id) for full_id in IDS}
    assert {record["saver"]["rootDir"] for record in before.values()} == {"/run/runsc"}
    old = Container.load(runsc, "batch-1")
    runsc.rename(moved)
    monkeypatch.chdir(moved.parent)
    for full_id in IDS:
        c = Container.load("moved", full_id)
        assert c.saver.root_dir == moved
        assert c.saver.state_path == path_of(moved, full_id)
        monkeypatch.chdir("/")
        c.recover()
        monkeypatch.chdir(moved.parent)
        rewritten(moved, full_id, before[full_id], changed={"status": "stopped"})
    with pytest.raises(NotFoundError):
        old.refresh()
    assert not runsc.exists()
    Container.load(moved, "batch-1").destroy()
    assert not path_of(moved, IDS[2]).exists()


def test_copy_of_a_container_keeps_what_the_file_said(runsc: Path) -> None:
    """Also a copy, deep or not, saves the saver as it was found."""
    before = read(runsc, IDS[2])
    c = Container.load(runsc, "batch-1")
    for other in (copy.copy(c), copy.deepcopy(c), c.model_copy()):
        assert other.model_dump(mode="json")["saver"] == before["saver"]


@pytest.mark.root
@pytest.mark.skipif(shutil.which("runsc") is None, reason="needs runsc")
def test_rewritten_files_still_work_in_runsc(runsc: Path) -> None:
    """What statefile has saved, runsc still reads: it lists the same containers and shows the same state."""

    def ask(*args: str) -> Any:
        done = subprocess.run(["runsc", "--root", str(runsc), *args], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    before = [ask("list", "--format", "json"), ask("state", "batch-17")]
    assert {container["id"] for container in before[0]} == {APP, POD, "batch-1", "batch-17"}
    for full_id in IDS:
        with StateFile(root_dir=runsc, id=full_id).transaction(Container):
            pass
    assert [ask("list", "--format", "json"), ask("state", "batch-17")] == before
