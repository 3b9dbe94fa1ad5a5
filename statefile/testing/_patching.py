"""The library's own functions, wrapped while a block runs: production code has no hooks, and pays for none.

What is wrapped is looked for by name when the block begins, so a name that is gone is an error at once and not a fault that
never comes.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING

from statefile import _atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextlib.contextmanager
def replaced(owner: object, name: str, value: object) -> Generator[None]:
    """In the block `name` of `owner`, a module or a class, is `value`."""
    original: object = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def wrapped(owner: object, name: str, wrapper: Callable[..., object]) -> Generator[None]:
    """In the block `name` of `owner` calls `wrapper` with what it was, and its arguments."""
    original: object = vars(owner)[name]

    def instead(*args: object, **kwargs: object) -> object:
        return wrapper(original, *args, **kwargs)

    with replaced(owner, name, instead):
        yield


@contextlib.contextmanager
def own_system_calls() -> Generator[SimpleNamespace]:
    """In the block the file that writes states has an `os` of its own: what is set in it, nobody else meets."""
    own = SimpleNamespace(**vars(vars(_atomic)["os"]))
    with replaced(_atomic, "os", own):
        yield own
