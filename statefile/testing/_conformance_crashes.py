"""Many processes at once, and processes that are killed: what one has begun another has to find and finish."""

from __future__ import annotations

import functools
import signal
from typing import TYPE_CHECKING, cast

from statefile._container import Container
from statefile._lifecycle import Status
from statefile._process import Presence
from statefile.testing._conformance_actors import Dying, Moment
from statefile.testing._conformance_faults import broken, calling, check
from statefile.testing._conformance_life import MARKS
from statefile.testing._conformance_room import SLEEPS, Conditions, Room, init_of, promise

if TYPE_CHECKING:
    from collections.abc import Callable

    from statefile.runtime import Runtime

_ROUNDS = 5
_STARTERS = 4

_NO_MEMORY = (
    "keep nothing in memory that another process needs: put it into Created, or where it can be found from the container"
)
_INTERRUPTED = "make what is made findable by the container's IDs before it is made (a mark, a cgroup, a directory)"
_TRUTH = "probe has to tell created from running by the process itself, so that a started program is not started again"


def moments(measured: str, number: int) -> list[Moment]:
    """So many moments: some evenly spread, the first and the last line among them, most in the slowest lines and after them."""
    lines, *slow = measured.split()
    evenly = max(number // 3, 1)
    found = {Moment(1 + (int(lines) - 1) * nth // max(evenly - 1, 1)): None for nth in range(evenly)}
    for each in slow[: number - len(found)]:
        line, _, seconds = each.partition(":")
        found[Moment(int(line), float(seconds))] = None
    return list(found)


class Crashes(Conditions):
    """What holds although any process may do anything, and be killed."""

    @promise
    def test_every_method_works_from_another_process(self, room: Room) -> None:
        """Each process finds what the others have done: all that it needs is in the container, or found from it."""

        def create() -> str:
            Container.new(room.root, room.name(), spec=room.spec(SLEEPS), runtime=self.make_runtime())
            return "created"

        def start() -> str:
            room.load().start()
            return str(self.make_runtime().probe(room.load()))

        def kill() -> str:
            room.load().signal(signal.SIGKILL)
            return str(init_of(room.load()).wait(self.patience) is Presence.GONE)

        def probe() -> str:
            return str(self.make_runtime().probe(room.load()))

        def destroy() -> str:
            room.load().destroy()
            return "destroyed"

        steps: list[tuple[str, Callable[[], str], str]] = [
            ("create", create, "created"),
            ("probe", probe, "created"),
            ("start", start, "running"),
            ("signal", kill, "True"),
            ("probe", probe, "stopped"),
            ("destroy", destroy, "destroyed"),
        ]
        for method, do, expected in steps:
            said = room.actor(do).said(method)
            if said != expected:
                wrong = f"in another process than the one before, {method} said {said!r:.300}, not {expected!r}"
                raise broken(method, wrong, _NO_MEMORY)
        room.nothing_runs("destroy", "destroy in another process", _NO_MEMORY)

    @promise
    def test_one_of_many_starters_starts(self, room: Room) -> None:
        """Of many processes that start a container at once one does, and the program runs once."""
        room.new(MARKS)

        def start() -> str:
            room.load().start()
            return "started"

        said = room.at_once("start", *[start] * _STARTERS)
        others = [each for each in said if each != "started"]
        wrong = f"of {_STARTERS} processes that start a container, {said.count('started')} did; the others were told: {others}"
        advice = "start must work in whichever process has the lock, and leave the refusing to the container"
        right = len(others) == _STARTERS - 1 and all(each.startswith("InvalidTransitionError") for each in others)
        check(right, "start", wrong, advice)
        if self.runs_programs:
            room.comes(lambda: room.lines("ran"), "start", "after start, the user's program has not run", advice)
            wrong = f"{_STARTERS} processes have started a container, and its program has run more than once"
            room.stays(lambda: room.lines("ran") == 1, "start", wrong, advice)

    @promise
    def test_start_and_destroy_at_once(self, room: Room) -> None:
        """Whoever of a starter and a destroyer comes first, afterwards nothing runs and the name is free."""
        for _ in range(_ROUNDS):
            room.new()

            def start() -> str:
                room.load().start()
                return "started"

            said = room.at_once("destroy", start, lambda: room.load().destroy())
            fair = ("started", "NotFoundError", "InvalidTransitionError")
            check(said[0].startswith(fair), "start", f"against a destroy, start said {said[0]:.200}", _NO_MEMORY)
            check(said[1] == "None", "destroy", f"against a start, destroy said {said[1]:.200}", _NO_MEMORY)
            room.nothing_runs("destroy", "a start and a destroy at once", "look again until nothing new is found")
            check(room.ids() == [], "destroy", "after a start and a destroy at once, the container is there", _NO_MEMORY)

    @promise
    def test_destroyers_at_once(self, room: Room) -> None:
        """All of several destroyers succeed."""
        made = room.run()

        def destroy_unlocked() -> str:
            self.make_runtime().destroy(made)  # as after a lock that was lost: nobody can rely on being alone
            return "None"

        said = room.at_once("destroy", *[room.remove] * 2, destroy_unlocked)
        advice = "what is gone when you come to it was removed by another: that is success"
        check(said == ["None"] * 3, "destroy", f"three destroys at once said {said}", advice)
        room.nothing_runs("destroy", "three destroys at once", advice)

    @promise
    def test_interrupted_creation_is_found(self, room: Room) -> None:
        """Whenever a creator is killed, `destroy` finds what it has left, and the name can be used again."""
        for moment in self._moments(room, "create"):
            for at_once in (False, True):
                room.actor(functools.partial(self._create_with, room, moment)).said("create")
                when = f"a create that was {moment}, and a destroy by another process"
                said = room.actor(room.remove).said("destroy")
                check(said == "None", "destroy", f"after {when}: {said:.300}", _INTERRUPTED)
                if not at_once:
                    # What was about to begin may see for itself that it is no longer wanted, and end.
                    room.all_ends("destroy", when, _INTERRUPTED)
                with calling("create", f"create, after {when},"):
                    again = room.new()
                alive = init_of(again).presence() is Presence.ALIVE
                check(alive, "create", f"made again after {when}, the first process does not live", _INTERRUPTED)
                with calling("destroy", f"destroy of what was made again after {when},"):
                    again.destroy()
                room.all_ends("destroy", f"{when}, and a second life", _INTERRUPTED)

    @promise
    def test_interrupted_start_is_not_repeated(self, room: Room) -> None:
        """Whenever a starter is killed, the next one knows whether the program was started: it runs once."""
        room.needs_programs()
        for number, moment in enumerate(self._moments(room, "start")):
            name = room.name(number + 100)
            before = room.lines("ran")
            room.new(MARKS, name=name)
            room.actor(functools.partial(self._start_with, room, moment, name)).said("start")
            when = f"after a start that was {moment}"

            def start_again(name: str = name) -> str:
                found = room.load(name)
                found.recover()
                if found.status is Status.CREATED:
                    found.start()
                return str(found.status)

            said = room.actor(start_again).said("start")
            check(said == "running", "start", f"{when}, starting it where need be said {said:.300}", _TRUTH)
            ran = functools.partial(room.lines, "ran")
            room.comes(lambda: ran() > before, "start", f"{when} and another start, the program has not run", _TRUTH)  # noqa: B023
            wrong = f"{when}, and another start, the program has run twice"
            room.stays(lambda: ran() == before + 1, "start", wrong, _TRUTH)  # noqa: B023
            with calling("destroy", "destroy"):
                room.remove(name)

    # -- actors that are killed ----------------------------------------------------------------------------------------

    def _moments(self, room: Room, method: str) -> list[Moment]:
        first = room.new()
        with calling("destroy", "destroy"):
            first.destroy()  # whatever is imported is by now
        if method == "create":
            said = room.actor(functools.partial(self._create_with, room)).said(method)
        else:
            room.new()
            said = room.actor(functools.partial(self._start_with, room, None, room.name())).said(method)
        right = said.partition(" ")[0].isdecimal()
        check(right, method, f"in another process, {method} said {said:.300}", _NO_MEMORY)
        with calling("destroy", "destroy of what another process has made"):
            room.remove()
        return moments(said, self.moments)

    def _create_with(self, room: Room, moment: Moment | None = None) -> str:
        runtime = Dying(self.make_runtime(), "create", moment)
        Container.new(room.root, room.name(), spec=room.spec(SLEEPS), runtime=cast("Runtime", runtime))
        return runtime.measured()

    def _start_with(self, room: Room, moment: Moment | None, name: str) -> str:
        runtime = Dying(self.make_runtime(), "start", moment)
        Container.load(room.root, name, runtime=cast("Runtime", runtime), exact=True).start()
        return runtime.measured()
