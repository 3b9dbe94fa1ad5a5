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
    """Inherit, and say which runtime: `make_runtime`. What else is not as assumed here, a class says by overriding it.

    `make_runtime()` is called again and again, in other processes too: what one object does another has to find. Where
    processes end with the object that made them, return one object a test.

    `make_spec(args)` returns the spec of a container whose program is `args`: `{"process": {"args": [...]}}`.

    `shell(script)` returns the arguments of a program that runs a script of `sh`, in which `sleep` is found: `/bin/sh -c`.

    Attributes:
        patience: seconds after which what has not happened will not happen.
        grace: seconds in which what must not happen would have happened.
        runs_programs: whether the program of a spec is one of this machine: it sees this machine's files, and this machine's
            `/proc` shows it. If not, what only a program can show is skipped.
        knows_exit_status: whether `wait` always knows how a first process has ended that was not in the way of anything. If
            not, `None` (unknown) will do, but never a wrong one.
        moments: at how many moments each, creators and starters are killed.
        resources: what `update` is asked for.
    """
