"""Names: which IDs are valid, the pair of them that names a container, and the file names that carry it.

Pure rules: nothing here touches a file. Every entry point of the package goes through `validate_id` or `FullID` before a
path is built, so that no ID can reach outside its root directory.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from statefile.errors import InvalidIDError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_ID = 100
"""Bytes in an ID: two of them, the suffixes and a temporary name fit in NAME_MAX (255)."""

STATE_SUFFIX = ".state"
LOCK_SUFFIX = ".lock"
_INFIX = "_sandbox:"  # a colon is in no ID, so a name splits in one way only

_DIRECTORIES = frozenset({".", ".."})
_valid = re.compile(r"[A-Za-z0-9_+.-]{1,100}").fullmatch
_STEM = rf"([A-Za-z0-9_+.-]{{1,100}}){_INFIX}([A-Za-z0-9_+.-]{{1,100}})"
_stem = re.compile(_STEM).fullmatch
_temporary = re.compile(rf"\.{_STEM}\.state\.[0-9a-f]{{12}}\.tmp").fullmatch


def validate_id(value: object) -> str:
    """Return `value`, which on return is a valid ID: 1 to 100 of `A-Z a-z 0-9 _ + - .`, and neither `.` nor `..`.

    Raises:
        InvalidIDError: it is anything else, a `str` subclass that pretends included.
    """
    if type(value) is str and _valid(value) and value not in _DIRECTORIES:
        return value
    raise InvalidIDError(id=value, reason=_why_invalid(value))


def _why_invalid(value: object) -> str:
    if type(value) is not str:
        return f"an ID is a str, not {type(value).__name__}"
    if not value:
        return "it is empty"
    if value in _DIRECTORIES:
        return "it names a directory"
    for character in value:
        if not _valid(character):
            return f"{character!r} is not one of A-Z a-z 0-9 _ + - ."
    return f"it has {len(value)} characters, {MAX_ID} are allowed"


class _Pair(NamedTuple):
    sandbox_id: str
    container_id: str


class FullID(_Pair):
    """The name of a container: its sandbox's ID and its own. Immutable, hashable, ordered by sandbox first.

    A container on its own is its own sandbox: `FullID("c1", "c1")`. `str()` gives `sandbox/container`.

    Raises:
        InvalidIDError: one of the two is no ID.
    """

    __slots__ = ()

    def __new__(cls, sandbox_id: str, container_id: str) -> Self:
        """Check both halves."""
        return _Pair.__new__(cls, validate_id(sandbox_id), validate_id(container_id))

    @classmethod
    def of(cls, value: object) -> FullID:
        """Return `value` as a `FullID`: itself if it is one; of a plain string both halves are that string.

        The JSON form, `{"sandboxId": …, "containerId": …}`, is taken too.

        Raises:
            InvalidIDError: it is neither, or no ID.
        """
        if isinstance(value, FullID):
            return value
        if isinstance(value, dict):
            return cls(value.get("sandboxId"), value.get("containerId"))  # type: ignore[arg-type]  # the check names it
        return cls(value, value)  # type: ignore[arg-type]  # whatever else it is, the check names it

    def to_json(self) -> dict[str, str]:
        """As in runsc's files."""
        return {"sandboxId": self.sandbox_id, "containerId": self.container_id}

    def __str__(self) -> str:
        """`sandbox/container`."""
        return f"{self.sandbox_id}/{self.container_id}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> Any:  # noqa: ANN401  # pydantic's own type is not exported
        """As JSON a `FullID` is `{"sandboxId": …, "containerId": …}`, as in runsc's files; a plain string is accepted."""
        from pydantic_core import core_schema  # noqa: PLC0415  # only models need it

        return core_schema.no_info_plain_validator_function(
            FullID.of, serialization=core_schema.plain_serializer_function_ser_schema(FullID.to_json, when_used="always")
        )


def file_stem(full_id: FullID) -> str:
    """The file name that state, lock and temporary files of a container share, without a suffix."""
    return f"{full_id.container_id}{_INFIX}{full_id.sandbox_id}"


def ids_of_files(names: Iterable[str], suffix: str) -> list[FullID]:
    """The containers whose files with `suffix` are among `names`, sorted; whatever is no such file is passed over.

    Made for 100,000 names: strings are compared, not tuples, and what the pattern has matched is not checked again.
    """
    keys: list[str] = []
    for name in names:
        if name.endswith(suffix) and (match := _stem(name, 0, len(name) - len(suffix))) is not None:
            container_id, sandbox_id = match.groups()
            if container_id not in _DIRECTORIES and sandbox_id not in _DIRECTORIES:
                keys.append(f"{sandbox_id}\0{container_id}")  # NUL sorts first, so that this is the order of the pairs
    keys.sort()
    new = cast("Any", tuple).__new__
    return [new(FullID, key.split("\0")) for key in keys]


def owner_of_temporary(name: str) -> FullID | None:
    """The container for whose state the temporary file `name` was written; `None` if it is no such file."""
    match = _temporary(name)
    if match is None or not _DIRECTORIES.isdisjoint(match.groups()):
        return None
    return FullID(match[2], match[1])
