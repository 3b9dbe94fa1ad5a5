"""A process that dies, for real, at a named step of what it does."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from typing import TYPE_CHECKING, NoReturn

from statefile._process import Presence, ProcessRef
from statefile.testing._arguments import a_function, one_of, positive, seconds
from statefile.testing._steps import Step, counting

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextlib.contextmanager
def crash_at(step: Step | str, *, nth: int = 1) -> Generator[None]:
    """In the block this process dies by SIGKILL when, in any of its threads, it comes to `step` for the `nth` time.

    For a process that is there to die: `run_to_crash` makes one. A child that is forked in the block does not die. Whatever is
    wrapped for this is as before at the end of the block.

    Raises:
        ValueError, TypeError: there is no such step, or `nth` is no positive number.
        AssertionError: the block came to its end, but not so often to that step.
    """
    at = one_of(Step, step)
    positive("nth", nth, _NTH)
    with _crashing(at, nth, lambda: None):
        yield


@contextlib.contextmanager
def _crashing(step: Step, nth: int, about_to_die: Callable[[], object]) -> Generator[None]:
    counter = _Countdown(step, nth, about_to_die)
    try:
        with counting(counter.reached):
            yield
    finally:
        counter.over = True
    raise AssertionError(f"the block has ended, and came to {step.name} {counter.count} times, not {nth}: nothing died there")


def run_to_crash(
    step: Step | str, function: Callable[..., object], *args: object, nth: int = 1, timeout: float = 60.0
) -> ProcessRef:
    """Run `function(*args)` in a forked child that dies by SIGKILL at `step`, and return which process that was.

    On return it is dead and reaped, its locks are free, and its files are as they were at that step. What it changed in memory
    is lost with it. `timeout` in seconds.

    Raises:
        ValueError, TypeError: as for `crash_at`; or `function` is none, or `timeout` no time.
        AssertionError: it did not die there: it came to its end, raised something (which is in the message), or took too long.
    """
    at = one_of(Step, step)
    a_function(function)
    positive("nth", nth, _NTH)
    seconds("timeout", timeout)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: the child touches none of theirs
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
    if pid == 0:
        _die_in_child(writer, at, nth, lambda: function(*args))
    os.close(writer)
    child = ProcessRef.of(pid)
    try:
        late = child.wait(timeout) is Presence.ALIVE
    finally:
        child.send_signal(signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        with open(reader, "rb", buffering=0) as said:
            told = said.read(_MOST_SAID)  # to the end there may be none: a child of the child may have the pipe
    if told == _DYING:
        return child
    if late:
        raise AssertionError(f"the child did not come to {at.name} within {timeout:g} s")
    why = told.decode("utf-8", "replace") or f"it ended with status {os.waitstatus_to_exitcode(status)}"
    raise AssertionError(f"the child did not die at {at.name}: {why}")


_NTH = "which time it is, 1 for the first"
_DYING = b"\0"
_MOST_SAID = 32_768
"""Bytes: less than a pipe holds, since nobody reads before the end."""


def _die_in_child(writer: int, step: Step, nth: int, act: Callable[[], object]) -> NoReturn:
    try:
        with _crashing(step, nth, lambda: os.write(writer, _DYING)):
            act()
    except BaseException as error:  # noqa: BLE001  # the parent raises it
        text = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        os.write(writer, text.encode("utf-8", "replace")[:_MOST_SAID])
    finally:
        os._exit(1)


class _Countdown:
    def __init__(self, step: Step, nth: int, about_to_die: Callable[[], object]) -> None:
        self.step = step
        self.count = 0
        self.over = False
        self._nth = nth
        self._about_to_die = about_to_die
        self._pid = os.getpid()
        self._gate = threading.Lock()

    def reached(self, step: Step) -> None:
        if step is not self.step or self.over or os.getpid() != self._pid:
            return
        with self._gate:
            self.count += 1
            if self.count != self._nth:
                return
            self._about_to_die()
            ProcessRef.current().send_signal(signal.SIGKILL)
            while True:  # not one instruction more of the library's
                time.sleep(1)
