"""Versions: what this one writes is what the golden files and the documentation say, and what others wrote is not damaged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import Field

from statefile import (
    Action,
    Container,
    CorruptStateError,
    ExitStatus,
    FullID,
    InvalidTransitionError,
    ProcessRef,
    Sandbox,
    StateDir,
    StateFile,
    StateFileError,
    Status,
    UnsupportedVersionError,
)
from statefile._container_state import SCHEMA_VERSION, Pending
from statefile._process import PID_MAX
from statefile._record import Revisioned
from tests.harness import names
from tests.test_lifecycle import VERBS, Script, as_json, script
from tests.test_runsc_container import values

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["script"]  # a fixture: pytest finds it by name

GOLDEN = Path(__file__).parent / "data" / "golden"
RELEASES = sorted((path.name for path in GOLDEN.iterdir()), key=lambda name: [int(part) for part in name.split(".")])
NEWEST = RELEASES[-1]
PAGE = Path(__file__).parents[1] / "docs" / "on-disk.md"
SEPARATELY_TYPED = {"plain", "job"}


class Job(Revisioned):
    """The model of the golden file `job`."""

    attempts: int
    last_error: str | None = None
    steps: list[str] = Field(default_factory=list)


def golden_files(version: str = "*") -> list[Path]:
    """What that release wrote, or all: a release that writes another format than the one before has a directory."""
    return sorted(GOLDEN.glob(f"{version}/*.state"))


def name_of(path: Path) -> str:
    """As a test's name."""
    return f"{path.parent.name}-{path.stem.partition('_')[0]}"


def id_of(path: Path) -> FullID:
    """The container that the file's name tells."""
    container_id, _, sandbox_id = path.stem.partition("_sandbox:")
    return FullID(sandbox_id, container_id)


def write(root: Path, record: dict[str, Any], name: str = "c") -> Path:
    """A state file as another program would write it."""
    path = root / f"{name}_sandbox:{name}.state"
    path.write_text(json.dumps({"id": name} | record, ensure_ascii=False))
    return path


def read(path: Path) -> dict[str, Any]:
    """What it says, every integer exact."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def attempt(do: Callable[[], object]) -> StateFileError | None:
    """The named error with which that ends, if it does."""
    try:
        do()
    except StateFileError as error:
        return error
    return None


# -- golden files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden_files(), ids=name_of)
@pytest.mark.parametrize("type_", [dict, Container], ids=["dict", "model"])
def test_golden_file_keeps_every_value(root: Path, path: Path, type_: Any) -> None:
    """What a release wrote is loaded by this one, and saved with every value and every digit; only the revision grows."""
    name = path.stem.partition("_")[0]
    if type_ is Container and name in SEPARATELY_TYPED:
        type_ = Job if name == "job" else dict
    shutil.copyfile(path, root / path.name)
    with StateFile(root_dir=root, id=id_of(path)).transaction(type_):
        pass
    before, after = read(path), read(root / path.name)
    if type_ is not dict:
        before["revision"] += 1
    assert values(before).items() <= values(after).items()


@pytest.mark.parametrize("path", golden_files(NEWEST), ids=name_of)
def test_golden_file_is_written_to_the_byte(root: Path, path: Path) -> None:
    """What the newest golden files show is what is written now, byte for byte but for the revision's digits."""
    name = path.stem.partition("_")[0]
    type_: Any = {"job": Job, "plain": dict}.get(name, Container)
    shutil.copyfile(path, root / path.name)
    with StateFile(root_dir=root, id=id_of(path)).transaction(type_):
        pass
    revision = re.compile(rb'^\{"revision":\d+,')
    assert revision.sub(b"{", (root / path.name).read_bytes()) == revision.sub(b"{", path.read_bytes())


