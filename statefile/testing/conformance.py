"""The conformance kit: what `statefile.runtime.Runtime` promises, as tests that an author of a runtime inherits.

    from statefile.testing.conformance import RuntimeConformance

    class TestMine(RuntimeConformance):
        def make_runtime(self):
            return MyRuntime()

So for pytest; for unittest add `unittest.TestCase` to the bases. Each test drives containers in a directory of its own, in this
process and in forked ones; a failure says what is wrong, which promise that breaks, and what to do. What is about a method that
the runtime does not have is skipped, visibly. It takes seconds. Linux only.
"""

from __future__ import annotations

from statefile.testing._conformance_crashes import Crashes
from statefile.testing._conformance_ends import Ends
from statefile.testing._conformance_life import Life
from statefile.testing._conformance_options import Options

__all__ = ["RuntimeConformance"]


class RuntimeConformance(Crashes, Ends, Options, Life):
    """Inherit, and say which runtime: `make_runtime`.

    A runtime that lives in a world of its own says so by overriding these, which are documented at `Conditions`:
    `make_spec` and `shell` (how a program is said in a spec), `runs_programs`, `knows_exit_status`, `patience` and `grace` (in
    seconds), `moments`, `resources`.

    It is called with `make_runtime` again and again, in other processes too: what one object does another has to find. A
    runtime whose processes end with the object that made them returns one object a test.
    """
