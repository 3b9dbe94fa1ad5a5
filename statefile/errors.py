"""Every error that statefile raises, as one tree, split by what the caller can do about it.

    StateFileError
    ├─ the name
    │  ├─ InvalidIDError            ValueError         never a container's ID: mend the caller
    │  ├─ InvalidRootError          ValueError         never a root directory: mend the caller
    │  ├─ NotFoundError             FileNotFoundError  nothing of that name: create it, or list what there is
    │  ├─ AlreadyExistsError        FileExistsError    the name is taken: choose another, or destroy it first
    │  └─ AmbiguousIDError          LookupError        several candidates: ask with a longer prefix
    ├─ the lock
    │  ├─ LockTimeoutError          TimeoutError       somebody else holds it: wait longer, or look at `holder`
    │  ├─ NotLockedError            RuntimeError       the caller forgot to lock: mend the caller
    │  ├─ DeadlockError             RuntimeError       the caller waits for itself: mend the caller
    │  ├─ LockLostError                                the lock file was removed behind our back: start over
    │  └─ LockUnsupportedError      OSError            the file system cannot lock: use another root
    ├─ the file
    │  ├─ CorruptStateError         ValueError         what is there is no state: inspect, then destroy
    │  ├─ UnsupportedVersionError                      written by a newer major version: upgrade, or destroy
    │  ├─ UnstorableStateError      ValueError         JSON cannot hold the value: mend the caller
    │  ├─ StaleStateError           RuntimeError       the file is newer than the object: load, change, save again
    │  ├─ UnsafePathError           OSError            no regular file, or a link: look who put it there
    │  └─ StateIOError              OSError            the system call failed: see `errno`
    └─ the lifecycle
       ├─ InvalidTransitionError    RuntimeError       the status does not allow the action; nothing has changed
       ├─ UnsupportedActionError                       the runtime has no such method
       ├─ InvalidRuntimeError       TypeError          the runtime does not keep its side: mend the runtime
       ├─ SpecError                 ValueError         the runtime cannot run that spec: mend the spec
       ├─ WaitTimeoutError          TimeoutError       the container still runs: wait longer
       ├─ StillRunningError                            a process would not die: the record is kept, try again
       ├─ DestroyError              ExceptionGroup     what failed of a destruction, all of it
       └─ HookError                                    an OCI hook failed

Each error carries its facts as attributes, says in its message what to do next where there is something to do, and can
be pickled. An error that also derives from a builtin `OSError` has its `errno`, `strerror` and `filename` set.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class StateFileError(Exception):
    """The root of the tree: catch it to catch whatever statefile raises on purpose."""

    def __init__(self, message: str = "", **facts: object) -> None:
        """Keep `message` as the text and each fact as an attribute."""
        super().__init__(message)
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        """The message alone: an `OSError` would put its errno in front."""
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by facts: constructors take keywords, which the default protocol cannot replay."""
        facts = dict(self.__dict__)
        if isinstance(self, OSError):
            facts.update(errno=self.errno, strerror=self.strerror, filename=self.filename)
        return _restored, (type(self), self.args, facts)

    def _set_os_facts(self, errno: int, path: str | None) -> Self:
        """Fill what callers expect of an `OSError`."""
        vars_of_oserror = {"errno": errno, "strerror": os.strerror(errno), "filename": path}
        for name, value in vars_of_oserror.items():
            setattr(self, name, value)
        return self


def _name(id: object) -> str:
    """What a person calls the container: the pair is shown only where it says more than one ID does."""
    sandbox_id, _, container_id = str(id).partition("/")
    return container_id if container_id == sandbox_id else str(id)


def _restored(cls: type[StateFileError], args: tuple[Any, ...], facts: dict[str, object]) -> StateFileError:
    error = cls.__new__(cls)
    error.args = args
    for name, value in facts.items():
        setattr(error, name, value)
    return error


# -- the name ----------------------------------------------------------------------------------------------------------


