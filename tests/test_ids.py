"""IDs: which are valid, that no entry point lets another through, and that names and files fit each other one to one."""

from __future__ import annotations

import copy
import os
import pickle
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from statefile import FullID, InvalidIDError, StateDir, StateFile
from statefile._ids import LOCK_SUFFIX, STATE_SUFFIX, file_stem, ids_of_files, owner_of_temporary, validate_id
from tests.harness import names

if TYPE_CHECKING:
    from collections.abc import Callable

LEGAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-."
IDS = st.text(LEGAL, min_size=1, max_size=100).filter(lambda text: text not in {".", ".."})
FULL_IDS = st.builds(FullID, IDS, IDS)

VALID = ["a", "Z", "0", "_", "+", "-x", ".hid", "...", "a.b", "a" * 100, LEGAL, "batch-1", "a.state", "x.lock"]


class Text(str):
    """A string that could answer differently each time it is asked."""

    __slots__ = ()


INVALID: list[Any] = [
    *("", ".", "..", "/", "a/b", "../x", "/etc", "a/", "a\0b", "\0", " a", "a ", " ", "a\n", "\na", "a\tb", "a\x7fb"),
    *("é", "ß", "\u0430", "\uff11", "\u0663", "\u0130", "a\u0301", "\ud800"),
    *("a*", "?", "[a]", "{a,b}", "a:b", "a_sandbox:b", "a\\b", "a~", "$a", "%41", "a" * 101, "a" * 300, "a" * 10_000),
    *(None, 1, 1.5, True, b"a", bytearray(b"a"), Path("a"), ["a"], ("a",), {"a"}, object, Text("a")),
]


@pytest.mark.parametrize("value", VALID)
def test_allowed_characters_make_an_id(value: str, root: Path) -> None:
    """1 to 100 of the allowed characters are an ID in any order, and a container can be kept under it."""
    assert validate_id(value) == value
    file = StateFile(root_dir=root, id=value)
    with file.hold_for_new():
        file.save_locked({"id": value})
    assert StateDir(root).ids() == [FullID(value, value)]
    assert StateDir(root).resolve(value) == FullID(value, value)
    assert file.load(dict) == {"id": value}
    file.destroy()
    assert names(root) == []


ENTRY_POINTS: dict[str, Callable[[Path, Any], object]] = {
    "validate_id": lambda _, value: validate_id(value),
    "FullID, sandbox": lambda _, value: FullID(value, "a"),
    "FullID, container": lambda _, value: FullID("a", value),
    "FullID.of": lambda _, value: FullID.of(value),
    "FullID.of JSON": lambda _, value: FullID.of({"sandboxId": "a", "containerId": value}),
    "StateFile": lambda root, value: StateFile(root_dir=root, id=value),
    "StateFile.model_copy": lambda root, value: StateFile(root_dir=root, id="a").model_copy(update={"id": value}),
    "StateDir.state_file": lambda root, value: StateDir(root).state_file(value),
    "StateDir.resolve": lambda root, value: StateDir(root).resolve(value),
    "StateDir.load_sandbox": lambda root, value: StateDir(root).load_sandbox(value, dict),
}


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_anything_else_is_refused_at_every_entry_point(entry_point: str, tmp_path: Path) -> None:
    """What is no ID raises `InvalidIDError` with the value in it, before any file is touched."""
    root = tmp_path / "absent"
    for value in INVALID:
        with pytest.raises(InvalidIDError) as caught:
            pytest.fail(f"{value!r} was taken: {ENTRY_POINTS[entry_point](root, value)!r}")
        assert caught.value.id is value
        assert isinstance(caught.value, ValueError)
    assert names(tmp_path) == []


