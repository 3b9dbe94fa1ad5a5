"""What every test gets: root-only tests skip visibly, hypothesis keeps no clock, and nothing may be left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests import harness

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The per-test timeout catches what hangs; how long one example takes says more about the machine than about the code.
settings.register_profile("statefile", deadline=None)
settings.load_profile("statefile")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `root` for ordinary users."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Fail a test that leaves a child process, a thread or an open lock file behind."""
    threads = harness.lasting_threads()
    children = set(harness.children()) | _idle.keys()
    locks = harness.lock_descriptors()
    yield
    with contextlib.suppress(AssertionError):  # what is still there after that is named below
        harness.until(lambda: harness.lasting_threads() <= threads and harness.lock_descriptors() == locks, timeout=5)
    assert not set(harness.children()) - children - _idle.keys(), "the test left child processes"
    assert harness.lock_descriptors() == locks, "the test left lock files open"
    assert harness.lasting_threads() <= threads, "the test left threads"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A private root directory, on a tmpfs where there is one: there a flush costs nothing."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        memory = tmp_path
    base = Path(tempfile.mkdtemp(prefix="statefile-", dir=memory))
    base.chmod(0o711)  # a worker may have become another user
    place = base / "root"
    place.mkdir(mode=0o711)
    yield place
    shutil.rmtree(base, ignore_errors=True)


_idle: dict[int, harness.Worker] = {}
"""Workers that have done what a test wanted of them, and kept nothing: the next test may have them."""


@pytest.fixture(scope="session")
def _workers_end() -> Iterator[None]:
    yield
    _close(_idle.values())
    _idle.clear()


@pytest.fixture
def spawn(_workers_end: None) -> Iterator[harness.Spawn]:
    """Gives workers; at the end those that are busy, or not as they were, are dead and reaped, whatever became of the test."""
    lent: list[harness.Worker] = []
    used_up: list[harness.Worker] = []

    def start(*prefix: str, quiet: bool = False, fresh: bool = False) -> harness.Worker:
        if prefix or quiet or fresh:
            used_up.append(harness.Worker(*prefix, quiet=quiet))
            return used_up[-1]
        lent.append(_idle.popitem()[1] if _idle else harness.Worker())
        return lent[-1]

    yield start
    for worker in lent:
        if worker.is_clean():
            _idle[worker.pid] = worker
        else:
            used_up.append(worker)
    _close(used_up)


def _close(workers: Iterable[harness.Worker]) -> None:
    for worker in workers:
        worker.let_go()
    for worker in workers:
        worker.close()


@pytest.fixture(scope="session")
def strace() -> None:
    """Skip where there is no strace, or where it may not trace."""
    try:
        subprocess.run([*harness.STRACE, os.devnull, "true"], check=True, stderr=subprocess.PIPE)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a working strace: {error}")


@pytest.fixture
def nobody(spawn: harness.Spawn, request: pytest.FixtureRequest) -> harness.Worker:
    """A worker without root's rights: they would hide what a mode forbids."""
    worker = spawn(fresh=True)
    worker.call(harness.become_nobody, request.module.__name__)
    return worker
