"""Files that a crash, a bad disk or a stranger left in the place of a state: each is named, left as it is, and in nobody's way.

One table of contents, times everything that can be asked of a state file; then a real record, damaged in every place.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from statefile import (
    AlreadyExistsError,
    Container,
    CorruptStateError,
    Created,
    FullID,
    NotFoundError,
    ProcessRef,
    ProcessRuntime,
    StateDir,
    StateFile,
    StateFileError,
    StateIOError,
    UnsafePathError,
)
from statefile._codec import MAX_BYTES
from statefile._process import PID_MAX
from tests.harness import names, plain
from tests.test_lifecycle import Script
from tests.test_runsc_container import values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Spawn

GOLDEN = Path(__file__).parent / "data" / "golden" / "0.1"
GOOD = ("a", "z")
KINDS = {
    "empty", "nul-filled", "truncated", "not utf-8", "not json", "too large", "too deep", "not an object",
    "integer out of range", "invalid",
}  # fmt: skip


def golden(name: str) -> bytes:
    """A record that a version really wrote."""
    return next(GOLDEN.glob(f"{name}_*")).read_bytes()


RECORD = golden("pending")  # the one with the most keys
PROCESS = b'{"pid":7,"startTicks":8}'

# What it is called by whoever reads it as a `dict`, and as a `Container`; None: it can be read.
HOSTILE: dict[str, tuple[bytes, str | None, str | None]] = {
    "empty": (b"", "empty", "empty"),
    "blank": (b"\n \r\n\t", "empty", "empty"),
    "22 NULs": (b"\0" * 22, "nul-filled", "nul-filled"),
    "a record that ends in NULs": (RECORD + b"\0" * 512, "nul-filled", "nul-filled"),
    "a record whose second half is NULs": (RECORD[:500] + b"\0" * 500, "nul-filled", "nul-filled"),
    "a BOM": (b"\xef\xbb\xbf" + RECORD, "not json", "not json"),
    "UTF-16": (RECORD.decode().encode("utf-16"), "not utf-8", "not utf-8"),
    "UTF-32": (RECORD.decode().encode("utf-32-be"), "not utf-8", "not utf-8"),
    "Latin-1": (RECORD.replace("ö".encode(), b"\xf6"), "not utf-8", "not utf-8"),
    "half a record": (RECORD[: len(RECORD) // 2], "truncated", "truncated"),
    "a record and the end of a longer one": (RECORD + RECORD[-20:], "not json", "not json"),
    "two records": (RECORD * 2, "not json", "not json"),
    "16 MiB of junk": (os.urandom(1024).replace(b"\0", b"\1").replace(b"{", b"\xff") * 2**14, "not utf-8", "not utf-8"),
    "16 MiB of letters": (b"junk" * 2**22, "not json", "not json"),
    "a shell script": (b"#!/bin/sh\nrm -rf /\n", "not json", "not json"),
    "null": (b"null", "not an object", "not an object"),
    "an array": (b"[]", "not an object", "not an object"),
    "a string": (b'"x"', "not an object", "not an object"),
    "a number": (b"-1", "not an object", "not an object"),
    "true": (b"true", "not an object", "not an object"),
    "100,000 levels": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too deep", "too deep"),
    "100,000 arrays": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too deep", "too deep"),
    "100,000 arrays without an end": (b"[" * 100_000, "too deep", "too deep"),
    "201 levels": (b'{"a":' * 201 + b"1" + b"}" * 201, "too deep", "too deep"),
    "2^64": (b'{"n":18446744073709551616}', "integer out of range", "integer out of range"),
    "a million digits": (b'{"n":' + b"9" * 1_000_000 + b"}", "not json", "not json"),
    "a number beyond a double": (b'{"n":1e999}', "not json", "not json"),
    "NaN": (b'{"n":NaN}', "not json", "not json"),
    "a lone surrogate": (b'{"n":"\\udce9"}', "not json", "not json"),
    "a lone surrogate in a key": (b'{"\\ud800":1}', "not json", "not json"),
    "a NUL in a string": (b'{"n":"\\u0000"}', None, "invalid"),
    "nothing in it": (b"{}", None, "invalid"),
    "duplicate keys": (b'{"status":"running","status":"stopped","id":"bad","id":"a/b"}', None, "invalid"),
    "another container's ID": (b'{"status":"stopped","id":"../a"}', None, "invalid"),
    "a key that is none of JSON's names": (b'{"__proto__":{},"__class__":"x","model_config":{}}', None, "invalid"),
    "names of our own": (b'{"status":"stopped","id":"bad","_runtime":7,"model_fields":1,"__dict__":{}}', None, None),
}


@pytest.fixture
def hostile(root: Path) -> Path:
    """Where the hostile file will be, between two good ones."""
    for name in GOOD:
        file = StateFile(root_dir=root, id=name)
        with file.hold_for_new():
            file.save_locked({"id": name, "status": "stopped"})
    return root / "bad_sandbox:bad.state"


def told(do: Callable[[], object]) -> StateFileError | None:
    """The named error with which that ends, if it does; another error is a fault of ours."""
    try:
        do()
    except StateFileError as error:
        return error
    return None


def check_named(error: StateFileError | None, path: Path, kind: str | None) -> None:
    """The error has path and kind, and says what and what to do, in a line that can be read."""
    if kind is None:
        assert error is None
        return
    assert isinstance(error, CorruptStateError)
    assert (error.path, error.kind) == (str(path), kind)
    assert error.reason
    message = str(error)
    for part in (str(path), kind, error.reason, "keep a copy", "Container.remove", "destroy"):
        assert part in message
    assert len(message) < 1000
    assert message.isprintable()


ROWS = pytest.mark.parametrize(("data", "as_dict", "as_container"), HOSTILE.values(), ids=HOSTILE.keys())


@ROWS
def test_hostile_content_is_named_and_left_as_it_is(
    hostile: Path, data: bytes, as_dict: str | None, as_container: str | None
) -> None:
    """Whoever reads a hostile file is told path, kind and what to do; it stays byte for byte, and hides no other."""
    root = hostile.parent
    hostile.write_bytes(data)
    before = hostile.stat()
    directory, file = StateDir(root), StateFile(root_dir=root, id="bad")

    check_named(told(lambda: file.load(dict)), hostile, as_dict)
    check_named(told(lambda: file.load(Container)), hostile, as_container)
    check_named(told(lambda: Container.load(root, "b", runtime=Script())), hostile, as_container)
    for type_, kind in ((dict, as_dict), (Container, as_container)):
        listed = {full_id.container_id: found for full_id, found in directory.load_all(cast("type[object]", type_))}
        assert list(listed) == ["a", "bad", "z"]
        check_named(found if isinstance(found := listed["bad"], StateFileError) else None, hostile, kind)
        assert not any(isinstance(listed[name], StateFileError) for name in GOOD)
    assert [full_id.container_id for full_id in directory.ids()] == ["a", "bad", "z"]
    assert directory.resolve("b") == directory.resolve("bad") == FullID("bad", "bad")
    assert file.exists()
    assert file.stat().st_size == len(data)
    with file.hold(timeout=5):
        check_named(told(lambda: file.load(dict)), hostile, as_dict)
    assert isinstance(told(file.lock_for_new), AlreadyExistsError)
    assert isinstance(told(lambda: Container.new(root, "bad", runtime=Script())), AlreadyExistsError)
    assert directory.sweep() == []

    after = hostile.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    assert hostile.read_bytes() == data
    assert not file.locked
    assert file.holder() is None


@ROWS
@pytest.mark.parametrize("way", ["destroy", "remove", "force"])
def test_hostile_content_does_not_hold_its_id(
    hostile: Path, way: str, data: bytes, as_dict: str | None, as_container: str | None
) -> None:
    """Whatever is in it, `destroy` and `Container.remove` free the ID, a forced one too, and a new container can have it."""
    assert as_dict is None or as_dict in KINDS
    root = hostile.parent
    hostile.write_bytes(data)
    if way == "destroy":
        StateFile(root_dir=root, id="bad").destroy()
    elif way == "remove":
        Container.remove(root, "bad", runtime=Script())
    else:
        hostile.write_bytes(b'{"id":"bad","status":"stopped"}')
        known = Container.load(root, "bad", runtime=Script())
        hostile.write_bytes(data)
        if as_container is not None:
            check_named(told(known.destroy), hostile, as_container)
            assert hostile.read_bytes() == data
        known.destroy(force=True)
    assert names(root) == [f"{name}_sandbox:{name}.{suffix}" for name in GOOD for suffix in ("lock", "state")]
    runtime = Script()
    runtime.instead["create"] = lambda _: Created(init=ProcessRef(pid=PID_MAX, start_ticks=1))
    assert Container.new(root, "bad", runtime=runtime).status == "created"


def test_remove_with_a_real_runtime_needs_no_readable_file(hostile: Path) -> None:
    """A runtime that finds processes by itself removes a container whose file is NULs, also where there never was one."""
    root = hostile.parent
    hostile.write_bytes(b"\0" * 22)
    Container.remove(root, "bad", runtime=ProcessRuntime())
    Container.remove(root, "never", runtime=ProcessRuntime())
    assert [full_id.container_id for full_id in StateDir(root).ids()] == list(GOOD)


# -- a record, damaged in every place ------------------------------------------------------------------------------------


def test_record_cut_anywhere_is_truncated(hostile: Path) -> None:
    """A record that ends at any of its bytes is called empty or truncated, and is never loaded."""
    file = StateFile(root_dir=hostile.parent, id="bad")
    for end in range(len(RECORD)):
        hostile.write_bytes(RECORD[:end])
        for type_ in (dict, Container):
            check_named(told(lambda: file.load(type_)), hostile, "truncated" if end else "empty")  # noqa: B023  # called at once


def loaded(file: StateFile) -> Container | CorruptStateError:
    """The record, or how it is called."""
    try:
        return file.load(Container)
    except CorruptStateError as error:
        return error


def flipped() -> Iterator[bytes]:
    """The record with each of its bits wrong, one at a time."""
    for index in range(len(RECORD)):
        for bit in range(8):
            yield RECORD[:index] + bytes([RECORD[index] ^ 1 << bit]) + RECORD[index + 1 :]


def test_record_with_a_flipped_bit_is_loaded_or_named(hostile: Path) -> None:
    """With any one bit wrong a record is named corrupt, or it is another record, which can be shown; the file stays."""
    file = StateFile(root_dir=hostile.parent, id="bad")
    refused = 0
    for data in flipped():
        hostile.write_bytes(data)
        container = loaded(file)
        if isinstance(container, CorruptStateError):
            assert container.kind in KINDS
            check_named(container, hostile, container.kind)
            refused += 1
        else:
            assert repr(container)
            assert container.state().status
        assert hostile.read_bytes() == data
    assert 2000 < refused < len(RECORD) * 8


PLACES: dict[str, tuple[str, ...]] = {
    ".".join(place): place
    for place in [
        *[(key,) for key in json.loads(RECORD)],
        *[("sandbox", key) for key in ("id", "pid", "originalOomScoreAdj")],
        *[(*way, key) for way in (("init",), ("helpers", "gofer"), ("pending", "actor")) for key in json.loads(RECORD)["init"]],
        ("helpers", "gofer"),
        *[("pending", key) for key in ("action", "actor", "since")],
        *[("exitStatus", key) for key in ("code", "signal")],
        ("saver", "rootDir"),
        *[("saver", "id"), ("saver", "id", "sandboxId")],
        *[("spec", "annotations"), ("spec", "process"), ("spec", "ociVersion")],
    ]
}
"""Every key of a record, and some of a spec."""

ABSENT = object()
WRONG: list[Any] = [
    *(
        ABSENT,
        None,
        True,
        False,
        0,
        1,
        -1,
        255,
        256,
        2**22 + 1,
        2**63,
        2**64 - 1,
        -(2**63),
        0.5,
        1e308,
        "",
        "x",
        "a/b",
        "..",
        "1",
    ),
    *(
        "x" * 101,
        "\0",
        "é",
        "-" * 70_000,
        [],
        [1],
        {},
        {"x": 1},
        {"": {}},
        [[]],
        [None],
        {"id": None},
        {"pid": "7"},
        {"pid": 0},
    ),
    *("2024-01-02T03:04:05", "2024-01-02T03:04:05.123456789Z", "0001-01-01T00:00:00Z", "2016-12-31T23:59:60Z", "9999"),
]


@pytest.mark.parametrize("key", PLACES)
def test_wrong_value_in_any_key_is_named_or_kept(hostile: Path, key: str) -> None:
    """Whatever stands in a key, or nothing: the error names the key, or the record can be shown, saved, and says the same."""
    place = PLACES[key]
    file = StateFile(root_dir=hostile.parent, id="bad")
    for wrong in WRONG:
        record = json.loads(RECORD)
        inner = record
        for step in place[:-1]:
            if inner[step] is None:
                inner[step] = {}
            inner = inner[step]
        inner.pop(place[-1], None)
        if wrong is not ABSENT:
            inner[place[-1]] = wrong
        hostile.write_text(json.dumps(record))
        before = hostile.read_bytes()
        container = loaded(file)
        if isinstance(container, CorruptStateError):
            check_named(container, hostile, "invalid")
            assert f"'{key}" in container.reason or f"'{place[0]}" in container.reason, (wrong, container.reason)
            assert hostile.read_bytes() == before
            continue
        with contextlib.suppress(NotFoundError):
            assert container.state().pid >= 0, wrong
        assert repr(container)
        if container.schema_version != 1 or container.revision >= 2**64 - 1:
            continue
        with file.hold():
            file.save_locked(file.load(Container))
        after = json.loads(hostile.read_bytes())
        kept = {at: value for at, value in values(record).items() if not at.startswith("/revision")}
        told_since = values(after)
        lost = {at for at, value in kept.items() if told_since.get(at) != value}
        # A null may have become the empty object that it stands for, an empty object may have got its keys, and a `saver`
        # that says nothing is written anew.
        nothing = {(type(None), None), (dict, 0)}
        assert all(kept[at] in nothing for at in lost - {"/saver"}), (wrong, lost)
        assert not wrong or "/saver" not in lost


def test_largest_revision_is_no_dead_end(hostile: Path) -> None:
    """A record whose revision cannot grow is not saved, with a named error, and can be destroyed."""
    hostile.write_text(json.dumps({"id": "bad", "status": "stopped", "revision": 2**64 - 1}))
    before = hostile.read_bytes()
    file = StateFile(root_dir=hostile.parent, id="bad")
    with pytest.raises(StateFileError), file.transaction(Container):
        pass
    assert hostile.read_bytes() == before
    Container.load(hostile.parent, "bad", runtime=Script()).destroy()
    assert not file.exists()


@pytest.mark.parametrize(
    "created",
    ["2024-01-02T03:04:05.123456789Z", "0001-01-01T00:00:00Z", "2024-01-02T03:04:05+02:00", "2016-12-31T23:59:60Z", ""],
)
def test_time_stamps_are_kept_to_the_digit(hostile: Path, created: str) -> None:
    """Nanoseconds, Go's zero time, a zone, a leap second and no time at all are loaded, and saved as they were."""
    hostile.write_text(json.dumps({"id": "bad", "status": "stopped", "createdAt": created}))
    with StateFile(root_dir=hostile.parent, id="bad").transaction(Container) as container:
        assert container.created_at == created
    assert json.loads(hostile.read_bytes())["createdAt"] == created


