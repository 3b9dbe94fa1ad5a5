"""`StateDir`: lists, resolves and loads whatever stands under a root, and sweeps up after the dead, never the living."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from statefile import (
    AlreadyExistsError,
    AmbiguousIDError,
    CorruptStateError,
    Durability,
    FullID,
    InvalidIDError,
    NotFoundError,
    StateDir,
    StateFile,
    StateFileError,
    StateIOError,
    UnsafePathError,
)
from tests.harness import STRACE, Worker, hear, lock_descriptors, lock_queue, names, needs_strace, tell, until_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness import Spawn


class Model(BaseModel):
    """A state of an embedder's."""

    model_config = ConfigDict(extra="allow")
    n: int


def make(root: Path, *ids: FullID | str) -> None:
    """Make containers whose `n` counts from 0."""
    for n, full_id in enumerate(ids):
        file = StateFile(root_dir=root, id=full_id, durability=Durability.PROCESS)
        with file.hold_for_new():
            file.save_locked({"n": n})


def own(name: str) -> FullID:
    """A container that is its own sandbox."""
    return FullID(name, name)


POD = (FullID("pod", "pod"), FullID("pod", "app"), FullID("pod", "side"), own("solo"))

# What else stands in a root: nothing of it is a container.
STRANGERS = [
    *("README", ".hidden", "c1.state", "c1", "_sandbox:x.state", "x_sandbox:.state", "a b_sandbox:c.state"),
    *("x_sandbox:y.state.bak", ".x_sandbox:y.state.0123456789ab.tmp", "x_sandbox:y.lock", "x_sandbox:y:z.state"),
    *("\udcff_sandbox:x.state", "é_sandbox:é.state", "x_sandbox:y.STATE", "*_sandbox:*.state"),
]


# -- ids, sandboxes ----------------------------------------------------------------------------------------------------


def test_ids_are_those_with_a_state_sorted(root: Path) -> None:
    """Each state file is one `FullID`, in the order of sandbox and container; whatever else is there is passed over."""
    make(root, *POD)
    for name in STRANGERS:
        (root / name).touch()
    (root / "folder").mkdir()
    assert StateDir(root).ids() == [FullID("pod", "app"), FullID("pod", "pod"), FullID("pod", "side"), own("solo")]
    assert StateDir(root).sandboxes() == ["pod", "solo"]


NAMES = st.text("ab-.", min_size=1, max_size=4).filter(lambda name: name not in {".", ".."})


@given(st.sets(st.builds(FullID, NAMES, NAMES), max_size=12))
def test_any_set_of_containers_is_listed_whole(full_ids: set[FullID]) -> None:
    """Whatever the names, each container is listed once, in order, and with its state."""
    with temporary_root() as root:
        for full_id in full_ids:
            (root / f"{full_id.container_id}_sandbox:{full_id.sandbox_id}.state").write_text(f'{{"id":"{full_id}"}}')
        directory = StateDir(root)
        assert directory.ids() == sorted(full_ids)
        assert directory.sandboxes() == sorted({full_id.sandbox_id for full_id in full_ids})
        assert list(directory.load_all(dict)) == [(full_id, {"id": str(full_id)}) for full_id in sorted(full_ids)]


