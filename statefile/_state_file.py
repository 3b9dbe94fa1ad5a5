"""`StateFile`: one container's state file and lock file, and the primitives on them."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator

from statefile import _atomic
from statefile._codec import MAX_BYTES, decode, encode, prove_loadable
from statefile._holder import LockHolder, holder_of
from statefile._ids import FullID
from statefile._lock import FileLock, run, this_thread
from statefile._place import Place, absolute_root
from statefile._record import Revisioned
from statefile._waiter import Deadline
from statefile.errors import (
    CorruptStateError,
    LockLostError,
    NotFoundError,
    NotLockedError,
    StateFileError,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Generator

T = TypeVar("T")
S = TypeVar("S", bound="StateFile")

SECOND_LOOK = 1.0
"""Seconds that `load` waits for the lock before it calls a file corrupt: a foreign writer may be writing it in place."""


_KEYS = ("root_dir", "rootDir", "id", "durability")


class Durability(enum.StrEnum):
    """What a save that has returned survives. Both kinds are atomic, a power cut included: a state is old or new, and whole."""

    FULL = "full"
    """A power cut: file and directory are flushed."""
    PROCESS = "process"
    """The death of any process. The file alone is flushed, so after a power cut the old state may be back."""


class StateFile(BaseModel):
    """The state of one container on disk: a state file and a lock file directly under a root directory.

    Making one touches no file. A relative root is made absolute at once. Two objects for one container exclude each other
    like two processes. Whether an object holds the lock is never copied, pickled or serialized: a copy is unlocked, and so is
    the object itself in a forked child.

    Attributes:
        root_dir: the root directory, absolute.
        id: the container.
        durability: what a save survives.

    Raises:
        InvalidIDError: `id` is none.
        InvalidRootError: `root_dir` can be no path.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True, extra="ignore", defer_build=True)

    root_dir: Path = Field(alias="rootDir")
    id: FullID
    durability: Durability = Field(default=Durability.FULL, exclude=True)
    # A slot and no private attribute of pydantic's: that is found last, by a search that costs as much as a system call.
    __slots__ = ("_place",)
    if TYPE_CHECKING:
        _place: Place

    def __init__(
        self,
        *,
        root_dir: str | os.PathLike[str] | None = None,
        id: FullID | str,  # the name in the file
        durability: Durability = Durability.FULL,
        rootDir: str | os.PathLike[str] | None = None,  # noqa: N803  # the name in the file
    ) -> None:
        """Check both names; `rootDir` is how a file spells `root_dir`."""
        root = absolute_root(root_dir if rootDir is None else rootDir)
        full_id = FullID.of(id)
        super().__init__(rootDir=Path(root), id=full_id, durability=durability)
        object.__setattr__(self, "_place", Place(root, full_id, durable=durability is Durability.FULL))

    @model_validator(mode="wrap")
    @classmethod
    def _take_known_keys(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401  # from a file
        """Pass over what another version wrote beside the two names, and let `__init__` name what is missing."""
        if isinstance(value, dict):
            found = cast("dict[str, Any]", value)
            value = {"id": None} | {key: found[key] for key in _KEYS if key in found}
        return validate(value)

    # -- names ---------------------------------------------------------------------------------------------------------

    @property
    def state_path(self) -> Path:
        """Where the state is, or would be."""
        return Path(self._place.state)

    @property
    def lock_path(self) -> Path:
        """Where the lock is, or would be."""
        return Path(self._place.lock.path)

    def exists(self) -> bool:
        """Whether there is a state file now. Needs no lock.

        Raises:
            UnsafePathError: something that is no regular file stands there.
            StateIOError: the system refused to look.
        """
        return self._place.exists()

    def stat(self) -> os.stat_result:
        """`lstat(2)` of the state file. Needs no lock.

        Raises:
            NotFoundError: there is none.
            UnsafePathError: something that is no regular file stands there.
            StateIOError: the system refused to look.
        """
        place = self._place
        found = _atomic.lstat_regular(place.state)
        if found is None:
            raise NotFoundError(id=place.id, path=place.state)
        return found

    # -- the lock ------------------------------------------------------------------------------------------------------

    @property
    def locked(self) -> bool:
        """Whether this object holds the lock now."""
        return self._place.lock.held

    def holder(self) -> LockHolder | None:
        """Who holds the lock now, as the kernel tells it; `None` if nobody does or it is hidden. Costs the holder nothing.

        Raises:
            StateIOError: the directory may not be searched.
        """
        return holder_of(self._place.lock.path)

    def lock(self, *, timeout: float | None = None) -> None:
        """Take the exclusive lock of an existing container: on return this object holds it, and the state file is there.

        `timeout` in seconds: `None` waits for good, 0 tries once.

        Raises:
            ValueError: `timeout` is negative or NaN.
            NotFoundError: there is no state file once the lock is held. No lock file was left behind.
            LockTimeoutError: it was not free in time; `holder` says who has it.
            DeadlockError: this thread holds this container's lock already, through this object or another.
            LockUnsupportedError: the file system has no `flock`.
            UnsafePathError: the root, the lock or the state is a link or no regular file; nothing was followed.
            StateIOError: another system call failed.
        """
        run(self._place.lock_existing(this_thread(), Deadline(timeout)))

    def lock_for_new(self, *, timeout: float | None = None) -> None:
        """Take the exclusive lock of a container that must not exist yet: on return the name is ours until `unlock`.

        Makes the root directory (mode 0711) if it is missing.

        Raises:
            AlreadyExistsError: there is a state file; the lock is released.
            ValueError, LockTimeoutError, DeadlockError, LockUnsupportedError, UnsafePathError, StateIOError: as for `lock`.
        """
        run(self._place.lock_new(this_thread(), Deadline(timeout)))

    def unlock(self) -> None:
        """Release the lock; any thread may. On return this object does not hold it.

        The lock file goes too if the state was destroyed under the lock, or none came of `lock_for_new`.

        Raises:
            NotLockedError: this object does not hold it.
            StateIOError: the lock file could not be removed; the lock is released all the same.
        """
        self._place.release()

    @contextlib.contextmanager
    def hold(self, *, timeout: float | None = None) -> Generator[Self]:
        """`lock` for the block, then `unlock`."""
        with self._place.released_at_the_end():
            self.lock(timeout=timeout)
            yield self

    @contextlib.contextmanager
    def hold_for_new(self, *, timeout: float | None = None) -> Generator[Self]:
        """`lock_for_new` for the block, then `unlock`: if nothing was saved, nothing is left."""
        with self._place.released_at_the_end():
            self.lock_for_new(timeout=timeout)
            yield self

    # -- the state -----------------------------------------------------------------------------------------------------

    def load(self, type_: type[T]) -> T:
        """Return a consistent snapshot of the state as a `type_`, without the lock and whoever holds it.

        `type_` is a pydantic model, a dataclass, a `TypedDict` or `dict`; its validators see this object as `info.context`.
        Changes no file. A file that seems corrupt is read again under the lock, for which at most 1 s is waited: a foreign
        writer may be writing it in place.

        Raises:
            NotFoundError: there is no state file.
            CorruptStateError: it holds no `type_`.
            UnsafePathError: something that is no regular file stands there.
            StateIOError: it may not or cannot be read.
        """
        place = self._place
        try:
            state = _read(place, type_, self)
            if isinstance(state, Revisioned) and place.lock.held_by(this_thread()):
                place.mark = state.mark()
            return state
        except CorruptStateError:
            look = FileLock(place.lock.path)
            with contextlib.suppress(StateFileError, FileNotFoundError):  # then the second look must do without
                run(look.acquire(this_thread(), Deadline(SECOND_LOOK), create=False))
            try:
                return _read(place, type_, self)
            finally:
                if look.held:
                    look.release(remove=False)

    def save_locked(self, state: object) -> None:
        """Replace the state with `state`, a pydantic model, dataclass or mapping: all of it, or nothing.

        On return it is what `load` finds, and with `Durability.FULL` it survives a power cut. On any failure the old state is
        there, byte for byte, and no temporary file; only where the flush of the directory failed is the new one in place
        already (`StateIOError.applied`).

        A `Revisioned` record, such as a `Container`, is saved as the next revision of what was loaded; if the file is another
        one by now, it is refused. A `dict` is saved as it is: neither its `revision` nor its `schemaVersion` is looked at.

        Raises:
            NotLockedError: this object does not hold the lock.
            StaleStateError: `state` was not made from what the file says: saving it would undo what another has saved.
            UnsupportedVersionError: `state` or the file is the record of a newer major version.
            LockLostError: the lock file was removed or replaced meanwhile.
            UnstorableStateError: JSON cannot hold the value, or it could not be loaded as its type again.
            UnsafePathError: something that is no regular file stands there.
            StateIOError: the system failed: no space, a read-only file system, an I/O error.
        """
        _save(self, state, proof=True)

    @contextlib.contextmanager
    def transaction(self, type_: type[T], *, timeout: float | None = None) -> Generator[T]:
        """Lock, load, yield the state, and save it when the block ends; on an exception nothing is saved."""
        with self.hold(timeout=timeout):
            state = self.load(type_)
            yield state
            self.save_locked(state)

    def destroy(self, *, timeout: float | None = None) -> None:
        """Delete the state and then the lock file. Idempotent: nothing there is success.

        With the lock held the name stays taken, and `unlock` deletes the lock file. Without it, the lock is taken first.

        Raises:
            LockLostError: the lock was held, but its file was removed or replaced meanwhile; nothing was deleted.
            ValueError, LockTimeoutError, DeadlockError, LockUnsupportedError, UnsafePathError, StateIOError: as for `lock`.
        """
        run(self._place.destroy(this_thread(), Deadline(timeout)))

    # -- copies --------------------------------------------------------------------------------------------------------

    def __copy__(self) -> Self:
        """An unlocked object for the same container."""
        return _unpickled(type(self), str(self.root_dir), self.id, self.durability, self._place.spelling)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """An unlocked object for the same container."""
        return self.__copy__()

    def model_copy(self, *, update: Any = None, deep: bool = False) -> Self:  # noqa: ANN401, ARG002  # pydantic's signature
        """An unlocked object, for another container if `update` says so."""
        fields: dict[str, Any] = {"root_dir": self.root_dir, "id": self.id, "durability": self.durability}
        return type(self)(**(fields | dict(update or {})))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name: what comes back is unlocked."""
        return _unpickled, (type(self), str(self.root_dir), tuple(self.id), self.durability.value, self._place.spelling)

    def __eq__(self, other: object) -> bool:
        """Same container under the same root; who holds the lock does not matter."""
        return isinstance(other, StateFile) and (self.root_dir, self.id) == (other.root_dir, other.id)

    def __hash__(self) -> int:
        """By what `==` compares."""
        return hash((self.root_dir, self.id))


def state_file_of(root: str, root_dir: Path, full_id: FullID, durability: Durability) -> StateFile:
    """A `StateFile` of names that were checked already: for 10,000 of them, pydantic would take longer than reading."""
    self = StateFile.__new__(StateFile)
    put = object.__setattr__
    put(self, "__dict__", {"root_dir": root_dir, "id": full_id, "durability": durability})
    put(self, "__pydantic_fields_set__", {"root_dir", "id", "durability"})
    put(self, "__pydantic_extra__", None)
    put(self, "__pydantic_private__", None)
    put(self, "_place", Place(root, full_id, durable=durability is Durability.FULL))
    return self


def place_of(state_file: StateFile) -> Place:
    """The place that `state_file` stands for, with its lock: for those who wait in another way than `StateFile` does."""
    return state_file._place  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # this file's own


def save_own(state_file: StateFile, record: Revisioned) -> None:
    """`save_locked` for a record whose fields this package has set: it need not be proved that it can be loaded."""
    _save(state_file, record, proof=False)


def _save(state_file: StateFile, state: object, *, proof: bool) -> None:
    place = place_of(state_file)
    if not place.lock.held:
        raise NotLockedError(path=place.lock.path, operation="save_locked()")
    context = state_file if proof else None
    if isinstance(state, Revisioned):
        _write_next_revision(place, state, context)
    else:
        _write(place, state, context)


def _write(place: Place, state: object, context: StateFile | None) -> None:
    data = encode(state, path=place.state)
    if context is not None and not isinstance(state, Mapping):
        prove_loadable(data, type(state), path=place.state, context=context)
    if not place.lock.is_current():
        raise LockLostError(path=place.lock.path)
    _atomic.replace(place.state, data, durable=place.durable)
    place.fresh = place.destroyed = False


def _write_next_revision(place: Place, state: Revisioned, context: StateFile | None) -> None:
    """`state` is one save further afterwards, unless this fails."""
    found: dict[str, Any] | None = place.mark
    if found is None:
        with contextlib.suppress(NotFoundError, CorruptStateError):  # nothing that could be lost
            found = cast("dict[str, Any]", _read(place, dict, None))
    state.check_follows(found, place.state)
    fields = vars(state)  # a frozen model has a revision too
    fields["revision"] += 1
    try:
        _write(place, state, context)
    except BaseException as error:
        place.mark = None  # an exception out of a signal handler may come after the rename: the file must tell
        if not getattr(error, "applied", False):
            fields["revision"] -= 1
        raise
    place.mark = state.mark()


def _read(place: Place, type_: type[T], context: object) -> T:
    try:
        data = _atomic.read(place.state, MAX_BYTES)
    except FileNotFoundError:
        raise NotFoundError(id=place.id, path=place.state) from None
    return decode(data, type_, path=place.state, context=context)


def _unpickled(cls: type[S], root: str, full_id: tuple[str, str], durability: str, spelling: object) -> S:
    self = cls(root_dir=root, id=FullID(*full_id), durability=Durability(durability))
    self._place.spelling = spelling  # pyright: ignore[reportPrivateUsage]  # this file's own
    return self
