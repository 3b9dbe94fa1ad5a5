"""Every block of Python in docs/testing.md runs, and does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import pages

PAGE = Path(__file__).parent.parent / "docs" / "testing.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("block", pages.blocks(TEXT), ids=lambda block: f"line {block.line}")
def test_block_runs(block: pages.Block, tmp_path: Path) -> None:
    """Each block of the page runs as it is, with the files that the page has named before it."""
    pages.run(block, tmp_path)


def test_laziest_way_comes_first() -> None:
    """The first tests of the page need no more than the names of fixtures."""
    first = pages.blocks(TEXT)[0]
    assert first.is_test
    assert "testing" not in first.code
    assert "(statefile_root, fake_runtime, container_factory)" in first.code


GOOD = """\
```python
print(1)
```
```text
1
```

```python
# tool.py
ONE = 1
```
```sh
exit 1
```

```python
from tool import ONE

def test_one():
    assert ONE == 1
```

## Another section

```python
def test_fails():
    raise OSError("a bad day")
```

```text
...
E ... OSError: a bad day
... 1 failed in ...
```
"""


def test_runner_finds_blocks() -> None:
    """A block is found with its line, what it prints if that follows next, and the files before it in its section."""
    program, test, failing = pages.blocks(GOOD)
    assert (program.line, program.code, program.prints, program.files, program.is_test) == (1, "print(1)\n", "1\n", {}, False)
    assert (test.line, test.prints, test.files, test.is_test) == (16, None, {"tool.py": "# tool.py\nONE = 1\n"}, True)
    assert (failing.files, failing.prints is None) == ({}, False)


@pytest.mark.parametrize("block", pages.blocks(GOOD), ids=lambda block: f"line {block.line}")
def test_runner_accepts_what_is_true(block: pages.Block, tmp_path: Path) -> None:
    """A program that prints what it should passes, and so does a test that passes, or fails as the page says."""
    pages.run(block, tmp_path)


LIES = {
    "a program that fails": "```python\n1 / 0\n```\n",
    "a program that warns": "```python\nimport warnings; warnings.warn('x')\n```\n",
    "a program that prints something else": "```python\nprint(1)\n```\n```text\n2\n```\n",
    "a test that fails": "```python\ndef test_it():\n    assert False\n```\n",
    "a test that passes and should not": "```python\ndef test_it():\n    pass\n```\n```text\n...1 failed...\n```\n",
    "tests that say something else": "```python\ndef test_it():\n    pass\n```\n```text\n...2 passed...\n```\n",
    "no tests": "```python\nclass Other:\n    def test_it(self): pass\n```\n",
}


@pytest.mark.parametrize("lie", LIES)
def test_runner_finds_a_lie(lie: str, tmp_path: Path) -> None:
    """A block that does not do what its page says is found."""
    (block,) = pages.blocks(LIES[lie])
    with pytest.raises(AssertionError):
        pages.run(block, tmp_path)


def test_runner_leaves_programs_to_themselves() -> None:
    """Tests that a program runs itself are not for pytest."""
    (block,) = pages.blocks("```python\nclass T:\n    def test_it(self): ...\nunittest.main()\n```\n")
    assert not block.is_test


def test_runner_wants_every_block_run() -> None:
    """A file that no block after it could use is an error, as nothing would show that it works."""
    with pytest.raises(AssertionError, match=r"nothing is run after \['tool.py'\]"):
        pages.blocks("```python\n# tool.py\nONE = 1\n```\n")
