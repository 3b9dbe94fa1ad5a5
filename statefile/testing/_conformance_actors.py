"""Other processes that do one thing, and are killed in the middle of it."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from statefile._process import Presence, ProcessRef
from statefile.testing._conformance_faults import broken

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from statefile.runtime import Runtime


class Actor:
    """Another process that does one thing: a fork, so that it needs no module of the embedder's by name."""

    def __init__(self, do: Callable[[], object], *, base: str, token: str, number: int, patience: float) -> None:
        self._answer = os.path.join(base, f"actor-{number}")
        self._patience = patience
        with warnings.catch_warnings():
            # A fork beside threads is no danger here: the child takes none of their locks, and leaves by `_exit`.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self._act(do, base, token)
        self.ref = ProcessRef.of(pid)
        self._status: int | None = None

    def _act(self, do: Callable[[], object], base: str, token: str) -> None:
        said = "was interrupted"
        try:
            # What it leaves is known by these, unless it takes care to be something else.
            os.chdir(base)
            os.environ["STATEFILE_CONFORMANCE"] = token
            said = str(do())
        except BaseException as error:  # noqa: BLE001  # it is told
            several = getattr(error, "exceptions", (error,))
            said = "; ".join(f"{type(each).__name__}: {each}" for each in several)
        finally:
            with open(self._answer, "w", encoding="utf-8") as file:
                file.write(said)
            os._exit(0)

    def said(self, method: str) -> str:
        """What it returned, or the exception that it raised; empty if it was killed. It is `method` that has to return."""
        if self._status is None and self.ref.wait(self._patience) is Presence.ALIVE:
            self.kill()
            advice = "every wait in it has to end, by a time-out or because the other side is gone"
            raise broken(method, f"{method} did not return within {self._patience:g} s, in a process of its own", advice)
        self._reap()
        try:
            with open(self._answer, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def kill(self) -> None:
        """SIGKILL, and reap it."""
        if self._status is None:
            self.ref.send_signal(signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        if self._status is None:
            self._status = os.waitpid(self.ref.pid, 0)[1]


class Moment(NamedTuple):
    """When an actor is killed: before a line of Python, or that many seconds after it was begun."""

    line: int
    seconds: float = 0.0

    def __str__(self) -> str:
        """For people, in a sentence about what was killed."""
        return f"killed {f'{self.seconds * 1000:.1f} ms into' if self.seconds else 'before'} line {self.line}"


class Dying:
    """A runtime whose `method` is killed at a moment or, without one, counts its lines of Python and takes their times."""

    def __init__(self, runtime: Runtime, method: str, moment: Moment | None = None) -> None:
        self._runtime = runtime
        self._method = method
        self._moment = moment
        self._times: list[float] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # the runtime's own
        found = getattr(self._runtime, name)
        return functools.partial(self._watched, found) if name == self._method else found

    def measured(self) -> str:
        """How many lines there were, and then the moments in the middle of the slowest and after them."""
        took = [after - before for before, after in itertools.pairwise(self._times)]
        slowest = sorted(range(len(took)), key=took.__getitem__, reverse=True)
        moments = [part for line in slowest[:_SLOW] for part in (f"{line + 1}:{took[line] / 2:.6f}", f"{line + 2}:0")]
        return " ".join([str(len(took)), *moments])

    def _watched(self, call: Callable[..., object], *args: object, **kwargs: object) -> object:
        actor = os.getpid()

        def trace(_frame: FrameType, event: str, _argument: object) -> Any:  # noqa: ANN401  # itself
            if event == "line" and os.getpid() == actor:  # and no fork of it
                self._times.append(time.perf_counter())
                if self._moment and len(self._times) == self._moment.line:
                    die_in(self._moment.seconds)
            return trace

        sys.settrace(trace)
        try:
            return call(*args, **kwargs)
        finally:
            sys.settrace(None)
            self._times.append(time.perf_counter())


def die_in(seconds: float) -> None:
    """Let the kernel end this process, at once or later, without a further line of Python."""
    if not seconds:
        ProcessRef.current().send_signal(signal.SIGKILL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


_SLOW = 5
"""In so many lines, the slowest, a method does what matters: it makes processes, and waits for them."""
