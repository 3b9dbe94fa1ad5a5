"""Fixtures for tests of tools that keep containers: a thin shell over `statefile.testing`.

A run that uses none of them pays for this file alone: the rest of the package is loaded by the first fixture. Each can be
overridden in a conftest. What a test leaves running, locked or lying about, in whatever these fixtures gave it, is cleaned up
and fails that test by name, once its own fixtures have cleaned up. `-p no:statefile` does without.
"""

# ruff: noqa: PLC0415
# Importing the package takes longer than a small test run: only who uses a fixture pays for it.

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from statefile._container import Container
    from statefile._process import ProcessRef
    from statefile.testing import FakeRuntime
    from statefile.testing._leaks import Watch


@pytest.fixture
def statefile_root() -> Iterator[Path]:
    """An empty root directory for containers, gone after the test.

    A test fails that leaves one of these there: a container with a living process, a lock that is held, a temporary file, a
    lock file without a state. A record alone is no leak, nor is a process that is older than the test.
    """
    from statefile.testing import state_root

    with state_root() as root:
        yield root


@pytest.fixture
def fake_runtime() -> Iterator[FakeRuntime]:
    """A `statefile.testing.FakeRuntime`. A test fails that leaves a container of it running, under whatever root."""
    from statefile.testing import FakeRuntime

    with FakeRuntime() as runtime:
        yield runtime


@pytest.fixture
def container_factory(statefile_root: Path, fake_runtime: FakeRuntime) -> Iterator[Callable[..., Container]]:
    """Makes containers under `statefile_root`, driven by `fake_runtime`; after the test their processes are ended.

    Takes what `statefile.testing.make_container` takes after the root; without an ID they are `c1`, `c2` and so on, the next
    one that is free. A container that the code under test made since, in the place of one, is not the fixture's.
    """
    from statefile._state_dir import StateDir
    from statefile.errors import StateFileError
    from statefile.testing import make_container
    from statefile.testing._leaks import is_replaced

    numbers = itertools.count(1)
    with contextlib.ExitStack() as stack:

        def end(container: Container, runtime: FakeRuntime, processes: list[ProcessRef], created_at: str) -> None:
            with contextlib.suppress(StateFileError):  # of a record that names a process which cannot be told from here
                if not is_replaced(container, processes, created_at):
                    runtime.unscripted.destroy(container)

        def free() -> str:
            taken = {full_id.container_id for full_id in StateDir(statefile_root).ids()}
            return next(name for name in map("c{}".format, numbers) if name not in taken)

        def make(id: str | None = None, *, runtime: FakeRuntime | None = None, **options: Any) -> Container:  # noqa: ANN401  # as there
            driver = fake_runtime if runtime is None else runtime
            container: Container = make_container(statefile_root, free() if id is None else id, runtime=driver, **options)
            processes = [container.init] if container.init else driver.unscripted.family(container)
            stack.callback(end, container, driver, processes, container.created_at)
            return container

        yield make


# -- what a test has left ------------------------------------------------------------------------------------------------

_NAMES = ("statefile_root", "fake_runtime", "container_factory")
_WATCH: pytest.StashKey[Watch] = pytest.StashKey()


def _watch(item: Any, *more: str) -> Watch | None:  # noqa: ANN401  # not every item is one of functions
    """The watch over a test that uses a fixture of ours, or of that name; it begins with the first call."""
    found: Watch | None = item.stash.get(_WATCH, None)
    if found is None and any(name in _NAMES for name in (*more, *getattr(item, "fixturenames", ()))):
        from statefile.testing._leaks import Watch

        found = item.stash[_WATCH] = Watch()
        # The first one added is the last one called: the test's own fixtures are gone, those of a larger scope are there.
        item.addfinalizer(lambda: _look_at_all(item, found))
    return found


def _look_at_all(item: Any, watch: Watch) -> None:  # noqa: ANN401  # as above
    values: dict[str, object] = getattr(item, "funcargs", None) or {}
    for name in _NAMES:
        watch.look_at(values.get(name))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Generator[None, object, object]:
    """Look at what a fixture of ours gave, or what stands in its place, when all that uses it is torn down, and it is not."""
    watch = None
    if fixturedef.scope == "function":
        watch = _watch(request.node, fixturedef.argname)  # pyright: ignore[reportUnknownMemberType]  # pytest types it not
    value = yield
    if watch is not None and fixturedef.argname in _NAMES:
        watch.add(value)
        request.addfinalizer(lambda: watch.look_at(value))  # the last one added is the first one called
    return value


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """At the latest now the test begins: what fixtures of a larger scope have started by now is not its own."""
    _watch(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail the test for whatever it left, once, beside what else fails then."""
    watch = item.stash.get(_WATCH, None)  # only looked for: who has none pays no more
    if watch is None:
        return (yield)
    del item.stash[_WATCH]
    failures: list[BaseException] = []
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # raised below
        failures.append(error)
    if watch.left:
        said = "the test left something behind, which is cleaned up now:\n- " + "\n- ".join(watch.left)
        failures.append(pytest.fail.Exception(said, pytrace=False))
    if len(failures) > 1:
        raise BaseExceptionGroup("errors during test teardown", failures)
    for failure in failures:
        raise failure
    return None
