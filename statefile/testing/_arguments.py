"""What the arguments of a test's helpers have to be: a mistake is refused where it is made, by name, with what would do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeVar

from statefile._container import Container

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from enum import StrEnum

    E = TypeVar("E", bound=StrEnum)


def one_of(kind: type[E], value: object) -> E:
    """The member of `kind` that `value` is, or names.

    Raises:
        ValueError: it is none; the message has them all.
    """
    for member in kind:
        if value == member:
            return member
    raise ValueError(f"{value!r:.80} is not a valid {kind.__name__}: it is one of {', '.join(map(str, kind))}")


def whole(name: str, value: object, meant: str) -> int:
    """An integer. Raises `TypeError`, which says what was `meant`, if it is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r:.80}: give {meant}")
    return value


def positive(name: str, value: object, meant: str) -> int:
    """An integer from 1. Raises `TypeError` or `ValueError` if it is none."""
    number = whole(name, value, meant)
    if number < 1:
        raise ValueError(f"{name}={value!r}: give {meant}")
    return number


def seconds(name: str, value: object) -> float:
    """A time that is not negative. Raises `TypeError` or `ValueError` if it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r:.80}: give a number of seconds")
    if not value >= 0:  # NaN is neither
        raise ValueError(f"{name}={value!r}: give a number of seconds that is not negative")
    return value


def of_type(name: str, value: object, *kinds: type) -> None:
    """Raises `TypeError` unless `value` is of the first of the kinds, or of the others, which are not named."""
    if not isinstance(value, kinds):
        article = "an" if kinds[0].__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {article} {kinds[0].__name__}, not {value!r:.80}")


def a_container(value: object) -> Container:
    """A container. Raises `TypeError` if it is none."""
    if not isinstance(value, Container):
        raise TypeError(f"give a Container, not {value!r:.80}")
    return value


def a_container_class(value: object) -> type[Container]:
    """`Container`, or a subclass. Raises `TypeError` if it is neither."""
    if not isinstance(value, type) or not issubclass(value, Container):
        raise TypeError(f"cls={value!r:.80}: give a subclass of Container")
    return value


def a_function(value: object) -> Callable[..., object]:
    """What can be called. Raises `TypeError` if it cannot."""
    if not callable(value):
        raise TypeError(
            f"{value!r:.80} cannot be called: give the function, not its result, as in run_to_crash(step, web.pause)"
        )
    return value


def a_method_name(value: object) -> str:
    """A name. Raises `TypeError` if it is something else, such as the method itself."""
    if isinstance(value, str):
        return value
    name = getattr(value, "__name__", "start")
    raise TypeError(f"{value!r:.80} is not the name of a method: give its name, {name!r}")


def declared(cls: type[Container], fields: Iterable[str], options: Iterable[str]) -> None:
    """That each of `fields` is one of `cls`, or one of the `options`.

    Raises:
        TypeError: one is neither; the message has what may have been meant.
    """
    known = [*cls.model_fields, *options]
    for name in fields:
        if name not in known:
            alike = difflib.get_close_matches(name, known, n=1)
            meant = f": did you mean {alike[0]}?" if alike else ""
            raise TypeError(f"no field {name!r} of {cls.__name__}{meant}")
