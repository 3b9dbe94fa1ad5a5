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
def calling(method: str, doing: str) -> Generator[None]:
    """An exception out of the block is the runtime's fault."""
    __tracebackhide__ = True  # for pytest: the line of the test says more
    try:
        yield
    except (AssertionError, unittest.SkipTest, NotImplementedError):
        raise
    except Exception as error:
        several = getattr(error, "exceptions", (error,))
        told = "; ".join(f"{type(each).__name__}: {each}" for each in several)
        advice = "the exception that is the cause of this one says where; this has to work"
        raise broken(method, f"{doing} raised {told}", advice) from error


def shown(refs: Sequence[ProcessRef]) -> str:
    """Processes for people to read."""
    found: list[str] = []
    for ref in refs:
        with contextlib.suppress(OSError), open(f"/proc/{ref.pid}/cmdline", "rb") as file:
            command = file.read(200).decode("utf-8", "replace").replace("\0", " ").strip()
            found.append(f"{ref.pid} ({command or 'no command line'})")
    return ", ".join(found) or ", ".join(str(ref.pid) for ref in refs)