def test_golden_files_show_every_status_and_every_key() -> None:
    """There is a golden file of the newest format in each status, and among them each key has been more than absent."""
    records = [read(path) for path in golden_files(NEWEST)]
    containers = [record for record in records if "status" in record]
    assert {record["status"] for record in containers} == set(Status)
    for key in whole_record():
        assert any(record[key] not in (None, "", {}) for record in containers), key


def test_golden_files_are_listed_and_shown(root: Path) -> None:
    """A directory of golden files lists whole, and each container in it can be shown."""
    for path in golden_files():
        shutil.copyfile(path, root / path.name)
    assert StateDir(root).ids() == sorted(map(id_of, golden_files()))
    for full_id, loaded in StateDir(root).load_all(Container):
        if full_id.container_id not in SEPARATELY_TYPED:
            assert isinstance(loaded, Container)
            assert Container.load(root, full_id).state().id == full_id.container_id


# -- older files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in golden_files() if "schemaVersion" in read(path)], ids=name_of)
def test_record_of_before_the_versions_loads(root: Path, path: Path) -> None:
    """Without `schemaVersion` and `revision` a record is of version 1, was never saved, and gets both with the next save."""
    record = read(path)
    for key in ("schemaVersion", "revision"):
        del record[key]
    target = root / path.name
    target.write_text(json.dumps(record))
    with StateFile(root_dir=root, id=id_of(path)).transaction(Container) as loaded:
        assert (loaded.schema_version, loaded.revision) == (1, 0)
    assert values(record | {"schemaVersion": 1, "revision": 1}).items() <= values(read(target)).items()


# -- newer files ---------------------------------------------------------------------------------------------------------

STATUSES = [*Status, "hibernated"]
NEW = {"x-new": {"deep": [1, None, 2**64 - 1, "schön"]}}


def newer(script: Script, status: str, **more: Any) -> dict[str, Any]:
    """A record with keys of a later version in every object that it has; of a process that lives, or has ended."""
    init = script.child()
    if status == Status.STOPPED:
        script.end(init)
    return {
        "status": status,
        "init": as_json(init) | NEW,
        "helpers": {"gofer": {"pid": PID_MAX, "startTicks": 1, "bootId": "earlier"} | NEW},
        "sandbox": {"id": "c", "pid": init.pid, "startTime": "2024-01-02T03:04:05.123456789Z"} | NEW,
        "exitStatus": {"code": 5} | NEW if status == Status.STOPPED else None,
        "pausedFrom": "running" if status == Status.PAUSED else None,
        "saver": {"rootDir": "/elsewhere", "id": {"sandboxId": "c", "containerId": "c"} | NEW} | NEW,
        "spec": {"process": {"args": ["true"]} | NEW} | NEW,
        **NEW,
        **more,
    }


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in {"destroy", "delete"}])
@pytest.mark.parametrize("status", STATUSES, ids=str)
def test_newer_schema_is_never_written(root: Path, script: Script, status: str, verb: str) -> None:
    """A record of a newer version stays byte for byte, whatever verb is tried in whatever status, and the error names both."""
    path = write(root, newer(script, status, schemaVersion=SCHEMA_VERSION + 1))
    before = (path.read_bytes(), path.stat().st_ino)
    c = Container.load(root, "c", runtime=script)
    error = attempt(lambda: VERBS[verb](c))
    if isinstance(error, UnsupportedVersionError):
        assert (error.path, error.version, error.supported) == (str(path), SCHEMA_VERSION + 1, SCHEMA_VERSION)
        assert str(path) in str(error)
    elif error is None:
        assert verb in {"signal", "signal all", "wait", "events", "processes", "execute"}, "it was changed"
    else:
        assert isinstance(error, InvalidTransitionError) or verb == "wait", error
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert set(script.asked) <= {"signal", "signal all", "wait", "events", "processes", "execute", "probe"}
    assert StateDir(root).ids() == [FullID("c", "c")]


