"""Hypothesis strategies: IDs, specs, and whole state directories with what accidents leave in them.

from statefile.testing import state_root, strategies

@given(strategies.state_dirs())
def test_listing(contents):
    with state_root() as root:
        state_dir = contents.write(root)
        assert state_dir.ids() == sorted(contents.states)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from statefile._ids import LOCK_SUFFIX, MAX_ID, FullID, file_stem
from statefile._lifecycle import Status
from statefile._state_dir import StateDir
from statefile.runtime import ExitStatus
from statefile.testing._corruption import Corruption, corrupt

if TYPE_CHECKING:
    import os

__all__ = ["StateDirContents", "full_ids", "ids", "json_values", "specs", "state_dirs"]

_ID_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-."


def ids(*, max_size: int = MAX_ID) -> st.SearchStrategy[str]:
    """All valid IDs of at most `max_size` characters, those that surprise included: `-`, `...`, `a.lock`."""
    plain = st.text(_ID_CHARACTERS, min_size=1, max_size=max_size)
    if max_size >= _LONGEST_AWKWARD:
        plain = plain | st.sampled_from(_AWKWARD)
    return plain.filter(lambda text: text not in {".", ".."})


_AWKWARD = ("-", "--help", "...", "+", "_sandbox", "c1.state", "c1.lock", ".c1", "C1", "c1")
_LONGEST_AWKWARD = max(map(len, _AWKWARD))


def full_ids(*, max_size: int = MAX_ID) -> st.SearchStrategy[FullID]:
    """Names of containers: their own sandbox, or in another's."""
    return ids(max_size=max_size).map(FullID.of) | st.builds(FullID, ids(max_size=max_size), ids(max_size=max_size))


def json_values(*, max_leaves: int = 10) -> st.SearchStrategy[Any]:
    """Whatever a state file can hold and give back the same."""
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # lone surrogates are no UTF-8
    numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5),
        max_leaves=max_leaves,
    )


@functools.cache  # to make a strategy takes longer than to draw from it
def specs() -> st.SearchStrategy[dict[str, Any]]:
    """OCI specs: a process, annotations, and keys that nobody here knows. No hooks, and no sandbox that is joined."""
    words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    named = words.filter(bool).map("com.example.".__add__)
    process: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {"args": st.lists(words, min_size=1, max_size=4)},
        optional={
            "cwd": words.map("/".__add__),
            "env": st.lists(st.builds("{}={}".format, st.sampled_from(["PATH", "HOME", "X"]), words), max_size=3),
            "terminal": st.booleans(),
        },
    )
    root: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({"path": words}, optional={"readonly": st.booleans()})
    known: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {},
        optional={
            "ociVersion": st.sampled_from(["1.0.2", "1.1.0", "1.2.0"]),
            "process": process,
            "hostname": words,
            "root": root,
            "annotations": st.dictionaries(named, words, max_size=3),
        },
    )
    unknown = st.dictionaries(named, json_values(max_leaves=5), max_size=2)
    return st.tuples(known, unknown).map(lambda both: both[0] | both[1])


@dataclass(frozen=True)
class StateDirContents:
    """What is in a state directory; `write` puts it there.

    Attributes:
        states: the containers that have a state file, with their records as JSON objects.
        damaged: those of them whose file is damaged, and how.
        orphan_locks: names that have a lock file without a state.
        temporaries: names of which a killed save has left a temporary file.
    """

    states: dict[FullID, dict[str, Any]]
    damaged: dict[FullID, Corruption] = field(default_factory=dict[FullID, Corruption])
    orphan_locks: frozenset[FullID] = frozenset()
    temporaries: frozenset[FullID] = frozenset()

    @property
    def intact(self) -> dict[FullID, dict[str, Any]]:
        """The states that can be loaded."""
        return {full_id: state for full_id, state in self.states.items() if full_id not in self.damaged}

    def write(self, root_dir: str | os.PathLike[str]) -> StateDir:
        """Put it into the root directory, which is made if it is missing, and had none of these names."""
        state_dir = StateDir(root_dir)
        for full_id, state in self.states.items():
            with state_dir.state_file(full_id).hold_for_new() as state_file:
                state_file.save_locked(state)
            if full_id in self.damaged:
                corrupt(state_file, self.damaged[full_id])
        state_dir.root_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        for full_id in self.orphan_locks:
            (state_dir.root_dir / (file_stem(full_id) + LOCK_SUFFIX)).touch(mode=0o600)
        for full_id in self.temporaries:
            (state_dir.root_dir / f".{file_stem(full_id)}.state.0123456789ab.tmp").write_bytes(b'{"id": "ha')
        return state_dir


def state_dirs(*, max_size: int = 6, damaged: bool = True) -> st.SearchStrategy[StateDirContents]:
    """Directories of up to `max_size` containers, in several sandboxes, with what accidents leave.

    The records are such that a `Container` loads them; none has a living process. With `damaged=False` all can be loaded.
    """
    names = full_ids(max_size=_SHORT)
    states = st.dictionaries(names, _records(), max_size=max_size).map(_with_ids)
    others = st.frozensets(names, max_size=2)

    @st.composite
    def build(draw: st.DrawFn) -> StateDirContents:
        found = draw(states)
        harmed: dict[FullID, Corruption] = {}
        if damaged:
            kinds = draw(st.lists(_DAMAGE, max_size=len(found)))
            harmed = {full_id: kind for full_id, kind in zip(found, kinds, strict=False) if kind is not None}
        return StateDirContents(found, harmed, draw(others) - found.keys(), draw(others))

    return build()


_SHORT = 12
# What is seen as damage: not what is gone or newer; and TOO_LARGE costs 64 MiB of reading.
_HARMLESS = {Corruption.MISSING, Corruption.NEWER_VERSION, Corruption.TOO_LARGE}
_DAMAGE = st.none() | st.sampled_from([kind for kind in Corruption if kind not in _HARMLESS])


def _with_ids(states: dict[FullID, dict[str, Any]]) -> dict[FullID, dict[str, Any]]:
    return {full_id: {"id": full_id.container_id} | state for full_id, state in states.items()}


@functools.cache
def _records() -> st.SearchStrategy[dict[str, Any]]:
    """Records without an ID."""
    ended = st.none() | st.builds(ExitStatus, code=st.integers(0, 255)) | st.builds(ExitStatus, signal=st.integers(1, 64))

    def record(spec: dict[str, Any], status: Status, exit_status: ExitStatus | None, revision: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "spec": spec,
            "status": str(status),
            "createdAt": "2024-01-02T03:04:05.123456789Z",
            "revision": revision,
            "schemaVersion": 1,
        }
        if status is Status.STOPPED and exit_status is not None:
            found["exitStatus"] = exit_status.model_dump(exclude_none=True)
        return found

    return st.builds(record, specs(), st.sampled_from(Status), ended, st.integers(1, 2**40))