@contextlib.contextmanager
def temporary_root() -> Iterator[Path]:
    """A root for one example."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_absent_root_has_no_containers(tmp_path: Path) -> None:
    """A root that nobody has made yet is empty: that is no error, and it is not made by asking."""
    directory = StateDir(tmp_path / "absent")
    assert (directory.ids(), directory.sandboxes(), directory.sweep()) == ([], [], [])
    assert list(directory.load_all(dict)) == list(directory.load_sandbox("s", dict)) == []
    with pytest.raises(NotFoundError):
        directory.resolve("c")
    assert names(tmp_path) == []


USES: dict[str, Callable[[StateDir], object]] = {
    "ids": lambda directory: directory.ids(),
    "sandboxes": lambda directory: directory.sandboxes(),
    "resolve": lambda directory: directory.resolve("c"),
    "load_all": lambda directory: directory.load_all(dict),
    "load_sandbox": lambda directory: directory.load_sandbox("c", dict),
    "sweep": lambda directory: directory.sweep(),
}


@pytest.mark.parametrize("use", USES)
def test_root_that_is_a_file_is_no_empty_root(root: Path, use: str) -> None:
    """A file where the root belongs is an error with its path, from every call, before anything is yielded."""
    place = root / "file"
    place.touch()
    with pytest.raises((UnsafePathError, StateIOError)) as caught:
        USES[use](StateDir(place))
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENOTDIR
    assert str(place) in str(caught.value)


@pytest.mark.parametrize("use", sorted(set(USES) - {"resolve"}))
def test_root_that_is_a_link_is_refused(root: Path, use: str) -> None:
    """A link where the root belongs is not followed: somebody else decides where it leads."""
    make(root, "c")
    way = root.with_name("way")
    way.symlink_to(root)
    with pytest.raises(UnsafePathError, match="symbolic link"):
        USES[use](StateDir(way))


def refusals(root: Path) -> dict[str, str]:
    """What each call says to a user without rights."""
    said = {}
    for name, use in USES.items():
        try:
            use(StateDir(root))
            said[name] = "fine"
        except StateIOError as error:
            said[name] = errno.errorcode[error.errno or 0]
    return said


def test_root_that_may_not_be_read_is_no_empty_root(root: Path, nobody: Worker) -> None:
    """Where the directory may not be listed every call says EACCES; an exact ID needs no listing."""
    inner = root / "inner"
    make(inner, "c")
    inner.chmod(0o111)
    assert nobody.call(refusals, inner) == dict.fromkeys(USES, "EACCES") | {"resolve": "fine"}
    inner.chmod(0o000)
    assert nobody.call(refusals, inner) == dict.fromkeys(USES, "EACCES")
    inner.chmod(0o711)


def test_read_only_root_can_be_read(root: Path, nobody: Worker) -> None:
    """Where nothing may be written, listing, resolving and loading work and leave no trace; a sweep removes nothing."""
    inner = root / "inner"
    make(inner, "c", "d")
    (inner / "d_sandbox:d.state").write_bytes(b"{")
    (inner / "x_sandbox:x.lock").touch()
    for path in inner.iterdir():
        path.chmod(0o444)
    before = names(inner)
    inner.chmod(0o555)
    assert nobody.call(refusals, inner) == dict.fromkeys(USES, "fine")
    assert nobody.call(all_of, inner) == [(own("c"), {"n": 0}), (own("d"), "CorruptStateError")]
    inner.chmod(0o755)
    assert names(inner) == before


def all_of(root: Path) -> list[tuple[FullID, object]]:
    """Everything under the root, errors by name."""
    return [
        (full_id, type(state).__name__ if isinstance(state, StateFileError) else state)
        for full_id, state in StateDir(root).load_all(dict)
    ]


# -- resolve -----------------------------------------------------------------------------------------------------------


def test_exact_id_wins_over_longer_ones(root: Path) -> None:
    """An ID that is there is meant, even when others begin with it; the beginning of several is ambiguous, and names them."""
    make(root, "ab", "abc", "abd", "x")
    directory = StateDir(root)
    assert directory.resolve("ab") == own("ab")
    assert directory.resolve("abc") == own("abc")
    assert directory.resolve("x") == own("x")
    with pytest.raises(AmbiguousIDError) as caught:
        directory.resolve("a")
    assert caught.value.candidates == (own("ab"), own("abc"), own("abd"))
    assert caught.value.id == "a"
    assert all(str(full_id) in str(caught.value) for full_id in caught.value.candidates)
    directory.state_file("ab").destroy()
    with pytest.raises(AmbiguousIDError):
        directory.resolve("ab")
    directory.state_file("abc").destroy()
    assert directory.resolve("ab") == directory.resolve("a") == own("abd")


def test_container_in_a_sandbox_is_found_by_its_own_id(root: Path) -> None:
    """A container is resolved by its own ID, exact or begun, not by its sandbox's."""
    make(root, *POD)
    directory = StateDir(root)
    assert directory.resolve("app") == directory.resolve("a") == FullID("pod", "app")
    assert directory.resolve("si") == FullID("pod", "side")
    assert directory.resolve("pod") == directory.resolve("po") == FullID("pod", "pod")
    assert directory.resolve(FullID("pod", "app")) == FullID("pod", "app")


