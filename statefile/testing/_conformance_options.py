"""The methods that a runtime may lack, each checked if it is there; `wait` has a page of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from statefile._lifecycle import Status
from statefile._process import Presence, ProcessRef
from statefile.testing._conformance_faults import calling, check
from statefile.testing._conformance_life import FAMILY_SIZE, MARKS, probed, run_family
from statefile.testing._conformance_room import Conditions, Room, init_of, promise

if TYPE_CHECKING:
    from statefile._container import Container

COUNTS = "(while :; do echo >> child; sleep 0.01; done) & while :; do echo >> parent; sleep 0.01; done"
"""A program of two processes, each of which writes lines as long as it runs."""


def counting(room: Room) -> tuple[int, int]:
    """How far the two have come."""
    return room.lines("parent"), room.lines("child")


def both_go_on(room: Room, method: str, when: str) -> None:
    """Both of the processes write."""
    before = counting(room)
    wrong, advice = f"{when}, a process of the container does not run", f"{method} has to reach every process"
    room.comes(lambda: all(now > then for now, then in zip(counting(room), before, strict=True)), method, wrong, advice)


class Options(Conditions):
    """Pause and resume, and what asks or adds."""

    # -- pause and resume ----------------------------------------------------------------------------------------------

    @promise
    def test_pause_goes_with_resume(self, room: Room) -> None:
        """Who can pause can resume, and the other way round."""
        room.needs("pause")
        has = callable(getattr(room.runtime, "resume", None))
        check(has, "resume", "the runtime has pause and no resume", "write resume, or drop pause: a pause would be for good")

    @promise
    def test_pause_stops_every_process(self, room: Room) -> None:
        """While it is paused no process of a container runs; resumed, all go on."""
        room.needs("pause", "resume")
        room.needs_programs()
        made = room.run(COUNTS)
        both_go_on(room, "start", "after start")
        with calling("pause", "pause"):
            made.pause()
        before = counting(room)
        advice = "pause has to return when all of them have stopped, children too (SIGSTOP is not done when kill returns)"
        room.stays(lambda: counting(room) == before, "pause", "while paused, a process of the container has run", advice)
        with calling("resume", "resume"):
            made.resume()
        both_go_on(room, "resume", "after resume")

    @promise
    def test_probe_tells_paused(self, room: Room) -> None:
        """Paused and resumed are told by `probe`, whatever the record says."""
        room.needs("pause", "resume")
        made = room.run()
        self._pause_and_resume(room, made, Status.RUNNING)

    @promise
    def test_created_container_can_be_paused(self, room: Room) -> None:
        """What was paused before its start waits, once resumed, to be started."""
        room.needs("pause", "resume")
        made = room.new(MARKS)
        self._pause_and_resume(room, made, Status.CREATED)
        check(not room.lines("ran"), "resume", "resume has run a program that was never started", "resume is not start")
        with calling("start", "start after a pause"):
            made.start()
        if self.runs_programs:
            wrong = "after start, the user's program has not run"
            room.comes(lambda: room.lines("ran"), "start", wrong, "a pause before the start must not be in its way")

    def _pause_and_resume(self, room: Room, made: Container, after: Status) -> None:
        with calling("pause", "pause"):
            made.pause()
        probed(room, made, Status.PAUSED, "after pause", early="pause")
        with calling("resume", "resume"):
            made.resume()
        probed(room, made, after, "after resume", early="resume")

    # -- what asks or adds ---------------------------------------------------------------------------------------------

    @promise
    def test_processes_are_the_living_ones(self, room: Room) -> None:
        """The processes of a container are the living ones, its first one among them, and those of no other."""
        room.needs("processes")
        made, other = room.run(), room.run(name=room.name(2))
        self._listed(made, 1, other)
        if self.runs_programs:
            family = run_family(room, room.name(3))
            self._listed(family, FAMILY_SIZE, other)

    def _listed(self, made: Container, number: int, other: Container) -> None:
        with calling("processes", "processes"):
            found: Any = made.processes()
        named: list[Any] = [*found] if isinstance(found, list) else [found]  # pyright: ignore[reportUnknownVariableType]
        refs = all(isinstance(ref, ProcessRef) for ref in named)
        check(refs, "processes", f"processes returned {found!r:.80}", "return a list of ProcessRef, such as ProcessRef.of(pid)")
        alive = [ref for ref in named if ref.presence() is Presence.ALIVE]
        check(
            init_of(made) in alive, "processes", "processes does not name the first process", "it is a process of the container"
        )
        check(init_of(other) not in named, "processes", "processes names one of another container", "look for this container's")
        wrong = f"processes named {len(alive)} living processes of {number}"
        check(len(alive) >= number, "processes", wrong, "children of children are processes of the container, too")

    @promise
    def test_executed_process_belongs_to_the_container(self, room: Room) -> None:
        """What is executed in a container runs, and ends with it."""
        room.needs("execute")
        made = room.run()
        with calling("execute", "execute"):
            found: Any = made.execute(self.shell(f"cd {room.base}; echo >> executed; exec sleep 1000"))
        right = isinstance(found, ProcessRef) and found != made.init and found.presence() is Presence.ALIVE
        wrong = f"execute returned {found!r:.80}"
        check(right, "execute", wrong, "return the ProcessRef of the new process, while it lives")
        if self.runs_programs:
            wrong = "the executed program has not run"
            room.comes(lambda: room.lines("executed"), "execute", wrong, "it is not for start: run it at once")
        with calling("destroy", "destroy"):
            made.destroy()
        gone = found.presence() is Presence.GONE
        check(gone, "destroy", "destroy has left a process that was executed in the container", "it has to find those, too")

    @promise
    def test_events_are_a_mapping(self, room: Room) -> None:
        """The events of a living container are a mapping."""
        room.needs("events")
        made = room.run()
        with calling("events", "events"):
            found: object = made.events()
        check(isinstance(found, Mapping), "events", f"events returned {found!r:.80}", "return a mapping of names to numbers")

    @promise
    def test_update_changes_no_status(self, room: Room) -> None:
        """Limits can be changed while it runs, and it runs on."""
        room.needs("update")
        made = room.run()
        with calling("update", f"update to {self.resources!r:.80}"):
            made.update(self.resources)
        probed(room, made, Status.RUNNING, "after update")

    @promise
    def test_checkpoint_writes_an_image(self, room: Room) -> None:
        """A checkpoint leaves an image, and the container as it was; from an image another container runs."""
        room.needs("checkpoint")
        made = room.run()
        image = room.path("image")
        with calling("checkpoint", "checkpoint"):
            made.checkpoint(image)
        check(os.path.lexists(image), "checkpoint", "after checkpoint, there is no image at its path", "write it to `path`")
        probed(room, made, Status.RUNNING, "after checkpoint")
        room.needs("restore")
        other = room.new(name=room.name(2))
        with calling("restore", "restore"):
            other.restore(image)
        probed(room, other, Status.RUNNING, "after restore")
