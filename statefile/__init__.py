"""The state of containers in files that many short-lived processes lock, read and replace safely."""

from statefile._container import Container
from statefile._holder import LockHolder
from statefile._ids import FullID
from statefile._lifecycle import LIFECYCLE, Action, Status
from statefile._process import Presence, ProcessRef
from statefile._state_dir import StateDir
from statefile._state_file import Durability, StateFile
from statefile.errors import (
    AlreadyExistsError,
    AmbiguousIDError,
    CorruptStateError,
    DeadlockError,
    DestroyError,
    HookError,
    InvalidIDError,
    InvalidRootError,
    InvalidRuntimeError,
    InvalidTransitionError,
    LockLostError,
    LockTimeoutError,
    LockUnsupportedError,
    NotFoundError,
    NotLockedError,
    SpecError,
    StaleStateError,
    StateFileError,
    StateIOError,
    StillRunningError,
    UnsafePathError,
    UnstorableStateError,
    UnsupportedActionError,
    UnsupportedVersionError,
    WaitTimeoutError,
)
from statefile.oci import State
from statefile.process_runtime import ProcessRuntime
from statefile.runtime import Created, ExitStatus, Runtime, Sandbox

__all__ = [
    "LIFECYCLE",
    "Action",
    "AlreadyExistsError",
    "AmbiguousIDError",
    "Container",
    "CorruptStateError",
    "Created",
    "DeadlockError",
    "DestroyError",
    "Durability",
    "ExitStatus",
    "FullID",
    "HookError",
    "InvalidIDError",
    "InvalidRootError",
    "InvalidRuntimeError",
    "InvalidTransitionError",
    "LockHolder",
    "LockLostError",
    "LockTimeoutError",
    "LockUnsupportedError",
    "NotFoundError",
    "NotLockedError",
    "Presence",
    "ProcessRef",
    "ProcessRuntime",
    "Runtime",
    "Sandbox",
    "SpecError",
    "StaleStateError",
    "State",
    "StateDir",
    "StateFile",
    "StateFileError",
    "StateIOError",
    "Status",
    "StillRunningError",
    "UnsafePathError",
    "UnstorableStateError",
    "UnsupportedActionError",
    "UnsupportedVersionError",
    "WaitTimeoutError",
]