@given(st.text(max_size=110))
def test_validation_is_the_rule_spelled_out(value: str) -> None:
    """A string is an ID if and only if the rule, written down a second time, says so."""
    right = 1 <= len(value) <= 100 and set(value) <= set(LEGAL) and value not in {".", ".."}
    try:
        valid = validate_id(value) == value
    except InvalidIDError:
        valid = False
    assert valid is right


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "it is empty"),
        ("..", "it names a directory"),
        ("a/b", "'/' is not one of"),
        ("a\n", "'\\n' is not one of"),
        ("\u0430", "'\u0430' is not one of"),
        ("a" * 101, "it has 101 characters, 100 are allowed"),
        (7, "an ID is a str, not int"),
    ],
)
def test_refusal_says_which_rule_is_broken(value: object, reason: str) -> None:
    """The message names the rule, and the character where it is one."""
    with pytest.raises(InvalidIDError, match=re.escape(reason)) as caught:
        validate_id(value)
    assert caught.value.reason.startswith(reason)


def test_refusal_stays_short() -> None:
    """A value of a megabyte does not make a message of a megabyte, and is kept whole as a fact."""
    value = "/" * 2**20
    with pytest.raises(InvalidIDError) as caught:
        validate_id(value)
    assert len(str(caught.value)) < 300
    assert caught.value.id == value


# -- the pair ----------------------------------------------------------------------------------------------------------


def test_full_id_is_a_value() -> None:
    """A `FullID` has two names, is equal by them, hashable, immutable, and prints as `sandbox/container`."""
    full_id = FullID("s", "c")
    assert (full_id.sandbox_id, full_id.container_id) == ("s", "c")
    assert FullID(sandbox_id="s", container_id="c") == full_id != FullID("c", "s")
    assert {full_id: 1}[FullID("s", "c")] == 1
    assert str(full_id) == f"{full_id}" == "s/c"
    with pytest.raises(AttributeError):
        full_id.sandbox_id = "x"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        full_id.other = "x"  # type: ignore[attr-defined]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_full_id_survives_copies(again: Callable[[FullID], FullID]) -> None:
    """A copied or pickled `FullID` is an equal `FullID`."""
    copied = again(FullID("s", "c"))
    assert type(copied) is FullID
    assert copied == FullID("s", "c")


@given(st.lists(st.tuples(IDS, IDS)))
def test_full_ids_sort_by_sandbox_first(pairs: list[tuple[str, str]]) -> None:
    """Sorted `FullID`s are in the order of their sandboxes, and within one of their containers."""
    assert sorted(FullID(*pair) for pair in pairs) == [FullID(*pair) for pair in sorted(pairs)]


def test_full_ids_are_cheap() -> None:
    """100,000 `FullID`s weigh what as many pairs of strings weigh: they have no dictionary of their own."""
    assert sys.getsizeof(FullID("s", "c")) <= sys.getsizeof(("s", "c")) + 16
    assert not hasattr(FullID("s", "c"), "__dict__")


def test_plain_string_means_both_halves() -> None:
    """Where a `FullID` is taken, a string stands for a container that is its own sandbox; a `FullID` for itself."""
    full_id = FullID("s", "c")
    assert FullID.of("a") == FullID("a", "a")
    assert FullID.of(full_id) is full_id
    assert FullID.of({"sandboxId": "s", "containerId": "c"}) == full_id


@pytest.mark.parametrize("value", [{}, {"sandboxId": "s"}, {"containerId": "c"}, {"sandbox_id": "s", "container_id": "c"}])
def test_half_a_json_id_is_refused(value: dict[str, str]) -> None:
    """A JSON ID without both halves, as runsc spells them, is no ID."""
    with pytest.raises(InvalidIDError):
        FullID.of(value)


def test_full_id_in_a_model_is_spelled_as_in_runscs_files() -> None:
    """In a model's JSON a `FullID` is `{"sandboxId": …, "containerId": …}`, and comes back from it."""

    class Model(BaseModel):
        id: FullID

    text = Model(id=FullID("s", "c")).model_dump_json()
    assert text == '{"id":{"sandboxId":"s","containerId":"c"}}'
    assert Model.model_validate_json(text).id == FullID("s", "c")
    assert Model.model_validate({"id": "a"}).id == FullID("a", "a")


# -- names of files ----------------------------------------------------------------------------------------------------


