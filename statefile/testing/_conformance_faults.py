"""What is wrong with a runtime, said in full: what was seen, which promise that breaks, and what to do."""

from __future__ import annotations

import contextlib
import inspect
import re
import unittest
from typing import TYPE_CHECKING

from statefile.runtime import REQUIRED, Runtime

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from statefile._process import ProcessRef

_SHOWN = 100
"""So many bytes of a command line are enough to know it by."""


def promise_of(method: str) -> str:
    """What `statefile.runtime.Runtime` says that `method` does."""
    if method in REQUIRED:
        return " ".join((inspect.getdoc(getattr(Runtime, method)) or "").split())
    row = re.search(rf"\| `{method}\(.*?\| (.*?) \|$", Runtime.__doc__ or "", re.MULTILINE)
    return f"On return {row[1]}." if row else ""


def broken(method: str, wrong: str, advice: str) -> AssertionError:
    """A failure of the runtime: what is wrong, which promise that breaks, and what to do about it."""
    return AssertionError(f"{wrong}\n  Promised by Runtime.{method}: {promise_of(method)}\n  What to do: {advice}")


def check(holds: object, method: str, wrong: str, advice: str) -> None:
    """Raise what is wrong unless it `holds`."""
    __tracebackhide__ = True  # for pytest: the line of the test says more
    if not holds:
        raise broken(method, wrong, advice)


@contextlib.contextmanager
def calling(method: str, doing: str, *, only: tuple[type[Exception], ...] = (Exception,)) -> Generator[None]:
    """An exception out of the block, of those kinds, is the runtime's fault."""
    __tracebackhide__ = True  # for pytest: the line of the test says more
    try:
        yield
    except (AssertionError, unittest.SkipTest, NotImplementedError):
        raise
    except Exception as error:
        several = getattr(error, "exceptions", (error,))
        if not any(isinstance(each, only) for each in several):
            raise
        told = "; ".join(f"{type(each).__name__}: {each}" for each in several)
        advice = "the exception that is the cause of this one says where; this has to work"
        raise broken(method, f"{doing} raised {told}", advice) from error


def shown(refs: Sequence[ProcessRef]) -> str:
    """Processes for people to read."""
    found: list[str] = []
    for ref in refs:
        command = command_of(ref)
        if command is not None:
            found.append(f"{ref.pid} ({command or 'no command line'})")
    return ", ".join(found) or ", ".join(str(ref.pid) for ref in refs)


def command_of(ref: ProcessRef) -> str | None:
    """The beginning of its command line; `None` if it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{ref.pid}/cmdline", "rb") as file:
        return file.read(_SHOWN).decode("utf-8", "replace").replace("\0", " ").strip()
    return None


def descends(ref: ProcessRef, first: ProcessRef) -> bool:
    """Whether it is `first`, or has it among its parents."""
    pid = ref.pid
    while pid not in {first.pid, 0}:
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                pid = int(file.read().rpartition(") ")[2].split()[1])
        except OSError:  # it has just gone
            return False
    return pid == first.pid
