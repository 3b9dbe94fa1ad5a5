"""A root directory for one test."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from statefile._atomic import ROOT_MODE
from statefile._process import Presence, ProcessRef

if TYPE_CHECKING:
    from collections.abc import Generator

_MEMORY = "/dev/shm"  # noqa: S108  # what is made there is private
_PREFIX = "statefile-testing-"
_TRIES = 3
_tidied: set[str] = set()
"""Where this process has looked for what killed ones have left."""


@contextlib.contextmanager
def state_root() -> Generator[Path]:
    """In the block there is a fresh, empty root directory, on a tmpfs where there is one: there a flush costs nothing.

    It has the mode that the library gives its roots (0711), and a name that nobody can guess. At the end it is removed with
    whatever is in it; what still runs is left alone, so end it before. If this process is killed before that, the next process
    of the same user that makes one there removes it.
    """
    memory = _MEMORY if os.path.isdir(_MEMORY) and os.access(_MEMORY, os.W_OK | os.X_OK) else None
    place = memory or tempfile.gettempdir()
    if place not in _tidied:
        _tidied.add(place)
        _tidy(place)
    root = tempfile.mkdtemp(prefix=_name(ProcessRef.current()), dir=place)
    maker = os.getpid()
    try:
        os.chmod(root, ROOT_MODE)
        yield Path(root)
    finally:
        if os.getpid() == maker:  # a forked child that comes here by mistake removes nothing
            _remove(root)


def _name(maker: ProcessRef) -> str:
    """What the name of a root begins with: who made it, in few letters, as the path of a socket may be no longer than 107."""
    return f"{_PREFIX}{_world(maker)}-{maker.pid:x}-{maker.start_ticks or 0:x}-"


def _world(maker: ProcessRef) -> str:
    """Where and when its PID means it: processes of another machine, boot or PID namespace cannot be seen from here."""
    return hashlib.sha256(f"{maker.boot_id} {maker.pid_namespace}".encode()).hexdigest()[:8]


def _tidy(place: str) -> None:
    """Remove the roots of this user whose makers were killed. What cannot be told, or removed, stays."""
    here = ProcessRef.current()
    for name in os.listdir(place):
        found = re.fullmatch(rf"{_PREFIX}{_world(here)}-([0-9a-f]+)-([0-9a-f]+)-\w+", name)
        if found is None:
            continue
        root = os.path.join(place, name)
        with contextlib.suppress(OSError, ValueError):  # another removes it too; or no process has such a number
            maker = here.model_copy(update={"pid": int(found[1], 16), "start_ticks": int(found[2], 16)})
            status = os.lstat(root)
            if status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode) and maker.presence() is Presence.GONE:
                _remove(root)


def _remove(root: str) -> None:
    for attempt in range(_TRIES):
        for folder, _, _ in os.walk(root):
            with contextlib.suppress(OSError):
                os.chmod(folder, 0o700)
                for name in os.listdir(folder):  # those below must be opened before they are walked into
                    path = os.path.join(folder, name)
                    if os.path.isdir(path) and not os.path.islink(path):
                        os.chmod(path, 0o700)
        # Another process may still be at work there: then once more.
        shutil.rmtree(root, ignore_errors=attempt < _TRIES - 1)
        if not os.path.lexists(root):
            return