def test_file_names_are_runscs() -> None:
    """Container first, then its sandbox after `_sandbox:`, as runsc names its files."""
    assert file_stem(FullID("s", "c")) + STATE_SUFFIX == "c_sandbox:s.state"
    assert file_stem(FullID("s", "c")) + LOCK_SUFFIX == "c_sandbox:s.lock"


@given(st.sets(FULL_IDS, max_size=20))
def test_names_and_ids_fit_one_to_one(full_ids: set[FullID]) -> None:
    """No two containers share a file name, and the names give back the IDs, sorted."""
    for suffix in (STATE_SUFFIX, LOCK_SUFFIX):
        files = [file_stem(full_id) + suffix for full_id in full_ids]
        assert len(set(files)) == len(full_ids)
        found = ids_of_files(files, suffix)
        assert found == sorted(full_ids)
        assert all(type(full_id) is FullID for full_id in found)


@given(FULL_IDS)
def test_no_file_of_a_container_passes_for_another_kind(full_id: FullID) -> None:
    """A lock or temporary file is never listed as a state, nor a state or temporary as a lock, whatever the IDs are."""
    stem = file_stem(full_id)
    temporary = f".{stem}{STATE_SUFFIX}.0123456789ab.tmp"
    assert owner_of_temporary(temporary) == full_id
    assert ids_of_files([stem + LOCK_SUFFIX, temporary], STATE_SUFFIX) == []
    assert ids_of_files([stem + STATE_SUFFIX, temporary], LOCK_SUFFIX) == []
    assert owner_of_temporary(stem + STATE_SUFFIX) is None
    assert owner_of_temporary(stem + LOCK_SUFFIX) is None


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "README", "state", ".state", "a.state", "_sandbox:.state", "a_sandbox:.state", "_sandbox:b.state"),
        *("._sandbox:b.state", ".._sandbox:b.state", "a_sandbox:..state", "a_sandbox:...state", "a_sandbox:b.state~"),
        *("a_sandbox:b.state.tmp", ".a_sandbox:b.state.tmp", "a_sandbox:b.state\n", "a_sandbox:b\n.state", "a:b.state"),
        *("a_sandbox:b:c.state", "a b_sandbox:c.state", "\u0430_sandbox:b.state", "a_sandbox:b.STATE", "a_sandbox:b.states"),
        f"{'a' * 101}_sandbox:b.state",
        "\udcff_sandbox:b.state",  # how a name that is not UTF-8 is listed
    ],
)
def test_other_names_are_no_states(name: str) -> None:
    """Whatever does not split into two valid IDs is passed over."""
    assert ids_of_files([name, "c_sandbox:s.state"], STATE_SUFFIX) == [FullID("s", "c")]


@pytest.mark.parametrize(
    "name",
    [
        *("a_sandbox:b.state.0123456789ab.tmp", ".a_sandbox:b.state.0123456789AB.tmp", ".a_sandbox:b.state.0123456789a.tmp"),
        *(".a_sandbox:b.lock.0123456789ab.tmp", ".a_sandbox:b.state.0123456789ab.tmp~", ".a.state.0123456789ab.tmp", ".x.tmp"),
        ".a_sandbox:b.state.0123456789ab.tmp\n",
    ],
)
def test_other_names_are_no_temporaries(name: str) -> None:
    """Only a name that `save_locked` makes is taken for its temporary file, so that no other is ever swept."""
    assert owner_of_temporary(name) is None


def test_longest_ids_fit_a_file_name(root: Path) -> None:
    """Both IDs of 100 characters, the suffixes and a temporary name fit in NAME_MAX, on a real file system."""
    full_id = FullID("s" * 100, "c" * 100)
    file = StateFile(root_dir=root, id=full_id)
    with file.hold_for_new():
        file.save_locked({"n": 1})
    assert StateDir(root).ids() == [full_id]
    temporary = root / f".{file.state_path.name}.0123456789ab.tmp"
    assert len(os.fsencode(temporary.name)) <= 255
    temporary.touch()
    assert StateDir(root).sweep() == [temporary]
