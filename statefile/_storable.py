"""What JSON can hold exactly, and which value within another it cannot: no library of its own says that of all of them."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DEPTH = 200
"""Levels of objects and arrays: less than what orjson can write (254) and read (1024)."""


class UnstorableValue(Exception):  # noqa: N818  # never leaves the package
    """JSON cannot hold the value in `field`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def check_storable(value: object, level: int, at: str) -> None:
    """Raise for the first value in `value` that JSON cannot hold; `level` levels stand around it already."""
    if isinstance(value, enum.Enum):
        value = value.value  # which is what orjson writes
    reason = _fault(value, level)
    if reason:
        raise UnstorableValue(at, reason)
    if isinstance(value, (dict, list, tuple)):
        for key, item in _items(value):
            check_storable(item, level + 1, f"{at}.{key}" if at else str(key))


def deeper_than(value: Any, limit: int) -> bool:  # noqa: ANN401  # what was parsed
    """Whether `value` has more than `limit` levels of objects and arrays; level by level, so that nothing recurses."""
    level: list[Any] = [value]
    for _ in range(limit):
        level = [item for outer in level for _, item in _items(outer) if type(item) is dict or type(item) is list]
        if not level:
            return False
    return True


def _fault(value: object, level: int) -> str | None:
    """Why JSON cannot hold `value`, whatever is in it."""
    match value:
        case float() if not math.isfinite(value):
            return f"is {value}, which JSON cannot hold"
        case int() if not -(2**63) <= value < 2**64:
            return "is an integer beyond 64 bits"
        case str() if not _is_utf8(value):
            return "holds a lone surrogate, which UTF-8 cannot hold"
        case dict() | list() | tuple() if level >= MAX_DEPTH:
            return f"is nested deeper than {MAX_DEPTH} levels"
        case dict():
            wrong = [key for key, _ in _items(value) if not isinstance(key, str) or not _is_utf8(key)]
            return f"has a key that is no string in UTF-8: {wrong[0]!r}" if wrong else None
        case _:
            return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _items(value: Any) -> Iterable[tuple[Any, Any]]:  # noqa: ANN401  # a dict, list or tuple
    return cast("Iterable[tuple[Any, Any]]", value.items() if isinstance(value, dict) else enumerate(value))
