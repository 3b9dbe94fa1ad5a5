"""What statefile is for, shown in some seconds with real processes and real files: python examples/demo.py

All of it happens below a temporary directory, which is removed at the end, also after a failure or Ctrl-C. Each line that
begins with `ok` was checked; the first thing that does not hold ends the demo with exit code 1.

Read it from the top: first what is shown, a function a section; then the processes on the stage; then the screen.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from statefile import Container, CorruptStateError, ProcessRef, ProcessRuntime, StateDir, StateFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE = Path(__file__).resolve().parent

SPEC: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", "sleep 300 & wait"],
        "cwd": "/",
        "noNewPrivileges": True,
    },
    "annotations": {"org.example.note": "a shell, and a worker that it waits for"},
}

RUNSC_IDS = {
    "7f3c0": "container 7f3c0b44e19d in sandbox 7f3c9a5d21be4c0e8d6f",
    "7f3c": "AmbiguousIDError",
    "batch-1": "container batch-1 in sandbox batch-1",
    "batch-17": "container batch-17 in sandbox batch-17",
    "batch": "AmbiguousIDError",
    "batch-*": "InvalidIDError",
    "batch-2": "NotFoundError",
}
"""What is asked for, and what it has to mean."""

OUR_KEYS = frozenset({"exitStatus", "helpers", "init", "pausedFrom", "pending", "revision", "schemaVersion"})

OF_A_RUNSC_TO_COME = {"largest": 2**64 - 1, "least": -(2**63), "since": "2031-01-02T03:04:05.12345678Z", "nothing": None}


# -- what is shown -----------------------------------------------------------------------------------------------------


def show_races(screen: Screen, stage: Stage) -> None:
    screen.heading("Several processes at once")
    screen.say("One container, from a bundle with a config.json. For each row, three fresh processes do the same at once.")
    reasons = {}
    with screen.table("verb", "won", "refused", "the record then") as add:
        for verb, status in (("create", "created"), ("start", "running"), ("pause", "paused"), ("resume", "running")):
            won, lost = stage.race(verb)
            record = stage.record()
            add(verb, len(won), in_short(lost), f"{record.status}, revision {record.revision}")
            error = "AlreadyExistsError" if verb == "create" else "InvalidTransitionError"
            as_it_should = won == [status] and in_short(lost) == f"2 x {error}" and record.status == status
            screen.check(f"exactly one could {verb} it, and the record says {status}", as_it_should, (won, lost, record.status))
            reasons[verb] = lost[0]
            if verb == "start":
                stage.wait_for_worker()
    for verb in ("create", "start"):
        screen.say(f"Why, says one that lost the {verb}:")
        screen.quote(reasons[verb])

    won, lost = stage.race("destroy")
    screen.say(f"Three destroy it: {len(won)} report success, {len(lost)} came when it was gone.")
    screen.check("none failed to", all(text.startswith("NotFoundError") for text in lost), lost)
    screen.check(f"its {len(stage.actors)} processes have ended", stage.states() == ["ended", "ended"], stage.states())
    screen.check("the root directory is empty again", not os.listdir(stage.root), os.listdir(stage.root))


def show_kills(screen: Screen, stage: Stage) -> None:
    screen.heading("Killed in the middle of an action")
    screen.say("A runtime made for this stalls in the middle of an action. There its process is killed with SIGKILL.")
    stage.create().start()
    stage.wait_for_worker()

    screen.say("1. While pausing, when the worker is stopped and the shell not yet", bold=True)
    show_killed_pause(screen, stage, "half-paused", then="pause", end=["paused", "-", "stopped", "stopped"])
    screen.say("So it found the intent, asked the runtime what is true, and then paused all of it.")
    stage.record().resume()
    screen.check("resumed, both run", stage.seen() == ["running", "-", "runs", "runs"], stage.seen())

    screen.say("2. After pausing, when both are stopped and the record does not say so", bold=True)
    show_killed_pause(screen, stage, "paused", then="resume", end=["running", "-", "runs", "runs"])
    screen.say("By the record alone there was nothing to resume; by what was found to be true, there was.")
    stage.record().destroy()

    screen.say("3. While creating, when the process exists and the record does not name it", bold=True)
    show_killed_creation(screen, stage)


def show_killed_pause(screen: Screen, stage: Stage, where: str, *, then: str, end: list[str]) -> None:
    with screen.table("", "status", "pending", "shell", "worker") as add:
        add("before", *stage.seen())
        with stage.stalled("pause", where) as pid:
            stage.wait_until("the worker has stopped", lambda: stage.states()[1] == "stopped")
            middle = stage.seen()
            add("in the middle", *middle)
            refused = refusal(lambda: stage.record().resume(timeout=0.1))
        killed = stage.seen()
        add(f"{pid} was killed", *killed)
        said = stage.run(then)
        found = stage.seen()
        add(f"next: {then}", *found)
        screen.check("meanwhile others could read it, and were told who works on it", f" pid {pid} " in refused, refused)
        screen.check("the intent outlives its process", killed == middle == ["running", f"pause by {pid}", *killed[2:]], killed)
        screen.check(f"the next {then} mends it", found == end and str(pid) in said, (found, said))
    screen.say("The next process logs what it found, and prints the status:")
    screen.quote(said)


def show_killed_creation(screen: Screen, stage: Stage) -> None:
    def seen() -> list[str]:
        record = stage.record()
        return [record.status, pending_in(record), "1" if record.init else "0", str(len(stage.bystanders()))]

    with screen.table("", "status", "pending", "processes on record", "processes there") as add:
        with stage.stalled("create", "created") as pid:
            pass
        killed = seen()
        add(f"{pid} was killed", *killed)
        refused = refusal(lambda: stage.record().start())
        stage.run("destroy")
        left = [*os.listdir(stage.root), *stage.bystanders()]
        add("next: destroy", "no record", "-", 0, len(stage.bystanders()))
        stage.run("create")
        anew = seen()
        add("next: create", *anew)
        screen.check("process and monitor are there, unnamed", killed == ["creating", f"create by {pid}", "0", "2"], killed)
        screen.check("such a container cannot be started", refused.startswith("InvalidTransitionError"), refused)
        screen.check("destroyed, nothing of it is left", not left, left)
        screen.check("the ID was free to be created anew", anew == ["created", "-", "1", "2"], anew)
    screen.say("Why it could not be started:")
    screen.quote(refused)
    stage.record().destroy()


def show_runsc(screen: Screen, stage: Stage) -> None:
    screen.heading("The state directory that runsc wrote")
    screen.say("A copy of the files of four gVisor containers, whose processes are long gone.")
    root = stage.runsc_root()
    state_dir = StateDir(root)
    files = contents(root)
    with screen.table("sandbox", "container", "created", "runsc says", "load() finds") as add:
        for full_id, found in state_dir.load_all(Container):
            record = container_of(found)
            status = Container.load(root, full_id).status
            add(full_id.sandbox_id, full_id.container_id, record.created_at, record.status, status)
    screen.check("each state file is listed", list(map(str, state_dir.ids())) == ids_by_file_name(root), state_dir.ids())
    screen.check("looking has changed no file", files == contents(root))

    screen.say("A part of an ID is enough if it can mean only one. An exact ID wins over those that begin with it.")
    with screen.table("asked for", "answer") as add:
        answers = {asked: resolved(state_dir, asked) for asked in RUNSC_IDS}
        for asked, answer in answers.items():
            add(asked, answer)
    right = [asked for asked, answer in answers.items() if answer.startswith(RUNSC_IDS[asked])]
    screen.check("all of that is right, and batch-1 is not batch-17", right == list(RUNSC_IDS), right)


def show_rewrite(screen: Screen, stage: Stage) -> None:
    screen.heading("Rewritten, and every key kept")
    screen.say("Each record is loaded as a Container and saved. Before that, one gets a key of a runsc to come.")
    state_dir = StateDir(stage.runsc_root())
    path = state_dir.state_file("batch-17").state_path
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"ofARunscToCome": OF_A_RUNSC_TO_COME}))
    added: set[str] = set()
    with screen.table("container", "values", "kept", "changed or lost", "added") as add:
        for full_id in state_dir.ids():
            state_file = state_dir.state_file(full_id)
            before = values_in(state_file.state_path)
            with state_file.transaction(Container):
                pass  # loaded, and saved since nothing went wrong
            after = values_in(state_file.state_path)
            lost = [key for key, value in before.items() if key not in after or after[key] != value]
            new = after.keys() - before.keys()
            add(full_id.container_id, len(before), len(before) - len(lost), len(lost), len(new))
            screen.check(f"{full_id.container_id}: all kept, only our own new", not lost and new <= OUR_KEYS, (lost, new))
            added |= new
    screen.say("Digit for digit, as batch-17 has it now:")
    with screen.table("key", "value") as add:
        after = values_in(path)
        for key in ("createdAt", "spec.annotations.org.example.note", *(f"ofARunscToCome.{key}" for key in OF_A_RUNSC_TO_COME)):
            add(key, shown(after[key]))
    screen.say("Added: " + ", ".join(sorted(added)) + ".")


def show_corruption(screen: Screen, stage: Stage) -> None:
    screen.heading("One bad file")
    screen.say("Of one record only the first 1000 bytes are left. The list goes on, and says which file is wrong, and how.")
    state_dir = StateDir(stage.runsc_root())
    victim = state_dir.state_file("batch-17").state_path
    victim.write_bytes(victim.read_bytes()[:1000])
    files = contents(state_dir.root_dir)
    errors = []
    with screen.table("container", "load_all() gives") as add:
        for full_id, found in state_dir.load_all(Container):
            if isinstance(found, CorruptStateError):
                errors.append(found)
                add(full_id.container_id, f"{type(found).__name__}: {found.kind}")
            else:
                add(full_id.container_id, f"a Container, {container_of(found).status}")
    screen.quote(str(errors[0]) if errors else "")
    screen.check("it is the only one, and named", [(e.path, e.kind) for e in errors] == [(str(victim), "truncated")], errors)
    screen.check("all files are as they were", files == contents(state_dir.root_dir))


SECTIONS = (show_races, show_kills, show_runsc, show_rewrite, show_corruption)


# -- what it is made of ------------------------------------------------------------------------------------------------


class Number(NamedTuple):
    """A number as the file spells it."""

    digits: str


def values_in(path: Path) -> dict[str, object]:
    """What a JSON file says, by dotted key, numbers not yet rounded to anything."""

    def walk(value: object, key: str) -> Iterator[tuple[str, object]]:
        if value and isinstance(value, dict):
            for name, item in value.items():
                yield from walk(item, f"{key}.{name}" if key else name)
        elif value and isinstance(value, list):
            for index, item in enumerate(value):
                yield from walk(item, f"{key}.{index}")
        else:
            yield key, value

    return dict(walk(json.loads(path.read_bytes(), parse_int=Number, parse_float=Number), ""))


def shown(value: object) -> str:
    return value.digits if isinstance(value, Number) else json.dumps(value, ensure_ascii=False)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def ids_by_file_name(root: Path) -> list[str]:
    names = [path.stem.partition("_sandbox:") for path in root.glob("*.state")]
    return sorted(f"{sandbox}/{container}" for container, _, sandbox in names)


def container_of(found: Container | StateFileError) -> Container:
    if isinstance(found, StateFileError):
        raise FailedError(f"load_all() cannot read a record: {found}")
    return found


def resolved(state_dir: StateDir, asked: str) -> str:
    try:
        full_id = state_dir.resolve(asked)
    except StateFileError as error:
        return f"{type(error).__name__}: {str(error).partition(': ')[0]}"
    return f"container {full_id.container_id} in sandbox {full_id.sandbox_id}"


def refusal(act: Callable[[], None]) -> str:
    try:
        act()
    except StateFileError as error:
        return f"{type(error).__name__}: {error}"
    raise FailedError("something was done that was to be refused")


def pending_in(record: Container) -> str:
    return f"{record.pending.action} by {record.pending.actor.pid}" if record.pending else "-"


def in_short(refusals: Sequence[str]) -> str:
    counted = Counter(text.partition(":")[0] for text in refusals)
    return ", ".join(f"{count} x {name}" for name, count in counted.items())


def state_of(process: ProcessRef) -> str:
    """What the kernel says of it, asked past the library that is to be shown."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "ended"
    if int(fields[19]) != process.start_ticks:  # another process has its number
        return "ended"
    return {"T": "stopped", "Z": "ended", "X": "ended"}.get(fields[0], "runs")


