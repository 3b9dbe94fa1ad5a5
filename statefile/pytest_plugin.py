"""Fixtures for tests of tools that keep containers: a thin shell over `statefile.testing`.

A run that uses none of them pays for this file alone: the rest of the package is loaded by the first fixture. Each can be
overridden in a conftest. What a test leaves running, locked or lying about is cleaned up and fails that test by name.
`-p no:statefile` does without.
"""

# ruff: noqa: PLC0415
# Importing the package takes longer than a small test run: only who uses a fixture pays for it.

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from statefile._container import Container
    from statefile._state_file import StateFile
    from statefile.runtime import Created
    from statefile.testing import FakeRuntime


@pytest.fixture
def statefile_root() -> Iterator[Path]:
    """An empty root directory for containers, gone after the test.

    A test fails that leaves one of these there: a container with a living process, a lock that is held, a temporary file, a
    lock file without a state. A record alone is no leak, nor is a process that is older than the test.
    """
    from statefile.testing import state_root
    from statefile.testing._leaks import Moment, clean_up

    began = Moment.now()
    with state_root() as root:
        yield root
        _fail_for(clean_up(root, began))


@pytest.fixture
def fake_runtime() -> Iterator[FakeRuntime]:
    """A `statefile.testing.FakeRuntime`. A test fails that leaves a container of it running, under whatever root."""
    from statefile.testing import FakeRuntime
    from statefile.testing._leaks import Moment, end

    files: dict[Path, StateFile] = {}

    class WatchedRuntime(FakeRuntime):
        def create(self, container: Container) -> Created:
            files[container.saver.state_path] = container.saver
            return super().create(container)

    began = Moment.now()
    with WatchedRuntime() as runtime:
        yield runtime
        _fail_for([left for file in files.values() for left in end(file, began, runtime.unscripted)])


@pytest.fixture
def container_factory(statefile_root: Path, fake_runtime: FakeRuntime) -> Iterator[Callable[..., Container]]:
    """Makes containers under `statefile_root`, driven by `fake_runtime`; after the test their processes are ended.

    Takes what `statefile.testing.make_container` takes after the root; without an ID they are `c1`, `c2` and so on.
    """
    from statefile.errors import StateFileError
    from statefile.testing import make_container

    made: list[tuple[FakeRuntime, Container]] = []

    def make(id: str | None = None, *, runtime: FakeRuntime = fake_runtime, **options: Any) -> Container:  # noqa: ANN401  # as there
        container: Container = make_container(statefile_root, id or f"c{len(made) + 1}", runtime=runtime, **options)
        made.append((runtime, container))
        return container

    yield make
    for runtime, container in made:
        with contextlib.suppress(StateFileError):  # of a record that names a process which cannot be told from here
            runtime.unscripted.destroy(container)


def _fail_for(left: list[str]) -> None:
    if left:
        pytest.fail("the test left something behind, which is cleaned up now:\n- " + "\n- ".join(left), pytrace=False)
