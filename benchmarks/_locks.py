"""The locks that are compared: each takes and gives back one lock, as its documentation says to."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from statefile import StateFile

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

PATIENCE = 60.0
"""Seconds, where a lock is taken with a deadline: long enough never to be reached."""


class Lock(NamedTuple):
    """One object for one lock, in one process."""

    acquire: Callable[[], object]
    release: Callable[[], object]
    close: Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """A way to lock.

    Attributes:
        library: whose way it is.
        make: makes the object for the lock in a directory; the second argument is the deadline.
        timeout: the deadline in seconds, or `None` to wait for good.
        package: what must be installed.
    """

    library: str
    make: Callable[[str, float | None], Lock]
    timeout: float | None = None
    package: str = "statefile"

    @property
    def name(self) -> str:
        """The library, and its deadline if it has one."""
        return self.library if self.timeout is None else f"{self.library}, timeout={self.timeout:.0f}"

    @property
    def installed(self) -> bool:
        """Whether it can take part."""
        return importlib.util.find_spec(self.package) is not None

    def lock(self, folder: str) -> Lock:
        """A new object for the lock in `folder`."""
        return self.make(folder, self.timeout)


def _nothing() -> None:
    pass


def flock(folder: str, _timeout: float | None) -> Lock:
    """The system call, on a descriptor that is kept."""
    fd = os.open(f"{folder}/flock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return Lock(
        functools.partial(fcntl.flock, fd, fcntl.LOCK_EX),
        functools.partial(fcntl.flock, fd, fcntl.LOCK_UN),
        functools.partial(os.close, fd),
    )


def flock_opened_each_time(folder: str, _timeout: float | None) -> Lock:
    """The system call, with the file opened before and closed after it."""
    path = f"{folder}/flock-opened"
    opened: list[int] = []

    def acquire() -> None:
        opened.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        fcntl.flock(opened[0], fcntl.LOCK_EX)

    def release() -> None:
        fcntl.flock(opened[0], fcntl.LOCK_UN)
        os.close(opened.pop())

    return Lock(acquire, release, _nothing)


def statefile(folder: str, timeout: float | None) -> Lock:
    file = StateFile(root_dir=folder, id="contended")
    if not file.exists():
        with file.hold_for_new():
            file.save_locked({"id": "contended"})
    return Lock(functools.partial(file.lock, timeout=timeout), file.unlock, _nothing)


def filelock(folder: str, timeout: float | None) -> Lock:
    import filelock as library  # noqa: PLC0415  # perhaps not installed

    lock = library.FileLock(f"{folder}/filelock", timeout=-1 if timeout is None else timeout)
    return Lock(lock.acquire, lock.release, _nothing)


def portalocker(folder: str, timeout: float | None) -> Lock:
    import portalocker as library  # noqa: PLC0415  # perhaps not installed

    if timeout is None:  # its way to wait for good
        lock = library.Lock(f"{folder}/portalocker", flags=library.LockFlags.EXCLUSIVE)
    else:
        lock = library.Lock(f"{folder}/portalocker", timeout=timeout)
    return Lock(lock.acquire, lock.release, _nothing)


def fasteners(folder: str, timeout: float | None) -> Lock:
    import fasteners as library  # noqa: PLC0415  # perhaps not installed

    lock = library.InterProcessLock(f"{folder}/fasteners")
    return Lock(functools.partial(lock.acquire, timeout=timeout), lock.release, _nothing)


def sqlite(folder: str, timeout: float | None) -> Lock:
    import sqlite3  # noqa: PLC0415  # perhaps not built in

    connection = sqlite3.connect(f"{folder}/sqlite", timeout=timeout or PATIENCE, isolation_level=None)
    return Lock(
        functools.partial(connection.execute, "BEGIN IMMEDIATE"),
        functools.partial(connection.execute, "COMMIT"),
        connection.close,
    )


FLOCK = Contender("flock", flock)
STATEFILE = Contender("statefile", statefile)
STATEFILE_TIMED = Contender("statefile", statefile, PATIENCE)
FILELOCK = Contender("filelock", filelock, package="filelock")
FILELOCK_TIMED = Contender("filelock", filelock, PATIENCE, "filelock")
PORTALOCKER = Contender("portalocker.Lock", portalocker, package="portalocker")
PORTALOCKER_TIMED = Contender("portalocker.Lock", portalocker, PATIENCE, "portalocker")
FASTENERS = Contender("fasteners", fasteners, package="fasteners")
FASTENERS_TIMED = Contender("fasteners", fasteners, PATIENCE, "fasteners")
SQLITE_TIMED = Contender("SQLite BEGIN IMMEDIATE", sqlite, PATIENCE, "sqlite3")


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let the user choose among the locks."""
    parser.add_argument("--only", metavar="NAMES", help="locks whose names begin with one of these, separated by commas")


def those_installed(contenders: Iterable[Contender], only: str | None) -> tuple[list[Contender], list[str]]:
    """Those that were chosen and can take part, and the names of those that were chosen and cannot."""
    contenders = list(contenders)
    chosen = tuple(name.strip() for name in only.split(",")) if only else ("",)
    wanted = [each for each in contenders if each.name.startswith(chosen)]
    present = [each for each in wanted if each.installed]
    if not present:
        raise SystemExit(f"no lock to measure begins with {only!r}: choose from {', '.join(each.name for each in contenders)}")
    return present, [each.name for each in wanted if not each.installed]


def say_who_is_missing(missing: Iterable[str]) -> None:
    for name in missing:
        print(f"\nSKIPPED: {name} is not installed")
