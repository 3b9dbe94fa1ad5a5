"""`FakeRuntime`: a runtime for tests, with real processes that do nothing, and a script of what goes wrong."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

from statefile.runtime import REQUIRED, ExitStatus
from statefile.testing._arguments import a_container, a_method_name, whole
from statefile.testing._plain_runtime import FATAL, PlainRuntime
from statefile.testing._processes import Processes
from statefile.testing._script import Call, Held, Script, delaying, raising

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from types import TracebackType

    from statefile._container import Container
    from statefile._lifecycle import Status
    from statefile._process import ProcessRef
    from statefile.runtime import Created

OPTIONAL = ("pause", "resume", "checkpoint", "restore", "execute", "processes", "update", "events", "wait")
"""The methods that a runtime may lack."""

_METHODS = frozenset((*REQUIRED, *OPTIONAL))


class FakeRuntime:
    """A complete runtime without containers: each container is one real process that does nothing.

    So identity, liveness, signals, stops and ends are true, in this process, in its forked children, and for another
    `FakeRuntime` in another process; the spec is not looked at. How a process ended is known to the process that made it, and
    to the one that called `exit`; to others it is unknown (`None`). The processes end with `close` (or the block, or the last
    reference), and when this process dies, however it dies; what a forked child of it has made goes on when that child dies.

    What goes wrong is said beforehand: `fail`, `delay`, `hold` and `die` apply to the next `times` calls of a method, in this
    process and in children forked from now on, and several of them to one call, in the order in which they were said. What a
    call does not come to, because an error was raised before, waits for the next one. `before` says whether it happens before
    the method does its work, or when it is done. An argument of a wrong type is a `TypeError` that names it.

    Threads may share one.

    Attributes:
        calls: what was called, in order, in this process: `Call("start", "c1")`.
        unscripted: the same runtime without script and record, and with all methods: for what a test prepares.

    Raises:
        ValueError: `without` names a method that every runtime has, or none.
    """

    def __init__(self, *, without: Collection[str] = ()) -> None:
        """Make one that lacks the optional methods `without`: they are not there at all."""
        names = (without,) if isinstance(without, str) else tuple(without)
        for name in names:
            if name not in OPTIONAL:
                raise ValueError(
                    f"without={name!r}: give the optional methods that it shall lack, out of {', '.join(OPTIONAL)}"
                )
        self._without = frozenset(names)
        self._made = Processes()
        self._script = Script()
        self.unscripted = PlainRuntime(self._made)

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401  # whatever it is
        """A method that it lacks is not there, as for a class that never had it."""
        if name in OPTIONAL and name in object.__getattribute__(self, "_without"):
            raise AttributeError(f"this {type(self).__name__} was made without {name}", name=name, obj=self)
        return object.__getattribute__(self, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End whatever it still runs, what its forked children have made included. Idempotent; then it makes nothing new."""
        self._made.close()

    # -- the script ----------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> list[Call]:
        """What was called. The list is this runtime's own: clear it to start over."""
        return self._script.calls

    def fail(
        self, method: str, error: BaseException | type[BaseException], *, before: bool = True, times: int | None = 1
    ) -> None:
        """Let the next `times` calls of `method` raise `error`; for good if `times` is `None`.

        With `before=False` the method does its work first.

        Raises:
            ValueError: there is no such method, or `times` is no positive number.
            TypeError: `error` is no exception.
        """
        self._script.add(self._named(method), raising(error), before=before, times=times)

    def delay(self, method: str, seconds: float, *, before: bool = True, times: int | None = 1) -> None:
        """Let the next calls of `method` take `seconds` longer; `hold` is better where there is something to wait for.

        Raises:
            ValueError: there is no such method, or `seconds` is negative, or `times` is no positive number.
        """
        self._script.add(self._named(method), delaying(seconds), before=before, times=times)

    def hold(self, method: str, *, before: bool = True, times: int | None = 1) -> Held:
        """Let the next calls of `method` wait until they are let go on: `with runtime.hold("start") as held:`.

        In the block, `held.reached()` returns once a call waits; `held.release()`, or the end of the block, lets it go on.

        Raises:
            ValueError: there is no such method, or `times` is no positive number.
        """
        held = Held(self._named(method))
        self._script.add(method, lambda _: held.pass_through(), before=before, times=times)
        return held

    def die(
        self,
        method: str,
        *,
        code: int | None = None,
        signal: int | None = None,
        before: bool = True,
        times: int | None = 1,
    ) -> None:
        """Let the container's process end during the next calls of `method`, as by `exit`; by SIGKILL if nothing is said.

        One that has ended already is left as it is.

        Raises:
            ValueError: there is no such method, or no such end, or `times` is no positive number; or it is to die before it
                is created.
        """
        status = _ending(code, signal, killed=True)
        if self._named(method) == "create" and before:
            raise ValueError("before it is created there is no process: say die('create', before=False)")

        def happens(container: Container) -> None:
            with contextlib.suppress(ProcessLookupError):
                self.unscripted.end(container, status)

        self._script.add(method, happens, before=before, times=times)

    def exit(self, container: Container, *, code: int | None = None, signal: int | None = None) -> None:
        """Let the container's process end with exit code `code`, or killed by `signal`, now; with code 0 if nothing is said.

        On return it has ended, and nobody has written that down. Needs no lock.

        Raises:
            ValueError: no process can end like that.
            ProcessLookupError: the container has no living process.
        """
        status = _ending(code, signal, killed=False)
        self.unscripted.end(a_container(container), status)

    def forget_script(self) -> None:
        """From now on everything goes well."""
        self._script.clear()

    def _named(self, method: str) -> str:
        if a_method_name(method) not in _METHODS:
            raise ValueError(f"a runtime has no method {method!r}: it has {', '.join((*REQUIRED, *OPTIONAL))}")
        if method in self._without:
            raise ValueError(f"this runtime was made without {method}, so it cannot be called")
        return method

    # -- what every runtime has ----------------------------------------------------------------------------------------

    def create(self, container: Container) -> Created:
        """Make the container's process. See `Runtime` for what holds when a method returns."""
        with self._script.call("create", container):
            return self.unscripted.create(container)

    def start(self, container: Container) -> None:
        """Let it run. It does nothing all the same."""
        with self._script.call("start", container):
            self.unscripted.start(container)

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        """Send signal `number` to the first process, or to `all`."""
        with self._script.call("signal", container, number, all):
            self.unscripted.signal(container, number, all=all)

    def destroy(self, container: Container) -> None:
        """End every process of the container.

        Raises:
            StillRunningError: one does not end; or what the record says of the first one cannot be told from here.
        """
        with self._script.call("destroy", container):
            self.unscripted.destroy(container)

    def probe(self, container: Container) -> Status | str:
        """Say what is true now."""
        with self._script.call("probe", container):
            return self.unscripted.probe(container)

    # -- what a runtime may lack ---------------------------------------------------------------------------------------

    def pause(self, container: Container) -> None:
        """Stop every process."""
        with self._script.call("pause", container):
            self.unscripted.pause(container)

    def resume(self, container: Container) -> None:
        """Let every process go on."""
        with self._script.call("resume", container):
            self.unscripted.resume(container)

    def checkpoint(self, container: Container, path: str) -> None:
        """Write an image, a small file, to `path`."""
        with self._script.call("checkpoint", container, path):
            self.unscripted.checkpoint(container, path)

    def restore(self, container: Container, path: str) -> None:
        """Let it run, from an image that `checkpoint` has written.

        Raises:
            OSError: there is no such file.
            ValueError: it is no such image.
        """
        with self._script.call("restore", container, path):
            self.unscripted.restore(container, path)

    def execute(self, container: Container, args: Sequence[str]) -> ProcessRef:
        """Make another process in the container, which does nothing either."""
        with self._script.call("execute", container, args):
            return self.unscripted.execute(container, args)

    def processes(self, container: Container) -> list[ProcessRef]:
        """The living processes, the first one first."""
        with self._script.call("processes", container):
            return self.unscripted.processes(container)

    def update(self, container: Container, resources: Mapping[str, Any]) -> None:
        """Take note of the limits, in `calls`."""
        with self._script.call("update", container, resources):
            self.unscripted.update(container, resources)

    def events(self, container: Container) -> Mapping[str, float]:
        """How many processes there are: `pids`."""
        with self._script.call("events", container):
            return self.unscripted.events(container)

    def wait(self, container: Container, timeout: float | None) -> ExitStatus | None:
        """Wait until the first process has ended, and say how if this process can know.

        Raises:
            TimeoutError: it still runs after `timeout` seconds.
        """
        with self._script.call("wait", container, timeout):
            return self.unscripted.wait(container, timeout)


def _ending(code: int | None, signal: int | None, *, killed: bool) -> ExitStatus:
    """How a process ends.

    Raises:
        ValueError: no process can end like that.
        TypeError: `code` or `signal` is no integer.
    """
    if code is not None:
        whole("code", code, f"an exit code, 0 to {_LAST_CODE}")
    if signal is not None:
        whole("signal", signal, "a number, such as signal.SIGTERM")
    if code is not None and signal is not None:
        raise ValueError(f"code={code!r} and signal={signal!r}: a process ends in one way")
    if signal is not None and signal not in FATAL:
        raise ValueError(f"signal={signal!r} does not end a process: give one that does, such as signal.SIGTERM")
    if signal is not None:
        return ExitStatus(signal=int(signal))
    if code is None and killed:
        return ExitStatus(signal=_SIGKILL)
    if code is not None and not 0 <= code <= _LAST_CODE:
        raise ValueError(f"code={code!r}: an exit code is 0 to {_LAST_CODE}")
    return ExitStatus(code=code or 0)


_SIGKILL = 9
_LAST_CODE = 255
