"""`StateDir`: what stands under a root directory: list, resolve, load all, and sweep up after the dead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from statefile import _atomic, _log
from statefile._ids import LOCK_SUFFIX, STATE_SUFFIX, FullID, file_stem, ids_of_files, owner_of_temporary, validate_id
from statefile._lock import FileLock, run, this_thread
from statefile._place import absolute_root
from statefile._state_file import Durability, StateFile, state_file_of
from statefile._waiter import Deadline
from statefile.errors import (
    AmbiguousIDError,
    DeadlockError,
    LockTimeoutError,
    NotFoundError,
    StateFileError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


class StateDir:
    """A root directory. Making one touches no file; nothing here needs a lock, and nothing but `sweep` changes a file.

    Attributes:
        root_dir: the directory, absolute.
        durability: what the saves of its state files survive.

    Raises:
        InvalidRootError: `root_dir` can be no path.
    """

    def __init__(self, root_dir: str | os.PathLike[str], *, durability: Durability = Durability.FULL) -> None:
        self._root = absolute_root(root_dir)
        self.root_dir = Path(self._root)
        self.durability = durability

    def __repr__(self) -> str:
        return f"StateDir({self._root!r})"

    # -- names ---------------------------------------------------------------------------------------------------------

    def ids(self) -> list[FullID]:
        """All containers that have a state file now, sorted; other files are ignored, and an absent root has none.

        Raises:
            UnsafePathError: the root is a link or no directory.
            StateIOError: it may not be read.
        """
        return ids_of_files(_atomic.list_names(self._root), STATE_SUFFIX)

    def sandboxes(self) -> list[str]:
        """The sandboxes of `ids()`, sorted, once each."""
        return list(dict.fromkeys(full_id.sandbox_id for full_id in self.ids()))

    def resolve(self, partial_id: str | FullID) -> FullID:
        """The container that `partial_id` means.

        The ID of a container that is its own sandbox wins, found without listing anything. Then an exact container ID wins,
        even if others begin with it; then a unique beginning. A `FullID` means itself.

        Raises:
            InvalidIDError: it is no ID; glob characters are invalid, not wild.
            NotFoundError: nothing is or begins like that.
            AmbiguousIDError: several do, or several sandboxes hold that very ID.
            UnsafePathError, StateIOError: as for `ids`.
        """
        exact = FullID.of(partial_id)
        if self.state_file(exact).exists():
            return exact
        if isinstance(partial_id, FullID):
            raise NotFoundError(id=partial_id, path=str(self.state_file(partial_id).state_path))
        # A file's name begins with its container's ID: what does not begin like that need not be parsed.
        names = [name for name in _atomic.list_names(self._root) if name.startswith(partial_id)]
        ids = ids_of_files(names, STATE_SUFFIX)
        candidates = [full_id for full_id in ids if full_id.container_id == partial_id]
        candidates = candidates or [full_id for full_id in ids if full_id.container_id.startswith(partial_id)]
        if not candidates:
            raise NotFoundError(id=partial_id, path=f"{self._root}/{partial_id}*{STATE_SUFFIX}")
        if len(candidates) > 1:
            raise AmbiguousIDError(id=partial_id, candidates=candidates)
        return candidates[0]

    def state_file(self, full_id: FullID | str) -> StateFile:
        """The state file of a container, whether it exists or not. A plain string means both IDs.

        Raises:
            InvalidIDError: it is no ID.
        """
        return state_file_of(self._root, self.root_dir, FullID.of(full_id), self.durability)

    # -- states --------------------------------------------------------------------------------------------------------

    def load_all(self, type_: type[T]) -> Iterator[tuple[FullID, T | StateFileError]]:
        """Yield each container with its state as a `type_`, or with the error that its file gave, in the order of `ids()`.

        One bad file never hides the rest, and one that vanishes meanwhile is passed over. Each is read when its turn comes.

        Raises:
            UnsafePathError, StateIOError: as for `ids`, before anything is yielded.
        """
        return self._load(self.ids(), type_)

    def load_sandbox(self, sandbox_id: str, type_: type[T]) -> Iterator[tuple[FullID, T | StateFileError]]:
        """`load_all` for the containers of one sandbox.

        Raises:
            InvalidIDError: `sandbox_id` is no ID.
        """
        validate_id(sandbox_id)
        return self._load([full_id for full_id in self.ids() if full_id.sandbox_id == sandbox_id], type_)

    def _load(self, ids: Iterable[FullID], type_: type[T]) -> Iterator[tuple[FullID, T | StateFileError]]:
        for full_id in ids:
            try:
                loaded: T | StateFileError = self.state_file(full_id).load(type_)
            except NotFoundError:
                continue
            except StateFileError as error:
                loaded = error
            yield full_id, loaded

    # -- after the dead ------------------------------------------------------------------------------------------------

    def sweep(self) -> list[Path]:
        """Remove what killed processes left, and return it, sorted: temporary files, and lock files without a state.

        Nothing in use is touched: each file is removed under its container's lock, and one whose lock is held is left for
        another time. What cannot be removed is logged and left.

        Raises:
            UnsafePathError, StateIOError: as for `ids`.
        """
        names = _atomic.list_names(self._root)
        states = set(ids_of_files(names, STATE_SUFFIX))
        litter: dict[FullID, list[str]] = {full_id: [] for full_id in ids_of_files(names, LOCK_SUFFIX) if full_id not in states}
        for name in names:
            owner = owner_of_temporary(name)
            if owner is not None:
                litter.setdefault(owner, []).append(name)
        removed: list[str] = []
        for full_id, temporaries in litter.items():
            try:
                removed += self._sweep_one(full_id, temporaries)
            except StateFileError as error:
                _log.warning("sweep: %s", error)
        return [Path(path) for path in sorted(removed)]

    def _sweep_one(self, full_id: FullID, temporaries: list[str]) -> list[str]:
        """Remove the temporary files of one container, and its lock file if there is no state, unless somebody is inside."""
        stem = f"{self._root}/{file_stem(full_id)}"
        lock = FileLock(stem + LOCK_SUFFIX)
        had_lock_file = os.path.lexists(lock.path)
        try:
            run(lock.acquire(this_thread(), Deadline(0), create=bool(temporaries)))
        except (LockTimeoutError, DeadlockError, FileNotFoundError):
            return []
        removed: list[str] = []
        try:
            for name in temporaries:
                removed += _removed(f"{self._root}/{name}")
        finally:
            orphan = not _atomic.may_be_there(stem + STATE_SUFFIX)
            lock.release(remove=orphan)
        if orphan and had_lock_file:
            removed.append(lock.path)
        return removed


def _removed(path: str) -> list[str]:
    try:
        return [path] if _atomic.remove(path) else []
    except StateFileError as error:
        _log.warning("sweep: %s", error)
        return []