@pytest.mark.parametrize(
    "created", ["2024-01-02T03:04:05", "yesterday", "2024-01-02", "1704164645", "\uff12\uff10\uff12\uff14-01-02T03:04:05Z"]
)
def test_time_without_a_zone_is_none(hostile: Path, created: str) -> None:
    """A time that could mean several moments is refused by its key."""
    hostile.write_text(json.dumps({"id": "bad", "status": "stopped", "createdAt": created}))
    error = told(lambda: Container.load(hostile.parent, "bad"))
    check_named(error, hostile, "invalid")
    assert "'createdAt'" in str(error)


# -- memory --------------------------------------------------------------------------------------------------------------


def peak_of_loading(root: Path, type_: type[object]) -> tuple[str, int]:
    """How the file ends the attempt to load it, and by how many bytes that raised this process's peak."""
    file = StateFile(root_dir=root, id="bad")
    Container.load(root, "a", skip_check=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        file.load(type_)
        kind = "loaded"
    except CorruptStateError as error:
        kind = error.kind
    return kind, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


@pytest.mark.parametrize("type_", [dict, Container], ids=["dict", "Container"])
@pytest.mark.parametrize("size", [100 * 2**20, 2**40])
def test_file_beyond_the_limit_costs_bounded_memory(hostile: Path, spawn: Spawn, size: int, type_: type[object]) -> None:
    """Of a file of 100 MiB or a TiB no more is read than the limit, twice for the second look, never both at once."""
    hostile.touch()
    os.truncate(hostile, size)
    kind, peak = spawn(fresh=True).call(peak_of_loading, hostile.parent, type_)
    assert kind == "too large"
    assert peak < 2.5 * MAX_BYTES


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"x" * 16 * 2**20, "not json"),
        (b"\0" * 16 * 2**20, "nul-filled"),
        (b'{"a":"' + b"x" * 16 * 2**20, "truncated"),
        (b"\xff" * 16 * 2**20, "not utf-8"),
        (b"[" * 16 * 2**20, "too deep"),
        (b'{"a":"' + b"x" * 16 * 2**20 + b'"}', "loaded"),
    ],
    ids=["junk", "NULs", "half", "no UTF-8", "brackets", "a long string"],
)
def test_large_file_costs_a_few_times_its_size(hostile: Path, spawn: Spawn, data: bytes, kind: str) -> None:
    """Junk of 16 MiB is named within a few times its size of memory."""
    hostile.write_bytes(data)
    found, peak = spawn(fresh=True).call(peak_of_loading, hostile.parent, dict)
    assert found == kind
    assert peak < 8 * len(data)


