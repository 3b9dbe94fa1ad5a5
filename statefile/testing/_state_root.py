"""A root directory for one test."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from statefile._atomic import ROOT_MODE

if TYPE_CHECKING:
    from collections.abc import Generator

_MEMORY = "/dev/shm"  # noqa: S108  # what is made there is private
_TRIES = 3


@contextlib.contextmanager
def state_root() -> Generator[Path]:
    """In the block there is a fresh, empty root directory, on a tmpfs where there is one: there a flush costs nothing.

    It has the mode that the library gives its roots (0711), and a name that nobody can guess. At the end it is removed with
    whatever is in it; what still runs is left alone, so end it before.
    """
    memory = _MEMORY if os.path.isdir(_MEMORY) and os.access(_MEMORY, os.W_OK | os.X_OK) else None
    root = tempfile.mkdtemp(prefix="statefile-testing-", dir=memory)
    maker = os.getpid()
    try:
        os.chmod(root, ROOT_MODE)
        yield Path(root)
    finally:
        if os.getpid() == maker:  # a forked child that comes here by mistake removes nothing
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
