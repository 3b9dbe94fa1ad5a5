"""docs/embedding.md: an author of a runtime, who has this page alone, gets one through the conformance kit."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from statefile import NotFoundError, StateDir
from statefile.runtime import REQUIRED, Created, Runtime
from statefile.testing.conformance import RuntimeConformance
from tests import pages

PAGE = Path(__file__).parent.parent / "docs" / "embedding.md"
TEXT = PAGE.read_text(encoding="utf-8")

PATIENCE = 100
"""Seconds for a run of the kit that needs 5, on a machine that has much else to do."""


BLOCKS = pages.blocks(TEXT, growing=True)


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_block_runs(block: pages.Block, tmp_path: Path) -> None:
    """Each block of the page runs beside those before it, and what the page shows is what it says, in that order."""
    pages.run(block, tmp_path, patience=PATIENCE)


def test_page_ends_green() -> None:
    """The first runtime of the page fails the kit, the last ones pass it."""
    last = [(block.prints or "").splitlines()[-1] for block in BLOCKS if block.is_test]
    assert ["failed" in line for line in last] == [True, False, False]
    assert "passed" in last[-1]


def test_page_names_what_an_author_may_say() -> None:
    """What the kit lets an author say is on the page, all of it, and so is every method that a runtime has or may have."""
    said = [name for name, _ in inspect.getmembers(RuntimeConformance) if not name.startswith(("test_", "_"))]
    assert len(said) == 9
    assert [name for name in said if not re.search(rf"^\| .*`{name}\b.*\|.*\|.*\|$", TEXT, re.MULTILINE)] == []
    table = re.findall(r"^ *\| `(\w+)\(.*?\| .* \|$", Runtime.__doc__ or "", re.MULTILINE)
    assert len(table) == 9
    assert [name for name in (*REQUIRED, *table) if f"`{name}`" not in TEXT and f"def {name}(" not in TEXT] == []


def test_page_says_how_to_name_a_helper() -> None:
    """Where the kit sends an author, the page says what to write: `helpers`, by that name, in `Created`."""
    assert "helpers" in {field.name for field in dataclasses.fields(Created)}
    assert re.search(r"`Created\(init=…, helpers=\{\"monitor\": ProcessRef\.of\(pid\)\}\)`", TEXT)


def test_page_says_where_a_runtime_may_have_files(root: Path) -> None:
    """A directory called as the page says is passed over by what looks under a root, also beside a container of its name."""
    found = re.search(r"such as `(\.[\w-]+)`: no container's files", TEXT)
    assert found
    kept = root / found[1] / "kept"
    kept.parent.mkdir()
    kept.touch()
    states = StateDir(root)
    assert (states.ids(), list(states.load_all(dict)), states.sweep()) == ([], [], [])
    with pytest.raises(NotFoundError):
        states.resolve(found[1])
    with states.state_file(found[1]).hold_for_new() as file:
        file.save_locked({"is": "there"})
    assert [str(full_id.container_id) for full_id in states.ids()] == [found[1]]
    states.state_file(found[1]).destroy()
    states.sweep()
    assert kept.exists()
