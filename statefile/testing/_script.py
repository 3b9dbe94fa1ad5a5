"""What a test has a runtime do out of turn: rules that wait for a method to be called, and the record of the calls."""

from __future__ import annotations

import contextlib
import copy
import os
import select
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from statefile.testing._arguments import positive, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from statefile._container import Container

PATIENCE = 60.0
"""Seconds that a held call waits to be let go on: whoever was to do that has died, or the test is stuck."""


class Call(NamedTuple):
    """One call of a runtime's method.

    Attributes:
        method: its name.
        id: the ID of the container that it was handed.
        arguments: the others, in the order of the signature.
    """

    method: str
    id: str
    arguments: tuple[Any, ...] = ()


class Held:
    """Calls that wait until they are let go on: what `FakeRuntime.hold` returns. At the end of its block they are.

    Works across a fork too: the call may come from a child.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self._reached, self._go = os.eventfd(0, os.EFD_CLOEXEC), os.eventfd(0, os.EFD_CLOEXEC)
        weakref.finalize(self, _close, self._reached, self._go)

    def reached(self, timeout: float = PATIENCE) -> Self:
        """Wait until a call has come here, and waits.

        Raises:
            TimeoutError: none has within `timeout` seconds.
        """
        if not _readable(self._reached, timeout):
            raise TimeoutError(f"nobody has called {self.method} within {timeout:g} s")
        return self

    def release(self) -> None:
        """Let the calls that wait here go on, and those to come not wait. Idempotent."""
        os.eventfd_write(self._go, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def pass_through(self) -> None:
        """Say that a call has come, and wait until it is let go on.

        Raises:
            TimeoutError: it was not, for a minute.
        """
        os.eventfd_write(self._reached, 1)
        if not _readable(self._go, PATIENCE):
            raise TimeoutError(f"{self.method} was held for {PATIENCE:g} s, and nobody has released it")


def _readable(descriptor: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


@dataclass
class Rule:
    """What happens at the next `times` calls of `method` that come to it; for good if that is `None`."""

    method: str
    happens: Callable[[Container], None]
    before: bool
    times: int | None
    _left: list[None] = field(init=False)

    def __post_init__(self) -> None:
        self._left = [None] * (self.times or 0)

    def taken(self) -> bool:
        """Whether it still applies, to one call more: then it is that call's."""
        if self.times is not None:
            try:
                self._left.pop()  # atomic: no lock that a fork could find taken
            except IndexError:
                return False
        return True

    def give_back(self) -> None:
        """The call that had taken it did not come to it: it is the next one's."""
        if self.times is not None:
            self._left.append(None)


class Script:
    """The rules of one runtime, and the calls that it got. Thread-safe."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._rules: list[Rule] = []

    def add(self, method: str, happens: Callable[[Container], None], *, before: bool, times: int | None) -> None:
        """From now on `happens` is called at the next calls of `method`.

        Raises:
            ValueError: `times` is no positive number.
        """
        if times is not None:
            positive("times", times, "how often it happens, 1 or more, or None for good")
        self._rules.append(Rule(method, happens, before, times))

    def clear(self) -> None:
        """Forget the rules."""
        self._rules = []

    @contextlib.contextmanager
    def call(self, method: str, container: Container, *arguments: object) -> Generator[None]:
        """Note the call; before and after the block, in which the work is done, do what the rules say, in their order.

        What the call does not come to, because something was raised before, waits for the next one.
        """
        self.calls.append(Call(method, container.id, arguments))
        due = [rule for rule in self._rules if rule.method == method and rule.taken()]
        first, last = ([rule for rule in due if rule.before is before] for before in (True, False))
        try:
            _happen(first, container)
            yield
            _happen(last, container)
        finally:
            for rule in (*first, *last):
                rule.give_back()


def _happen(rules: list[Rule], container: Container) -> None:
    """Do what they say, in their order; those that were come to are taken off the list."""
    while rules:
        rules.pop(0).happens(container)


def raising(error: object) -> Callable[[Container], None]:
    """What raises `error`: itself the first time, later a copy, so that no call sees the notes of another.

    Raises:
        TypeError: it is no exception.
    """
    if isinstance(error, type) and issubclass(error, BaseException):
        error = error()
    if not isinstance(error, BaseException):
        raise TypeError(f"{error!r:.80} cannot be raised: give an exception, such as OSError(errno.EIO, 'bad disk')")
    pristine = copy.copy(error)
    first = [error]

    def happens(_: Container) -> None:
        try:
            now = first.pop()
        except IndexError:
            now = copy.copy(pristine)
        raise now

    return happens


def delaying(duration: float) -> Callable[[Container], None]:
    """What takes `duration` seconds.

    Raises:
        ValueError: it is negative or NaN.
        TypeError: it is no number.
    """
    seconds("seconds", duration)
    return lambda _: time.sleep(duration)