# -- what is no file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/mem", "/proc/kmsg", "../outside", "bad_sandbox:bad.state"])
def test_link_is_followed_by_nobody(hostile: Path, target: str) -> None:
    """A link in a state's place, into a device, out of the root or to itself, is named by every call, and followed by none."""
    root = hostile.parent
    outside = root.parent / "outside"
    outside.write_bytes(RECORD)
    hostile.symlink_to(target)
    file = StateFile(root_dir=root, id="bad")
    for do in (
        lambda: file.load(dict),
        lambda: Container.load(root, "bad", runtime=Script()),
        file.lock,
        file.lock_for_new,
        file.stat,
        lambda: StateDir(root).resolve("bad"),
    ):
        error = told(do)
        assert isinstance(error, UnsafePathError), do
        assert (error.path, error.found) == (str(hostile), "a symbolic link")
    listed = {full_id.container_id: found for full_id, found in StateDir(root).load_all(dict)}
    assert isinstance(listed.pop("bad"), UnsafePathError)
    assert sorted(listed) == list(GOOD)
    assert os.readlink(hostile) == target
    file.destroy()
    assert not os.path.lexists(hostile)
    assert outside.read_bytes() == RECORD


def test_file_without_a_right_is_no_corrupt_one(hostile: Path, spawn: Spawn) -> None:
    """What may not be read is told with its errno by every call that reads, not taken for absent, empty or corrupt."""
    hostile.write_bytes(RECORD)
    hostile.chmod(0)
    worker = spawn(fresh=True)
    assert worker.call(kinds_for_nobody, hostile.parent) == ["StateIOError EACCES"] * 3 + ["loaded"]
    assert hostile.stat().st_size == len(RECORD)