@pytest.mark.parametrize("pending", [None, "pause", "hibernate"])
@pytest.mark.parametrize("status", STATUSES, ids=str)
def test_newer_schema_can_be_shown_and_destroyed(root: Path, script: Script, status: str, pending: str | None) -> None:
    """A record of a newer version is listed, loaded and shown, and destroyed from any status and in the midst of any action."""
    begun = {"action": pending, "actor": {"pid": PID_MAX}} | NEW if pending else None
    path = write(root, newer(script, status, schemaVersion=SCHEMA_VERSION + 1, pending=begun))
    before = path.read_bytes()
    ((_, listed),) = StateDir(root).load_all(Container)
    assert isinstance(listed, Container)
    c = Container.load(root, "c", runtime=script)
    assert c.status == c.state().status == status
    assert c.state().annotations == {}
    assert path.read_bytes() == before
    c.destroy()
    assert names(root) == []
    assert script.children == {}


def test_newer_schema_stays_when_its_process_is_gone(root: Path, script: Script) -> None:
    """To note that a newer record's process is gone would be a change too: it is shown, and the file stays."""
    path = write(root, newer(script, "running", schemaVersion=SCHEMA_VERSION + 1))
    script.end()
    before = path.read_bytes()
    c = Container.load(root, "c", runtime=script)
    assert c.status is Status.STOPPED
    with pytest.raises(UnsupportedVersionError):
        c.recover()
    script.instead["wait"] = lambda *_: ExitStatus(code=3)
    assert c.wait() == ExitStatus(code=3)
    assert path.read_bytes() == before


def test_newer_schema_is_not_written_by_a_transaction(root: Path, script: Script) -> None:
    """Also a transaction of the embedder's own refuses to write a newer record."""
    path = write(root, newer(script, "running", schemaVersion=SCHEMA_VERSION + 1))
    before = path.read_bytes()
    file = StateFile(root_dir=root, id="c")
    with pytest.raises(UnsupportedVersionError), file.transaction(Container) as c:
        c.owner = "me"
    assert path.read_bytes() == before


@pytest.mark.parametrize("behind", [0, 1])
def test_newer_schema_is_not_replaced_by_an_older_object(root: Path, script: Script, behind: int) -> None:
    """An object that was loaded before a newer version rewrote the file is told of the version, not of the revision."""
    path = write(root, newer(script, "running", schemaVersion=SCHEMA_VERSION))
    c = Container.load(root, "c", runtime=script)
    record = json.loads(path.read_bytes()) | {"schemaVersion": SCHEMA_VERSION + 1, "revision": c.revision + behind}
    path.write_text(json.dumps(record))
    before = path.read_bytes()
    with c.saver.hold(), pytest.raises(UnsupportedVersionError):
        c.saver.save_locked(c)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [{"status": None, "phase": "running"}, {"status": {"is": "running"}}, {"init": "4711"}, {"helpers": []}],
    ids=["a key is gone", "a key has another type", "a process is a string", "helpers are a list"],
)
def test_newer_schema_with_other_keys_is_no_corrupt_file(root: Path, script: Script, change: dict[str, Any]) -> None:
    """A newer record that this version cannot read is said to be newer, is listed, is not changed, and can be removed."""
    record = json.loads(write(root, newer(script, "running", schemaVersion=SCHEMA_VERSION + 1)).read_bytes()) | change
    path = write(root, {key: value for key, value in record.items() if value is not None})
    before = path.read_bytes()
    with pytest.raises(UnsupportedVersionError) as caught:
        Container.load(root, "c", runtime=script)
    assert (caught.value.path, caught.value.version) == (str(path), SCHEMA_VERSION + 1)
    ((full_id, listed),) = StateDir(root).load_all(Container)
    assert (full_id, type(listed)) == (FullID("c", "c"), UnsupportedVersionError)
    assert StateDir(root).resolve("c") == FullID("c", "c")
    with pytest.raises(UnsupportedVersionError), StateFile(root_dir=root, id="c").transaction(Container):
        pass
    assert path.read_bytes() == before
    Container.remove(root, "c", runtime=script)
    assert names(root) == []
    script.end()