def test_id_in_two_sandboxes_is_ambiguous(root: Path) -> None:
    """When two sandboxes hold that very ID it is ambiguous, unless it is its own sandbox; the `FullID` is not."""
    make(root, FullID("s1", "app"), FullID("s2", "app"), FullID("s1", "other"), FullID("s3", "apple"))
    directory = StateDir(root)
    with pytest.raises(AmbiguousIDError) as caught:
        directory.resolve("app")
    assert caught.value.candidates == (FullID("s1", "app"), FullID("s2", "app"))
    assert directory.resolve(FullID("s2", "app")) == FullID("s2", "app")
    make(root, "app")
    assert directory.resolve("app") == own("app")


def test_unknown_id_is_not_ambiguous(root: Path) -> None:
    """What nothing is or begins with is `NotFoundError`, not `AmbiguousIDError`, and so is a `FullID` that only begins one."""
    make(root, "ab", "ac", FullID("pod", "app"))
    directory = StateDir(root)
    for partial in ("b", "abc", "A", "pod", FullID("a", "a"), FullID("pod", "ap"), FullID("app", "app")):
        with pytest.raises(NotFoundError) as caught:
            directory.resolve(partial)
        assert caught.value.id == str(partial)
        assert str(root) in caught.value.path


@pytest.mark.parametrize("partial", ["*", "a*", "?", "[ab]", "a[b]", "{a,b}", "", ".", "..", "../root/ab", "ab\n", "a/b"])
def test_glob_characters_are_invalid_not_wild(root: Path, partial: str) -> None:
    """Nothing in an ID is a pattern, also where a file of such a name lies about."""
    make(root, "ab", "ac")
    (root / "*_sandbox:*.state").touch()
    with pytest.raises(InvalidIDError):
        StateDir(root).resolve(partial)
    with pytest.raises(InvalidIDError):
        StateDir(root).load_sandbox(partial, dict)


def test_dots_and_dashes_are_no_pattern(root: Path) -> None:
    """The characters of IDs that mean something elsewhere mean themselves."""
    make(root, "a.c", "abc", "-x", "+y")
    directory = StateDir(root)
    assert directory.resolve("a.") == own("a.c")
    assert directory.resolve("-") == own("-x")
    assert directory.resolve("+") == own("+y")


@needs_strace
def test_exact_id_is_found_without_a_listing(root: Path, tmp_path: Path, spawn: Spawn) -> None:
    """To resolve an exact ID costs the same however many containers there are: the directory is not read."""
    make(root, "c1", "c10", "c11")
    log = tmp_path / "log"
    worker = spawn(*STRACE, str(log), "-y", "-e", "trace=/^getdents", quiet=True)
    assert worker.call(StateDir(root).resolve, "c1") == own("c1")
    worker.let_go()
    worker.wait()
    assert str(root) not in log.read_text()


def test_state_file_of_any_id(root: Path) -> None:
    """`state_file` is the state file of a container, there or not, with the directory's durability."""
    directory = StateDir(root, durability=Durability.PROCESS)
    file = directory.state_file(FullID("s", "c"))
    assert file == StateFile(root_dir=root, id=FullID("s", "c"))
    assert file.durability is Durability.PROCESS
    assert directory.state_file("c").id == own("c")
    assert directory.root_dir == root
    assert repr(directory) == f"StateDir('{root}')"
    assert names(root) == []


# -- load_all, load_sandbox --------------------------------------------------------------------------------------------

BAD: dict[str, tuple[bytes, str]] = {
    "arrays": (b"[" * 200_000, "too deep"),
    "empty": (b"", "empty"),
    "half": (b'{"n":1,"spec":{"process":{"args":["sle', "truncated"),
    "int": (b'{"n":18446744073709551616}', "integer out of range"),
    "latin": (b'{"n":1,"a":"\xe9"}', "not utf-8"),
    "list": (b"[]", "not an object"),
    "missing": (b'{"m":1}', "invalid"),
    "nuls": (b"\0" * 4096, "nul-filled"),
    "type": (b'{"n":"many"}', "invalid"),
}


def test_bad_file_never_hides_the_rest(root: Path) -> None:
    """Each bad file is its own `CorruptStateError`, naming file and kind, in its place among the good ones."""
    good = ["a", "m", "z"]
    make(root, *good)
    for name, (data, _) in BAD.items():
        (root / f"{name}_sandbox:{name}.state").write_bytes(data)
    loaded = dict(StateDir(root).load_all(Model))
    assert list(loaded) == [own(name) for name in sorted([*good, *BAD])]
    for n, name in enumerate(good):
        assert loaded[own(name)] == Model(n=n)
    for name, (data, kind) in BAD.items():
        error = loaded[own(name)]
        path = root / f"{name}_sandbox:{name}.state"
        assert isinstance(error, CorruptStateError)
        assert (error.path, error.kind) == (str(path), kind)
        assert str(path) in str(error)
        assert kind in str(error)
        assert path.read_bytes() == data, "a bad file was touched"
    make(root, "new")
    assert StateDir(root).resolve("new") == own("new")
    for name in BAD:
        StateDir(root).state_file(name).destroy()
    assert [full_id.container_id for full_id in StateDir(root).ids()] == ["a", "m", "new", "z"]


