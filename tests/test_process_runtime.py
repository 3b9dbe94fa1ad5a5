"""`ProcessRuntime` with real processes: created, started, watched, stopped, killed half-way and cleaned up.

Whatever a test does, afterwards nothing of its containers is left: no process and no file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statefile._ids import FullID
from statefile._lifecycle import Status
from statefile._process import PID_MAX, Presence, ProcessRef
from statefile.errors import StateFileError, StateIOError, StillRunningError
from statefile.process_runtime import ProcessRuntime, SpecError, _family, _launch, _sweep
from statefile.process_runtime._waiting import parse_exit
from statefile.runtime import REQUIRED, ExitStatus, Runtime, missing_methods
from tests.harness import NOBODY, meet, tell, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Spawn, Worker

TIMES = 50


@dataclass
class Saver:
    """Where a container is saved."""

    root_dir: Path
    id: FullID


@dataclass
class Box:
    """What a runtime sees of a container."""

    saver: Saver
    spec: dict[str, Any]
    bundle_dir: str = ""
    status: Status = Status.CREATING
    init: ProcessRef | None = None
    helpers: dict[str, ProcessRef] = field(default_factory=dict[str, ProcessRef])
    paused_from: Status | None = None

    @property
    def id(self) -> str:
        """The container's own ID."""
        return self.saver.id.container_id

    @property
    def directory(self) -> Path:
        """Where its run directory is by default."""
        return self.saver.root_dir / ".processes" / f"{self.id}_sandbox:{self.saver.id.sandbox_id}"

    @property
    def pid(self) -> int:
        """The first process's."""
        assert self.init is not None
        return self.init.pid

    def create(self, runtime: Any) -> Box:
        """Create it, and keep what a container keeps of that."""
        made = runtime.create(self)
        self.init, self.helpers, self.status = made.init, dict(made.helpers), Status.CREATED
        return self

    def run(self, runtime: Any) -> Box:
        """Create and start it."""
        self.create(runtime)
        runtime.start(self)
        self.status = Status.RUNNING
        return self


def box_in(root: Path, args: list[str], **process: Any) -> Box:
    """A container of a name that no other has; every process of it shows that name in `/proc`."""
    name = f"c{uuid.uuid4().hex}"
    environment = [*process.pop("env", ["PATH=/usr/bin:/bin"]), f"BOX={name}"]
    return Box(Saver(root, FullID.of(name)), {"process": {"args": args, "env": environment, **process}})


def survivors(name: str) -> list[int]:
    """The living processes that show `name`."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        for file in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if name.encode() in Path("/proc", pid, file).read_bytes():
                    found.append(int(pid))
    return sorted(set(found))


def state(pid: int) -> str:
    """One letter, as `ps` shows it."""
    row = _family.read_row(str(pid))
    return row.state if row else "-"


def cat(path: Path) -> str:
    """What a process has written there, once it has written a whole line."""
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text()


@pytest.fixture
def rt() -> Any:
    """The runtime as most use it; `Any`, because a `Box` is no `Container`."""
    return ProcessRuntime()


@pytest.fixture
def box(root: Path, rt: Any) -> Iterator[Callable[..., Box]]:
    """Makes containers; afterwards each is destroyed, and nothing of them is left."""
    made: list[Box] = []

    def make(*args: str, **process: Any) -> Box:
        made.append(box_in(root, list(args), **process))
        return made[-1]

    yield make
    for each in made:
        rt.destroy(each)
    until(lambda: not any(survivors(each.id) for each in made))
    assert list(root.iterdir()) == []


# -- a life --------------------------------------------------------------------------------------------------------------


def test_it_is_a_runtime() -> None:
    """It has every required method, and every optional one but for checkpoints, which plain processes have none of."""
    runtime = ProcessRuntime()
    assert isinstance(runtime, Runtime)
    assert not missing_methods(runtime)
    optional = ("pause", "resume", "execute", "processes", "update", "events", "wait")
    assert all(callable(getattr(runtime, name)) for name in (*REQUIRED, *optional))
    assert not hasattr(runtime, "checkpoint")


def test_a_life(box: Callable[..., Box], rt: Any, tmp_path: Path) -> None:
    """Nothing runs before the start; the PID and identity are final; the exit code is kept; nothing is left."""
    proof = tmp_path / "proof"
    c = box("sh", "-c", f"echo $$ >{proof}; exit 3").create(rt)
    assert rt.probe(c) == Status.CREATED
    assert not proof.exists()
    assert ProcessRef.of(c.pid) == c.init
    assert (c.directory.stat().st_mode & 0o777, c.directory.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert {file.stat().st_mode & 0o777 for file in c.directory.iterdir()} == {0o600}
    rt.start(c)
    assert rt.wait(c, None) == ExitStatus(code=3)
    assert rt.wait(c, 0) == ExitStatus(code=3)
    assert int(proof.read_text()) == c.pid
    assert rt.probe(c) == Status.STOPPED
    rt.destroy(c)
    assert not list(c.saver.root_dir.iterdir())
    rt.destroy(c)


def test_identity_survives_exec(box: Callable[..., Box], rt: Any) -> None:
    """The process that was created and the program that runs are one process, for a `ProcessRef` too."""
    c = box("sleep", "60").run(rt)
    until(lambda: Path(f"/proc/{c.pid}/comm").read_text() == "sleep\n")
    assert ProcessRef.of(c.pid) == c.init
    assert rt.probe(c) == Status.RUNNING
    assert os.getsid(c.pid) == c.pid
    rt.start(c)  # as after a starter that was killed once all was done
    assert rt.probe(c) == Status.RUNNING


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGPIPE])
@pytest.mark.parametrize("started", [False, True])
def test_death_by_signal(box: Callable[..., Box], rt: Any, number: int, *, started: bool) -> None:
    """A signal ends the process by its default action, waiting or running, and is what `wait` reports."""
    c = box("sleep", "60").create(rt)
    if started:
        rt.start(c)
    rt.signal(c, number, all=False)
    assert rt.wait(c, 20) == ExitStatus(signal=number)
    rt.signal(c, number, all=False)  # gone: no error
    if not started:
        with pytest.raises(StateIOError) as caught:
            rt.start(c)
        assert caught.value.errno == errno.ESRCH


def test_start_of_a_stopped_process(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that somebody has stopped cannot be started; that is told after a time, and it still waits to be."""
    monkeypatch.setattr("statefile.process_runtime._gate.PATIENCE", 0.05)
    c = box("sh", "-c", "exit 6").create(rt)
    os.kill(c.pid, signal.SIGSTOP)
    until(lambda: state(c.pid) == "T")
    with pytest.raises(StateIOError) as caught:
        rt.start(c)
    assert caught.value.errno == errno.ETIMEDOUT
    os.kill(c.pid, signal.SIGCONT)
    assert rt.probe(c) == Status.CREATED
    monkeypatch.undo()
    rt.start(c)
    assert rt.wait(c, 20) == ExitStatus(code=6)


@pytest.mark.parametrize(
    ("args", "number", "code"),
    [
        (["no-such-program"], errno.ENOENT, 127),
        (["/no/such/program"], errno.ENOENT, 127),
        (["./plain"], errno.EACCES, 126),
        (["plain"], errno.EACCES, 126),
        (["broken"], errno.ENOEXEC, 126),
    ],
)
def test_program_that_cannot_run(
    box: Callable[..., Box], rt: Any, tmp_path: Path, *, args: list[str], number: int, code: int
) -> None:
    """`start` says which program cannot run and why; the process has ended then, with the code that a shell would give."""
    (tmp_path / "broken").write_bytes(b"\x7fELF broken")
    (tmp_path / "broken").chmod(0o755)
    (tmp_path / "plain").touch(0o644)
    c = box(*args, env=[f"PATH=/no/such:{tmp_path}:/usr/bin"], cwd=str(tmp_path)).create(rt)
    with pytest.raises(StateIOError) as caught:
        rt.start(c)
    assert (caught.value.errno, caught.value.path, caught.value.operation) == (number, args[0], "execute")
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), StateIOError)
    assert rt.probe(c) == Status.STOPPED
    assert rt.wait(c, 20) == ExitStatus(code=code)