def kinds_for_nobody(root: Path) -> list[str]:
    """How each call ends for a user without rights, the last on a good file."""
    import errno

    from tests.harness import become_nobody

    for name in GOOD:
        (root / f"{name}_sandbox:{name}.state").chmod(0o444)
    root.chmod(0o755)
    become_nobody(__name__)
    found = []
    listed = {full_id.container_id: found for full_id, found in StateDir(root).load_all(dict)}
    for error in (
        told(lambda: StateFile(root_dir=root, id="bad").load(dict)),
        told(lambda: Container.load(root, "bad")),
        listed["bad"],
        listed["a"],
    ):
        if isinstance(error, StateIOError):
            found.append(f"StateIOError {errno.errorcode[error.errno or 0]}")
        else:
            found.append("loaded" if isinstance(error, dict) else plain(error))
    return found


@pytest.mark.parametrize("name", [".._sandbox:x", "..._sandbox:x", ".x_sandbox:.", ".x_sandbox:.."])
def test_names_of_directories_are_nobodys_temporary_files(hostile: Path, name: str) -> None:
    """A file that would be a temporary one of a container called `.` or `..` is nobody's: a sweep passes it over."""
    stranger = hostile.with_name(f"{name}.state.0123456789ab.tmp")
    stranger.touch()
    litter = hostile.with_name(".a_sandbox:a.state.0123456789ab.tmp")
    litter.touch()
    assert StateDir(hostile.parent).sweep() == [litter]
    assert stranger.exists()