def test_what_is_no_file_is_an_error_like_any_other(root: Path) -> None:
    """A link, a directory or a FIFO in a state's place is yielded as an error, at once, and hides nothing."""
    make(root, "a", "z")
    (root / "dir_sandbox:dir.state").mkdir()
    (root / "link_sandbox:link.state").symlink_to(root / "a_sandbox:a.state")
    os.mkfifo(root / "fifo_sandbox:fifo.state")
    loaded = dict(StateDir(root).load_all(dict))
    assert [full_id.container_id for full_id in loaded] == ["a", "dir", "fifo", "link", "z"]
    for name in ("dir", "fifo", "link"):
        assert isinstance(loaded[own(name)], UnsafePathError)
    assert loaded[own("z")] == {"n": 1}


def test_state_that_may_not_be_read_is_an_error_like_any_other(root: Path, nobody: Worker) -> None:
    """A file that may not be read is yielded as a `StateIOError`, never as a container with invented values."""
    make(root, "a", "b", "c")
    for path in root.glob("*.state"):
        path.chmod(0o444)
    (root / "b_sandbox:b.state").chmod(0o000)
    root.chmod(0o755)
    assert nobody.call(all_of, root) == [(own("a"), {"n": 0}), (own("b"), "StateIOError"), (own("c"), {"n": 2})]


def test_read_error_is_an_error_like_any_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the disk cannot give is yielded with its errno, and the next one is read."""
    make(root, "a", "b", "c")
    real = os.open

    def fail(path: Any, *args: Any, **kwargs: Any) -> int:
        if "b_sandbox" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", fail)
    (a, b, c) = [state for _, state in StateDir(root).load_all(dict)]
    assert (a, c) == ({"n": 0}, {"n": 2})
    assert isinstance(b, StateIOError)
    assert b.errno == errno.EIO
    assert b.filename == str(root / "b_sandbox:b.state")


def test_state_that_vanishes_meanwhile_is_passed_over(root: Path) -> None:
    """A container that is destroyed between listing and reading is not there, which is no error."""
    make(root, "a", "b", "c")
    directory = StateDir(root)
    states = directory.load_all(dict)
    assert next(states) == (own("a"), {"n": 0})
    directory.state_file("b").destroy()
    assert list(states) == [(own("c"), {"n": 2})]


def test_states_are_read_when_their_turn_comes(root: Path) -> None:
    """Each state is as new as its turn: what was saved since the listing is what is yielded."""
    make(root, "a", "b")
    directory = StateDir(root)
    states = directory.load_all(dict)
    next(states)
    with directory.state_file("b").transaction(dict) as state:
        state["n"] = 77
    assert list(states) == [(own("b"), {"n": 77})]


def test_sandbox_has_its_own_containers(root: Path) -> None:
    """`load_sandbox` yields the containers of one sandbox, errors included, and nothing of one whose name only begins so."""
    make(root, *POD, FullID("pod2", "app"), FullID("p", "pod"))
    (root / "app_sandbox:pod.state").write_bytes(b"{")
    loaded = dict(StateDir(root).load_sandbox("pod", Model))
    assert list(loaded) == [FullID("pod", "app"), FullID("pod", "pod"), FullID("pod", "side")]
    assert isinstance(loaded[FullID("pod", "app")], CorruptStateError)
    assert loaded[FullID("pod", "pod")] == Model(n=0)
    assert list(StateDir(root).load_sandbox("absent", Model)) == []


def hold(root: Path, name: str) -> None:
    """Hold a container's lock."""
    with StateFile(root_dir=root, id=name).hold():
        tell()
        hear()


