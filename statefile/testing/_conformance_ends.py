"""How a container ends, and who learns how: destroy, wait."""

from __future__ import annotations

import shutil
import signal
import threading
import time
import unittest
from typing import TYPE_CHECKING, Any

from statefile._container import Container
from statefile._process import Presence
from statefile.runtime import ExitStatus
from statefile.testing._conformance_faults import broken, calling, check
from statefile.testing._conformance_life import MARKS, run_family
from statefile.testing._conformance_room import SLEEPS, Conditions, Room, init_of, promise

if TYPE_CHECKING:
    from collections.abc import Iterable

_FIND = "find every process of the container (a cgroup, a mark in the environment), kill it, and wait until it is gone"
_NOTHING = "where there is nothing to end or to free, return"
_OWN = "look for the processes and files of this very container: its whole ID, and its root directory"
_TIME_IS_UP = "TimeoutError"
_WHOSE = "keep it with the process (its ProcessRef, its start time), not with the ID alone, and drop it in destroy"


class Ends(Conditions):
    """The ends, forced and natural."""

    # -- destroy: from every status ------------------------------------------------------------------------------------

    @promise
    def test_destroy_of_a_created_container(self, room: Room) -> None:
        """Destroyed before its start, a container leaves nothing, and its program has never run."""
        made = room.new(MARKS)
        self._destroyed(room, made, "a created container")
        check(not room.lines("ran"), "destroy", "destroy of a created container has run its program", "kill it as it waits")

    @promise
    def test_destroy_of_a_running_container(self, room: Room) -> None:
        """Destroyed while it runs, a container leaves nothing."""
        self._destroyed(room, room.run(), "a running container")

    @promise
    def test_destroy_of_a_paused_container(self, room: Room) -> None:
        """Destroyed while it is paused, a container leaves nothing."""
        room.needs("pause")
        made = room.run()
        with calling("pause", "pause"):
            made.pause()
        self._destroyed(room, made, "a paused container")

    @promise
    def test_destroy_of_a_stopped_container(self, room: Room) -> None:
        """Destroyed after its end, a container leaves nothing."""
        made = room.run()
        init_of(made).send_signal(signal.SIGKILL)
        room.gone(made)
        self._destroyed(room, made, "a stopped container")

    def _destroyed(self, room: Room, made: Container, what: str) -> None:
        with calling("destroy", f"destroy of {what}"):
            made.destroy()
        room.nothing_runs("destroy", f"destroy of {what}", _FIND)
        check(room.ids() == [], "destroy", f"after destroy of {what}, it is still there", "do not raise when all has ended")
        again = room.run()
        alive = init_of(again).presence() is Presence.ALIVE
        check(alive, "start", f"after {what} was destroyed, another of its name does not live", "forget in destroy what was")

    # -- destroy: everything, nothing else, again and again ------------------------------------------------------------

    @promise
    def test_destroy_ends_children(self, room: Room) -> None:
        """On return of `destroy` no child and no child's child runs."""
        made = run_family(room)
        with calling("destroy", "destroy"):
            made.destroy()
        room.nothing_runs("destroy", "destroy of a program with children", _FIND)

    @promise
    def test_destroy_ends_what_has_lost_its_parents(self, room: Room) -> None:
        """Children whose first process has ended before are ended, too."""
        made = run_family(room)
        init_of(made).send_signal(signal.SIGKILL)
        room.gone(made)
        with calling("destroy", "destroy"):
            made.destroy()
        room.nothing_runs("destroy", "destroy of a container whose first process had been killed", _FIND)

    @promise
    def test_destroy_ends_daemons(self, room: Room) -> None:
        """A process in a session of its own, whose parents have ended, is ended, too."""
        room.needs_programs()
        if shutil.which("setsid") is None:
            raise unittest.SkipTest("needs the program setsid")
        made = room.run(f"(setsid sleep 1000 &); echo >> ready; {SLEEPS}")
        wrong, advice = "after start, the program did not start its daemon", "see the other tests of start"
        room.comes(lambda: room.lines("ready"), "start", wrong, advice)
        room.numbers([], 2, made, wrong, advice)  # itself, and the daemon
        with calling("destroy", "destroy"):
            made.destroy()
        room.nothing_runs("destroy", "destroy of a program with a daemon", _FIND)

    @promise
    def test_destroy_is_idempotent(self, room: Room) -> None:
        """Destroying again what is destroyed is success."""
        made = room.run()
        for which in ("destroy", "a second destroy", "a third destroy"):
            with calling("destroy", which), made.saver.hold():
                room.runtime.destroy(made)
            room.nothing_runs("destroy", which, _FIND)

    @promise
    def test_destroy_of_what_never_was(self, room: Room) -> None:
        """Destroying a container that was never made is success."""
        with calling("destroy", "destroy of a container that never was"):
            Container.remove(room.root, room.name(), runtime=room.runtime)
        made = room.unmade()
        with calling("destroy", "destroy of a container of which nothing was made yet"):
            room.runtime.destroy(made)

    @promise
    def test_destroy_without_a_record(self, room: Room) -> None:
        """What runs is found by the IDs alone: the record may be unreadable."""
        made = room.run()
        with open(made.saver.state_path, "w", encoding="utf-8") as file:
            file.write("{")
        with calling("destroy", "destroy of a container whose record is unreadable"):
            Container.remove(room.root, room.name(), runtime=room.runtime)
        advice = f"{_FIND}: container.init is None then, so by container.saver.id and root_dir"
        room.nothing_runs("destroy", "destroy of a container whose record is unreadable", advice)

    @promise
    def test_destroy_never_touches_another(self, room: Room) -> None:
        """Neither a container whose name only begins like it, nor one of the same name under another root, is touched."""
        others = {
            "whose name begins like it": room.run(name=room.name(11)),
            "of the same name under another root": room.run(root=room.path("root2")),
        }
        made = room.run()
        with calling("destroy", "destroy"):
            made.destroy()
        for which, other in others.items():
            alive = init_of(other).presence() is Presence.ALIVE
            check(alive, "destroy", f"destroy has killed the process of another container, {which}", _OWN)

    # -- wait ----------------------------------------------------------------------------------------------------------

    def _is(self, found: object, truth: ExitStatus, when: str, advice: str) -> None:
        """It is the true one, or unknown if the runtime may not know."""
        kind = type(found).__name__
        wrong = f"{when}, wait returned {_a(kind)} ({found!r:.80})"
        advice_on_kind = "return ExitStatus(code=7), ExitStatus.from_wait_status(…) or, if nobody knows, None"
        check(found is None or isinstance(found, ExitStatus), "wait", wrong, advice_on_kind)
        if found is None and not self.knows_exit_status:
            return
        if found is None:
            raise broken(
                "wait", f"{when}, wait said None (unknown), not {truth}", f"{advice}; or say knows_exit_status = False"
            )
        check(found == truth, "wait", f"{when}, wait said {found!s:.80}, not {truth}", advice)

    @promise
    def test_wait_tells_the_exit_code(self, room: Room) -> None:
        """Who waits learns the exit code."""
        room.needs("wait")
        room.needs_programs()
        made = room.run("exit 7")
        with calling("wait", "wait"):
            found = room.runtime.wait(made, self.patience)
        self._is(found, ExitStatus(code=7), "after exit 7", "reap the process and keep what waitpid says")

    @promise
    def test_wait_tells_the_signal(self, room: Room) -> None:
        """Who waits learns which signal has killed it."""
        room.needs("wait")
        made = room.run()
        init_of(made).send_signal(signal.SIGKILL)
        with calling("wait", "wait"):
            found = room.runtime.wait(made, self.patience)
        self._is(found, ExitStatus(signal=9), "after SIGKILL", "ExitStatus.from_wait_status tells a signal from a code")

    @promise
    def test_any_number_of_processes_may_wait(self, room: Room) -> None:
        """All who wait learn the same, in this process and in others, during its life and long after."""
        room.needs("wait")
        truth = ExitStatus(signal=9)
        made = room.run()
        with calling("wait", "wait"):
            actors = [room.actor(lambda: room.load().wait(self.patience)) for _ in range(2)]
            threads = [_Waiting(room.runtime, made, self.patience) for _ in range(2)]  # after the forks, which know no threads
            made.signal(signal.SIGKILL)  # the one signal that ends a process whatever it is
            room.gone(made)
            found = [thread.result() for thread in threads]
            found.append(room.runtime.wait(made, self.patience))
            actors.append(room.actor(lambda: room.load().wait(self.patience)))
            told = [actor.said("wait") for actor in actors]
        when, advice = "asked by several processes and threads", "waitpid is for one parent: write down what it says"
        for one in found:
            self._is(one, truth, when, advice)
        for said in told:
            if said != str(truth):
                check(said == "None", "wait", f"{when}, wait said {said:.80}, not {truth}", advice)
                self._is(None, truth, when, advice)

    @promise
    def test_wait_ends_when_its_time_is_up(self, room: Room) -> None:
        """Who waits for so long waits no longer, and gets a `TimeoutError`."""
        room.needs("wait")
        made = room.run()
        for timeout in (0.0, 0.2):
            took, said = self._waited(room, made, timeout)
            wrong = f"of a container that runs, wait({timeout:g}) said {said:.200}"
            check(said == _TIME_IS_UP, "wait", wrong, "raise TimeoutError when the time is up")
            wrong = f"wait({timeout:g}) raised TimeoutError after {took:.2f} s"
            check(timeout * 0.9 <= took < timeout + self.patience / 2, "wait", wrong, "the time is in seconds")

    def _waited(self, room: Room, container: Container, timeout: float) -> tuple[float, str]:
        """How long it waited, in another process that can be killed, and what it said then."""

        def wait() -> str:
            begin = time.monotonic()
            try:
                said = str(room.runtime.wait(container, timeout))
            except TimeoutError:
                said = _TIME_IS_UP
            except Exception as error:  # noqa: BLE001  # it is told
                said = f"{type(error).__name__}: {error}"
            return f"{time.monotonic() - begin} {said}"

        took, _, said = room.actor(wait).said("wait").partition(" ")
        return float(took or 0), said

    @promise
    def test_wait_tells_of_this_run(self, room: Room) -> None:
        """How one container has ended is never told of another that has its name."""
        room.needs("wait")
        room.needs_programs()
        first = room.ended("exit 3")
        with calling("wait", "wait"):
            room.runtime.wait(first, self.patience)
            first.destroy()
        second = room.run("while ! [ -e go ]; do sleep 0.01; done; exit 5")
        self._says_of_another(room, first, "while another container of its name runs", {5})
        _, said = self._waited(room, second, 0.0)
        wrong = f"of a container that runs, wait said {said:.200}; one of its name before had said exit code 3"
        check(said == _TIME_IS_UP, "wait", wrong, _WHOSE)
        with open(room.path("go"), "w", encoding="utf-8"):
            pass
        with calling("wait", "wait"):
            found: Any = room.runtime.wait(second, self.patience)
        self._is(found, ExitStatus(code=5), "after exit 3 of one container and exit 5 of the next of its name", _WHOSE)
        self._says_of_another(room, first, "after another container of its name has ended", {5})

    def _says_of_another(self, room: Room, first: Container, when: str, wrong_codes: Iterable[int]) -> None:
        """Of a container that is no more: how it ended, or that nobody knows, in whatever way."""
        try:
            found: Any = room.runtime.wait(first, 0.0)
        except Exception:  # noqa: BLE001  # it is no more: the runtime may say so
            return
        for code in wrong_codes:
            wrong = f"{when}, wait said exit code {code} of a container that had ended with exit code 3"
            check(found != ExitStatus(code=code), "wait", wrong, _WHOSE)


def _a(name: str) -> str:
    """It, with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


class _Waiting:
    """A thread that waits."""

    def __init__(self, runtime: Any, container: Container, timeout: float) -> None:  # noqa: ANN401  # `wait` is optional
        self._found: object = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._wait, args=(runtime, container, timeout), daemon=True)
        self._thread.start()

    def _wait(self, runtime: Any, container: Container, timeout: float) -> None:  # noqa: ANN401
        try:
            self._found = runtime.wait(container, timeout)
        except BaseException as error:  # noqa: BLE001  # it is told
            self._error = error

    def result(self) -> object:
        """What it was told; its exception is raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found
