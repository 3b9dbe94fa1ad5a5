"""How a container begins, and what is told of it: create, start, signal, probe."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from statefile._lifecycle import Status
from statefile._process import Presence
from statefile.runtime import missing_methods
from statefile.testing._conformance_faults import broken, calling, check, shown
from statefile.testing._conformance_room import SLEEPS, Conditions, Room, init_of, promise

if TYPE_CHECKING:
    from statefile._container import Container

MARKS = f"echo x >> ran; {SLEEPS}"
"""A program that leaves a line each time it is run."""

FAMILY = "sh -c 'sleep 1000 & echo >> ready; wait' & sleep 1000 & echo >> ready; wait"
"""A program with two children and a grandchild: four processes, once there are two lines."""

FAMILY_SIZE = 4

CATCHES = "trap 'exit 0' TERM; echo >> ready; while :; do sleep 0.01; done"
"""A program that a SIGTERM ends also where it is PID 1 of a namespace: from that the kernel keeps what it does not catch."""

_PROBE = "ask the kernel, not container.status: that is what somebody wrote before it was killed"


def run_family(room: Room, name: str | None = None) -> Container:
    """A started container with all of its family there, or one process if its programs are none of ours."""
    room.needs_programs()
    before = room.alive(helpers=False)
    lines = room.lines("ready")
    made = room.run(FAMILY, name=name)
    advice = "start has to let the program of the spec run, with the arguments of the spec and a PATH in which sh and sleep are"
    wrong = "after start, the program did not start its children"
    room.comes(lambda: room.lines("ready") == lines + 2, "start", wrong, advice)
    room.numbers(before, FAMILY_SIZE, made, wrong, advice)
    return made


def said_by(found: object) -> str:
    """What a method returned, for people to read."""
    return str(found) if isinstance(found, str) else f"{found!r:.80}"


def probed(room: Room, container: Container, truth: Status, when: str, *, early: str = "") -> None:
    """The runtime tells the truth, whatever the record says; unless the method called before was too `early` for it."""
    __tracebackhide__ = True  # for pytest: the line of the test says more
    real = container.status
    try:
        for status in (truth, Status.CREATED, Status.RUNNING, Status.PAUSED, Status.STOPPED):
            container.status = status  # in this object alone
            with calling("probe", f"probe ({when})"):
                found = room.runtime.probe(container)
            if found != truth:
                wrong = f"{when}, while the record said {status!s}, probe said {said_by(found)}, not {truth!s}"
                or_else = f"; or {early} returned too early: when it returns, that has to be true" if early else ""
                raise broken("probe", wrong, f"{_PROBE}{or_else}")
    finally:
        container.status = real


class Life(Conditions):
    """From the creation to what is told of a living container."""

    @promise
    def test_every_required_method_is_there(self, room: Room) -> None:
        """A runtime has the five methods that a container cannot do without."""
        for method in missing_methods(room.runtime):
            wrong = f"{type(room.runtime).__name__} has no method {method}"
            raise broken(method, wrong, f"write it: def {method}(self, container, …)")

    # -- create --------------------------------------------------------------------------------------------------------

    @promise
    def test_create_makes_a_living_process(self, room: Room) -> None:
        """Once created, a container has a living first process, and is `created`."""
        made = room.new()
        check(
            init_of(made).presence() is Presence.ALIVE,
            *("create", f"Created.init, process {init_of(made).pid}, is not alive after create"),
            "create has to return while its process waits: it must not have ended or been reaped",
        )
        check(made.status is Status.CREATED, "create", f"after create the status is {made.status}", "return from create")

    @promise
    def test_program_does_not_run_before_the_start(self, room: Room) -> None:
        """The user's program runs when it is started, and not before."""
        room.needs_programs()
        made = room.new(MARKS)
        advice = "make a process that waits (for a signal, on a FIFO, by SIGSTOP), and becomes the program in start"
        room.stays(lambda: not room.lines("ran"), "create", "create has run the user's program at once", advice)
        with calling("start", "start"):
            made.start()
        advice = "start has to let go the process that create has left waiting"
        room.comes(lambda: room.lines("ran"), "start", "after start, the user's program has not run", advice)
        room.stays(lambda: room.lines("ran") == 1, "start", "start has run the user's program twice", advice)

    @promise
    def test_first_process_stays_the_same(self, room: Room) -> None:
        """The process that `create` returned is the one that becomes the program: its PID is final."""
        room.needs_programs()
        made = room.run(f"echo $$ > pid.new; mv pid.new pid; {SLEEPS}")
        advice = "start has to make the program of the waiting process itself (by exec): others watch and signal that PID"
        room.comes(lambda: room.lines("pid"), "start", "after start, the user's program has not run", advice)
        check(
            init_of(made).presence() is Presence.ALIVE,
            *("start", f"the first process, {init_of(made).pid}, is gone after start, though the program runs", advice),
        )

    @promise
    def test_program_that_does_not_exist_leaves_nothing(self, room: Room) -> None:
        """A program that cannot be run is told by `create`, by `start`, or by an end; whichever it is, nothing is left."""
        room.needs_programs()
        spec = self.make_spec([room.path("no-such-program")])
        made = room.attempt(spec)
        if made is None:
            room.nothing_runs(
                "create", "a create that raised", "undo in create what it has made, before the exception leaves it"
            )
            check(room.ids() == [], "create", "a create that raised has left its container", "raise before anything is made")
            return
        try:
            made.start()
        except Exception:  # noqa: BLE001  # a runtime may tell in its own words
            found = room.runtime.probe(made)
            check(found != Status.RUNNING, "probe", "start raised, and probe says that the container is running", _PROBE)
        else:
            advice = "let the waiting process end, or raise in start, when the program cannot be run"
            room.comes(
                lambda: room.runtime.probe(made) == Status.STOPPED,
                *("start", "the program does not exist, and the container is not stopped", advice),
            )
        with calling("destroy", "destroy"):
            made.destroy()
        room.nothing_runs("destroy", "destroying a container that could not be started", "see destroy")

    # -- probe ---------------------------------------------------------------------------------------------------------

    @promise
    def test_probe_tells_created_from_running(self, room: Room) -> None:
        """Whether the program was started is told by `probe`, whatever the record says: so none is started twice."""
        made = room.new()
        probed(room, made, Status.CREATED, "after create")
        with calling("start", "start"):
            made.start()
        probed(room, made, Status.RUNNING, "after start", early="start")

    @promise
    def test_probe_tells_what_was_killed_from_outside(self, room: Room) -> None:
        """A container whose first process somebody has killed is stopped, whatever the record says; a zombie is gone."""
        for made, when in ((room.new(), "created"), (room.run(name=room.name(2)), "running")):
            init_of(made).send_signal(signal.SIGKILL)
            room.gone(made)
            probed(room, made, Status.STOPPED, f"after SIGKILL to the first process of a {when} container")

    @promise
    def test_probe_knows_a_container_that_was_never_made(self, room: Room) -> None:
        """What has no process yet is told by its record: an interrupted creation is never called running."""
        made = room.unmade()
        with calling("probe", "probe of a container without a first process"):
            found = room.runtime.probe(made)
        check(
            found in {Status.CREATING, Status.STOPPED},
            *(
                "probe",
                f"probe said {said_by(found)} of a container that is still creating",
                "if container.init is None, say so",
            ),
        )

    # -- signal --------------------------------------------------------------------------------------------------------

    @promise
    def test_signal_reaches_the_first_process(self, room: Room) -> None:
        """A signal reaches the first process."""
        made = room.run(CATCHES)
        if self.runs_programs:
            advice = "start has to let the program of the spec run"
            room.comes(lambda: room.lines("ready"), "start", "after start, the user's program has not run", advice)
        with calling("signal", "signal"):
            made.signal(signal.SIGTERM)
        ref = init_of(made)
        presence = ref.wait(self.patience)
        advice = "container.init.send_signal(number): it reaches that very process, from whichever process you are in"
        check(presence is Presence.GONE, "signal", f"SIGTERM did not reach the first process, {shown([ref])}", advice)

    @promise
    def test_signal_to_what_is_gone_is_no_error(self, room: Room) -> None:
        """A process that has just gone is no error for whoever signals it, one or all."""
        made = room.run()
        init_of(made).send_signal(signal.SIGKILL)
        room.gone(made)
        for everyone in (False, True):
            with calling("signal", f"signal to a process that is gone (all={everyone})"):
                room.runtime.signal(made, signal.SIGTERM, all=everyone)

    @promise
    def test_signal_to_all_reaches_every_process(self, room: Room) -> None:
        """A signal to all reaches the children of children, too."""
        made = run_family(room)
        with calling("signal", "signal (all=True)"):
            made.signal(signal.SIGTERM, all=True)
        left = room.alive
        advice = (
            "find every process of the container (a cgroup, a mark in the environment, its session), not the first one only"
        )
        room.comes(
            lambda: not left(helpers=False),
            *("signal", "SIGTERM with all=True has not reached every process", advice),
        )