class InvalidIDError(StateFileError, ValueError):
    """The value can never be an ID; no file was touched.

    Attributes:
        id: what was given.
        reason: which rule it breaks.
    """

    id: object
    reason: str

    def __init__(self, *, id: object, reason: str) -> None:
        """Say which rule `id` breaks."""
        shown = repr(id)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}…"
        super().__init__(f"{shown} is no container ID: {reason}", id=id, reason=reason)


class InvalidRootError(StateFileError, ValueError):
    """The value can never be a root directory; no file was touched.

    Attributes:
        root_dir: what was given.
        reason: which rule it breaks.
    """

    root_dir: object
    reason: str

    def __init__(self, *, root_dir: object, reason: str) -> None:
        """Say which rule `root_dir` breaks."""
        super().__init__(f"{root_dir!r} is no root directory: {reason}", root_dir=root_dir, reason=reason)


class NotFoundError(StateFileError, FileNotFoundError):
    """There is no state of that name, or it vanished while we waited; nothing was created.

    Attributes:
        id: the ID, or the partial ID, that was asked for.
        path: the state file (or the root directory) that is not there.
    """

    id: str
    path: str

    def __init__(self, *, id: object, path: str) -> None:
        """Say what is not there."""
        super().__init__(
            f"no container {_name(id)!r}: {path} does not exist; StateDir.ids() lists those that do", id=str(id), path=path
        )
        self._set_os_facts(_errno.ENOENT, path)


class AlreadyExistsError(StateFileError, FileExistsError):
    """The ID is taken; what was there is untouched and the lock is released.

    Attributes:
        id: the ID that was asked for.
        path: the state file that is there.
    """

    id: str
    path: str

    def __init__(self, *, id: object, path: str) -> None:
        """Say who has the name."""
        super().__init__(
            f"container {_name(id)!r} exists already ({path}): choose another ID, or destroy it first", id=str(id), path=path
        )
        self._set_os_facts(_errno.EEXIST, path)


class AmbiguousIDError(StateFileError, LookupError):
    """The partial ID fits several containers.

    Attributes:
        id: the partial ID.
        candidates: every `FullID` that it fits, sorted.
    """

    id: str
    candidates: tuple[Any, ...]

    def __init__(self, *, id: str, candidates: Sequence[object]) -> None:
        """List the first few candidates."""
        shown = ", ".join(str(c) for c in candidates[:_LISTED])
        more = f" and {len(candidates) - _LISTED} more" if len(candidates) > _LISTED else ""
        super().__init__(
            f"{id!r} fits {len(candidates)} containers: {shown}{more}; give more of the ID, or a FullID",
            id=id,
            candidates=tuple(candidates),
        )


# -- the lock ----------------------------------------------------------------------------------------------------------


class LockTimeoutError(StateFileError, TimeoutError):
    """The lock was not free in time; the caller holds nothing and waits for nothing.

    Attributes:
        path: the lock file.
        timeout: how long was waited, in seconds; 0 for a single try.
        holder: the `LockHolder` seen then, or `None` where the kernel hides it or it had just gone.
    """

    path: str
    timeout: float
    holder: Any

    def __init__(self, *, path: str, timeout: float, holder: object) -> None:
        """Name the holder, if it is known."""
        by = f"held by {holder}" if holder is not None else "held by a process that cannot be seen from here"
        waited = f"after {timeout:g} s" if timeout else "at the first try"
        super().__init__(f"{path} is {by}; gave up {waited}", path=path, timeout=timeout, holder=holder)
        self._set_os_facts(_errno.ETIMEDOUT, path)


class NotLockedError(StateFileError, RuntimeError):
    """The operation needs the lock, and this object does not hold it; nothing was changed.

    Attributes:
        path: the lock file.
        operation: what was tried.
    """

    path: str
    operation: str

    def __init__(self, *, path: str, operation: str) -> None:
        """Say what needs the lock."""
        super().__init__(
            f"{operation} needs the lock {path}, which this object does not hold: call lock() first, or use hold() or "
            "transaction() (a copy, and an object that crossed a fork, is unlocked)",
            path=path,
            operation=operation,
        )