# -- the processes on the stage ----------------------------------------------------------------------------------------

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)

AT_MOST = 120
"""Seconds after which the demo gives up; it needs about 5."""

PATIENCE = 10
"""Seconds for what takes a moment."""

MARK = "STATEFILE_DEMO"
"""In the environment of drivers and containers, with a value of its own, so that none of them can be overlooked."""


class InterruptedDemoError(KeyboardInterrupt):
    """A signal asks the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class FailedError(Exception):
    """Something that the demo shows does not hold."""


class Stage:
    """A temporary directory and the processes that work in it: whatever happens, both are gone in the end."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.gettempdir(), f"statefile-demo-{secrets.token_hex(8)}")
        self.root = self.directory / "root"
        self.actors: list[ProcessRef] = []
        self._bundle = self.directory / "bundle"
        self._mark = f"{MARK}={self.directory}"
        self._drivers: list[subprocess.Popen[str]] = []
        self._copies = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Have it all for the block, and nothing of it afterwards."""
        try:
            self._prepare()
            yield
        finally:
            self._clear()

    def _prepare(self) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, interrupt)
        signal.alarm(AT_MOST)
        self.directory.mkdir(mode=0o700)
        self.root.mkdir()
        self._bundle.mkdir()
        process = {**SPEC["process"], "env": ["PATH=/usr/bin:/bin", self._mark]}
        (self._bundle / "config.json").write_text(json.dumps({**SPEC, "process": process}, indent=1))

    def _clear(self) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        deadline = time.monotonic() + PATIENCE
        while rest := self.ours():
            for process in rest:
                process.send_signal(signal.SIGKILL)
            if time.monotonic() > deadline:
                raise FailedError(f"these would not end, so {self.directory} is left: {rest}")
            time.sleep(0.01)
        for driver in self._drivers:
            driver.communicate()
        if self.directory.exists():
            shutil.rmtree(self.directory)

    # -- to have something done ----------------------------------------------------------------------------------------

    def create(self) -> Container:
        """Do it here."""
        spec = json.loads((self._bundle / "config.json").read_text())
        return Container.new(self.root, "web", spec=spec, bundle_dir=self._bundle, runtime=ProcessRuntime())

    def race(self, verb: str) -> tuple[list[str], list[str]]:
        """Have it done by several processes at once; return what the winners say, and the losers."""
        racers = [self._spawn(verb, "--on-go") for _ in range(3)]
        for racer in racers:
            expect(racer, "ready")  # imported, and waiting
        for racer in racers:
            write_line(racer)
        said = [(racer.communicate()[0].strip(), racer.returncode) for racer in racers]
        if not {code for _, code in said} <= {0, 1} or all(code for _, code in said):
            raise FailedError(f"of those that were to {verb} it, none did, or one crashed: {said}")
        return [text for text, code in said if code == 0], [text for text, code in said if code == 1]

    def run(self, verb: str) -> str:
        """Have it done by a process, and return what it says."""
        process = self._spawn(verb)
        text = process.communicate()[0].strip()
        if process.returncode != 0:
            raise FailedError(f"a process that was to {verb} ended with {process.returncode}: {text}")
        return text

    @contextlib.contextmanager
    def stalled(self, verb: str, where: str) -> Iterator[int]:
        """Have it begun by a process that stalls; yield its PID, and then kill it."""
        process = self._spawn(verb, "--stall", where)
        expect(process, "stalled")
        yield process.pid
        process.kill()
        process.communicate()

    def _spawn(self, verb: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "one_verb.py"), str(self.root), "web", verb, *options]
        process = subprocess.Popen(
            [*command, *(["--bundle", str(self._bundle)] if verb == "create" else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {MARK: str(self.directory)},
            process_group=0,  # Ctrl-C is for the demo, which then ends the others
        )
        self._drivers.append(process)
        return process

    # -- to look at ----------------------------------------------------------------------------------------------------

    def record(self) -> Container:
        """The record as it stands, read without the lock."""
        return Container.load(self.root, "web", runtime=ProcessRuntime(), exact=True, skip_check=True)

    def wait_for_worker(self) -> None:
        """Wait until the shell has forked, and remember both."""
        self.wait_until("the shell has a worker", lambda: len(self.record().processes()) == 2)
        self.actors = self.record().processes()

    def wait_until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(StateFileError):
                if holds():
                    return
            if time.monotonic() > deadline:
                raise FailedError(f"{what}: that does not hold after {PATIENCE} s")
            time.sleep(0.005)

    def states(self) -> list[str]:
        return [state_of(actor) for actor in self.actors]

    def seen(self) -> list[str]:
        """Status and intent as recorded, and what the processes do."""
        record = self.record()
        return [record.status, pending_in(record), *self.states()]

    def ours(self) -> list[ProcessRef]:
        """Every living process that the demo has caused: it has the mark or, as a monitor, a run directory open."""
        found = []
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                process = ProcessRef.of(pid)  # first: should the number change hands now, it is still this one
                if pid != os.getpid() and (self._is_marked(pid) or self._is_inside(pid)):
                    found.append(process)
        return found

    def _is_marked(self, pid: int) -> bool:
        return self._mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")

    def _is_inside(self, pid: int) -> bool:
        return any(os.readlink(file).startswith(f"{self.root}/.processes/") for file in Path(f"/proc/{pid}/fd").iterdir())

    def bystanders(self) -> list[ProcessRef]:
        """Those that are neither drivers nor the demo itself: the container's processes, and its monitor."""
        drivers = {driver.pid for driver in self._drivers if driver.poll() is None}
        return [process for process in self.ours() if process.pid not in drivers]

    def runsc_root(self) -> Path:
        """A fresh copy of what runsc wrote."""
        self._copies += 1
        root = self.directory / f"runsc-{self._copies}"
        shutil.copytree(HERE / "runsc-root", root)
        for path in root.iterdir():
            path.chmod(0o600)  # as runsc made them; version control does not keep that
        return root


