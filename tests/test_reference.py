"""What gVisor's tests of its container package promise, each on real processes here: same name, same behaviour."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from statefile import (
    AlreadyExistsError,
    AmbiguousIDError,
    Container,
    ExitStatus,
    FullID,
    HookError,
    InvalidTransitionError,
    NotFoundError,
    ProcessRuntime,
    SpecError,
    StateDir,
    StateFileError,
    Status,
)
from tests.harness import PATIENCE, lock_descriptors, names, until
from tests.test_container import SLEEP, home, make, on_disk, pid_of, process_state, survivors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import Spawn

__all__ = ["home"]  # a fixture: pytest finds it by name


def wait_elsewhere(root: Path) -> ExitStatus | None:
    """A waiter of its own, as `runsc wait` is."""
    return Container.load(root, "c", runtime=ProcessRuntime()).wait(PATIENCE)


def test_lifecycle(home: Path, spawn: Spawn) -> None:
    """Created, started, signalled, waited for twice and destroyed, by objects that were loaded; then it is gone."""
    make(home, *SLEEP)
    c = Container.load(home, "c", runtime=ProcessRuntime())
    assert (c.status, StateDir(home).ids()) == (Status.CREATED, [FullID("c", "c")])
    c.start()
    assert Container.load(home, "c").status is Status.RUNNING
    assert [ref.pid for ref in c.processes()] == [pid_of(c)]
    waiters = [spawn(), spawn()]
    for waiter in waiters:
        waiter.start(wait_elsewhere, home)
    c.signal(signal.SIGTERM)
    assert [waiter.result() for waiter in waiters] == [ExitStatus(signal=signal.SIGTERM)] * 2
    assert Container.load(home, "c").status is Status.STOPPED
    c.destroy()
    assert StateDir(home).ids() == []
    assert names(home) == []
    with pytest.raises(NotFoundError):
        Container.load(home, "c")


def test_pause_resume_status(home: Path) -> None:
    """Paused is what everybody sees and what the kernel says; resumed it runs again."""
    c = make(home, *SLEEP)
    c.start()
    until(lambda: process_state(pid_of(c)) == "S")
    for _ in range(3):
        c.pause()
        assert Container.load(home, "c").status is Status.PAUSED
        assert process_state(pid_of(c)) == "T"
        c.resume()
        assert Container.load(home, "c").status is Status.RUNNING
        assert process_state(pid_of(c)) != "T"


def test_abbreviated_ids(home: Path) -> None:
    """A unique beginning finds its container, one of several is ambiguous, and an exact ID wins over what it begins."""
    for name in ("foo-1", "foo-2", "bar", "bar-none"):
        make(home, *SLEEP, name=name)
    for partial, name in {"foo-1": "foo-1", "foo-2": "foo-2", "bar": "bar", "bar-": "bar-none", "bar-n": "bar-none"}.items():
        assert Container.load(home, partial).id == name
    for partial in ("f", "foo", "foo-", "b", "ba"):
        with pytest.raises(AmbiguousIDError):
            Container.load(home, partial)


def test_wait_on_exited_sandbox(home: Path, spawn: Spawn) -> None:
    """Who comes after the end gets the exit status too, at once, and however often."""
    c = make(home, "sh", "-c", "exit 17")
    c.start()
    assert c.wait(PATIENCE) == ExitStatus(code=17)
    worker = spawn()
    for _ in range(3):
        assert worker.call(wait_elsewhere, home) == ExitStatus(code=17)
        assert Container.load(home, "c", runtime=ProcessRuntime()).wait(0) == ExitStatus(code=17)


def test_destroy_not_started(home: Path) -> None:
    """A container that was never started is destroyed, and nothing of it is left."""
    make(home, *SLEEP).destroy()
    assert names(home) == []
    assert not survivors(home)


def _destroy(root: Path) -> None:
    Container.load(root, "c", runtime=ProcessRuntime()).destroy()


def test_destroy_starting(home: Path, spawn: Spawn) -> None:
    """Starting and destroying at once, one or the other is first, and nothing is left in the end."""
    worker = spawn()
    outcomes = set()
    for _ in range(20):
        c = make(home, *SLEEP)
        worker.start(_destroy, home)
        try:
            c.start()
            outcomes.add("started")
        except (NotFoundError, InvalidTransitionError) as error:
            outcomes.add(type(error).__name__)
        worker.result()
        assert names(home) == []
        assert not survivors(home)
    assert outcomes <= {"started", "NotFoundError", "InvalidTransitionError"}


def test_destroy_starting_within_one_process(home: Path) -> None:
    """The same with a thread, which shares the object's process and not its lock."""
    for _ in range(10):
        c = make(home, *SLEEP)
        failed: list[BaseException] = []

        def destroy(failed: list[BaseException] = failed) -> None:
            try:
                Container.remove(home, "c", runtime=ProcessRuntime())
            except BaseException as error:  # noqa: BLE001  # shown by the test
                failed.append(error)

        thread = threading.Thread(target=destroy)
        thread.start()
        with contextlib.suppress(NotFoundError, InvalidTransitionError):
            c.start()
        thread.join()
        assert failed == []
        assert names(home) == []
        assert not survivors(home)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not JSON", b'{"id": "c"', b"[]"], ids=repr)
def test_create_with_corrupted_state_file(home: Path, content: bytes) -> None:
    """A file that is no state holds its ID against a creation, which leaves it as it is; removed, the ID is free."""
    state = home / "c_sandbox:c.state"
    state.write_bytes(content)
    with pytest.raises(AlreadyExistsError):
        make(home, *SLEEP)
    assert state.read_bytes() == content
    assert not survivors(home)
    Container.remove(home, "c", runtime=ProcessRuntime())
    make(home, *SLEEP).destroy()


def test_post_start_hook_failure(home: Path, tmp_path: Path) -> None:
    """When a poststart hook fails, so does the start; the container is stopped, its poststop hooks run, and it is gone."""
    after = tmp_path / "after"
    hooks = {
        "poststart": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 3"]}],
        "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo done >{after}"]}],
    }
    c = make(home, *SLEEP, hooks=hooks)
    with pytest.raises(HookError, match="exit code 3; it said: no"):
        c.start()
    assert after.read_text() == "done\n"
    assert names(home) == []
    assert not survivors(home)


@pytest.mark.slow
def test_hundreds_of_failed_creations_leave_nothing(home: Path) -> None:
    """Creations that fail, each in its own way, name the cause and leave no process, no file, no lock and no descriptor."""
    make(home, *SLEEP, name="taken")
    before = (names(home), on_disk(home, "taken"), len(os.listdir("/proc/self/fd")))
    failing: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: make(home, *SLEEP, name="taken"), AlreadyExistsError),
        (lambda: make(home, "/no/such/program", name="a").start(), StateFileError),
        (lambda: Container.new(home, "b", spec={"process": {"args": 1}}, runtime=ProcessRuntime()), SpecError),
        (lambda: make(home, *SLEEP, name="c", hooks={"prestart": [{"path": "/bin/false"}]}), HookError),
        (lambda: make(home, *SLEEP, name="d", pid_file="/no/such/directory/pid"), StateFileError),
    ]
    for number in range(200):
        do, error = failing[number % len(failing)]
        with pytest.raises(error):
            do()
        if number % len(failing) == 1:
            Container.remove(home, "a", runtime=ProcessRuntime())
    assert (names(home), on_disk(home, "taken"), len(os.listdir("/proc/self/fd"))) == before
    assert lock_descriptors() == []
    Container.remove(home, "taken", runtime=ProcessRuntime())
    until(lambda: not survivors(home))