# Which actions lead through a save, from which status.
SAVING = [
    ("created", "start"),
    ("created", "restore"),
    ("created", "pause"),
    ("created", "checkpoint"),
    ("created", "update"),
    ("running", "pause"),
    ("running", "checkpoint"),
    ("running", "update"),
    ("paused", "resume"),
    ("paused", "update"),
    ("running", "wait"),
    ("running", "recover"),
]


@pytest.mark.parametrize(("status", "verb"), SAVING, ids=str)
def test_unknown_keys_outlive_every_save(root: Path, script: Script, status: str, verb: str) -> None:
    """Every verb that saves keeps the keys of a later version, in every object of the record, to the last bit."""
    before = newer(script, status)
    path = write(root, before)
    before = read(path)
    c = Container.load(root, "c", runtime=script)
    if verb in {"wait", "recover"}:
        script.end()
        script.instead["wait"] = lambda *_: ExitStatus(code=3)
    c.recover() if verb == "recover" else VERBS[verb](c)
    after = read(path)
    assert after["revision"] >= 1, "nothing was saved"
    ours = {"status", "pausedFrom", "exitStatus", "pending", "revision", "schemaVersion"}
    kept = values({key: value for key, value in before.items() if key not in ours})
    assert kept.items() <= values(after).items()
    for key in ("init", "sandbox", "saver", "spec"):
        assert after[key]["x-new"] == NEW["x-new"]
    assert after["helpers"]["gofer"]["x-new"] == after["saver"]["id"]["x-new"] == after["x-new"] == NEW["x-new"]


def test_unknown_words_are_kept(root: Path, script: Script) -> None:
    """A status that a later version paused from is come back to, and a status that it wrote is not mended away."""
    path = write(root, newer(script, "paused", pausedFrom="hibernated"))
    c = Container.load(root, "c", runtime=script)
    c.update({})
    assert read(path)["pausedFrom"] == "hibernated"
    c.resume()
    assert read(path)["status"] == "hibernated"
    before = path.read_bytes()
    assert c.recover() == "hibernated"
    with pytest.raises(InvalidTransitionError) as caught:
        c.pause()
    assert caught.value.allowed == (Action.DESTROY,)
    assert path.read_bytes() == before
    with c.saver.transaction(Container) as mine:
        mine.owner = "me"
    assert read(path)["status"] == "hibernated"
    c.destroy()
    assert names(root) == []


@pytest.mark.parametrize("version", [0, -1, "1", 1.5, None, True, [], 2**64])
def test_version_that_is_none_is_corrupt(root: Path, version: Any) -> None:
    """A `schemaVersion` that is no positive integer is a damaged file, not an old one."""
    path = write(root, {"status": "running", "schemaVersion": version})
    with pytest.raises(CorruptStateError) as caught:
        Container.load(root, "c")
    assert caught.value.path == str(path)
    assert "schemaVersion" in caught.value.reason or caught.value.kind == "integer out of range"


# -- the documentation ---------------------------------------------------------------------------------------------------

WHOLE = ProcessRef(pid=7, start_ticks=8, boot_id="b", pid_namespace=9)


def whole_record() -> dict[str, Any]:
    """A record in which nothing is absent."""
    return {
        "sandbox": Sandbox(id="c", pid=7, original_oom_score_adj=1),
        "init": WHOLE,
        "helpers": {"gofer": WHOLE},
        "exitStatus": ExitStatus(code=1),
        "pending": Pending(action=Action.PAUSE, actor=WHOLE, since="2024-01-02T03:04:05Z"),
        "pausedFrom": Status.RUNNING,
        "id": "c",
        "status": Status.PAUSED,
    }


def written(root: Path) -> dict[str, Any]:
    """What the code writes of such a record."""
    file = StateFile(root_dir=root, id="c")
    with file.hold_for_new():
        file.save_locked(Container(saver=file, **whole_record()))
    return read(file.state_path)


