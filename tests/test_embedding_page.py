"""docs/embedding.md: an author of a runtime, who has this page alone, gets one through the conformance kit."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from statefile.runtime import REQUIRED, Runtime
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