def interrupt(number: int, _frame: object) -> NoReturn:
    raise InterruptedDemoError(number)


def expect(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout
    said = process.stdout.readline()
    if said != f"{line}\n":
        raise FailedError(f"a process was to say {line!r}, and said: {said}{process.communicate()[0]}")


def write_line(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):  # it has ended: what it says is read later
        process.stdin.write("go\n")
        process.stdin.flush()


# -- the screen --------------------------------------------------------------------------------------------------------


class Screen:
    """What a person reads."""

    def __init__(self) -> None:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal that knows no UTF-8
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._width = min(shutil.get_terminal_size((110, 24)).columns, 110)
        self._held_back: list[str] | None = None
        self.checked = 0

    def heading(self, text: str) -> None:
        self._print(f"\n{self._styled(f'== {text} ==', '1')}")

    def say(self, text: str, *, bold: bool = False) -> None:
        self._print("\n" + self._styled(self._wrapped(text), "1" if bold else ""))

    def quote(self, text: str) -> None:
        for line in text.splitlines():
            self._print(self._wrapped(line, indent="    "))

    def check(self, claim: str, holds: object, seen: object = "") -> None:
        """Say that it holds, or raise with what was seen instead."""
        if not holds:
            raise FailedError(f"{claim}: that does not hold. Seen: {seen}")
        self.checked += 1
        line = f"{self._styled('ok', '32')}  {claim}"
        if self._held_back is None:
            self._print(line)
        else:
            self._held_back.append(line)

    @contextlib.contextmanager
    def table(self, *header: str) -> Iterator[Callable[..., None]]:
        """Yield what adds a row. Printed at the end, with what was checked meanwhile below it."""
        rows: list[list[str]] = [list(header)]
        self._held_back = []
        try:
            yield lambda *cells: rows.append([str(cell) for cell in cells])
        finally:
            checked, self._held_back = self._held_back, None
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for number, row in enumerate(rows):
                line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                self._print("    " + self._styled(line, "2" if number == 0 else ""))
            for line in checked:
                self._print(line)

    def _wrapped(self, text: str, indent: str = "") -> str:
        return textwrap.fill(
            text, self._width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )

    def _styled(self, text: str, style: str) -> str:
        return f"\033[{style}m{text}\033[0m" if self._colour and style else text

    def _print(self, text: str) -> None:
        print(text, flush=True)


def main() -> int:
    began = time.monotonic()
    screen = Screen()
    stage = Stage()
    try:
        with stage.open():
            for show in SECTIONS:
                show(screen, stage)
            screen.heading("In the end")
            screen.check("no process is left, before anybody cleans up", not stage.bystanders(), stage.bystanders())
            screen.check("no file is left of any container", not os.listdir(stage.root), os.listdir(stage.root))
        screen.check("the temporary directory is removed", not stage.directory.exists())
        screen.say(f"All {screen.checked} checks passed in {time.monotonic() - began:.1f} s.", bold=True)
    except FailedError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    except InterruptedDemoError as error:
        print(f"\n{signal.Signals(error.number).name}: all is cleaned up", file=sys.stderr)
        return 128 + error.number
    except BrokenPipeError:  # nobody reads any more; keep the interpreter from trying again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