def documented() -> dict[str, dict[str, tuple[str, str]]]:
    """The tables of keys in the page, by heading: of each key its version, and what absent means."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    heading, in_table = "", False
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").strip("`")
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells[:4] == ["key", "type", "since", "absent"]:
            in_table = True
            found[heading] = {}
        elif in_table and len(cells) == 5 and not cells[0].startswith("---"):
            found[heading][cells[0].strip("`")] = (cells[2], cells[3])
        elif not cells:
            in_table = False
    return found


PLACES: dict[str, list[tuple[str, ...]]] = {
    "The record": [()],
    "A process": [("init",), ("helpers", "gofer"), ("pending", "actor")],
    "sandbox": [("sandbox",)],
    "exitStatus": [("exitStatus",)],
    "pending": [("pending",)],
    "saver": [("saver",)],
}
"""Which objects of a record each table describes."""


def at(record: Any, place: tuple[str, ...]) -> dict[str, Any]:
    """The object at that place."""
    for key in place:
        record = record[key]
    found: dict[str, Any] = record
    return found


def test_page_lists_the_keys_that_are_written(root: Path) -> None:
    """The tables of `docs/on-disk.md` have the keys that the code writes, no more and no fewer."""
    page = documented()
    record = written(root)
    assert set(page) == set(PLACES)
    for heading, places in PLACES.items():
        for place in places:
            assert set(page[heading]) == set(at(record, place)), place


def rows() -> list[Any]:
    """Each key with the place of its object, its version, and what the page says that absent means."""
    return [
        pytest.param(place, key, *row, id=".".join((*place, key)))
        for heading, places in PLACES.items()
        if heading != "saver"  # which is not read in a file that has a place
        for place in places
        for key, row in documented()[heading].items()
    ]


@pytest.mark.parametrize(("place", "key", "since", "absent"), rows())
def test_page_says_what_an_absent_key_means(root: Path, place: tuple[str, ...], key: str, since: str, absent: str) -> None:
    """A key is absent for what the page says, or refused by name; `null` is the same where the page has null or an object."""
    assert since in RELEASES
    record = written(root)
    del at(record, place)[key]
    found = load(root, record)
    if absent == "refused":
        assert isinstance(found, CorruptStateError)
        assert f"'{'.'.join((*place, key))}'" in found.reason
        return
    assert isinstance(found, Container)
    if key != "saver":
        shown = at(json.loads(found.model_dump_json()), place)[key]
        assert shown == json.loads(absent.strip("`"))
    if absent in {"`null`", "`{}`"}:
        at(record, place)[key] = None
        assert load(root, record) == found
    elif key != "saver":
        at(record, place)[key] = None
        null = load(root, record)
        assert isinstance(null, CorruptStateError)
        assert f"'{'.'.join((*place, key))}'" in null.reason


@pytest.mark.parametrize("saver", [None, 7, {}, {"rootDir": None}, {"id": {"sandboxId": "a/b"}}], ids=str)
def test_saver_is_not_read_where_the_file_has_a_place(root: Path, saver: Any) -> None:
    """Whatever stands in `saver`, the record is found under the reader's path; an object goes back as it was."""
    path = write(root, {"status": "stopped", "saver": saver})
    c = Container.load(root, "c")
    assert c.saver == StateFile(root_dir=root, id="c")
    with c.saver.transaction(Container):
        pass
    here = {"rootDir": str(root), "id": {"sandboxId": "c", "containerId": "c"}}
    assert read(path)["saver"] == (saver or here)


def load(root: Path, record: dict[str, Any]) -> Container | StateFileError:
    """How such a record is loaded."""
    (root / "c_sandbox:c.state").write_text(json.dumps(record))
    try:
        return Container.load(root, "c", skip_check=True)
    except StateFileError as error:
        return error