class DeadlockError(StateFileError, RuntimeError):
    """This thread (or asyncio task) holds the lock already and would wait for itself for ever; it still holds it.

    Attributes:
        path: the lock file.
    """

    path: str

    def __init__(self, *, path: str) -> None:
        """Say who would wait for whom."""
        super().__init__(
            f"{path} is held by this very thread or task, through this object or another: it would wait for itself. "
            "Pass the locked object on instead of locking again",
            path=path,
        )


class LockLostError(StateFileError):
    """The lock file was removed or replaced while we held it: others may be inside; nothing was saved.

    Attributes:
        path: the lock file.
    """

    path: str

    def __init__(self, *, path: str) -> None:
        """Say what is gone."""
        super().__init__(
            f"{path} was removed or replaced while it was held, so it no longer keeps others out: unlock, lock again, "
            "reload, and keep cleaners of temporary files away from the root directory",
            path=path,
        )


class LockUnsupportedError(StateFileError, OSError):
    """The file system has no working `flock`; no weaker lock was taken.

    Attributes:
        path: the lock file.
        errno: what `flock` answered.
    """

    path: str

    def __init__(self, *, path: str, errno: int) -> None:
        """Say what the file system answered."""
        super().__init__(
            f"{path} cannot be locked: flock says {os.strerror(errno)}. Put the root directory on a local file system",
            path=path,
        )
        self._set_os_facts(errno, path)


# -- the file ----------------------------------------------------------------------------------------------------------


class CorruptStateError(StateFileError, ValueError):
    """The file holds no state that can be loaded; it was left as it is.

    Attributes:
        path: the state file.
        kind: one of `empty`, `nul-filled`, `truncated`, `not utf-8`, `not json`, `too large`, `too deep`,
            `not an object`, `integer out of range`, `invalid`.
        reason: what exactly, with the field's name for `invalid`.
    """

    path: str
    kind: str
    reason: str

    def __init__(self, *, path: str, kind: str, reason: str) -> None:
        """Name file, kind and reason."""
        super().__init__(
            f"{path} is corrupt ({kind}): {reason}. The file was not changed: keep a copy if you want to know more; "
            "Container.remove(…) then ends what runs and frees the ID, StateFile.destroy() removes the files alone",
            path=path,
            kind=kind,
            reason=reason,
        )


class UnsupportedVersionError(StateFileError):
    """The record was written by a newer major version: it can be listed and destroyed, but not changed.

    Attributes:
        path: the state file.
        version: the version in the file.
        supported: the newest that this version of statefile may change.
    """

    path: str
    version: int
    supported: int

    def __init__(self, *, path: str, version: int, supported: int) -> None:
        """Compare the versions."""
        super().__init__(
            f"{path} has schema version {version}, this statefile writes {supported}: upgrade statefile to change it "
            "(listing and destroying work)",
            path=path,
            version=version,
            supported=supported,
        )


class UnstorableStateError(StateFileError, ValueError):
    """The value cannot be written as JSON that reads back the same; the old state is in place, byte for byte.

    Attributes:
        path: the state file.
        field: where in the value, as a dotted path; empty for the whole of it.
        reason: why.
    """

    path: str
    field: str
    reason: str

    def __init__(self, *, path: str, field: str, reason: str) -> None:
        """Name the field and the reason."""
        at = f"{field!r} " if field else "the state "
        super().__init__(
            f"{path} was not saved: {at}{reason}. What was there before is unchanged", path=path, field=field, reason=reason
        )