def test_bad_record_is_no_exit_status() -> None:
    """What is no exit status is not taken for one."""
    room = " " * 31 + "\n"
    assert [parse_exit(text) for text in ("", room, "code", "code x\n", "code 256\n", "signal 0\n", "\0\0")] == [None] * 7
    assert parse_exit("code 0" + room + "empty\n") == ExitStatus(code=0)


# -- what the program gets -------------------------------------------------------------------------------------------------


REPORT = """
import json, os, resource, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
fds = sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}"))
print(json.dumps({
    "env": dict(os.environ), "cwd": os.getcwd(), "fds": fds, "links": [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)],
    "umask": os.umask(0), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE), "core": resource.getrlimit(4),
    "oom": int(open("/proc/self/oom_score_adj").read()), "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
    "signals": [int(status[k], 16) for k in ("SigBlk", "SigIgn")], "nnp": status["NoNewPrivs"], "argv": sys.argv[1:],
}))
"""


@pytest.fixture
def report(box: Callable[..., Box], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a program that tells what it got."""

    def run(*extra: str, bundle: str = "", **process: Any) -> dict[str, Any]:
        out = tmp_path / "out"
        runtime = ProcessRuntime(stdio=out)
        c = box(sys.executable, "-I", "-c", REPORT, *extra, **process)
        c.bundle_dir = bundle
        c.run(runtime)
        assert runtime.wait(c, 30) == ExitStatus(code=0)  # type: ignore[arg-type]  # a Box
        told: dict[str, Any] = json.loads(out.read_text().splitlines()[-1])
        return told

    return run


def test_program_gets_what_the_spec_says(report: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Arguments, environment, directory, umask, limits and OOM score are those of the spec, and nothing else is there."""
    (tmp_path / "bundle" / "work").mkdir(parents=True)
    oom = min(1000, int(Path("/proc/self/oom_score_adj").read_text()) + 7)
    told = report(
        "a b",
        "",
        "ü",
        bundle=str(tmp_path / "bundle"),
        env=["A=1", "B=x=y", "A=2", "Ü=ä"],
        cwd="work",
        user={"umask": 0o027},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 6, "hard": 7}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1}],
        oomScoreAdj=oom,
        noNewPrivileges=True,
    )
    assert {k: v for k, v in told["env"].items() if k not in {"BOX", "LC_CTYPE"}} == {"A": "2", "B": "x=y", "Ü": "ä"}
    assert told["argv"] == ["a b", "", "ü"]
    assert told["cwd"] == str(tmp_path / "bundle" / "work")
    assert (told["umask"], told["oom"], told["nnp"]) == (0o027, oom, "1")
    assert (told["nofile"], told["core"][0]) == ([6, 7], 0)