def test_listing_waits_for_nobody(root: Path, spawn: Spawn) -> None:
    """However long a container's lock is held, listing and loading answer at once."""
    make(root, "a", "b")
    worker = spawn()
    worker.start(hold, root, "a")
    worker.hear()
    start = time.monotonic()
    directory = StateDir(root)
    assert [full_id for full_id, _ in directory.load_all(dict)] == directory.ids() == [own("a"), own("b")]
    assert directory.resolve("a") == own("a")
    assert time.monotonic() - start < 1
    worker.tell()
    worker.result()


def test_listing_leaves_no_trace(root: Path) -> None:
    """Listing, resolving and loading make, change and lock no file."""
    make(root, *POD)
    (root / "pod_sandbox:pod.lock").unlink()
    (root / "solo_sandbox:solo.state").write_bytes(b"{")
    before = [(path.name, path.lstat().st_ctime_ns) for path in sorted(root.iterdir())]
    directory = StateDir(root)
    directory.sandboxes()
    directory.resolve("a")
    assert len(list(directory.load_all(dict))) == 4
    assert [(path.name, path.lstat().st_ctime_ns) for path in sorted(root.iterdir())] == before
    assert lock_descriptors() == []


# -- sweep -------------------------------------------------------------------------------------------------------------


def litter(root: Path, name: str, n: int = 0) -> Path:
    """A temporary file that a killed writer of that container left."""
    path = root / f".{name}_sandbox:{name}.state.{n:012x}.tmp"
    path.write_bytes(b"half")
    return path


def test_sweep_removes_what_the_dead_left(root: Path) -> None:
    """Temporary files, and lock files without a state, go and are returned, sorted; containers stay whole."""
    make(root, "a", "b")
    left = [
        litter(root, "a"),
        litter(root, "a", 1),
        litter(root, "gone"),
        root / "x_sandbox:x.lock",
        root / "gone_sandbox:gone.lock",
    ]
    for path in left[-2:]:
        path.touch(0o600)
    assert StateDir(root).sweep() == sorted(left)
    assert StateDir(root).sweep() == []
    assert names(root) == ["a_sandbox:a.lock", "a_sandbox:a.state", "b_sandbox:b.lock", "b_sandbox:b.state"]
    assert list(StateDir(root).load_all(dict)) == [(own("a"), {"n": 0}), (own("b"), {"n": 1})]
    assert lock_descriptors() == []


def test_sweep_returns_only_what_was_there(root: Path) -> None:
    """A lock file that the sweep itself makes, to remove a temporary file alone, is neither left nor returned."""
    path = litter(root, "gone")
    assert StateDir(root).sweep() == [path]
    assert names(root) == []


def test_sweep_spares_what_is_not_ours(root: Path) -> None:
    """Strangers' files, and temporary files of other programs, are no litter of ours."""
    strangers = [name for name in STRANGERS if not name.startswith(".x_sandbox") and not name.endswith(".lock")]
    for name in [*strangers, ".x_sandbox:y.state.tmp", "x.tmp", "other.lock"]:
        (root / name).touch()
    (root / "folder.tmp").mkdir()
    before = names(root)
    assert StateDir(root).sweep() == []
    assert names(root) == before


def test_sweep_spares_what_is_in_use(root: Path, spawn: Spawn) -> None:
    """Nothing of a container whose lock is held is touched: its creator has not saved yet, or its writer is at work."""
    make(root, "a")
    creator, writer = spawn(), spawn()
    creator.start(hold_new, root, "new")
    writer.start(hold, root, "a")
    creator.hear()
    writer.hear()
    left = [litter(root, "a"), litter(root, "new")]
    before = names(root)
    assert StateDir(root).sweep() == []
    assert names(root) == before
    for worker in (creator, writer):
        worker.tell()
        worker.result()
    assert StateDir(root).sweep() == left
    assert StateDir(root).ids() == [own("a"), own("new")]


def hold_new(root: Path, name: str) -> None:
    """Be in the middle of making a container."""
    file = StateFile(root_dir=root, id=name)
    with file.hold_for_new():
        tell()
        hear()
        file.save_locked({})


