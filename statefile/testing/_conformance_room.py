"""Where one test of the conformance kit happens: a root of its own, the actors in it, and what is wrong said in full.

Whatever a test and a runtime do, afterwards nothing of them is left: no process, no file.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import signal
import tempfile
import time
import unittest
from typing import TYPE_CHECKING, Any

from statefile._container import Container
from statefile._lifecycle import Status
from statefile._process import Presence, ProcessRef
from statefile._state_dir import StateDir
from statefile.errors import InvalidRuntimeError, UnsupportedActionError
from statefile.testing._conformance_actors import Actor
from statefile.testing._conformance_faults import broken, calling, check, command_of, descends, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from statefile.runtime import Runtime

SLEEPS = "exec sleep 1000"
"""A program that does nothing until it is killed."""

_LOOK_AGAIN = 0.002
"""Seconds between two looks at something that tells nobody when it changes."""


class Conditions:
    """What an author says about a runtime, documented at `RuntimeConformance`, where authors look."""

    patience: float = 10.0
    grace: float = 0.2
    runs_programs: bool = True
    knows_exit_status: bool = True
    moments: int = 10
    resources: dict[str, Any] = {}  # noqa: RUF012  # a subclass says another one

    def make_runtime(self) -> Runtime:
        """A runtime to be tested: a new object each time, as another process would make it."""
        raise NotImplementedError(f"{type(self).__name__} has to say which runtime: def make_runtime(self): return …")

    def make_spec(self, args: Sequence[str]) -> dict[str, Any]:
        """The spec of a container whose program is `args`."""
        return {"process": {"args": list(args)}}

    def shell(self, script: str) -> Sequence[str]:
        """The program that runs a script of `sh`, in which `sleep` is found."""
        return ["/bin/sh", "-c", script]


def promise(test: Callable[[Any, Room], None]) -> Callable[[Any], None]:
    """A test method that is given a room of its own."""

    @functools.wraps(test)
    def in_a_room(self: Conditions) -> None:
        __tracebackhide__ = True  # for pytest: the line of the test says more
        room = Room(self)
        try:
            test(self, room)
        finally:
            room.close()

    del in_a_room.__wrapped__  # pytest would take `room` for a fixture
    return in_a_room


class Room:
    """A root directory, what was made in it, and how to find what is left of it. Every process of it shows the token."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.token = os.urandom(6).hex()
        memory = "/dev/shm"  # noqa: S108  # a flush costs nothing there, and the directory is a new one
        place = memory if os.access(memory, os.W_OK) else None
        self.base = tempfile.mkdtemp(prefix=f"conformance-{self.token}-", dir=place)
        self.root = self.path("root")
        self._actors: list[Actor] = []
        self._made: list[Container] = []
        try:
            self.runtime: Any = an_object(conditions.make_runtime())  # what a runtime may lack is in no protocol
        except BaseException:
            shutil.rmtree(self.base)
            raise

    def path(self, name: str) -> str:
        """A file that a program finds under that name in its working directory."""
        return os.path.join(self.base, name)

    def name(self, number: int = 1) -> str:
        """An ID that no other test has; the first is the beginning of the eleventh."""
        return f"c{self.token}-{number}"

    def spec(self, script: str) -> dict[str, Any]:
        """The spec of a program that runs `script` in the room."""
        return self.conditions.make_spec(self.conditions.shell(f"cd {shlex.quote(self.base)} || exit 99; {script}"))

    # -- what it takes -------------------------------------------------------------------------------------------------

    def needs(self, *methods: str) -> None:
        """Skip what is about optional methods that the runtime lacks."""
        lacking = [method for method in methods if not callable(getattr(self.runtime, method, None))]
        if lacking:
            raise unittest.SkipTest(f"{type(self.runtime).__name__} has no {' and no '.join(lacking)}")

    def needs_programs(self) -> None:
        """Skip what only a program can show."""
        if not self.conditions.runs_programs:
            raise unittest.SkipTest("runs_programs is False: only a program can show this")

    # -- containers ----------------------------------------------------------------------------------------------------

    def new(self, script: str = SLEEPS, *, name: str | None = None, root: str | None = None) -> Container:
        """A created container."""
        with calling("create", "create"):
            made = Container.new(root or self.root, name or self.name(), spec=self.spec(script), runtime=self.runtime)
        self._made.append(made)
        return made

    def run(self, script: str = SLEEPS, *, name: str | None = None, root: str | None = None) -> Container:
        """A started container."""
        made = self.new(script, name=name, root=root)
        with calling("start", "start"):
            made.start()
        return made

    def load(self, name: str | None = None) -> Container:
        """The container of that name, with a new runtime, as another process would have it."""
        runtime = self.conditions.make_runtime()
        return Container.load(self.root, name or self.name(), runtime=runtime, exact=True)

    def attempt(self, spec: dict[str, Any]) -> Container | None:
        """A created container, or `None` if the runtime refuses the spec."""
        try:
            with calling("create", "create", only=(InvalidRuntimeError, UnsupportedActionError)):
                made = Container.new(self.root, self.name(), spec=spec, runtime=self.runtime)
        except AssertionError:
            raise  # the container has refused, and not the runtime
        except Exception:  # noqa: BLE001  # it may refuse in its own words
            return None
        self._made.append(made)
        return made

    def unmade(self) -> Container:
        """A container of which nothing was made yet: it is nowhere on disk, and has no process."""
        saver = StateDir(self.root).state_file(self.name(9))
        return Container(id=saver.id.container_id, spec=self.spec(SLEEPS), status=Status.CREATING, saver=saver)

    def remove(self, name: str | None = None) -> None:
        """Destroy the container of that name, with a new runtime, as another process would."""
        Container.remove(self.root, name or self.name(), runtime=self.conditions.make_runtime())

    def ended(self, script: str) -> Container:
        """A container whose first process has ended by itself."""
        made = self.run(script)
        self.gone(made)
        return made

    def gone(self, container: Container) -> None:
        """Wait until its first process has ended."""
        __tracebackhide__ = True  # for pytest: the line of the test says more
        ref = init_of(container)
        if ref.wait(self.conditions.patience) is not Presence.GONE:
            wrong = f"the first process, {shown([ref])}, did not end within {self.conditions.patience:g} s"
            advice = "Created.init has to be the process that becomes the program, whose end is the container's end"
            raise broken("create", wrong, advice)

    # -- what is true --------------------------------------------------------------------------------------------------

    def alive(self, *, helpers: bool = True) -> list[ProcessRef]:
        """The living processes of the room's containers, without `helpers` if told so."""
        aside = {actor.ref.pid for actor in self._actors} | {os.getpid()}
        found = {ref for ref in self._on_record() if ref.presence() is Presence.ALIVE}
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            if int(pid) not in aside and self._is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    ref = ProcessRef.of(int(pid))
                    if ref.presence() is Presence.ALIVE:
                        found.add(ref)
        if not helpers:
            found -= {ref for made in self._made for ref in made.helpers.values()}
        return sorted(found, key=lambda ref: ref.pid)

    def _on_record(self) -> list[ProcessRef]:
        return [ref for made in self._made for ref in (made.init, *made.helpers.values()) if ref is not None]

    def _is_ours(self, pid: str) -> bool:
        token = self.token.encode()
        with contextlib.suppress(OSError):
            if token in os.fsencode(os.readlink(f"/proc/{pid}/cwd")):
                return True
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
                if token in file.read():
                    return True
        return False

    def ids(self) -> list[str]:
        """The containers under the root."""
        return [full_id.container_id for full_id in StateDir(self.root).ids()]

    def lines(self, name: str) -> int:
        """How many lines programs have written into a file."""
        try:
            with open(self.path(name), "rb") as file:
                return file.read().count(b"\n")
        except FileNotFoundError:
            return 0

    def comes(self, holds: Callable[[], object], method: str, wrong: str, advice: str) -> None:
        """Wait until it `holds`; after the patience, raise what is wrong."""
        __tracebackhide__ = True  # for pytest: the line of the test says more
        end = time.monotonic() + self.conditions.patience
        while not holds():
            check(time.monotonic() < end, method, f"{wrong} (within {self.conditions.patience:g} s)", advice)
            time.sleep(_LOOK_AGAIN)

    def numbers(self, before: Sequence[ProcessRef], number: int, made: Container, wrong: str, advice: str) -> None:
        """Wait until the containers have `number` processes more than there were `before`, those of `made`.

        The program has made its children by now: what is too many for longer than it takes to come and go is no part of it.
        """
        __tracebackhide__ = True  # for pytest: the line of the test says more
        conditions = self.conditions
        begin = fitted = time.monotonic()
        while len(found := [ref for ref in self.alive(helpers=False) if ref not in before]) != number:
            now = time.monotonic()
            if len(found) < number:
                check(now - begin < conditions.patience, "start", f"{wrong} (within {conditions.patience:g} s)", advice)
                fitted = now
            elif now - fitted > max(conditions.grace, conditions.patience / 10):
                others = [ref for ref in found if not descends(ref, init_of(made)) and command_of(ref) != "sleep 1000"]
                many = f"{len(found) - number} processes of the container are more than its program made"
                remedy = "name those that are yours in Created(helpers=…), or let them end by themselves"
                raise broken("create", f"{many}: {shown(others or found)}", remedy)
            time.sleep(_LOOK_AGAIN)

    def stays(self, holds: Callable[[], object], method: str, wrong: str, advice: str) -> None:
        """Look until the grace is over that it `holds`."""
        __tracebackhide__ = True  # for pytest: the line of the test says more
        end = time.monotonic() + self.conditions.grace
        while time.monotonic() < end:
            check(holds(), method, wrong, advice)
            time.sleep(_LOOK_AGAIN)

    def nothing_runs(self, method: str, after: str, advice: str) -> None:
        """Nothing of the room's containers runs."""
        __tracebackhide__ = True  # for pytest: the line of the test says more
        left = self.alive()
        if left:
            raise broken(method, f"after {after}, still running: {shown(left)}", advice)

    def all_ends(self, method: str, after: str, advice: str) -> None:
        """Nothing of the room's containers runs, at once or soon."""
        __tracebackhide__ = True  # for pytest: the line of the test says more
        end = time.monotonic() + self.conditions.patience
        # Two looks: while the first is taken a process may end whose child has come too late to be listed.
        while self.alive() or self.alive():
            if time.monotonic() > end:
                break
            time.sleep(_LOOK_AGAIN)
        else:
            return
        self.nothing_runs(method, after, advice)

    # -- actors --------------------------------------------------------------------------------------------------------

    def actor(self, do: Callable[[], object]) -> Actor:
        """Another process, which does that now."""
        number = len(self._actors)
        made = Actor(do, base=self.base, token=self.token, number=number, patience=self.conditions.patience)
        self._actors.append(made)
        return made

    def at_once(self, method: str, *deeds: Callable[[], object]) -> list[str]:
        """What was said by processes that did each of these at the same time."""
        go = self.path(f"go-{len(self._actors)}")

        def begin(do: Callable[[], object]) -> object:
            while not os.path.exists(go):
                time.sleep(0)
            return do()

        actors = [self.actor(functools.partial(begin, do)) for do in deeds]
        os.close(os.open(go, os.O_CREAT | os.O_WRONLY, 0o600))
        return [actor.said(method) for actor in actors]

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything, by the runtime's own means and then by ours."""
        try:
            self._end()
        finally:
            shutil.rmtree(self.base, ignore_errors=True)

    def _end(self) -> None:
        for actor in self._actors:
            actor.kill()
        known = self.alive()
        for folder in {self.root, *(str(made.saver.root_dir) for made in self._made)}:
            for full_id in StateDir(folder).ids():
                with contextlib.suppress(Exception):  # what it leaves is killed below
                    Container.remove(folder, full_id, runtime=self.conditions.make_runtime(), timeout=self.conditions.patience)
        known += self._on_record()
        end = time.monotonic() + self.conditions.patience
        while (left := self.alive()) and time.monotonic() < end:
            for ref in left:
                with contextlib.suppress(OSError):
                    ref.send_signal(signal.SIGKILL)
            for ref in left:
                ref.wait(_LOOK_AGAIN)
            known += left
        for ref in known:
            with contextlib.suppress(ChildProcessError):  # it is no child of this process
                os.waitpid(ref.pid, os.WNOHANG)


def an_object(runtime: object) -> object:
    """What `make_runtime` has returned, if it is something that can have methods."""
    __tracebackhide__ = True  # for pytest: the line of the test says more
    if runtime is None:
        raise AssertionError("make_runtime returned None: return an object, with the methods of a runtime")
    if isinstance(runtime, type):
        name = runtime.__name__
        raise AssertionError(f"make_runtime returned the class {name}: return an object, {name}(…)")  # noqa: TRY004  # a failure
    return runtime


def init_of(container: Container) -> ProcessRef:
    """Its first process."""
    __tracebackhide__ = True  # for pytest: the line of the test says more
    check(
        container.init, "create", "there is no first process on record", "create has to return Created(init=ProcessRef.of(pid))"
    )
    assert container.init is not None  # noqa: S101  # for type checkers
    return container.init
