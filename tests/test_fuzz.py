"""Arbitrary bytes as a state, arbitrary names in the root, arbitrary values as IDs: only named errors, and nothing written.

What one input must hold is said once, in `one_input`: hypothesis gives it inputs here, and atheris, guided by the coverage of
the package, in `tests/fuzz.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statefile import (
    AmbiguousIDError,
    Container,
    CorruptStateError,
    FullID,
    InvalidIDError,
    NotFoundError,
    StateDir,
    StateFile,
    UnsupportedVersionError,
)
from statefile._codec import decode, encode
from statefile._ids import LOCK_SUFFIX, STATE_SUFFIX, file_stem, ids_of_files, owner_of_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Spawn

T = TypeVar("T")

DATA = Path(__file__).parent / "data"
SEEDS = [path.read_bytes() for path in sorted([*DATA.glob("golden/*/*.state"), *DATA.glob("runsc-root/*.state")])]


# -- what one input must hold --------------------------------------------------------------------------------------------


class Ground:
    """A root with one state file and one good neighbour, in a directory that is nobody else's."""

    def __init__(self, base: str) -> None:
        self.root = f"{base}/root"
        os.mkdir(self.root)
        self.file = StateFile(root_dir=self.root, id="c")
        self.path = str(self.file.state_path)
        with StateFile(root_dir=self.root, id="good").hold_for_new() as good:
            good.save_locked({"id": "good", "status": "stopped"})
        self.base = base

    def files(self) -> list[str]:
        """All that is there, by path."""
        return sorted(f"{folder}/{name}" for folder, _, files in os.walk(self.base) for name in files)


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """On a tmpfs where there is one, and gone afterwards."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="statefile-fuzz-", dir=memory) as base:
        yield Ground(base)


def one_input(place: Ground, data: bytes) -> None:
    """What is asked of the package with `data`; its first byte says what is tried."""
    if not data:
        return
    (try_state, try_container, try_name, try_id)[data[0] % 4](place, data[1:])


def put(place: Ground, data: bytes) -> None:
    """Write it where the state belongs, as a stranger would."""
    with open(place.path, "wb") as out:
        out.write(data)


def try_state(place: Ground, data: bytes) -> None:
    """Bytes are a state that comes back the same from a save, or are named; the file is as it was."""
    put(place, data)
    before = place.files()
    state = outcome(lambda: place.file.load(dict))
    if isinstance(state, CorruptStateError):
        check_named(state, place)
    else:
        again = encode(state, path=place.path)
        assert repr(decode(again, dict, path=place.path)) == repr(state)
    check_untouched(place, data, before)


def try_container(place: Ground, data: bytes) -> None:
    """Bytes are a record, which can be shown and saved, or are named; the file is as it was."""
    put(place, data)
    before = place.files()
    container = outcome(lambda: Container.load(place.root, "c", exact=True))
    if isinstance(container, CorruptStateError):
        check_named(container, place)
    elif not isinstance(container, UnsupportedVersionError):
        assert isinstance(container, Container)
        assert repr(container)
        assert len(container.state().status) < len(data)
        again = encode(container, path=place.path)
        once_more = decode(again, Container, path=place.path, context=container.saver)
        assert encode(once_more, path=place.path) == again
        check_untouched(place, data, before)
    listed = dict(StateDir(place.root).load_all(Container))
    assert isinstance(listed[FullID("good", "good")], Container)
    assert FullID("c", "c") in listed
    check_untouched(place, data, before)


def outcome(do: Callable[[], T]) -> T | CorruptStateError | InvalidIDError | UnsupportedVersionError:
    """What comes out, if it is a value or one of the errors that bad input has."""
    try:
        return do()
    except (CorruptStateError, InvalidIDError, UnsupportedVersionError) as error:
        return error


def check_named(error: CorruptStateError, place: Ground) -> None:
    """The error says which file, and why."""
    assert error.path == place.path
    assert error.path in str(error)
    assert error.reason in str(error)
    assert len(str(error)) < 2000


def check_untouched(place: Ground, data: bytes, before: list[str]) -> None:
    """Nothing but what the fuzzer itself has written is there."""
    with open(place.path, "rb") as file:
        assert file.read() == data
    assert place.files() == before, "a file was made or removed"


def try_name(_place: Ground, data: bytes) -> None:
    """A name in the root is one container's file, whose name it is, or nobody's."""
    name = os.fsdecode(data)
    for suffix in (STATE_SUFFIX, LOCK_SUFFIX):
        for candidate in (name, name + suffix):
            for full_id in ids_of_files([candidate], suffix):
                assert file_stem(full_id) + suffix == candidate
                assert FullID(*full_id) == full_id
    for candidate in (name, f".{name}.state.0123456789ab.tmp"):
        owner = owner_of_temporary(candidate)
        assert owner is None or candidate.startswith(f".{file_stem(owner)}{STATE_SUFFIX}.")


def try_id(place: Ground, data: bytes) -> None:
    """As `try_text`, with whatever text the bytes make."""
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    try_text(place, text)


def try_text(place: Ground, text: str) -> None:
    """A text is an ID, whose files lie directly in the root, or it is refused by name before anything is touched."""
    before = place.files()
    file = outcome(lambda: StateFile(root_dir=place.root, id=text))
    if isinstance(file, InvalidIDError):
        assert file.id == text
        assert len(str(file)) < 1000
        for refuse in (StateDir(place.root).resolve, StateDir(place.root).state_file, FullID.of):
            assert isinstance(outcome(partial(refuse, text)), InvalidIDError)
    else:
        assert isinstance(file, StateFile)
        for path in (file.state_path, file.lock_path):
            assert str(path.parent) == place.root
            assert os.path.normpath(path) == str(path)
            assert len(path.name) <= 255
        with contextlib.suppress(NotFoundError, AmbiguousIDError):
            assert StateDir(place.root).resolve(text).container_id.startswith(text)
    assert place.files() == before


# -- inputs --------------------------------------------------------------------------------------------------------------


def damaged(chance: random.Random) -> bytes:
    """A record that was really written, with some damage that keeps most of it."""
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randrange(1, 4)):
        at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + 40)
        match chance.randrange(5):
            case 0:
                data[at:end] = b""
            case 1:
                data[at:at] = data[at:end] * chance.randrange(1, 50)
            case 2:
                data[at:end] = chance.choice([b"null", b"{}", b"[]", b'"x"', b"-1", b"18446744073709551616", b"1e400", b"\0"])
            case 3:
                data[at:end] = chance.randbytes(end - at)
            case _:
                place = chance.choice([data.find(b":", at), data.find(b",", at)])
                data[place + 1 : place + 2] = chance.choice([b"{", b"[", b'"', b"0", b"-", b"t"])
        data = data or bytearray(b"{")
    return bytes(data)


@pytest.fixture(scope="module")
def place() -> Iterator[Ground]:
    """One for all examples: what one has written, the next replaces."""
    with ground() as found:
        yield found


SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300)


@SETTINGS
@given(data=st.binary(min_size=1, max_size=200))
def test_arbitrary_bytes(place: Ground, data: bytes) -> None:
    """Whatever the bytes, as a state, a record, a name or an ID, only named errors come out, and nothing is written."""
    one_input(place, data)


@SETTINGS
@given(seed=st.integers(0, 2**32))
def test_damaged_record(place: Ground, seed: int) -> None:
    """A damaged record is named, or it is another record that can be shown and saved; the file stays as it is."""
    data = damaged(random.Random(seed))
    try_state(place, data)
    try_container(place, data)


VALID = st.text("aZ09_+.-", min_size=1, max_size=100)
PAIRS = st.tuples(VALID, st.sampled_from(["_sandbox:", "/", "\n", "\0", ""]), VALID).map("".join)
OTHERS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.binary(), st.lists(st.text()), st.dictionaries(st.text(), st.text())
)


@SETTINGS
@given(text=st.one_of(VALID, st.text(max_size=120), PAIRS))
def test_arbitrary_text(place: Ground, text: str) -> None:
    """Any text is an ID, whose files lie in the root, or is refused; as a file name it is one container's or nobody's."""
    try_text(place, text)
    if "\0" not in text:
        try_name(place, text.encode("utf-8", "surrogatepass"))


@SETTINGS
@given(value=OTHERS)
def test_what_is_no_text_is_no_id(place: Ground, value: object) -> None:
    """No value of another type is an ID anywhere."""
    before = place.files()
    for do in (FullID.of, StateDir(place.root).resolve, StateDir(place.root).state_file):
        assert isinstance(outcome(partial(do, value)), InvalidIDError)  # type: ignore[arg-type]
    assert place.files() == before


def growth_of_memory(seed: int, warm: int, count: int) -> int:
    """By how many bytes the process grows while it is given damaged records, once it is warm."""
    chance = random.Random(seed)
    resident = []
    with ground() as place:
        for number in (warm, count):
            for _ in range(number):
                data = damaged(chance)
                try_state(place, data)
                try_container(place, data)
            status = Path("/proc/self/status").read_text()
            resident.append(int(status.partition("VmRSS:")[2].split()[0]) * 1024)
    return resident[1] - resident[0]


def test_memory_does_not_grow_with_the_number_of_bad_files(spawn: Spawn) -> None:
    """A process that has met 3,000 damaged files is as large as after the first 1,000: no error is kept, and no cache grows."""
    assert spawn(fresh=True).call(growth_of_memory, 1, 1000, 2000) < 8 * 2**20


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
def test_fuzzer_guided_by_coverage_finds_nothing(tmp_path: Path) -> None:
    """Some seconds of inputs that atheris makes up by the package's coverage show only named errors, in bounded memory."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fuzz",
            "-max_total_time=6",
            "-timeout=10",
            f"-artifact_prefix={tmp_path}/",
        ],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "DONE" in done.stderr
    assert list(tmp_path.iterdir()) == []
