"""The pages in docs/ and the README: what they name exists, and what is made from the code is made from this code."""

from __future__ import annotations

import ast
import builtins
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import statefile
from statefile import LIFECYCLE, aio, errors
from tests import lifecycle_page

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent.parent
PAGES = [HERE / "README.md", *sorted((HERE / "docs").glob("*.md"))]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def names_of_tests(path: Path) -> frozenset[str]:
    """The names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def unknown_tests(text: str) -> list[str]:
    """The tests that a text names and that are not there; also those that it names by halves."""
    unknown = []
    for file, name in re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w*))?", text):
        path = HERE / file
        if not path.is_file() or (name and name not in names_of_tests(path)):
            unknown.append(f"{file}::{name}" if name else file)
    for file, name in re.findall(r"(?<![/\w])(test_\w+\.py)?::(test_\w*)", text):
        unknown.append(f"{file}::{name} without its folder")
    return unknown


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of a page."""
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?\)", without_programs(text)):
        link = urlsplit(target)
        if link.scheme or link.netloc:
            continue
        path = page.parent / link.path if link.path else page
        known = path.exists() and (not link.fragment or link.fragment in anchors(path))
        if not known:
            broken.append(target)
    return broken


def anchors(path: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ +(.*)$", without_programs(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_programs(text: str) -> str:
    """A page without its fenced blocks: those run elsewhere."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def unknown_names(text: str) -> list[str]:
    """The members of our classes, and the errors, that a text has in backticks and that nothing is called."""
    classes = {name: getattr(statefile, name) for name in statefile.__all__ if not name.endswith("Error")}
    classes["AsyncStateFile"] = aio.AsyncStateFile
    unknown = []
    for quoted in re.findall(r"`([^`\n]+)`", without_programs(text)):
        for name, member in re.findall(r"\b([A-Z]\w+)(?:\([^()]*\))?\.(\w+)", quoted):
            of = classes.get(name)
            if of is not None and not hasattr(of, member) and member not in getattr(of, "model_fields", ()):
                unknown.append(f"{name}.{member}")
        errors_named = re.findall(r"\b[A-Z]\w+Error\b", quoted)
        unknown += [name for name in errors_named if not hasattr(errors, name) and not hasattr(builtins, name)]
    return unknown


def rows_without_a_test(text: str) -> list[str]:
    """The rows that name no test, of the tables whose last column is for tests."""
    return [row for head, row in rows(text) if head.endswith("| test |") and "tests/test_" not in row.split("|")[-2]]


def rows(text: str) -> Iterator[tuple[str, str]]:
    """Each row of each table, after the head of its table."""
    head = ""
    for line in text.splitlines():
        if not line.startswith("|"):
            head = ""
        elif not head:
            head = line
        elif not line.startswith("| ---"):
            yield head, line


def test_lifecycle_page_is_made_from_the_table() -> None:
    """`docs/lifecycle.md` is what its generator makes of the table as it is now."""
    found = lifecycle_page.PAGE.read_text(encoding="utf-8")
    assert found == lifecycle_page.page(), f"run {lifecycle_page.COMMAND}"


def test_lifecycle_page_has_every_status_and_arrow() -> None:
    """Each change of status stands in the diagram, and each allowed pair in the table."""
    text = lifecycle_page.page()
    table = [row.strip("|").split("|") for head, row in rows(text) if head.startswith("| action |")]
    allowed = sum(bool(cell.strip()) for _, *cells, _ in table for cell in cells)
    assert allowed == sum(map(len, LIFECYCLE.values()))
    for status, row in LIFECYCLE.items():
        for action, after in row.items():
            there = "[*]" if action in lifecycle_page.REMOVES else after
            if there != status:
                assert re.search(rf"^ +{status} --> {re.escape(there)}: .*\b{action}\b", text, re.MULTILINE), (status, action)


@each_page
def test_tests_that_a_page_names_exist(page: Path) -> None:
    """Each test that a page names as a proof is one."""
    assert not unknown_tests(page.read_text(encoding="utf-8"))


@each_page
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Each relative link leads to a file that is there, and to a heading that it has."""
    assert not broken_links(page, page.read_text(encoding="utf-8"))


@each_page
def test_names_that_a_page_uses_exist(page: Path) -> None:
    """What a page calls a member of one of the package's classes, or an error, is one."""
    assert not unknown_names(page.read_text(encoding="utf-8"))


def test_each_guarantee_names_a_test() -> None:
    """No promise and no injected fault of `docs/guarantees.md` is without the test that shows it."""
    text = (HERE / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert len([row for head, row in rows(text) if head.endswith("| test |")]) > 50
    assert not rows_without_a_test(text)


def test_checks_find_what_is_wrong() -> None:
    """A test, a link, a heading, a member or an error that is not there is found, and what is there is left alone."""
    page = HERE / "README.md"
    this = "`tests/test_ids.py::test_full_id_is_a_value`"
    assert unknown_tests(f"{this} tests/test_ids.py tests/test_ids.py::test_x tests/no.py::test_y test_docs.py::test_z") == [
        "tests/test_ids.py::test_x",
        "tests/no.py::test_y",
        "test_docs.py::test_z without its folder",
    ]
    links = "[a](LICENSE) [b](docs/no.md) [c](https://example.org/no) [d](#the-files) [e](#no) [f](docs/on-disk.md#sandbox)"
    assert broken_links(page, links) == ["docs/no.md", "#no"]
    names = "`StateFile.load` `StateFile.id` `StateFile(…).no()` `Container.status` `NoError` `OSError` Container.no `Other.x`"
    assert unknown_names(names) == ["StateFile.no", "NoError"]
    table = "| promise | test |\n| --- | --- |\n| a | `tests/test_docs.py` |\n| b | |\n\n| a | b |\n| --- | --- |\n| c | |\n"
    assert rows_without_a_test(table) == ["| b | |"]
