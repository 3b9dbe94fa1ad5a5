"""The state of containers in files that many short-lived processes lock, read and replace safely."""

# `import statefile` costs next to nothing, so that the pytest plugin costs those nothing who do not use it: a name is loaded,
# with pydantic and whatever else it needs, when it is first asked for.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_NAMES_OF = {
    "_container": ("Container",),
    "_holder": ("LockHolder",),
    "_ids": ("FullID",),
    "_lifecycle": ("LIFECYCLE", "Action", "Status"),
    "_process": ("Presence", "ProcessRef"),
    "_state_dir": ("StateDir",),
    "_state_file": ("Durability", "StateFile"),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "oci": ("State",),
    "process_runtime": ("ProcessRuntime",),
    "runtime": ("Created", "ExitStatus", "Runtime", "Sandbox"),
}
"""The imports above, for run time: tests/test_architecture.py holds the two together."""

_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}
_SUBMODULES = ("aio", "errors", "oci", "process_runtime", "runtime", "testing")


if not TYPE_CHECKING:  # pragma: no branch  # so that a misspelt name is an error for type checkers

    def __getattr__(name: str) -> object:
        if name in _SUBMODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value  # from now on it is found at once
        return value


def __dir__() -> list[str]:
    return [*__all__, *_SUBMODULES]