class StaleStateError(StateFileError, RuntimeError):
    """The object was not made from what the file says now: saving it would undo what another has saved; nothing was changed.

    Attributes:
        path: the state file.
        revision: the object's.
        found: the file's.
    """

    path: str
    revision: int
    found: int

    def __init__(self, *, path: str, revision: int, found: int, reason: str = "") -> None:
        """Compare the revisions, or say what else is different."""
        what = f": {reason}" if reason else f" is at revision {found}, the object to save at {revision}"
        super().__init__(
            f"{path}{what}: load it under the lock, change, save again",
            path=path,
            revision=revision,
            found=found,
        )


class UnsafePathError(StateFileError, OSError):
    """Something that is no regular file (or, for the root, no directory) stands there; it was neither followed nor changed.

    Attributes:
        path: what stands in the way.
        found: what it is, such as `a symbolic link`.
    """

    path: str
    found: str

    def __init__(self, *, path: str, found: str, expected: str, errno: int) -> None:
        """Say what stands in whose place."""
        instead = ", or pass the path that it points to" if found == "a symbolic link" and expected == "a directory" else ""
        super().__init__(
            f"{path} is {found} where {expected} belongs: it was left alone; see who put it there and remove it{instead}",
            path=path,
            found=found,
        )
        self._set_os_facts(errno, path)


_REMEDIES = {
    **dict.fromkeys((_errno.ENOSPC, _errno.EDQUOT), ": free some space (destroying containers needs none), and try again"),
    _errno.EFBIG: ": raise the limit on the size of files (RLIMIT_FSIZE)",
    _errno.EROFS: ": it can be listed and loaded, not changed",
    **dict.fromkeys((_errno.EACCES, _errno.EPERM), ": see who owns it, and its mode"),
    **dict.fromkeys((_errno.EMFILE, _errno.ENFILE), ": close some files, or raise the limit on open files (RLIMIT_NOFILE)"),
    _errno.EIO: ": see what the kernel's log says of the disk",
}
"""What to do, where the system's answer says it."""


class StateIOError(StateFileError, OSError):
    """The operating system refused or failed; the old state is in place unless `applied` is true.

    Attributes:
        path: the file or directory.
        operation: what was tried.
        errno: the system's answer.
        applied: whether it is done all the same, the new state in place or the old one removed (only the flush of the directory
            failed).
    """

    path: str
    operation: str
    applied: bool

    def __init__(self, *, path: str, operation: str, errno: int, applied: bool = False) -> None:
        """Say what failed, and in what state that leaves the file."""
        after = "; it is done all the same, but a power cut may undo it" if applied else ""
        super().__init__(
            f"cannot {operation} {path}: {os.strerror(errno)}{_REMEDIES.get(errno, '')}{after}",
            path=path,
            operation=operation,
            applied=applied,
        )
        self._set_os_facts(errno, path)


# -- the lifecycle -----------------------------------------------------------------------------------------------------


class InvalidTransitionError(StateFileError, RuntimeError):
    """The container's status does not allow the action; nothing was changed and the runtime was not asked.

    Attributes:
        id: the container.
        action: what was asked for.
        status: what the container is.
        allowed: the actions that its status allows.
    """

    id: str
    action: Any
    status: Any
    allowed: tuple[Any, ...]

    def __init__(self, *, id: object, action: object, status: object, allowed: Iterable[object], hint: str = "") -> None:
        """Name status and action, and what is possible instead."""
        allowed = tuple(allowed)
        can = ", ".join(str(a) for a in allowed) or "nothing"
        super().__init__(
            f"container {_name(id)!r} is {status}: cannot `{action}`; possible now: {can}{hint}",
            id=str(id),
            action=action,
            status=status,
            allowed=allowed,
        )


class UnsupportedActionError(StateFileError):
    """The runtime cannot do that: it has no such method; nothing was changed.

    Attributes:
        action: what was asked for.
        runtime: the runtime's type name.
    """

    action: Any
    runtime: str

    def __init__(self, *, action: object, runtime: str) -> None:
        """Name the missing method."""
        super().__init__(f"runtime {runtime} cannot `{action}`: it has no such method", action=action, runtime=runtime)


