"""The run directory of one container: where it is, how it comes and goes, and how its files are read.

| file | is there |
| --- | --- |
| `monitor`, `monitor-…` | while that monitor lives, or if it was killed: who it is |
| `leader`, `leader-…` | the same for the process that it was started for, which leads a session of its own |
| `ended` | once the monitor has: who the leader was |
| `start` | a FIFO, until the first process has been let through |
| `alive` | a FIFO, open in the monitor until the exit status is recorded |
| `exit` | the exit status, then `empty` once there is no process left |

Whoever may write here may have any process of that user killed: it is closed to others. Even so nothing in it is trusted
to be well formed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from statefile._ids import file_stem
from statefile.errors import StateIOError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from statefile._ids import FullID

_MOST = 4096
"""No file here is longer."""

_ATTEMPTS = 100


class RunDirectory:
    """One container's directory, which need not exist."""

    def __init__(self, root_dir: str, full_id: FullID, run_dir: str | None) -> None:
        """Below `root_dir` itself, or below `run_dir` in a directory for that root, so that equal IDs never meet."""
        self._base = run_dir
        self.parent = os.path.join(root_dir, ".processes") if run_dir is None else os.path.join(run_dir, _digest(root_dir))
        self.path = os.path.join(self.parent, file_stem(full_id))

    def make(self) -> int:
        """Create it, empty and closed to others, and return it open.

        Raises:
            StateIOError: it cannot be created, or is there already.
        """
        with told("create", self.path):
            if self._base is not None:
                os.makedirs(self._base, 0o700, exist_ok=True)
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.parent, 0o700)
                try:
                    os.mkdir(self.path, 0o700)
                    os.chmod(self.path, 0o700)
                    return _open_directory(self.path)
                except FileNotFoundError:
                    continue  # whoever destroyed the last container has just taken the parent away
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)

    @contextlib.contextmanager
    def opened(self) -> Generator[int | None]:
        """It, open; `None` if it is not there.

        Raises:
            StateIOError: it cannot be opened, or is no directory.
        """
        with told("open", self.path):
            try:
                descriptor = _open_directory(self.path)
            except FileNotFoundError:
                descriptor = None
        if descriptor is None:
            yield None
            return
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def remove(self, descriptor: int | None, names: Iterable[str]) -> bool:
        """Remove the files `names` and then the directory, which `descriptor` is if it is there; whether it is gone.

        It stays if there are more files than those.

        Raises:
            StateIOError: the system refuses.
        """
        gone = descriptor is None or self._remove(descriptor, names)
        if gone:
            with contextlib.suppress(OSError):
                os.rmdir(self.parent)  # unless other containers are there
        return gone

    def _remove(self, descriptor: int, names: Iterable[str]) -> bool:
        with told("remove", self.path):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=descriptor)
            try:
                if os.fstat(descriptor).st_nlink:  # else another one was faster, and the path may be somebody's again
                    os.rmdir(self.path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                return False
        return True


def list_names(descriptor: int) -> list[str]:
    """The names in an open directory; none if it was removed meanwhile."""
    with told("list", "the run directory"), contextlib.suppress(FileNotFoundError):
        return os.listdir(descriptor)
    return []


def refuse_shortage(error: OSError, path: str) -> None:
    """What could not be opened for want of a descriptor or of memory is there all the same.

    Raises:
        StateIOError: that was the reason.
    """
    if error.errno in _SHORTAGES:
        raise StateIOError(path=path, operation="open", errno=error.errno) from error


_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def read_text(descriptor: int, name: str) -> str | None:
    """What the file `name` holds, at most a page; `None` if there is nothing that can be read."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
    except OSError as error:
        refuse_shortage(error, name)
        return None
    try:
        return os.read(opened, _MOST).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(opened)


@contextlib.contextmanager
def told(operation: str, path: str) -> Generator[None]:
    """Turn a bare `OSError` inside into an error of the tree.

    Raises:
        StateIOError: instead of it, with its errno.
    """
    try:
        yield
    except StateIOError:
        raise
    except OSError as error:
        raise StateIOError(path=path, operation=operation, errno=error.errno or errno.EIO) from error


def _open_directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _digest(root_dir: str) -> str:
    import hashlib  # noqa: PLC0415  # only for a directory of one's own

    return hashlib.sha256(os.fsencode(os.path.realpath(root_dir))).hexdigest()[:16]
