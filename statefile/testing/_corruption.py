"""Damage to a state file, by kind."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from statefile._codec import MAX_BYTES, decode, encode
from statefile._container_state import SCHEMA_VERSION, ContainerState
from statefile._storable import MAX_DEPTH
from statefile.testing._arguments import one_of
from statefile.testing._held_lock import state_file_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from statefile._state_file import StateFile


class Corruption(StrEnum):
    """What a state file can be instead of a state; see `corrupt` for what comes of each."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    NUL_FILLED = "nul-filled"
    NOT_JSON = "not json"
    NOT_AN_OBJECT = "not an object"
    NOT_UTF8 = "not utf-8"
    TOO_DEEP = "too deep"
    TOO_LARGE = "too large"
    HUGE_INTEGER = "integer out of range"
    WRONG_TYPE = "invalid"
    NEWER_VERSION = "newer version"
    SYMLINK = "symlink"
    DIRECTORY = "directory"
    FIFO = "fifo"
    MISSING = "missing"


def corrupt(of: ContainerState | StateFile, kind: Corruption | str) -> Path:
    """Make the state file of a container be that from now on; returns its path. Takes no lock, and leaves the mode as it was.

    | kind | what is there then | what loading a `Container` raises |
    | --- | --- | --- |
    | `EMPTY` | no byte, as after a power cut | `CorruptStateError` |
    | `TRUNCATED` | the first half of what was there | `CorruptStateError` |
    | `NUL_FILLED` | as many NULs as there were bytes | `CorruptStateError` |
    | `NOT_JSON` | text | `CorruptStateError` |
    | `NOT_AN_OBJECT` | a JSON array | `CorruptStateError` |
    | `NOT_UTF8` | JSON with a byte that is no UTF-8 | `CorruptStateError` |
    | `TOO_DEEP` | JSON with more levels than are read | `CorruptStateError` |
    | `TOO_LARGE` | more bytes than are read; takes no space | `CorruptStateError` |
    | `HUGE_INTEGER` | JSON with an integer beyond 64 bits | `CorruptStateError` |
    | `WRONG_TYPE` | JSON with a number for the status, and no ID | `CorruptStateError` |
    | `NEWER_VERSION` | the record, in a newer major version | nothing; changing it `UnsupportedVersionError` |
    | `SYMLINK` | a link to the intact state beside it, `*.moved` | `UnsafePathError` |
    | `DIRECTORY`, `FIFO` | an empty one | `UnsafePathError` |
    | `MISSING` | nothing; the lock file stays | `NotFoundError` |

    What raises `UnsafePathError` is not removed by `Container.remove` and `destroy` either, which raise the same: it is for a
    person to look at. The `kind` of a `CorruptStateError` is the kind here. As a plain `dict`, what has `WRONG_TYPE` or
    `NEWER_VERSION` loads.

    Raises:
        ValueError: there is no such kind.
        TypeError: `of` is neither a container nor a state file.
        NotFoundError: there is no state file.
        UnsafePathError: what is there is no regular file: it was made to be that before.
        CorruptStateError: what is there is no state, and the kind needs one (`TRUNCATED`, `NEWER_VERSION`).
    """
    kind = one_of(Corruption, kind)
    state_file = state_file_of(of)
    state_file.stat()
    path = state_file.state_path
    if kind in _BYTES:
        path.write_bytes(_BYTES[kind](path.read_bytes(), str(path)))
        return path
    match kind:
        case Corruption.TOO_LARGE:
            with path.open("wb") as file:
                file.truncate(MAX_BYTES + 1)
        case Corruption.SYMLINK:
            path.rename(f"{path}.moved")
            path.symlink_to(f"{path.name}.moved")
        case Corruption.DIRECTORY:
            path.unlink()
            path.mkdir()
        case Corruption.FIFO:
            path.unlink()
            os.mkfifo(path, 0o600)
        case _:
            path.unlink()
    return path


def _truncated(data: bytes, path: str) -> bytes:
    decode(data, dict, path=path)
    return data[: len(data) // 2]  # the shortest state is `{}`


def _newer(data: bytes, path: str) -> bytes:
    record = decode(data, dict[str, Any], path=path)
    return encode(record | {"schemaVersion": SCHEMA_VERSION + 1}, path=path)


_BYTES: dict[Corruption, Callable[[bytes, str], bytes]] = {
    Corruption.EMPTY: lambda _data, _path: b"",
    Corruption.TRUNCATED: _truncated,
    Corruption.NUL_FILLED: lambda data, _path: bytes(max(len(data), 1)),
    Corruption.NOT_JSON: lambda _data, _path: b"once upon a time there was a container\n",
    Corruption.NOT_AN_OBJECT: lambda _data, _path: b'["running"]',
    Corruption.NOT_UTF8: lambda _data, _path: b'{"id": "caf\xe9"}',
    Corruption.TOO_DEEP: lambda _data, _path: b'{"spec":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    Corruption.HUGE_INTEGER: lambda _data, _path: b'{"revision": 123456789012345678901234567890}',
    Corruption.WRONG_TYPE: lambda _data, _path: b'{"status": 5}',
    Corruption.NEWER_VERSION: _newer,
}
