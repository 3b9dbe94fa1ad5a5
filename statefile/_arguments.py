"""What a caller hands to a verb, checked before anything is touched."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

from statefile.errors import StateIOError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel


def check_signal(number: object) -> None:
    """Refuse what is no signal.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < signal.NSIG:
        raise ValueError(f"there is no signal {number!r}: give its number, such as signal.SIGTERM")


def check_fields(model: type[BaseModel], fields: Mapping[str, object]) -> None:
    """Refuse a misspelt argument, which would be kept as a field that nobody reads.

    Raises:
        TypeError: the model has no such field.
    """
    for name in fields:
        if name not in model.model_fields:
            raise TypeError(f"{model.__name__}.new() got an unexpected keyword argument {name!r}, and has no such field")


def absolute_path(path: str | os.PathLike[str] | None) -> str | None:
    """`path`, if there is one, from the root of the file system.

    Raises:
        StateIOError: it can be no path.
    """
    if path is None:
        return None
    try:
        absolute = os.path.abspath(os.fsdecode(path))
    except OSError as error:  # it is relative, and the working directory is gone
        raise StateIOError(path=os.fsdecode(path), operation="find", errno=error.errno or errno.ENOENT) from error
    if "\0" in absolute:
        raise StateIOError(path=absolute, operation="find", errno=errno.EINVAL)
    return absolute
