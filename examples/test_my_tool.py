"""A tool that keeps containers, and its unit tests: real processes and real accidents, but no root, images or daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statefile import Container, StateDir, StateFileError, testing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from statefile import Runtime


def freeze(root: Path, runtime: Runtime) -> dict[str, str]:
    """The tool: pause whatever runs, before a backup. What goes wrong with one container does not keep it from the others."""
    trouble = {}
    for full_id in StateDir(root).ids():
        try:
            container = Container.load(root, full_id, runtime=runtime, exact=True)
            if container.status == "running":
                container.pause(timeout=0.1)
        except (StateFileError, OSError) as error:
            trouble[full_id.container_id] = type(error).__name__
    return trouble


# -- its tests: `statefile_root`, `fake_runtime` and `container_factory` come with the package ---------------------------


def test_what_runs_is_paused(
    statefile_root: Path, fake_runtime: testing.FakeRuntime, container_factory: Callable[..., Container]
) -> None:
    web, new = container_factory("web"), container_factory("new", status="created")
    assert freeze(statefile_root, fake_runtime) == {}
    assert (web.state().status, new.state().status) == ("paused", "created")


def test_accidents_hold_nobody_up(
    statefile_root: Path, fake_runtime: testing.FakeRuntime, container_factory: Callable[..., Container]
) -> None:
    container_factory("crashed", process="dead")  # the record says `running`, but the process was killed
    testing.corrupt(container_factory("torn"), "truncated")
    web = container_factory("web")
    with testing.held_lock(container_factory("busy")):  # by another process
        assert freeze(statefile_root, fake_runtime) == {"busy": "LockTimeoutError", "torn": "CorruptStateError"}
    assert web.state().status == "paused"


def test_a_runtime_that_fails_is_reported(
    statefile_root: Path, fake_runtime: testing.FakeRuntime, container_factory: Callable[..., Container]
) -> None:
    web = container_factory("web")
    fake_runtime.fail("pause", OSError("no freezer here"))
    assert freeze(statefile_root, fake_runtime) == {"web": "OSError"}
    assert web.state().status == "running"