class InvalidRuntimeError(StateFileError, TypeError):
    """A runtime did not keep its side of `Runtime`: what it returned is not used.

    Attributes:
        runtime: the runtime's type name.
        reason: what is wrong.
    """

    runtime: str
    reason: str

    def __init__(self, *, runtime: str, reason: str) -> None:
        """Name the runtime and what is wrong with it."""
        super().__init__(f"runtime {runtime}: {reason}", runtime=runtime, reason=reason)


class SpecError(StateFileError, ValueError):
    """The spec, or what else was handed over, cannot be run by this runtime; nothing was started or changed.

    Attributes:
        field: where, as a dotted path.
        reason: what is wrong with it.
    """

    field: str
    reason: str

    def __init__(self, *, field: str, reason: str) -> None:
        """Name the field and the reason."""
        super().__init__(f"{field} {reason}", field=field, reason=reason)


class WaitTimeoutError(StateFileError, TimeoutError):
    """The container did not stop in time; nothing was changed.

    Attributes:
        id: the container.
        timeout: how long was waited, in seconds.
    """

    id: str
    timeout: float

    def __init__(self, *, id: object, timeout: float) -> None:
        """Say for whom, and how long, was waited."""
        super().__init__(f"container {str(id)!r} had not stopped after {timeout:g} s", id=str(id), timeout=timeout)
        self._set_os_facts(_errno.ETIMEDOUT, None)


class StillRunningError(StateFileError):
    """Processes of the container outlived the time that they had; the record is kept, so that it can be tried again.

    Attributes:
        id: the container.
        pids: the processes that are still there, as far as they are known.
    """

    id: str
    pids: tuple[int, ...]

    def __init__(self, *, id: object, pids: Sequence[int] = (), reason: str = "") -> None:
        """Name the survivors."""
        who = f"processes {', '.join(map(str, pids))} are" if pids else "a process is"
        because = f" ({reason})" if reason else ""
        super().__init__(
            f"container {str(id)!r}: {who} still running{because}; the record is kept: try again, or "
            "destroy(force=True) to drop it all the same",
            id=str(id),
            pids=tuple(pids),
        )


class DestroyError(StateFileError, ExceptionGroup[Exception]):
    """Steps of a destruction failed; all the others were taken.

    Attributes:
        id: the container.
        exceptions: what failed. With a `StillRunningError` among them the record was kept, otherwise it is gone.
    """

    id: str

    def __new__(cls, message: str, exceptions: Sequence[Exception], *, id: object) -> Self:
        """`exceptions` is what failed of the destruction of container `id`."""
        self = super().__new__(cls, message, exceptions)
        self.id = str(id)
        return self

    def __init__(self, message: str, exceptions: Sequence[Exception], *, id: object) -> None:
        """All is done in `__new__`, as in every exception group."""

    def __str__(self) -> str:
        """The message, and what failed."""
        return f"{self.message}: " + "; ".join(str(error) for error in self.exceptions)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by what it was made from."""
        return _destroy_error, (self.message, list(self.exceptions), self.id), vars(self)


def _destroy_error(message: str, exceptions: list[Exception], id: str) -> DestroyError:
    return DestroyError(message, exceptions, id=id)


class HookError(StateFileError):
    """An OCI hook failed; for a hook of the creation or the start, the container was destroyed.

    Attributes:
        hook: the kind, such as `createRuntime`.
        path: the program.
        reason: how it failed.
    """

    hook: str
    path: str
    reason: str

    def __init__(self, *, hook: str, path: str, reason: str) -> None:
        """Name hook, program and failure."""
        super().__init__(f"{hook} hook {path} failed: {reason}", hook=hook, path=path, reason=reason)


_SHOWN = 120
"""How many characters of a bad ID a message shows."""

_LISTED = 10
"""How many candidates a message lists; `candidates` has them all."""
