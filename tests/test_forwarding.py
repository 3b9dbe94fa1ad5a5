"""Signals that reach the process that waits for a container: `Container.forward_signals`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from statefile import Container, ExitStatus, ProcessRuntime
from statefile._forwarding import OWN
from tests.harness import PATIENCE, hear, tell, until
from tests.test_container import SLEEP, home, make, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Spawn

__all__ = ["home"]  # a fixture: pytest finds it by name

# Its first process writes down what it gets, in the order in which it comes, and ends at SIGTERM. Not a shell's traps: one that
# comes just before a shell begins to wait is seen when that is over.
NOTES = """
import signal, sys
NAMES = ["USR1", "HUP", "INT", "WINCH", "RTMIN", "TERM"]
wanted = {{getattr(signal, "SIG" + name): name for name in NAMES}}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
def note(text):
    with open({out!r}, "a") as out:
        out.write(text + chr(10))
note("ready")
while True:
    name = wanted[signal.sigwait(wanted)]
    if name == "TERM":
        sys.exit(7)
    note(name)
"""


def noting_container(home: Path, out: Path) -> Container:
    """A running container that notes its signals."""
    c = make(home, sys.executable, "-I", "-S", "-c", NOTES.format(out=str(out)))
    c.start()
    until(out.exists)
    until(lambda: out.read_text() == "ready\n")
    return c


def attached(root: Path, options: dict[str, Any]) -> ExitStatus | None:
    """Wait for the container as an attached run does."""
    c = Container.load(root, "c", runtime=ProcessRuntime())
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with c.forward_signals(**options):
        tell("forwarding")
        status = c.wait(PATIENCE)
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
    assert not any(thread.name.startswith("forward") for thread in threading.enumerate())
    return status


def test_signals_of_an_attached_run_reach_the_container(home: Path, spawn: Spawn, tmp_path: Path) -> None:
    """What the waiting process gets its container gets, in that order, Ctrl-C included; the waiter waits on to the end."""
    out = tmp_path / "out"
    noting_container(home, out)
    worker = spawn()
    worker.start(attached, home, {})
    assert worker.hear() == "forwarding"
    expected = ["ready"]
    for name in ("USR1", "INT", "HUP", "WINCH", "RTMIN", "USR1"):
        os.kill(worker.pid, getattr(signal, f"SIG{name}"))
        expected.append(name)
        until(lambda: out.read_text().split() == expected)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.result() == ExitStatus(code=7)


def _ignoring(root: Path) -> ExitStatus | None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        return attached(root, {})
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_what_was_ignored_is_not_forwarded(home: Path, spawn: Spawn, tmp_path: Path) -> None:
    """A process that was told to ignore a signal, as by nohup, does not forward it."""
    out = tmp_path / "out"
    noting_container(home, out)
    worker = spawn()
    worker.start(_ignoring, home)
    assert worker.hear() == "forwarding"
    os.kill(worker.pid, signal.SIGHUP)
    os.kill(worker.pid, signal.SIGUSR1)
    until(lambda: out.read_text() == "ready\nUSR1\n")
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.result() == ExitStatus(code=7)
    assert out.read_text() == "ready\nUSR1\n"


def _with_own_handler(root: Path) -> list[int]:
    got: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    try:
        assert attached(root, {"signals": [signal.SIGTERM]}) == ExitStatus(code=7)
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    return got


def test_only_those_that_were_named_are_forwarded(home: Path, spawn: Spawn, tmp_path: Path) -> None:
    """Who names signals keeps the others for himself."""
    out = tmp_path / "out"
    noting_container(home, out)
    worker = spawn()
    worker.start(_with_own_handler, home)
    assert worker.hear() == "forwarding"
    os.kill(worker.pid, signal.SIGUSR1)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.result() == [signal.SIGUSR1]
    assert out.read_text() == "ready\n"


def _run_attached(root: Path) -> ExitStatus | None:
    c = make(root, *SLEEP)
    with c.forward_signals():
        tell("created")
        assert hear() == "go on"
        c.start()
        return c.wait(PATIENCE)


@pytest.mark.parametrize("moment", ["created", "running"])
def test_signal_before_the_start_is_not_lost(home: Path, spawn: Spawn, moment: str) -> None:
    """Forwarding may begin before the start: what comes earlier reaches the process that waits to be started."""
    worker = spawn()
    worker.start(_run_attached, home)
    assert worker.hear() == "created"
    if moment == "created":
        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: Container.load(home, "c").status == "stopped")
        worker.tell("go on")
        with pytest.raises(Exception, match="stopped"):
            worker.result()
    else:
        worker.tell("go on")
        until(lambda: Container.load(home, "c").status == "running")
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.result() == ExitStatus(signal=signal.SIGTERM)


def test_signal_after_the_end_is_logged_and_no_error(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A signal for a container that has ended, or is gone, or means another one by now, disturbs nobody."""
    caplog.set_level("INFO", logger="statefile")
    c = make(home, *SLEEP)
    c.start()
    other = Container.load(home, "c", runtime=ProcessRuntime())
    with c.forward_signals():
        other.signal(signal.SIGKILL)
        other.wait(PATIENCE)
        signal.raise_signal(signal.SIGUSR1)
        until(lambda: "signal 10 was not forwarded" in caplog.text)
        other.destroy()
        again = make(home, *SLEEP)
        signal.raise_signal(signal.SIGTERM)
    again.refresh()
    assert again.status == "created"


@pytest.fixture
def dispositions() -> Iterator[dict[int, Any]]:
    """All handlers; afterwards they are what they were."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield before
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, 0, -1, 65, 1000])
def test_what_cannot_be_caught_is_refused(home: Path, dispositions: dict[int, Any], number: int) -> None:
    """A signal that cannot be caught is a `ValueError`, and no handler was changed."""
    assert dispositions
    c = make(home, *SLEEP)
    with pytest.raises(ValueError, match="cannot be caught"), c.forward_signals([signal.SIGTERM, number]):
        pass
    assert not any(thread.name.startswith("forward") for thread in threading.enumerate())


def test_other_threads_are_refused(home: Path) -> None:
    """Signals reach the main thread only, and `forward_signals` elsewhere says so."""
    c = make(home, *SLEEP)
    caught: list[str] = []

    def attempt() -> None:
        try:
            with c.forward_signals():
                pass
        except ValueError as error:
            caught.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert caught == ["signals reach the main thread: call forward_signals() there"]


def test_faults_timers_and_children_are_its_own(home: Path, dispositions: dict[int, Any]) -> None:
    """What concerns the waiting process itself keeps its handler."""
    c = make(home, *SLEEP)
    with c.forward_signals():
        for number in OWN:
            assert signal.getsignal(number) == dispositions[number]
        assert signal.getsignal(signal.SIGTERM) != dispositions[signal.SIGTERM]
    with pytest.raises(LookupError), c.forward_signals():
        raise LookupError


def test_interrupt_while_handlers_are_put_back_leaves_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the very end of the block is raised, all handlers are what they were, and the thread has ended."""
    c = Container.new(home, "c", spec=spec_of(home, *SLEEP), runtime=ProcessRuntime())
    before = signal.getsignal(signal.SIGTERM)
    real = signal.signal
    presses = [signal.SIGINT]

    def pressed(number: int, handler: Any) -> Any:
        found = real(number, handler)
        if number == signal.SIGINT and handler is signal.default_int_handler and presses:
            signal.raise_signal(presses.pop())
        return found

    with pytest.raises(KeyboardInterrupt), c.forward_signals():
        monkeypatch.setattr(signal, "signal", pressed)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not any(thread.name.startswith("forward signals") for thread in threading.enumerate())
