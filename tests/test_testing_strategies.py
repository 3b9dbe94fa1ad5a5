"""The hypothesis strategies of `statefile.testing`: what they give is valid, and reaches what surprises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from statefile import Container, FullID, StateFileError, Status
from statefile._codec import decode, encode
from statefile.testing import Corruption, FakeRuntime, state_root, strategies

if TYPE_CHECKING:
    from collections.abc import Callable

no_shrinking = settings(phases=[Phase.generate], max_examples=2_000, database=None)
few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@given(strategies.ids())
def test_ids_are_valid(text: str) -> None:
    """Each ID is one, as it is."""
    assert FullID.of(text) == (text, text)


@given(st.data(), st.integers(1, 12))
def test_ids_are_as_short_as_asked(data: st.DataObject, size: int) -> None:
    """No ID is longer than was asked for."""
    assert len(data.draw(strategies.ids(max_size=size))) <= size


@pytest.mark.parametrize("wanted", ["...", "--help", ".c1", "c1.lock"])
def test_ids_surprise(wanted: str) -> None:
    """Among the IDs are those that look like options, hidden files and files of our own."""
    assert find(strategies.ids(), wanted.__eq__, settings=no_shrinking) == wanted


def test_full_ids_are_of_both_kinds() -> None:
    """Some containers are their own sandboxes, and some are in another's."""
    assert find(strategies.full_ids(), lambda full_id: full_id.sandbox_id == full_id.container_id)
    assert find(strategies.full_ids(), lambda full_id: full_id.sandbox_id != full_id.container_id)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), strategies.json_values(), max_size=3))
def test_json_values_come_back(value: dict[str, object]) -> None:
    """Whatever `json_values` gives, a state file gives back the same."""
    assert decode(encode(value, path="x"), dict, path="x") == value


@few
@given(strategies.specs(), strategies.full_ids())
def test_specs_are_taken(spec: dict[str, object], full_id: FullID) -> None:
    """A container of each spec can be made, and keeps the spec to the last key."""
    with FakeRuntime() as fake, state_root() as root:
        Container.new(root, full_id, runtime=fake, spec=spec)
        assert Container.load(root, full_id).spec == spec


@few
@given(strategies.state_dirs())
def test_state_dirs_are_what_they_say(contents: strategies.StateDirContents) -> None:
    """A written directory lists its states; the intact ones load, each damaged one gives an error, and litter is swept."""
    with state_root() as root:
        state_dir = contents.write(root)
        assert state_dir.ids() == sorted(contents.states)
        loaded = dict(state_dir.load_all(Container))
        assert loaded.keys() == contents.states.keys()
        for full_id, found in loaded.items():
            assert isinstance(found, StateFileError) is (full_id in contents.damaged)
            if isinstance(found, Container):
                assert found.spec == contents.intact[full_id]["spec"]
        swept = {path.name for path in state_dir.sweep()}
        assert len(swept) == len(contents.temporaries) + len(contents.orphan_locks)
        assert state_dir.ids() == sorted(contents.states)


@few
@given(strategies.state_dirs(damaged=False, max_size=3))
def test_state_dirs_can_be_sound(contents: strategies.StateDirContents) -> None:
    """Without damage each container loads, in a root that was missing too; none says that a process of it runs."""
    assert contents.damaged == {}
    assert len(contents.states) <= 3
    with state_root() as root:
        state_dir = contents.write(root / "new")
        for full_id in contents.states:
            container = Container.load(state_dir.root_dir, full_id)
            assert container.status in {Status.CREATING, Status.STOPPED}


def test_state_dirs_have_accidents() -> None:
    """Among the directories are damaged states, locks without a state, and what killed saves have left, in some sandboxes."""
    conditions: list[Callable[[strategies.StateDirContents], bool]] = [
        lambda found: Corruption.SYMLINK in found.damaged.values(),
        lambda found: bool(found.intact and found.damaged),
        lambda found: bool(found.orphan_locks),
        lambda found: bool(found.temporaries),
        lambda found: len({full_id.sandbox_id for full_id in found.states}) > 2,
        lambda found: not found.states,
    ]
    seen: list[strategies.StateDirContents] = []
    settings(phases=[Phase.generate], max_examples=100, database=None, derandomize=True)(
        given(strategies.state_dirs())(lambda contents: seen.append(contents))  # noqa: PLW0108  # hypothesis looks at its name
    )()
    assert [any(map(condition, seen)) for condition in conditions] == [True] * len(conditions)
    kinds = {kind for contents in seen for kind in contents.damaged.values()}
    assert kinds.isdisjoint({Corruption.MISSING, Corruption.NEWER_VERSION, Corruption.TOO_LARGE})