def test_sweep_goes_on_after_what_it_cannot_remove(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be removed is logged and left, with its container's lock file; the rest goes."""
    make(root, "a")
    stuck = root / ".a_sandbox:a.state.0123456789ab.tmp"
    stuck.mkdir()
    (root / "fifo_sandbox:fifo.lock").symlink_to("nowhere")
    path = litter(root, "z")
    with caplog.at_level(logging.WARNING, logger="statefile"):
        assert StateDir(root).sweep() == [path]
    assert len(caplog.records) == 2
    assert str(stuck) in caplog.text
    assert names(root) == [stuck.name, "a_sandbox:a.lock", "a_sandbox:a.state", "fifo_sandbox:fifo.lock"]
    assert lock_queue(root / "a_sandbox:a.lock") == ([], [])


def be_killed_while_creating(root: Path, name: str) -> None:
    """Die between taking the name and the first save."""
    StateFile(root_dir=root, id=name).lock_for_new()
    os.kill(os.getpid(), signal.SIGKILL)


def test_name_of_a_killed_creator_is_free(root: Path, spawn: Spawn) -> None:
    """A creator killed before its first save leaves a lock file: no container, in nobody's way, and swept."""
    worker = spawn()
    worker.start(be_killed_while_creating, root, "c")
    assert worker.wait() == -signal.SIGKILL
    directory = StateDir(root)
    assert names(root) == ["c_sandbox:c.lock"]
    assert directory.ids() == []
    with pytest.raises(NotFoundError):
        directory.resolve("c")
    assert directory.sweep() == [root / "c_sandbox:c.lock"]
    worker = spawn()
    worker.start(be_killed_while_creating, root, "c")
    worker.wait()
    make(root, "c")
    assert directory.ids() == [own("c")]


def create_often(root: Path, seed: int) -> None:
    """Make and unmake containers of a few names, each proved to be ours alone, until the end file is there."""
    chance = random.Random(seed)
    made = n = 0
    while made < 50 or not root.with_name("end").exists():
        n += 1
        name = f"c{chance.randrange(3)}"
        file = StateFile(root_dir=root, id=name, durability=Durability.PROCESS)
        witness = root.parent / f"witness-{name}"
        try:
            with file.hold_for_new(timeout=30):
                os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
                if chance.random() < 0.3:
                    os.unlink(witness)
                    continue
                file.save_locked({"by": os.getpid(), "n": n})
                os.unlink(witness)
        except AlreadyExistsError:
            continue
        made += 1
        with file.hold(timeout=30):
            os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
            assert file.load(dict) == {"by": os.getpid(), "n": n}, "our state was swept or replaced"
            file.save_locked({"by": 0})
            file.destroy()
            os.unlink(witness)


def sweep_often(root: Path) -> None:
    """Sweep until the end file is there."""
    while not root.with_name("end").exists():
        StateDir(root).sweep()


def test_sweep_passes_over_what_it_cannot_remove(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory with a temporary file's name is logged and left; the rest of its container's litter goes, and is returned."""
    names_ = [f".c_sandbox:c.state.{digit * 12}.tmp" for digit in "abc"]
    (root / names_[0]).write_bytes(b"half")
    (root / names_[1]).mkdir()
    (root / names_[2]).write_bytes(b"half")
    assert StateDir(root).sweep() == [root / names_[0], root / names_[2]]
    assert names_[1] in caplog.text
    assert names(root) == [names_[1]]


def test_sweep_races_creators_and_harms_none(root: Path, spawn: Spawn) -> None:
    """While containers come and go, and litter falls, sweeps never let two in, take a state, or make a creator fail."""
    creators, sweepers = [spawn(), spawn(), spawn()], [spawn(), spawn()]
    for seed, worker in enumerate(creators):
        worker.start(create_often, root, seed)
    for worker in sweepers:
        worker.start(sweep_often, root)
    for n in range(300):
        until_gone(litter(root, f"c{n % 3}", n))
    root.with_name("end").touch()
    for worker in creators + sweepers:
        worker.result()
    for name in ("c0", "c1", "c2"):
        StateFile(root_dir=root, id=name).destroy()
    StateDir(root).sweep()
    assert names(root) == []
    assert not list(root.parent.glob("witness-*"))


@pytest.mark.root
def test_sweep_spares_another_users_litter(root: Path, nobody: Worker) -> None:
    """In a directory that users share each sweeps their own litter; another's stays, which is logged and no error."""
    root.chmod(0o1777)
    litter(root, "theirs")
    (root / "b_sandbox:b.lock").touch(0o600)
    nobody.call(litter, root, "mine")
    assert nobody.call(StateDir(root).sweep) == [root / ".mine_sandbox:mine.state.000000000000.tmp"]
    assert set(names(root)) >= {".theirs_sandbox:theirs.state.000000000000.tmp", "b_sandbox:b.lock"}
    StateDir(root).sweep()
    assert names(root) == []
