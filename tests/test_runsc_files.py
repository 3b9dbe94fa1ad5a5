"""What real runsc wrote: each state loads, and is saved with every key, every digit of a time stamp and every integer kept."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statefile import AmbiguousIDError, FullID, StateDir
from tests.harness import names

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parent / "data/runsc-root"
POD = FullID("7f3c9a5d21be4c0e8d6f", "7f3c9a5d21be4c0e8d6f")
IDS = [FullID("7f3c9a5d21be4c0e8d6f", "7f3c0b44e19d"), POD, FullID("batch-1", "batch-1"), FullID("batch-17", "batch-17")]


@pytest.fixture
def written(root: Path) -> StateDir:
    """A copy of what runsc wrote."""
    shutil.copytree(DATA, root, dirs_exist_ok=True)
    return StateDir(root)


def test_root_of_runsc_is_listed(written: StateDir) -> None:
    """runsc's file names are ours: its containers, and the sandboxes they share, are found under their IDs."""
    assert written.ids() == IDS
    assert written.sandboxes() == ["7f3c9a5d21be4c0e8d6f", "batch-1", "batch-17"]
    assert [full_id for full_id, _ in written.load_sandbox("7f3c9a5d21be4c0e8d6f", dict)] == IDS[:2]


def test_partial_ids_of_runscs_containers_are_told_apart(written: StateDir) -> None:
    """`batch-1` is told from `batch-17`, a unique beginning is enough, and a shared one is ambiguous."""
    assert written.resolve("batch-1") == FullID("batch-1", "batch-1")
    assert written.resolve("batch-17") == FullID("batch-17", "batch-17")
    assert written.resolve("7f3c0") == IDS[0]
    assert written.resolve("7f3c9") == POD
    for partial, count in (("batch", 2), ("7f3c", 2)):
        with pytest.raises(AmbiguousIDError) as caught:
            written.resolve(partial)
        assert len(caught.value.candidates) == count


@pytest.mark.parametrize("full_id", IDS, ids=str)
def test_state_of_runsc_is_kept_to_the_last_digit(written: StateDir, full_id: FullID) -> None:
    """Loaded as a `dict` and saved, a state says what it said: keys in their order, numbers and times as they were written."""
    file = written.state_file(full_id)
    before = file.state_path.read_text()
    with file.transaction(dict) as state:
        assert state["id"] == full_id.container_id
    after = file.state_path.read_text()
    assert literal(after) == literal(before)
    assert sorted(re.findall(r"\d+", after)) == sorted(re.findall(r"\d+", before))
    assert file.load(dict) == state


def literal(text: str) -> object:
    """A JSON text with its numbers as they are spelled, and its keys in their order."""
    keep: Callable[[str], Any] = lambda digits: ("number", digits)  # noqa: E731  # one word for three arguments
    return json.loads(text, parse_int=keep, parse_float=keep, object_pairs_hook=lambda pairs: pairs)


def test_edges_survive_in_runscs_files(written: StateDir) -> None:
    """Beside everything that runsc wrote, the largest integers, odd time stamps and keys of a newer version are kept."""
    file = written.state_file("batch-17")
    odd = {
        "rlimit": 2**64 - 1,
        "least": -(2**63),
        "createdAt": "2024-01-02T03:04:05.123456789Z",
        "zero": "0001-01-01T00:00:00Z",
        "zone": "2024-06-30T23:59:60.5+02:00",
        "x-new": {"null": None, "ümlaut": ["\N{GRINNING FACE}", "\u0000", "é"]},
    }
    with file.transaction(dict) as state:
        before = dict(state)
        state.update(odd)
    with file.transaction(dict):
        pass
    assert file.load(dict) == before | odd
    text = file.state_path.read_text()
    assert "18446744073709551615" in text
    assert ".123456789Z" in text


def test_lock_files_of_runsc_are_used(written: StateDir) -> None:
    """runsc's lock files are the locks: they are neither replaced nor written, and nothing is added to the directory."""
    before = {path.name: (path.stat().st_ino, path.stat().st_size) for path in written.root_dir.glob("*.lock")}
    listed = names(written.root_dir)
    for full_id in IDS:
        with written.state_file(full_id).transaction(dict):
            pass
    assert {path.name: (path.stat().st_ino, path.stat().st_size) for path in written.root_dir.glob("*.lock")} == before
    assert names(written.root_dir) == listed
    assert written.sweep() == []
    for full_id in IDS:
        written.state_file(full_id).destroy()
    assert names(written.root_dir) == []
