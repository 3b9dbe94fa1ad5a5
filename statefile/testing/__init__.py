"""For tests of programs that use statefile: containers without containers, and rare faults on demand, in any test framework.

`statefile.testing.strategies` (for hypothesis) is imported by whoever asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statefile.testing._corruption import Corruption, corrupt
from statefile.testing._crashing import crash_at, run_to_crash
from statefile.testing._fake_runtime import FakeRuntime
from statefile.testing._full_disk import full_disk
from statefile.testing._held_lock import held_lock
from statefile.testing._make_container import ProcessFate, make_container
from statefile.testing._script import Call, Held
from statefile.testing._state_root import state_root
from statefile.testing._steps import Step

if TYPE_CHECKING:
    from statefile.testing.conformance import RuntimeConformance

__all__ = [
    "Call",
    "Corruption",
    "FakeRuntime",
    "Held",
    "ProcessFate",
    "RuntimeConformance",
    "Step",
    "corrupt",
    "crash_at",
    "full_disk",
    "held_lock",
    "make_container",
    "run_to_crash",
    "state_root",
]


if not TYPE_CHECKING:  # a misspelt name is an error for type checkers too

    def __getattr__(name: str) -> object:
        """`RuntimeConformance` is for authors of runtimes: nobody else's tests load `unittest` for it."""
        if name == "RuntimeConformance":
            from statefile.testing.conformance import RuntimeConformance  # noqa: PLC0415

            return RuntimeConformance
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