def test_program_inherits_no_descriptor_and_no_signal_setting(report: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Whatever the creator has open, ignores or blocks, the program has three descriptors and all signals as by default."""
    leak = os.open(tmp_path / "leak", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(leak, True)
    fcntl.flock(leak, fcntl.LOCK_EX)
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGCHLD, signal.SIGUSR1)]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        told = report()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        for number, handler in zip((signal.SIGCHLD, signal.SIGUSR1), before, strict=True):
            signal.signal(number, handler)
        os.close(leak)
    assert told["fds"] == [0, 1, 2]
    # Python itself ignores two in the reporting program; signals 32 and 33 are the C library's own, and out of reach.
    assert told["signals"][0] == 0
    assert told["signals"][1] & ~(3 << 31) == 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert told["links"] == [os.devnull, str(tmp_path / "out"), str(tmp_path / "out")]


def test_monitor_and_waiting_process_hold_nothing_of_the_creator(box: Callable[..., Box], rt: Any, tmp_path: Path) -> None:
    """A lock and a pipe of the creator are free as soon as it lets go of them, while the container lives on."""
    leak = os.open(tmp_path / "leak", os.O_RDWR | os.O_CREAT)
    reader, writer = os.pipe()
    for descriptor in (leak, writer):
        os.set_inheritable(descriptor, True)
    fcntl.flock(leak, fcntl.LOCK_EX)
    c = box("sleep", "60").create(rt)
    os.close(leak)
    os.close(writer)
    again = os.open(tmp_path / "leak", os.O_RDWR)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert os.read(reader, 1) == b""
    os.close(again)
    os.close(reader)
    for pid in (c.pid, c.helpers["monitor"].pid):
        assert not Path(f"/proc/{pid}/environ").read_bytes().count(b"PYTEST")


def test_inherited_output(tmp_path: Path) -> None:
    """With `inherit` the program writes where the creator writes, and the pipe closes with the program."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from tests.test_process_runtime import *
runtime = ProcessRuntime(stdio="inherit")
c = box_in(Path(sys.argv[1]), ["sh", "-c", "echo out; echo err >&2; cat"]).run(runtime)
runtime.wait(c, None)
runtime.destroy(c)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert not list(tmp_path.iterdir())


BAD_PROCESSES: list[tuple[dict[str, Any], str]] = [
    ({"args": []}, "process.args"),
    ({"args": None}, "process.args"),
    ({"args": [""]}, "process.args"),
    ({"args": "sleep 1"}, "process.args"),
    ({"args": ["a\0b"]}, "process.args.0"),
    ({"args": ["a", 1]}, "process.args.1"),
    ({"args": ["\ud800"]}, "process.args.0"),
    ({"env": ["A"]}, "process.env.0"),
    ({"env": ["=A"]}, "process.env.0"),
    ({"cwd": 1}, "process.cwd"),
    ({"oomScoreAdj": 1001}, "process.oomScoreAdj"),
    ({"oomScoreAdj": True}, "process.oomScoreAdj"),
    ({"user": []}, "process.user"),
    ({"user": {"umask": -1}}, "process.user.umask"),
    ({"user": {"uid": "root"}}, "process.user.uid"),
    ({"rlimits": {}}, ""),
    ({"rlimits": {"a": 1}}, "process.rlimits"),
    ({"rlimits": [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]}, "process.rlimits.0.type"),
    ({"rlimits": [{"type": "prlimit", "soft": 1, "hard": 1}]}, "process.rlimits.0.type"),
    ({"rlimits": [{"type": "RLIMIT_CPU", "soft": 1}]}, "process.rlimits.0"),
    ({"rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}, "process.rlimits.0.soft"),
]


@pytest.mark.parametrize(("process", "where"), [(p, w) for p, w in BAD_PROCESSES if w])
def test_bad_spec_is_refused_before_anything_happens(tmp_path: Path, rt: Any, process: dict[str, Any], where: str) -> None:
    """A spec that cannot be run is an error that names the field; nothing is started and no file is made."""
    c = Box(Saver(tmp_path, FullID.of("c")), {"process": {"args": ["true"], **process}})
    with pytest.raises(SpecError) as caught:
        rt.create(c)
    assert caught.value.field == where
    assert isinstance(caught.value, (StateFileError, ValueError))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spec", [None, {}, {"process": None}, {"process": 1}, []])
def test_spec_without_a_process_is_refused(tmp_path: Path, rt: Any, spec: Any) -> None:
    """A spec that says of no program cannot be run."""
    with pytest.raises(SpecError):
        rt.create(Box(Saver(tmp_path, FullID.of("c")), spec))


def test_refused_preparation_is_told_and_leaves_nothing(box: Callable[..., Box], rt: Any, tmp_path: Path) -> None:
    """What the system refuses is raised with its facts, and no process or file is left."""
    for process, operation, path, number in [
        ({"cwd": "/no/such"}, "enter", "/no/such", errno.ENOENT),
        ({"cwd": "/etc/passwd"}, "enter", "/etc/passwd", errno.ENOTDIR),
    ]:
        c = box("true", **process)
        with pytest.raises(StateIOError) as caught:
            rt.create(c)
        assert (caught.value.operation, caught.value.path, caught.value.errno) == (operation, path, number)
        assert not survivors(c.id)
        assert not list(c.saver.root_dir.iterdir())
    for runtime in (
        ProcessRuntime(interpreter="/no/such"),
        ProcessRuntime(stdio="/no/such/file"),
        ProcessRuntime("/dev/null/x"),
    ):
        with pytest.raises(StateIOError):
            runtime.create(box("true"))  # type: ignore[arg-type]  # a Box
    (tmp_path / "false").symlink_to("/bin/false")
    with pytest.raises(StateIOError, match="ended without an answer"):
        ProcessRuntime(interpreter=str(tmp_path / "false")).create(box("true"))  # type: ignore[arg-type]  # a Box


@pytest.fixture
def open_python() -> str:
    """A Python that everybody may run, with this package; the one that runs now may be root's alone."""
    look = f"import sys; sys.path.append({os.path.dirname(_family.__file__)!r}); import _monitor"
    for path in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if not subprocess.run([path, "-I", "-c", look], user=NOBODY, cwd="/", capture_output=True, check=False).returncode:
                return path
    return pytest.skip("no Python here that an ordinary user may run")


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A root directory of an ordinary user, and nothing in it afterwards."""
    with tempfile.TemporaryDirectory() as path:
        os.chown(path, NOBODY, NOBODY)
        yield Path(path)
        assert not os.listdir(path)


@pytest.mark.root
def test_program_runs_as_another_user(open_python: str, open_root: Path, rt: Any) -> None:
    """Root's container becomes the user of its spec, with those groups alone, and is watched and destroyed as any other."""
    runtime: Any = ProcessRuntime(stdio=open_root / "out")
    args = [open_python, "-I", "-c", "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"]
    c = box_in(open_root, args, user={"uid": NOBODY, "gid": NOBODY, "additionalGids": [7]}).run(runtime)
    assert rt.wait(c, 20) == ExitStatus(code=0)
    assert (open_root / "out").read_text() == f"{(NOBODY,) * 3} {(NOBODY,) * 3} [7]\n"
    rt.destroy(c)
    (open_root / "out").unlink()


def _life_of_nobody(root: Path, python: str) -> object:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 1000))
    runtime: Any = ProcessRuntime(interpreter=python)
    c = box_in(root, ["sh", "-c", "sleep 60 & wait"], oomScoreAdj=1000).run(runtime)
    until(lambda: len(runtime.processes(c)) == 2)
    runtime.pause(c)
    states = [runtime.probe(c)]
    runtime.resume(c)
    runtime.signal(c, signal.SIGTERM, all=True)
    states.append(runtime.wait(c, 20))
    runtime.destroy(c)
    refused: list[tuple[str, object]] = []
    for process in (
        {"oomScoreAdj": -1000},
        {"user": {"uid": 1}},
        {"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 2000}]},
    ):
        try:
            box_in(root, ["true"], **process).create(runtime)
        except StateFileError as error:
            refused.append((type(error).__name__, getattr(error, "path", getattr(error, "field", None))))
    return states, refused, os.listdir(root), survivors(c.id)


@pytest.mark.root
def test_an_ordinary_user_needs_no_root(open_python: str, open_root: Path, nobody: Worker) -> None:
    """The whole life works for a user without rights; what only root may do is refused clearly."""
    assert nobody.call(_life_of_nobody, open_root, open_python) == (
        [Status.PAUSED, ExitStatus(signal=signal.SIGTERM)],
        [
            ("StateIOError", "/proc/self/oom_score_adj"),
            ("SpecError", "process.user.uid"),
            ("StateIOError", "/proc/self/limits"),
        ],
        [],
        [],
    )


# -- waiting -----------------------------------------------------------------------------------------------------------------


def _wait(c: Box, timeout: float | None) -> object:
    runtime: Any = ProcessRuntime()
    tell("waiting")
    return runtime.wait(c, timeout)


def test_wait_by_unrelated_processes(box: Callable[..., Box], rt: Any, spawn: Spawn) -> None:
    """Five processes that are no parents of it, and one that comes after its end, learn how the process ended."""
    c = box("sh", "-c", "read x; exit 42").create(rt)
    workers = [spawn() for _ in range(5)]
    for worker in workers:
        worker.start(_wait, c, None)
    for worker in workers:
        worker.hear()
    assert all(worker.silent() for worker in workers)
    rt.start(c)
    assert [worker.result() for worker in workers] == [ExitStatus(code=42)] * 5
    assert rt.wait(c, 0) == ExitStatus(code=42)


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_wait_with_a_timeout(box: Callable[..., Box], rt: Any, timeout: float) -> None:
    """When the time is up `wait` raises, not before, and the process lives on."""
    c = box("sleep", "60").run(rt)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        rt.wait(c, timeout)
    assert time.monotonic() - begin >= timeout
    assert rt.probe(c) == Status.RUNNING


def test_wait_uses_no_processor_time(box: Callable[..., Box], rt: Any) -> None:
    """A waiter sleeps in the kernel: a second of waiting costs next to nothing."""
    c = box("sleep", "60").run(rt)
    begin = time.process_time()
    with pytest.raises(TimeoutError):
        rt.wait(c, 1)
    assert time.process_time() - begin < 0.01


def test_wait_outlasts_a_destroyer(box: Callable[..., Box], rt: Any, spawn: Spawn) -> None:
    """A waiter whose container is destroyed under it learns that it was killed."""
    c = box("sleep", "60").run(rt)
    waiter = spawn()
    waiter.start(_wait, c, float("inf"))
    waiter.hear()
    alive = str(c.directory / "alive")
    until(lambda: alive in {os.readlink(file) for file in Path(f"/proc/{waiter.pid}/fd").iterdir() if file.is_symlink()})
    rt.destroy(c)
    assert waiter.result() == ExitStatus(signal=signal.SIGKILL)


def test_wait_without_files(box: Callable[..., Box], rt: Any) -> None:
    """With its files gone, the end is still waited for; how it was is unknown, and never success."""
    c = box("sleep", "60").run(rt)
    for file in c.directory.iterdir():
        file.unlink()
    with pytest.raises(TimeoutError):
        rt.wait(c, 0.05)
    rt.signal(c, signal.SIGKILL, all=False)
    assert rt.wait(c, 20) is None


def test_killed_monitor(box: Callable[..., Box], rt: Any, spawn: Spawn) -> None:
    """When the monitor is killed the container runs on; its end is noticed, how it ended stays unknown; all is cleaned up."""
    c = box("sh", "-c", "sleep 60 & wait").run(rt)
    until(lambda: len(rt.processes(c)) == 2)
    monitor = c.helpers["monitor"]
    monitor.send_signal(signal.SIGKILL)
    assert monitor.wait(20) is Presence.GONE
    assert rt.probe(c) == Status.RUNNING
    with pytest.raises(TimeoutError):
        rt.wait(c, 0.05)
    assert len(rt.processes(c)) == 2
    waiter = spawn()
    waiter.start(_wait, c, 20)
    waiter.hear()
    rt.signal(c, signal.SIGTERM, all=False)
    assert waiter.result() is None
    assert rt.probe(c) == Status.STOPPED
    assert len(rt.processes(c)) == 1  # of the session of a first process that is gone
    rt.destroy(c)
    assert not survivors(c.id)


def test_monitor_killed_before_the_start(box: Callable[..., Box], rt: Any) -> None:
    """A created container can be started without its monitor."""
    c = box("sleep", "60").create(rt)
    c.helpers["monitor"].send_signal(signal.SIGKILL)
    assert c.helpers["monitor"].wait(20) is Presence.GONE
    assert rt.probe(c) == Status.CREATED
    rt.start(c)
    assert rt.probe(c) == Status.RUNNING


def test_only_sigkill_ends_a_monitor(box: Callable[..., Box], rt: Any) -> None:
    """A monitor outlives the signals of a shutdown or a closed terminal, so that the exit status is kept."""
    c = box("sleep", "60").run(rt)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM):
        c.helpers["monitor"].send_signal(number)
    rt.signal(c, signal.SIGTERM, all=False)
    assert rt.wait(c, 20) == ExitStatus(signal=signal.SIGTERM)
    assert c.helpers["monitor"].wait(20) is Presence.GONE  # it leaves with its last child


def test_zombie_is_stopped(box: Callable[..., Box], rt: Any) -> None:
    """A process that has ended and was not yet reaped is stopped; its status comes when its monitor does."""
    c = box("sleep", "60").run(rt)
    monitor = c.helpers["monitor"]
    monitor.send_signal(signal.SIGSTOP)
    until(lambda: state(monitor.pid) == "T")
    rt.signal(c, signal.SIGKILL, all=False)
    until(lambda: state(c.pid) == "Z")
    assert rt.probe(c) == Status.STOPPED
    assert rt.processes(c) == []
    with pytest.raises(TimeoutError):
        rt.wait(c, 0.05)
    monitor.send_signal(signal.SIGCONT)
    assert rt.wait(c, 20) == ExitStatus(signal=signal.SIGKILL)


# -- all processes ---------------------------------------------------------------------------------------------------------


DAEMON = "(setsid sh -c 'setsid sleep 60 & exec sleep 60' &) ; "


def test_daemons_are_found_and_killed(box: Callable[..., Box], rt: Any) -> None:
    """Processes in sessions of their own, their parents gone, are of the container, also after its first process."""
    c = box("sh", "-c", DAEMON + "read x; exit 5").run(rt)
    assert rt.wait(c, 20) == ExitStatus(code=5)
    until(lambda: len(rt.processes(c)) == 2)
    daemons = rt.processes(c)
    until(lambda: {os.getsid(ref.pid) for ref in daemons} == {ref.pid for ref in daemons})  # a new one is not yet by itself
    assert rt.probe(c) == Status.STOPPED
    monitor = c.helpers["monitor"]
    assert monitor.presence() is Presence.ALIVE
    rt.signal(c, signal.SIGTERM, all=True)
    assert monitor.wait(20) is Presence.GONE
    assert rt.processes(c) == []
    assert rt.wait(c, 0) == ExitStatus(code=5)


def test_destroy_kills_daemons(box: Callable[..., Box], rt: Any) -> None:
    """After `destroy` no daemon is left."""
    c = box("sh", "-c", DAEMON + "sleep 60").run(rt)
    until(lambda: len(rt.processes(c)) == 4)
    assert rt.processes(c)[0] == c.init
    rt.destroy(c)
    assert not survivors(c.id)


@pytest.mark.parametrize("turn", range(5))
def test_kill_all_outruns_a_forking_program(box: Callable[..., Box], rt: Any, turn: int) -> None:
    """SIGKILL to all ends a program that never stops to start others."""
    c = box("sh", "-c", "while :; do (setsid sh -c 'sleep 60 & sleep 60' &) ; sleep 0.01; done").run(rt)
    until(lambda: len(rt.processes(c)) > 10 + turn)
    rt.signal(c, signal.SIGKILL, all=True)
    assert c.helpers["monitor"].wait(20) is Presence.GONE
    assert not survivors(c.id)


def test_only_sigkill_hunts_for_newcomers(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other signals reach those that are there, and not what these start to clean up."""
    c = box("sleep", "60").run(rt)
    looks: list[_family.Roots] = []

    def look(roots: _family.Roots) -> dict[ProcessRef, _family.Row]:
        looks.append(roots)
        return _family.family(roots)

    monkeypatch.setattr("statefile.process_runtime._sweep.family", look)
    rt.signal(c, signal.SIGURG, all=True)
    assert len(looks) == 1
    rt.signal(c, signal.SIGKILL, all=True)
    assert len(looks) > 2


def test_no_process_hides_behind_one_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is started while the table is read is in it, and one that loses its parent then has its new one."""
    look, read = os.listdir, _family.read_row
    born: list[subprocess.Popen[bytes]] = []
    stale: list[str] = []

    def look_too_early(path: str) -> list[str]:
        names = look(path)
        if not born:
            born.append(subprocess.Popen(["sleep", "60"]))
        return names

    def read_too_early(name: str) -> _family.Row | None:
        row = read(name)
        if row is not None and born and row.pid == born[0].pid and not stale:
            stale.append(name)
            return row._replace(parent=PID_MAX + 1)
        return row

    monkeypatch.setattr(os, "listdir", look_too_early)
    monkeypatch.setattr(_family, "read_row", read_too_early)
    table = _family.process_table()
    with born[0]:
        born[0].kill()
    assert stale
    assert table[born[0].pid].parent == os.getpid()


def test_signal_that_is_none(box: Callable[..., Box], rt: Any) -> None:
    """An impossible signal is an error, to one or to all."""
    c = box("sleep", "60").run(rt)
    for everybody in (False, True):
        with pytest.raises(StateIOError) as caught:
            rt.signal(c, 999, all=everybody)
        assert caught.value.errno == errno.EINVAL
    rt.signal(c, 0, all=True)
    assert rt.probe(c) == Status.RUNNING


def test_pause_stops_everything(box: Callable[..., Box], rt: Any, tmp_path: Path) -> None:
    """While paused nothing runs, daemons included; afterwards all goes on."""
    ticks = tmp_path / "ticks"
    c = box("sh", "-c", f"(setsid sh -c 'while :; do echo >>{ticks}; sleep 0.001; done' &) ; sleep 60").run(rt)
    until(ticks.exists)
    rt.pause(c)
    before = ticks.stat().st_size
    assert {state(ref.pid) for ref in rt.processes(c)} <= {"T", "D"}  # a shell waits for its stopped child in D
    assert rt.probe(c) == Status.PAUSED
    rt.pause(c)
    assert ticks.stat().st_size == before
    rt.resume(c)
    assert rt.probe(c) == Status.RUNNING
    until(lambda: ticks.stat().st_size > before)
    rt.resume(c)


def test_pause_before_the_start(box: Callable[..., Box], rt: Any) -> None:
    """A created container can be paused and is created again afterwards, and can be started."""
    c = box("sh", "-c", "exit 9").create(rt)
    for _ in range(3):
        rt.pause(c)
        assert rt.probe(c) == Status.PAUSED
        rt.resume(c)
        assert rt.probe(c) == Status.CREATED
    rt.start(c)
    assert rt.wait(c, 20) == ExitStatus(code=9)


VFORK = "import os; os.posix_spawn('/bin/true', ['true'], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, 'fifo', os.O_RDONLY, 0)])"


def test_pause_in_the_middle_of_a_vfork(box: Callable[..., Box], rt: Any, tmp_path: Path) -> None:
    """A process that waits for its stopped child's `exec`, and so cannot stop, does not run either: that is paused."""
    os.mkfifo(tmp_path / "fifo")
    c = box(sys.executable, "-I", "-c", VFORK, cwd=str(tmp_path)).run(rt)
    until(lambda: state(c.pid) == "D")
    rt.pause(c)
    assert state(c.pid) == "D"
    assert rt.probe(c) == Status.PAUSED
    rt.resume(c)
    assert rt.probe(c) == Status.RUNNING
    (tmp_path / "fifo").write_text("")
    assert rt.wait(c, 20) == ExitStatus(code=0)


def test_half_paused(box: Callable[..., Box], rt: Any) -> None:
    """Whether the first process is stopped decides; what is stopped in part can be paused, or resumed, as a whole."""
    c = box("sh", "-c", "sleep 60 & wait").run(rt)
    until(lambda: len(rt.processes(c)) == 2)
    first, other = rt.processes(c)
    other.send_signal(signal.SIGSTOP)
    until(lambda: state(other.pid) == "T")
    assert rt.probe(c) == Status.RUNNING
    rt.pause(c)
    assert rt.probe(c) == Status.PAUSED
    other.send_signal(signal.SIGCONT)
    assert rt.probe(c) == Status.PAUSED
    rt.resume(c)
    first.send_signal(signal.SIGSTOP)
    until(lambda: state(first.pid) == "T")
    assert rt.probe(c) == Status.PAUSED
    rt.resume(c)
    assert [state(ref.pid) in "RSD" for ref in (first, other)] == [True, True]


def test_interrupted_pause_leaves_all_running(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that fails half-way has not happened: what it had told to stop runs on, also what has not stopped yet."""
    c = box("sh", "-c", "sleep 60 & wait").run(rt)
    until(lambda: len(rt.processes(c)) == 2)
    monkeypatch.setattr("statefile.process_runtime._freeze.is_stopped", lambda *_, **__: False)
    monkeypatch.setattr("statefile.process_runtime._freeze._SHORTEST", -1)  # no such rest: after the signals were sent
    with pytest.raises(ValueError, match="negative"):
        rt.pause(c)
    assert "T" not in {state(ref.pid) for ref in rt.processes(c)}
    assert rt.probe(c) == Status.RUNNING


def test_pause_that_takes_too_long(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not stop in time is named, and all run on."""
    c = box("sleep", "60").run(rt)
    monkeypatch.setattr("statefile.process_runtime._freeze.PATIENCE", -1)
    with pytest.raises(StateIOError) as caught:
        rt.pause(c)
    assert (caught.value.errno, caught.value.path) == (errno.ETIMEDOUT, f"/proc/{c.pid}")
    assert rt.probe(c) == Status.RUNNING


def test_paused_container_can_be_killed(box: Callable[..., Box], rt: Any) -> None:
    """Stopped processes die by SIGKILL, and by `destroy`."""
    c = box("sh", "-c", DAEMON + "sleep 60").run(rt)
    until(lambda: len(rt.processes(c)) == 4)
    rt.pause(c)
    rt.signal(c, signal.SIGKILL, all=False)
    assert rt.wait(c, 20) == ExitStatus(signal=signal.SIGKILL)
    rt.destroy(c)
    assert not survivors(c.id)


def test_actions_on_an_ended_container_are_refused(box: Callable[..., Box], rt: Any) -> None:
    """What needs a living first process says that there is none."""
    c = box("true").run(rt)
    rt.wait(c, 20)
    for action in (rt.pause, rt.resume, lambda c: rt.execute(c, ["true"]), lambda c: rt.update(c, {})):
        with pytest.raises(StateIOError) as caught:
            action(c)
        assert caught.value.errno == errno.ESRCH
    assert rt.events(c)["pids"] == 0


def test_execute(box: Callable[..., Box], rt: Any, tmp_path: Path) -> None:
    """Another program runs in the environment of the container, is found with all others, and ends with them."""
    c = box("sleep", "60", env=["PATH=/usr/bin:/bin", "X=1"], cwd=str(tmp_path)).run(rt)
    ref = rt.execute(c, ["sh", "-c", f"echo $X $PWD >{tmp_path}/said; (setsid sleep 60 &) ; sleep 60"])
    assert cat(tmp_path / "said") == f"1 {tmp_path}\n"
    until(lambda: len(rt.processes(c)) == 4)
    assert rt.processes(c)[0] == c.init
    assert ref in rt.processes(c)
    rt.pause(c)
    assert state(ref.pid) == "T"
    rt.resume(c)
    ref.send_signal(signal.SIGKILL)
    assert ref.wait(20) is Presence.GONE
    until(lambda: len(rt.processes(c)) == 3)
    rt.destroy(c)
    assert not survivors(c.id)


def test_executed_program_leaves_no_trace(box: Callable[..., Box], rt: Any) -> None:
    """A program that was executed and has ended leaves neither a process nor a file of its own."""
    c = box("sleep", "60").run(rt)
    before = sorted(os.listdir(c.directory))
    ref = rt.execute(c, ["true"])
    assert ref.wait(20) is Presence.GONE
    until(lambda: sorted(os.listdir(c.directory)) == before)
    assert rt.processes(c) == [c.init]


def test_execute_what_cannot_run(box: Callable[..., Box], rt: Any) -> None:
    """A program that cannot be executed is an error, and nothing is left of the attempt."""
    c = box("sleep", "60").run(rt)
    with pytest.raises(StateIOError) as caught:
        rt.execute(c, ["no-such-program"])
    assert (caught.value.errno, caught.value.path) == (errno.ENOENT, "no-such-program")
    for bad in ([], "true", [1]):
        with pytest.raises(SpecError):
            rt.execute(c, bad)
    until(lambda: len(survivors(c.id)) == 2)


def test_actions_without_a_directory(box: Callable[..., Box], rt: Any) -> None:
    """With the run directory gone, what is certain is still told, and what needs it is refused."""
    c = box("sleep", "60").run(rt)
    shutil.rmtree(c.directory)
    assert rt.probe(c) == c.status
    rt.start(c)  # it lives, so nothing waits any more
    assert rt.processes(c) == [c.init]
    with pytest.raises(StateIOError) as caught:
        rt.execute(c, ["true"])
    assert (caught.value.errno, caught.value.path) == (errno.ENOENT, str(c.directory))
    rt.signal(c, signal.SIGKILL, all=True)
    assert rt.wait(c, 20) is None
    with pytest.raises(StateIOError) as caught:
        rt.start(c)
    assert caught.value.errno == errno.ESRCH


def test_actions_without_a_process(tmp_path: Path, rt: Any) -> None:
    """A container whose creation was interrupted has no process to act on; all that works is to look, and to destroy."""
    c = box_in(tmp_path, ["true"])
    for action in (rt.start, rt.pause, lambda c: rt.wait(c, 0), lambda c: rt.signal(c, signal.SIGTERM, all=False)):
        with pytest.raises(StateIOError) as caught:
            action(c)
        assert caught.value.errno == errno.ESRCH
    rt.signal(c, signal.SIGTERM, all=True)
    assert rt.processes(c) == []
    rt.destroy(c)


def _as_nobody(action: str, c: Box, *args: Any, **options: Any) -> object:
    runtime: Any = ProcessRuntime()
    return getattr(runtime, action)(c, *args, **options)


@pytest.mark.root
def test_processes_of_another_user(open_root: Path, nobody: Worker) -> None:
    """What may not be signalled or changed is told; it counts as running, and its directory is kept."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as roots:
        c = box_in(open_root, ["true"])
        c.init = ProcessRef.of(roots.pid)
        for action, args, options in (
            ("signal", (signal.SIGKILL,), {"all": True}),
            ("signal", (signal.SIGKILL,), {"all": False}),
            ("pause", (), {}),
            ("update", ({"nice": 1},), {}),
            ("update", ({"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]},), {}),
        ):
            with pytest.raises(StateIOError) as caught:
                nobody.call(_as_nobody, action, c, *args, **options)
            assert caught.value.errno in {errno.EPERM, errno.EACCES}
        with pytest.raises(StillRunningError) as still:
            nobody.call(_as_nobody, "destroy", c)
        assert still.value.pids == (roots.pid,)
        assert os.strerror(errno.EPERM) in str(still.value)
        assert c.init.presence() is Presence.ALIVE
        roots.kill()
    nobody.call(_as_nobody, "destroy", c)


def test_execute_after_the_monitor_was_killed(box: Callable[..., Box], rt: Any) -> None:
    """Each program has a monitor of its own, so it does not need the first one, and all are cleaned up."""
    c = box("sleep", "60").create(rt)
    c.helpers["monitor"].send_signal(signal.SIGKILL)
    ref = rt.execute(c, ["sleep", "60"])
    assert ref in rt.processes(c)
    rt.destroy(c)
    assert not survivors(c.id)


@pytest.mark.parametrize("after", ["nothing", "the answer"])
def test_interrupted_execute(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """A caller that is interrupted in the middle of `execute` leaves nothing running of it."""
    c = box("sleep", "60").run(rt)
    read = _launch._read_all

    def interrupted(descriptor: int) -> bytes:
        if after == "the answer":
            read(descriptor)
        raise KeyboardInterrupt

    monkeypatch.setattr(_launch, "_read_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rt.execute(c, ["sleep", "60"])
    until(lambda: len(survivors(c.id)) == 2)
    assert rt.processes(c) == [c.init]


def test_update(box: Callable[..., Box], rt: Any) -> None:
    """Limits, niceness and OOM score hold for every thread of every process."""
    c = box("sh", "-c", "sleep 60 & wait").run(rt)
    until(lambda: len(rt.processes(c)) == 2)
    oom = min(1000, int(Path("/proc/self/oom_score_adj").read_text()) + 3)
    rt.update(c, {"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}], "nice": 7, "oomScoreAdj": oom})
    for ref in rt.processes(c):
        assert resource.prlimit(ref.pid, resource.RLIMIT_CORE) == (0, 0)
        assert os.getpriority(os.PRIO_PROCESS, ref.pid) == 7
        assert int(Path(f"/proc/{ref.pid}/oom_score_adj").read_text()) == oom


def test_update_of_a_program_that_never_rests(box: Callable[..., Box], rt: Any) -> None:
    """Processes that come and go all the time have the new values too, and do not keep `update` from returning."""
    c = box("sh", "-c", "while :; do sleep 0.003; done").run(rt)
    children = Path(f"/proc/{c.pid}/task/{c.pid}/children")
    rt.update(c, {"nice": 5})
    before = children.read_text()
    until(lambda: children.read_text() not in {"", before})
    assert {os.getpriority(os.PRIO_PROCESS, ref.pid) for ref in rt.processes(c)[:1]} == {5}


@pytest.mark.parametrize(
    ("resources", "where"),
    [
        ({"memory": {"limit": 1}}, "resources.memory"),
        ({"nice": 20}, "resources.nice"),
        ({"nice": 5, "oomScoreAdj": "x"}, "resources.oomScoreAdj"),
        ({"nice": 5, "cpu": {}}, "resources.cpu"),
    ],
)
def test_update_refuses_what_it_cannot_do(box: Callable[..., Box], rt: Any, resources: dict[str, Any], where: str) -> None:
    """What needs cgroups, or has no meaning, is refused as a whole: nothing is changed."""
    c = box("sleep", "60").run(rt)
    before = os.getpriority(os.PRIO_PROCESS, c.pid)
    with pytest.raises(SpecError) as caught:
        rt.update(c, resources)
    assert caught.value.field == where
    assert os.getpriority(os.PRIO_PROCESS, c.pid) == before


def test_events(box: Callable[..., Box], rt: Any) -> None:
    """The snapshot counts processes, memory, and the processor time of children that have ended too."""
    work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
    c = box("sh", "-c", f"(setsid sh -c '{work}'); sleep 60").run(rt)
    until(lambda: Path(f"/proc/{c.pid}/task/{c.pid}/children").read_text() and rt.events(c)["cpuSeconds"] > 0.05)
    snapshot = rt.events(c)
    assert snapshot["memoryBytes"] > 100_000
    assert 1 <= snapshot["pids"] <= 3
    rt.signal(c, signal.SIGKILL, all=True)
    rt.wait(c, 20)


# -- clean-up of what was left half-done --------------------------------------------------------------------------------


def _killed(action: str, c: Box, seconds: float) -> None:
    """Do `action`, in a process that is killed after `seconds`; there is no event to wait for, the moment is the point."""
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            os.write(there, b"x")
            getattr(ProcessRuntime(), action)(c)
        os._exit(0)
    os.read(here, 1)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(here)
    os.close(there)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(TIMES))
def test_creator_killed_at_any_moment(box: Callable[..., Box], rt: Any, spawn: Spawn, turn: int) -> None:
    """A creator killed at a random moment leaves nothing that `destroy` does not remove; the name can be used again."""
    c = box("sleep", "60")
    spawn().call(_killed, "create", c, random.Random(turn).uniform(0, 0.03))
    rt.destroy(c)
    assert not list(c.saver.root_dir.iterdir())
    until(lambda: not survivors(c.id))  # a monitor that came too late is on its way out
    assert not list(c.saver.root_dir.iterdir())
    c.create(rt)
    assert rt.probe(c) == Status.CREATED


def test_destroy_of_each_half_made_creation(box: Callable[..., Box], rt: Any) -> None:
    """A directory without a monitor, files without a process, a created process of which no record tells: all go."""
    c = box("sleep", "60")
    c.directory.mkdir(parents=True)
    rt.destroy(c)
    assert not list(c.saver.root_dir.iterdir())
    c.directory.mkdir(parents=True)
    for name in (".monitor", "start", "alive", "exit", "leader"):
        (c.directory / name).touch()
    rt.destroy(c)
    assert not list(c.saver.root_dir.iterdir())
    c.create(rt)
    c.init, c.helpers = None, {}
    assert rt.probe(c) == Status.CREATING
    rt.destroy(c)
    assert not survivors(c.id)
    assert not list(c.saver.root_dir.iterdir())


def test_late_monitor_finds_its_directory_gone(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor that starts after a destroyer was there ends without having forked, and the creator is told."""
    c = box("sleep", "60")
    spawn = _launch._spawn

    def destroyed_first(*args: Any) -> int:
        rt.destroy(c)
        return spawn(*args)

    monkeypatch.setattr(_launch, "_spawn", destroyed_first)
    with pytest.raises(StateIOError) as caught:
        rt.create(c)
    assert caught.value.errno == errno.ENOENT
    assert not survivors(c.id)
    assert not list(c.saver.root_dir.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("after", ["nothing", "the answer"])
def test_interrupted_creation_undoes_itself(
    box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], after: str
) -> None:
    """An exception out of the middle of `create` leaves no process, no zombie and no file."""
    c = box("sleep", "60")
    read = _launch._read_all
    calls = itertools.count()

    def interrupted(descriptor: int) -> bytes:
        if next(calls):
            return read(descriptor)
        if after == "the answer":
            read(descriptor)
        raise error

    monkeypatch.setattr(_launch, "_read_all", interrupted)
    with pytest.raises(error):
        rt.create(c)
    assert not survivors(c.id)
    assert not list(c.saver.root_dir.iterdir())
    assert not [row for row in _family.process_table().values() if row.parent == os.getpid() and row.dead]


def test_new_container_replaces_one_without_a_record(
    box: Callable[..., Box], rt: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What a lost container of the same name left is ended by the next creation: nobody else would find it."""
    c = box("sleep", "60").run(rt)
    old = c.init
    c.init, c.helpers = None, {}
    c.run(rt)
    assert str(c.directory) in caplog.text
    assert old is not None
    assert old.presence() is Presence.GONE
    assert rt.probe(c) == Status.RUNNING


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(TIMES))
def test_starter_killed_at_any_moment(box: Callable[..., Box], rt: Any, spawn: Spawn, tmp_path: Path, *, turn: int) -> None:
    """A starter killed at a random moment leaves a container that is created or running, as `probe` says; it runs once."""
    runs = tmp_path / "runs"
    c = box("sh", "-c", f"echo run >>{runs}; exec sleep 60").create(rt)
    spawn().call(_killed, "start", c, random.Random(turn).uniform(0, 0.004))
    assert rt.probe(c) in {Status.CREATED, Status.RUNNING}
    rt.start(c)
    assert rt.probe(c) == Status.RUNNING
    assert cat(runs) == "run\n"
    rt.destroy(c)
    assert cat(runs) == "run\n"
    assert not survivors(c.id)


def _destroy(c: Box) -> list[str]:
    runtime: Any = ProcessRuntime()
    meet()
    runtime.destroy(c)
    return os.listdir(c.saver.root_dir)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(TIMES))
def test_two_destroyers(box: Callable[..., Box], rt: Any, spawn: Spawn, turn: int) -> None:
    """Two that destroy at once both succeed, and for neither anything is left."""
    c = box("sh", "-c", DAEMON + "sleep 60").create(rt)
    if turn % 2:
        rt.start(c)
    workers = [spawn(), spawn()]
    for worker in workers:
        worker.start(_destroy, c)
    for worker in workers:
        worker.hear()
    for worker in workers:
        worker.tell()
    assert [worker.result() for worker in workers] == [[], []]
    assert not survivors(c.id)


def test_many_at_once_in_one_process(tmp_path: Path, rt: Any) -> None:
    """Threads create and destroy in one root without hindering each other, though the last one out removes the parent."""
    failures: list[BaseException] = []

    def life() -> None:
        try:
            for _ in range(5):
                c = box_in(tmp_path, ["true"]).run(rt)
                assert rt.wait(c, 20) == ExitStatus(code=0)
                rt.destroy(c)
        except BaseException as error:  # noqa: BLE001  # shown below
            failures.append(error)

    threads = [threading.Thread(target=life) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not list(tmp_path.iterdir())


def test_parent_that_vanishes_during_creation(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever destroys the last container takes the parent directory away; a creator in the middle makes it again."""
    c = box("sleep", "60")
    make = os.mkdir
    turns = itertools.count()

    def unlucky(path: str, mode: int) -> None:
        if path == str(c.directory) and next(turns) < 3:
            c.directory.parent.rmdir()
        make(path, mode)

    monkeypatch.setattr(os, "mkdir", unlucky)
    c.create(rt)
    assert rt.probe(c) == Status.CREATED
    assert next(turns) == 4


@pytest.mark.parametrize("rival", ["creator", "destroyer"])
def test_rivals_in_the_middle_of_a_removal(
    box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    """A file that appears at the last moment is looked at too; a directory that another has removed is no error."""
    c = box("true")
    c.directory.mkdir(parents=True)
    remove = os.rmdir
    turns = itertools.count()

    def late(path: str) -> None:
        if path == str(c.directory) and not next(turns):
            if rival == "creator":
                (c.directory / ".monitor").touch()
            else:
                remove(path)
        remove(path)

    monkeypatch.setattr(os, "rmdir", late)
    rt.destroy(c)
    assert not list(c.saver.root_dir.iterdir())


def test_failing_clean_up_does_not_hide_its_cause(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a creation fails and cannot be undone, the error is why it failed, and its notes say what is left."""
    c = box("true", cwd="/no/such")
    calls = itertools.count()

    def sweep(directory: Any, container: Any) -> None:
        if next(calls):
            raise StillRunningError(id=container.id, pids=[1])
        sweep_for_real(directory, container)

    sweep_for_real = _sweep.sweep
    monkeypatch.setattr("statefile.process_runtime._creation.sweep", sweep)
    with pytest.raises(StateIOError) as caught:
        rt.create(c)
    assert caught.value.path == "/no/such"
    assert "still running" in caught.value.__notes__[0]


def test_destroy_after_the_monitor_was_killed(box: Callable[..., Box], rt: Any) -> None:
    """The processes of the session are found without the monitor, also paused ones."""
    c = box("sh", "-c", "sleep 60 & wait").run(rt)
    until(lambda: len(rt.processes(c)) == 2)
    rt.pause(c)
    c.helpers["monitor"].send_signal(signal.SIGKILL)
    rt.destroy(c)
    assert not survivors(c.id)
    assert not list(c.saver.root_dir.iterdir())


@pytest.mark.parametrize("started", [False, True])
def test_destroy_without_record_and_monitor(box: Callable[..., Box], rt: Any, *, started: bool) -> None:
    """A creator and a monitor that are both killed leave a process that the directory tells of."""
    c = box("sleep", "60").create(rt)
    if started:
        rt.start(c)
    monitor = c.helpers["monitor"]
    c.init, c.helpers = None, {}
    monitor.send_signal(signal.SIGKILL)
    assert monitor.wait(20) is Presence.GONE
    rt.destroy(c)
    assert not survivors(c.id)
    assert not list(c.saver.root_dir.iterdir())


def test_destroy_wakes_a_stopped_monitor(box: Callable[..., Box], rt: Any) -> None:
    """A monitor that something has stopped does not keep its container from being destroyed."""
    c = box("sh", "-c", DAEMON + "sleep 60").run(rt)
    c.helpers["monitor"].send_signal(signal.SIGSTOP)
    rt.destroy(c)
    assert not survivors(c.id)


@pytest.mark.parametrize("known", [True, False])
def test_destroy_with_files_missing_or_broken(box: Callable[..., Box], rt: Any, *, known: bool) -> None:
    """The record finds the processes when the files do not, and the files do when the record does not."""
    c = box("sh", "-c", DAEMON + "sleep 60").run(rt)
    until(lambda: len(rt.processes(c)) == 4)
    if known:
        for name, content in (("monitor", b"\xff\0 1 2"), ("leader", b"-1 x 3 4"), ("exit", b""), ("other", b"x" * 9999)):
            (c.directory / name).write_bytes(content)
        (c.directory / "alive").unlink()
    else:
        c.init, c.helpers = None, {}
        (c.directory / "exit").unlink()
    rt.destroy(c)
    assert not survivors(c.id)
    assert not list(c.saver.root_dir.iterdir())


def test_strangers_in_a_session_of_a_reused_number(tmp_path: Path, rt: Any) -> None:
    """Once a container has ended whole, a session that has its old number is not taken for its own."""
    c = box_in(tmp_path, ["true"]).run(rt)
    assert c.helpers["monitor"].wait(20) is Presence.GONE
    leaderless = "import os; os.setsid(); os.fork() and os._exit(0); os.execvp('sleep', ['sleep', '60'])"
    session = subprocess.Popen([sys.executable, "-I", "-c", leaderless])
    session.wait()
    strangers = [row.pid for row in _family.process_table().values() if row.session == session.pid]
    assert c.init is not None
    c.init = c.init.model_copy(update={"pid": session.pid})
    try:
        assert rt.processes(c) == []
        rt.signal(c, signal.SIGKILL, all=True)
        rt.destroy(c)
        assert [state(pid) in "RSD" for pid in strangers] == [True]
    finally:
        os.kill(strangers[0], signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["monitor", "leader"])
def test_files_of_another_life_kill_nobody(tmp_path: Path, rt: Any, kind: str) -> None:
    """Numbers that belong to others by now, after a reboot or by reuse, get nobody killed."""
    me = ProcessRef.current()
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as stranger:
        theirs = ProcessRef.of(stranger.pid)
        until(lambda: Path(f"/proc/{stranger.pid}/task/{stranger.pid}/children").read_text())
        for ref in (
            theirs.model_copy(update={"boot_id": str(uuid.uuid4())}),
            theirs.model_copy(update={"start_ticks": 1}),
            me.model_copy(update={"boot_id": str(uuid.uuid4())}),
        ):
            c = box_in(tmp_path, ["true"])
            c.directory.mkdir(parents=True)
            (c.directory / kind).write_text(f"{ref.pid} {ref.start_ticks} {ref.boot_id} {ref.pid_namespace}")
            if kind == "monitor":
                c.helpers = {"monitor": ref}
            else:
                c.init = ref
                assert rt.probe(c) == Status.STOPPED
                rt.signal(c, signal.SIGKILL, all=False)
                assert rt.wait(c, 5) is None
            assert rt.processes(c) == []
            rt.signal(c, signal.SIGKILL, all=True)
            rt.destroy(c)
            assert not list(tmp_path.iterdir())
        assert theirs.presence() is Presence.ALIVE
        os.killpg(stranger.pid, signal.SIGKILL)


def test_undecided_identity_is_never_taken_for_gone(box: Callable[..., Box], rt: Any) -> None:
    """Of a process in another PID namespace nothing is claimed: no signal, no success, and the directory stays."""
    c = box("sleep", "60").run(rt)
    known = c.init
    assert known is not None
    c.init = known.model_copy(update={"pid_namespace": 1})
    assert rt.probe(c) == c.status
    for action in (rt.pause, rt.resume, lambda c: rt.signal(c, signal.SIGKILL, all=False)):
        with pytest.raises(StateIOError) as caught:
            action(c)
        assert caught.value.errno == errno.EPERM
    with pytest.raises(StillRunningError) as still:
        rt.destroy(c)
    assert still.value.pids == (c.pid,)
    assert c.directory.exists()
    assert known.presence() is Presence.ALIVE
    c.init = known


def _act_on_myself(action: str, root: Path) -> object:
    runtime: Any = ProcessRuntime()
    c = box_in(root, ["true"])
    c.init = ProcessRef.current()
    getattr(runtime, action)(c)
    return os.getpid()


def test_a_container_cannot_destroy_or_pause_itself(root: Path, spawn: Spawn) -> None:
    """Who belongs to the container is told so: killed or stopped half-way, it could finish neither."""
    worker = spawn()  # it leads a session, as the first process of a container does
    with pytest.raises(StillRunningError) as caught:
        worker.call(_act_on_myself, "destroy", root)
    assert caught.value.pids == (worker.pid,)
    with pytest.raises(StateIOError) as refused:
        worker.call(_act_on_myself, "pause", root)
    assert refused.value.errno == errno.EDEADLK


def _adopt(root: Path) -> list[int]:
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # what PID 1 of a container has to do, this process does
    runtime: Any = ProcessRuntime()
    for killed in (False, True):
        c = box_in(root, ["sleep", "60"]).run(runtime)
        if killed:
            c.helpers["monitor"].send_signal(signal.SIGKILL)
            c.helpers["monitor"].wait(20)
        runtime.destroy(c)
    return [row.pid for row in _family.process_table().values() if row.parent == os.getpid()]


def test_a_caller_who_adopts_orphans_keeps_no_zombie(root: Path, spawn: Spawn) -> None:
    """Where the caller is PID 1, or a subreaper, monitors become its children: `destroy` reaps them."""
    assert spawn(fresh=True).call(_adopt, root) == []


def test_unremovable_directory_is_told(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses to remove is an error with its path, and the next try succeeds."""
    monkeypatch.setattr("statefile.process_runtime._sweep.PATIENCE", 0.05)
    c = box("true")
    (c.directory / "foreign").mkdir(parents=True)
    with pytest.raises(StateIOError) as caught:
        rt.destroy(c)
    assert caught.value.path == str(c.directory)
    (c.directory / "foreign").rmdir()
    rt.destroy(c)


def test_monitor_without_a_process_is_waited_for(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor that lives may be about to start its process: until it has gone, the container is not destroyed."""
    monkeypatch.setattr("statefile.process_runtime._sweep.PATIENCE", 0.05)
    c = box("true")
    c.directory.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as monitor:
        ref = ProcessRef.of(monitor.pid)
        (c.directory / "monitor").write_text(f"{ref.pid} {ref.start_ticks} {ref.boot_id} {ref.pid_namespace}")
        with pytest.raises(StillRunningError) as caught:
            rt.destroy(c)
        assert caught.value.pids == (monitor.pid,)
        assert c.directory.exists()
        monitor.kill()
    rt.destroy(c)


def test_what_outlives_its_killing_is_named(box: Callable[..., Box], rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end in time is named, and the directory is kept for the next try."""
    c = box("sleep", "60").run(rt)
    with monkeypatch.context() as patched:
        patched.setattr("statefile.process_runtime._sweep.PATIENCE", 0.05)
        patched.setattr(ProcessRef, "send_signal", lambda _self, _number: Presence.ALIVE)
        with pytest.raises(StillRunningError) as caught:
            rt.destroy(c)
    assert c.pid in caught.value.pids
    assert c.directory.exists()


def test_same_name_in_two_roots(tmp_path: Path) -> None:
    """One run directory serves many roots: equal names never meet, and two spellings of one root are one."""
    runtime: Any = ProcessRuntime(tmp_path / "run")
    boxes = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        boxes.append(Box(Saver(tmp_path / name, FullID("s", "c")), {"process": {"args": ["/bin/sleep", "60"]}}).run(runtime))
    first, second = boxes
    assert len(list((tmp_path / "run").iterdir())) == 2
    (tmp_path / "link").symlink_to(tmp_path / "a")
    first.saver.root_dir = tmp_path / "link"
    runtime.destroy(first)
    assert first.init is not None
    assert first.init.presence() is Presence.GONE
    assert runtime.probe(second) == Status.RUNNING
    runtime.destroy(second)
    assert not list((tmp_path / "run").iterdir())


def test_import_is_light() -> None:
    """Importing the runtime loads no module that only some actions need, neither its own nor those of others."""
    heavy = {"subprocess", "psutil", "ctypes", "json", "asyncio", "resource", "hashlib", "logging", "socket", "fcntl"}
    code = (
        "import sys, types; package = types.ModuleType('statefile'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['statefile'] = package; import statefile.runtime, statefile._lifecycle, statefile._process; "
        "before = set(sys.modules); import statefile.process_runtime; print(*sorted(set(sys.modules) - before))"
    )
    package = os.path.dirname(os.path.dirname(_family.__file__))
    told = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(told)
    assert [name for name in told if "process_runtime" in name] == [
        "statefile.process_runtime",
        "statefile.process_runtime._errors",
    ]
