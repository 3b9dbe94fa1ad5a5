"""OCI hooks as real programs: what they get, when they run, what their failure does, and that nothing waits for them."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statefile import (
    Container,
    DestroyError,
    HookError,
    InvalidTransitionError,
    ProcessRuntime,
    SpecError,
    StateDir,
    StateFile,
    Status,
    StillRunningError,
)
from statefile._process import Presence, ProcessRef
from tests.harness import PATIENCE, STRACE, meet, names, needs_strace, plain, until
from tests.test_container import SLEEP, home, on_disk, pid_of, spec_of, survivors
from tests.test_lifecycle import Script, script

if TYPE_CHECKING:
    from tests.harness import Spawn

__all__ = ["home", "script"]  # fixtures: pytest finds them by name

SH = "/bin/sh"
OF_THE_CREATION = ("prestart", "createRuntime")
OURS = (*OF_THE_CREATION, "poststart", "poststop")
ALL = (*OURS, "createContainer", "startContainer")


def sh(text: str, *args: str, **more: Any) -> dict[str, Any]:
    """A hook that is a line of shell; `$1` and so on are `args`."""
    return {"path": SH, "args": ["sh", "-c", text, "hook", *args], "env": ["PATH=/usr/bin:/bin"], **more}


def with_hooks(root: Path, hooks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A spec with them."""
    return spec_of(root, *SLEEP, hooks=hooks, **more)


def new(root: Path, hooks: dict[str, Any], *, runtime: Any = None, name: str = "c", **options: Any) -> Container:
    """A created container."""
    return Container.new(root, name, spec=with_hooks(root, hooks), runtime=runtime or ProcessRuntime(), **options)


def lines(path: Path) -> list[str]:
    """What a file says; nothing if there is none."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


# -- what a hook gets --------------------------------------------------------------------------------------------------


def test_hooks_run_in_order_each_with_its_status(home: Path, tmp_path: Path) -> None:
    """Each kind runs at its time and in listed order, with the whole state on stdin: created, running, stopped."""
    log = tmp_path / "log"

    def hook(label: str) -> dict[str, Any]:
        return sh('printf "%s " "$1" >> "$2"; cat >> "$2"; echo >> "$2"', label, str(log))

    hooks = {kind: [hook(f"{kind}-{n}") for n in range(2)] for kind in ALL}
    spec = with_hooks(home, hooks, ociVersion="1.2.1", annotations={"a": "b"})
    c = Container.new(home, "c", spec=spec, bundle_dir=tmp_path, runtime=ProcessRuntime())
    pid = pid_of(c)
    created = [f"{kind}-{n}" for kind in OF_THE_CREATION for n in range(2)]
    assert [line.partition(" ")[0] for line in lines(log)] == created
    c.start()
    c.signal(signal.SIGKILL)
    c.wait(PATIENCE)
    c.delete()
    told = [line.partition(" ") for line in lines(log)]
    assert [label for label, _, _ in told] == [*created, "poststart-0", "poststart-1", "poststop-0", "poststop-1"]
    for label, _, text in told:
        status = {"poststart": "running", "poststop": "stopped"}.get(label.partition("-")[0], "created")
        assert json.loads(text) == {
            "ociVersion": "1.2.1",
            "id": "c",
            "status": status,
            "pid": 0 if status == "stopped" else pid,
            "bundle": str(tmp_path),
            "annotations": {"a": "b"},
        }


def test_hook_gets_argv_and_environment_of_the_spec_alone(home: Path, tmp_path: Path) -> None:
    """`args` is argv, the name first; without it argv is the path; `env` is the environment, and nothing is inherited."""
    out = tmp_path / "out"
    script = tmp_path / "hook"
    script.write_text(f"#!{SH}\ntr '\\0' ' ' < /proc/$$/cmdline >> {out}; echo >> {out}\n")
    script.chmod(0o755)
    shown = {"path": SH, "args": ["a name", "-c", f"tr '\\0' '|' < /proc/$$/cmdline >> {out}; echo >> {out}"]}
    env = {
        "path": "/usr/bin/env",
        "args": ["x", "-u", "_", SH, "-c", f"tr '\\0' '|' < /proc/$$/environ >> {out}; echo >> {out}"],
    }
    new(home, {"prestart": [shown, {"path": str(script)}, env | {"env": ["B=2", "A=1=1", "C="]}, env]}).destroy()
    first, second, third, fourth = lines(out)
    assert first.startswith("a name|-c|tr ")
    assert second == f"{SH} {script} "
    assert third == "B=2|A=1=1|C=|"
    assert fourth == ""


def test_hook_may_leave_a_mebibyte_unread(home: Path, tmp_path: Path) -> None:
    """A state of more than 1 MiB is no obstacle to a hook that reads none of it, and one that reads gets all."""
    size = tmp_path / "size"
    large = {"path": "/bin/true"}
    spec = with_hooks(home, {kind: [large, sh(f"wc -c > {size}")] for kind in OURS}, annotations={"a": "x" * 2**20})
    c = Container.new(home, "c", spec=spec, runtime=ProcessRuntime())
    assert int(size.read_text()) > 2**20
    size.unlink()
    c.start()
    assert int(size.read_text()) > 2**20
    size.unlink()
    c.destroy()
    assert int(size.read_text()) > 2**20


def test_hook_has_no_descriptor_of_ours(home: Path, tmp_path: Path) -> None:
    """A hook starts with the three standard descriptors alone, so that a daemon it leaves keeps no lock."""
    out = tmp_path / "out"
    new(
        home,
        {kind: [sh(f"for f in /proc/$$/fd/*; do readlink $f; done >> {out}; true")] for kind in (*OF_THE_CREATION, "poststop")},
    ).destroy()
    assert sum("memfd" in name for name in lines(out)) == 2 * 3
    assert not [name for name in lines(out) if ".lock" in name or "socket" in name]


# -- hooks that fail ---------------------------------------------------------------------------------------------------

FAILING: dict[str, tuple[dict[str, Any], str]] = {
    "exit code": (sh("echo 'no such bridge' >&2; exit 3"), "exit code 3; it said: no such bridge"),
    "signal": (sh("kill -KILL $$"), "killed by SIGKILL"),
    "realtime signal": (sh("kill -40 $$"), "killed by signal 40"),
    "timeout": (sh("sleep 1000", timeout=0.2), "it ran longer than its timeout of 0.2 s and was killed with its process group"),
    "no program": ({"path": "/nowhere/hook"}, "it cannot be run: [Errno 2] No such file or directory: '/nowhere/hook'"),
    "not executable": ({"path": "/etc/passwd"}, "it cannot be run: [Errno 13] Permission denied: '/etc/passwd'"),
    "long story": (sh("yes 0123456789 | head -c 100000 >&2; echo the end >&2; exit 1"), "the end"),
}


@pytest.mark.parametrize("kind", OF_THE_CREATION)
@pytest.mark.parametrize("how", FAILING)
def test_failing_hook_of_the_creation_undoes_it(home: Path, tmp_path: Path, kind: str, how: str) -> None:
    """The error names kind, program and failure; the later hooks do not run, the poststop hooks do, and nothing is left."""
    hook, reason = FAILING[how]
    log, pid_file = tmp_path / "log", tmp_path / "pid"
    later = sh(f"echo later >> {log}")
    hooks = {kind: [sh(f"echo first >> {log}"), hook, later], "poststart": [later], "poststop": [sh(f"echo poststop >> {log}")]}
    with pytest.raises(HookError) as caught:
        new(home, hooks, pid_file=pid_file)
    error = caught.value
    assert (error.hook, error.path) == (kind, hook["path"])
    assert error.reason.endswith(reason)
    assert len(error.reason) < 600
    assert not hasattr(error, "__notes__")
    assert lines(log) == ["first", "poststop"]
    assert names(home) == []
    assert not pid_file.exists()
    assert not survivors(home)


@pytest.mark.parametrize("how", ["exit code", "timeout", "no program"])
def test_failing_hook_of_the_start_destroys(home: Path, tmp_path: Path, how: str) -> None:
    """If a `poststart` hook fails, `start` raises its error, the poststop hooks have run, and the container is gone."""
    hook, reason = FAILING[how]
    log = tmp_path / "log"
    hooks = {"poststart": [hook, sh(f"echo later >> {log}")], "poststop": [sh(f"echo poststop >> {log}")]}
    c = new(home, hooks)
    with pytest.raises(HookError, match="poststart hook") as caught:
        c.start()
    assert caught.value.reason.endswith(reason)
    assert c.status is Status.STOPPED
    assert lines(log) == ["poststop"]
    assert names(home) == []
    assert not survivors(home)


def test_failing_hook_of_the_deletion_is_logged(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A `poststop` hook that fails leaves a warning, the others run, and the deletion succeeds."""
    log = tmp_path / "log"
    echo = sh(f"echo ran >> {log}")
    new(home, {"poststop": [FAILING["exit code"][0], echo, FAILING["no program"][0], FAILING["timeout"][0], echo]}).destroy()
    assert lines(log) == ["ran", "ran"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["no such bridge" in warnings[0], "/nowhere" in warnings[1], "timeout" in warnings[2]] == [True] * 3
    assert len(warnings) == 3
    assert names(home) == []


@pytest.mark.parametrize("kind", ["createRuntime", "poststart"])
def test_cause_stays_the_cause_when_clean_up_fails_too(home: Path, script: Script, kind: str) -> None:
    """If a hook fails and the destruction too, the hook's error is raised with the other in its notes; the record is kept."""

    def refuse(container: Container) -> None:
        raise StillRunningError(id=container.id, pids=[7])

    script.instead["destroy"] = refuse
    with pytest.raises(HookError, match="exit code 3") as caught:
        new(home, {kind: [FAILING["exit code"][0]]}, runtime=script).start()
    (note,) = caught.value.__notes__
    assert "still running" in note
    assert StateDir(home).ids() != []
    del script.instead["destroy"]
    Container.load(home, "c", runtime=script).destroy()
    assert names(home) == []


def test_timeout_kills_the_whole_group(home: Path, tmp_path: Path) -> None:
    """When the time of a hook is up, what it has started dies too, and soon."""
    pids = tmp_path / "pids"
    before = time.monotonic()
    with pytest.raises(HookError, match="its timeout"):
        new(home, {"prestart": [sh(f"sleep 1000 & echo $$ $! > {pids}; trap '' TERM; wait", timeout=0.3)]})
    assert 0.3 <= time.monotonic() - before < PATIENCE / 2
    for pid in map(int, pids.read_text().split()):
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")  # type: ignore[misc]


def test_hook_within_its_timeout_is_no_failure(home: Path, tmp_path: Path) -> None:
    """A hook that ends in time succeeds, and a process that it leaves in the background lives on."""
    pid_file = tmp_path / "pid"
    c = new(home, {"prestart": [sh(f"sleep 1000 & echo $! > {pid_file}", timeout=60)]})
    pid = int(pid_file.read_text())
    try:
        until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    finally:
        os.kill(pid, signal.SIGKILL)
    c.destroy()


INTERRUPT = "an interrupt"


@pytest.mark.parametrize("kind", ["createRuntime", "poststart"])
def test_interrupt_while_a_hook_runs_undoes(home: Path, spawn: Spawn, tmp_path: Path, kind: str) -> None:
    """Ctrl-C while a hook runs kills the hook, undoes the creation or the start, and is passed on."""
    pid_file = tmp_path / "pid"
    worker = spawn(fresh=True)
    worker.start(_interrupted, home, {kind: [sh(f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; sleep 1000")]})
    until(pid_file.exists)
    hook = ProcessRef.of(int(pid_file.read_text()))
    worker.signal(signal.SIGINT)
    assert worker.result() == INTERRUPT
    assert hook.presence() is Presence.GONE
    assert names(home) == []
    assert not survivors(home)


def _interrupted(root: Path, hooks: dict[str, Any]) -> str:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        new(root, hooks).start()
    except KeyboardInterrupt:
        return INTERRUPT
    return "nothing"


# -- hooks that are none -----------------------------------------------------------------------------------------------

INVALID: dict[str, tuple[object, str]] = {
    "hooks no object": ([], "hooks"),
    "kind no list": ({"prestart": {"path": "/h"}}, "hooks.prestart"),
    "kind a string": ({"poststop": "/h"}, "hooks.poststop"),
    "entry no object": ({"poststart": ["/h"]}, "hooks.poststart.0"),
    "entry null": ({"poststart": [None]}, "hooks.poststart.0"),
    "no path": ({"createRuntime": [{}]}, "hooks.createRuntime.0.path"),
    "empty path": ({"prestart": [{"path": ""}]}, "hooks.prestart.0.path"),
    "relative path": ({"prestart": [{"path": "/h"}, {"path": "bin/h"}]}, "hooks.prestart.1.path"),
    "relative path of a runtime's hook": ({"startContainer": [{"path": "h"}]}, "hooks.startContainer.0.path"),
    "path with NUL": ({"prestart": [{"path": "/h\0"}]}, "hooks.prestart.0.path"),
    "path no string": ({"prestart": [{"path": 7}]}, "hooks.prestart.0.path"),
    "args no list": ({"prestart": [{"path": "/h", "args": "h"}]}, "hooks.prestart.0.args"),
    "argument no string": ({"prestart": [{"path": "/h", "args": ["h", 1]}]}, "hooks.prestart.0.args.1"),
    "env no list": ({"prestart": [{"path": "/h", "env": {"A": "1"}}]}, "hooks.prestart.0.env"),
    "env without a value": ({"prestart": [{"path": "/h", "env": ["A"]}]}, "hooks.prestart.0.env.0"),
    "env without a name": ({"prestart": [{"path": "/h", "env": ["=1"]}]}, "hooks.prestart.0.env.0"),
    "timeout negative": ({"poststop": [{"path": "/h", "timeout": -1}]}, "hooks.poststop.0.timeout"),
    "timeout 0": ({"poststop": [{"path": "/h", "timeout": 0}]}, "hooks.poststop.0.timeout"),
    "timeout true": ({"poststop": [{"path": "/h", "timeout": True}]}, "hooks.poststop.0.timeout"),
    "timeout a string": ({"poststop": [{"path": "/h", "timeout": "5"}]}, "hooks.poststop.0.timeout"),
    "timeout NaN": ({"poststop": [{"path": "/h", "timeout": float("nan")}]}, "hooks.poststop.0.timeout"),
}


@pytest.mark.parametrize("what", INVALID)
def test_what_is_no_hook_is_refused_before_anything_is_made(home: Path, script: Script, what: str) -> None:
    """`new` says where the spec is wrong, whatever the kind; no file was made and the runtime was not asked."""
    hooks, field = INVALID[what]
    with pytest.raises(SpecError) as caught:
        Container.new(home, "c", spec={"hooks": hooks}, runtime=script)
    assert caught.value.field == field
    assert (names(home), script.asked) == ([], [])


@pytest.mark.parametrize(
    "hooks",
    [
        None,
        {},
        {"prestart": None},
        {"prestart": [], "unheardOf": 7},
        {"prestart": [{"path": "/bin/true", "args": None}]},
    ],
    ids=plain,
)
def test_hooks_that_are_not_there_are_none(home: Path, script: Script, hooks: object) -> None:
    """Null, an empty list and kinds that nobody knows are no hooks, and no error."""
    Container.new(home, "c", spec={"hooks": hooks}, runtime=script).destroy()
    assert names(home) == []


def test_record_with_bad_hooks_is_not_started_but_destroyed(
    home: Path, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """What another program has written as hooks keeps `start` from beginning, and `destroy` from nothing."""
    c = Container.new(home, "c", spec={}, runtime=script)
    with c.saver.transaction(dict) as record:
        record["spec"] = {"hooks": {"poststart": [{"path": "h"}], "poststop": 7}}
    with pytest.raises(SpecError, match="absolute"):
        c.start()
    assert "start" not in script.asked
    assert (on_disk(home)["status"], on_disk(home)["pending"]) == ("created", None)
    c.destroy()
    assert "hooks.poststop has to be a list" in caplog.text
    assert names(home) == []


# -- hooks that ask, and others meanwhile ------------------------------------------------------------------------------

ASK = """
import sys
sys.path[:0] = {path!r}
from statefile import Container, StateDir, StateFileError, ProcessRuntime
from statefile._container_state import ContainerState
found = [str(full_id) for full_id in StateDir({root!r}).ids()]
kinds = [type(state).__name__ for _, state in StateDir({root!r}).load_all(ContainerState)]
try:
    status = Container.load({root!r}, "c", runtime=ProcessRuntime()).state().status
except StateFileError as error:
    status = type(error).__name__
try:
    Container.load({root!r}, "c", runtime=ProcessRuntime()).{verb}
    verb = "done"
except StateFileError as error:
    verb = type(error).__name__
open({out!r}, "a").write(f"{{found}} {{kinds}} {{status}} {{verb}}\\n")
"""


def asking(root: Path, out: Path, verb: str) -> dict[str, Any]:
    """A hook that lists, resolves and loads its container, and then does something to it."""
    import sys

    code = ASK.format(path=list(filter(None, sys.path)), root=str(root), out=str(out), verb=verb)
    return {"path": sys.executable, "args": ["python", "-c", code], "timeout": 15}


def test_hook_that_asks_or_acts_is_never_waited_for(home: Path, tmp_path: Path) -> None:
    """A hook gets its answers at once, and what it may not do at its time is refused at once: nothing waits for itself."""
    out = tmp_path / "out"
    hooks = {kind: [asking(home, out, "update({})" if kind == "poststart" else "start()")] for kind in OURS}
    c = new(home, hooks)
    c.start()
    c.destroy()
    assert lines(out) == [
        "['c/c'] ['ContainerState'] creating InvalidTransitionError",
        "['c/c'] ['ContainerState'] creating InvalidTransitionError",
        "['c/c'] ['ContainerState'] running done",
        "[] [] NotFoundError NotFoundError",
    ]


def test_hook_knows_the_process_that_others_see(home: Path, tmp_path: Path) -> None:
    """While the hooks of a creation run, the file says `creating` and names the process, so that a clean-up finds it."""
    copy = tmp_path / "copy"
    c = new(home, {"prestart": [sh(f"cat {StateFile(root_dir=home, id='c').state_path} > {copy}")]})
    record = json.loads(copy.read_text())
    assert (record["status"], record["pending"]["action"]) == ("creating", "create")
    assert record["init"]["pid"] == pid_of(c)
    assert (c.status, on_disk(home)["status"], on_disk(home)["pending"]) == ("created", "created", None)


GATE = "touch {0}.in; while [ ! -e {0}.go ]; do sleep 0.01; done"


def _make_at_gate(root: Path, hooks: dict[str, Any], *, start: bool = False) -> tuple[str, str]:
    try:
        c = new(root, hooks)
        if start:
            c.start()
    except Exception as error:  # noqa: BLE001  # told
        return type(error).__name__, "".join(getattr(error, "__notes__", ""))
    return "done", str(c.status)


def test_start_by_another_during_the_creation_is_refused_with_the_reason(home: Path, spawn: Spawn, tmp_path: Path) -> None:
    """Who wants to start while the creation's hooks run is told that the creation goes on; after them it can be started."""
    gate = tmp_path / "gate"
    maker = spawn()
    maker.start(_make_at_gate, home, {"createRuntime": [sh(GATE.format(gate))]})
    until(Path(f"{gate}.in").exists)
    other = Container.load(home, "c", runtime=ProcessRuntime())
    with pytest.raises(InvalidTransitionError, match="its creation is going on, or was interrupted"):
        other.start(timeout=5)
    assert other.recover() is Status.CREATING
    Path(f"{gate}.go").touch()
    assert maker.result() == ("done", "created")
    other.start()
    other.destroy()


def test_destruction_by_another_during_the_creation_wins(home: Path, spawn: Spawn, tmp_path: Path) -> None:
    """Who destroys a container while the creation's hooks run succeeds; the creator is told, and poststop hooks ran once."""
    gate, log, pid_file = tmp_path / "gate", tmp_path / "log", tmp_path / "pid"
    maker = spawn()
    hooks = {"createRuntime": [sh(GATE.format(gate))], "poststop": [sh(f"echo poststop >> {log}")]}
    maker.start(_make_at_gate, home, hooks)
    until(Path(f"{gate}.in").exists)
    Container.load(home, "c", runtime=ProcessRuntime()).destroy(timeout=PATIENCE)
    Path(f"{gate}.go").touch()
    assert maker.result() == ("NotFoundError", "")
    assert lines(log) == ["poststop"]
    assert not pid_file.exists()
    assert names(home) == []
    assert not survivors(home)


@pytest.mark.parametrize("kind", ["createRuntime", "poststart"])
def test_failing_hook_never_destroys_the_next_of_that_name(
    home: Path, script: Script, spawn: Spawn, tmp_path: Path, kind: str
) -> None:
    """If the ID was destroyed and made anew while a hook ran that then fails, the new container is not touched."""
    gate = tmp_path / "gate"
    maker = spawn()
    maker.start(_make_at_gate, home, {kind: [sh(GATE.format(gate) + "; exit 1")]}, start=True)
    until(Path(f"{gate}.in").exists)
    Container.load(home, "c", runtime=ProcessRuntime()).destroy()
    c = Container.new(home, "c", runtime=script)
    Path(f"{gate}.go").touch()
    assert maker.result() == ("HookError", "")
    c.refresh()
    assert (c.status, script.asked) == (Status.CREATED, ["create"])


def test_creation_does_not_go_on_after_a_destruction_that_failed(home: Path, script: Script) -> None:
    """If somebody tried in vain to destroy a container while its hooks ran, it does not become `created`: it is undone."""

    def refuse(container: Container) -> None:
        raise StillRunningError(id=container.id, pids=[7])

    def by_another(*_: object) -> None:
        script.instead["destroy"] = refuse
        with pytest.raises(DestroyError):
            Container.load(home, "c", runtime=script).destroy()
        del script.instead["destroy"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("statefile._container.run_hooks", by_another)
        with pytest.raises(InvalidTransitionError, match="somebody tried to destroy it"):
            new(home, {"prestart": [{"path": "/bin/true"}]}, runtime=script)
    assert names(home) == []


def test_creator_killed_in_a_hook_leaves_an_interrupted_creation(home: Path, spawn: Spawn, tmp_path: Path) -> None:
    """After SIGKILL to the creator during a hook the container can only be destroyed: no hook of the creation runs again."""
    gate, log = tmp_path / "gate", tmp_path / "log"
    maker = spawn(fresh=True)
    hooks = {"createRuntime": [sh(f"echo create >> {log}; {GATE.format(gate)}")], "poststop": [sh(f"echo stop >> {log}")]}
    maker.start(_make_at_gate, home, hooks)
    until(Path(f"{gate}.in").exists)
    maker.kill()
    Path(f"{gate}.go").touch()
    c = Container.load(home, "c", runtime=ProcessRuntime())
    assert c.recover() is Status.CREATING
    with pytest.raises(InvalidTransitionError, match="its creation was interrupted"):
        c.start()
    c.destroy()
    assert lines(log) == ["create", "stop"]
    assert names(home) == []


# -- poststop, once ----------------------------------------------------------------------------------------------------


def test_poststop_runs_once_of_many_destroyers(home: Path, spawn: Spawn, tmp_path: Path) -> None:
    """Of four who destroy at once all succeed, and the `poststop` hooks run once."""
    log = tmp_path / "log"
    new(home, {"poststop": [sh(f"echo ran >> {log}")]})
    workers = [spawn() for _ in range(4)]
    for worker in workers:
        worker.start(_destroy_together, home)
    for worker in workers:
        worker.hear()
    for worker in workers:
        worker.tell()
    assert {worker.result() for worker in workers} == {"stopped"}
    assert lines(log) == ["ran"]
    Container.remove(home, "c", runtime=ProcessRuntime())
    assert lines(log) == ["ran"]


def _destroy_together(root: Path) -> str:
    c = Container.load(root, "c", runtime=ProcessRuntime())
    meet()
    c.destroy()
    return str(c.status)


def test_poststop_waits_for_the_removal(home: Path, script: Script, tmp_path: Path) -> None:
    """A destruction that keeps the record runs no `poststop` hook; the one that removes it does, also if a step failed."""
    log = tmp_path / "log"
    c = new(home, {"poststop": [sh(f"echo $(ls {home}/*.state | wc -l) >> {log}")]}, runtime=script)

    def still_running(container: Container) -> None:
        raise StillRunningError(id=container.id, pids=[7])

    def half(container: Container) -> None:
        assert container.init is not None
        script.end(container.init)
        raise OSError("the mount is busy")

    script.instead["destroy"] = still_running
    with pytest.raises(DestroyError):
        c.destroy()
    assert lines(log) == []
    script.instead["destroy"] = half
    with pytest.raises(DestroyError) as caught:
        c.destroy()
    assert "mount is busy" in str(caught.value)
    assert lines(log) == ["0"]


@pytest.mark.parametrize("way", ["delete", "delete by force", "destroy", "remove", "run", "a creation that failed"])
def test_poststop_runs_whichever_way_it_goes(home: Path, script: Script, tmp_path: Path, way: str) -> None:
    """However a container is removed, its `poststop` hooks run once, after the lock was released."""
    log = tmp_path / "log"
    hooks = {"poststop": [sh(f"cat >> {log}; echo >> {log}; flock -n {home}/x true && ls {home} | grep -v '^x$' >> {log}")]}

    def made() -> Container:
        return new(home, hooks, runtime=script)

    def fail(_: Container) -> None:
        raise OSError("no")

    def stop(container: Container) -> None:
        assert container.init is not None
        script.end(container.init)

    if way == "delete":
        c = made()
        stop(c)
        script.instead["wait"] = lambda *_: None
        c.delete()
    elif way == "delete by force":
        made().delete(force=True)
    elif way == "destroy":
        made().destroy()
    elif way == "remove":
        made()
        Container.remove(home, "c", runtime=script)
    elif way == "run":
        script.instead["wait"] = lambda *_: None
        Container.run(home, "c", spec=with_hooks(home, hooks), runtime=script)
    else:
        script.instead["create"] = fail
        with pytest.raises(OSError, match="no"):
            made()
    assert [json.loads(line)["status"] for line in lines(log)] == ["stopped"]
    (home / "x").unlink()


def test_run_with_hooks_is_a_whole_life(home: Path, tmp_path: Path) -> None:
    """`Container.run` runs the hooks of all four kinds, and an error of one is passed on with nothing left."""
    log = tmp_path / "log"
    hooks: dict[str, Any] = {kind: [sh(f"echo {kind} >> {log}")] for kind in OURS}
    spec = spec_of(home, "true", hooks=hooks)
    status = Container.run(home, "c", spec=spec, runtime=ProcessRuntime())
    assert status is not None
    assert status.code == 0
    assert lines(log) == [*OURS]
    hooks["poststart"] = [FAILING["exit code"][0]]
    with pytest.raises(HookError):
        Container.run(home, "c", spec=spec_of(home, *SLEEP, hooks=hooks), runtime=ProcessRuntime())
    assert lines(log) == [*OURS, *OF_THE_CREATION, "poststop"]
    assert names(home) == []


def test_restore_runs_the_hooks_of_a_start(home: Path, script: Script, tmp_path: Path) -> None:
    """A restored container runs, so its `poststart` hooks do; no other verb runs any."""
    log = tmp_path / "log"
    c = new(home, {"poststart": [sh(f"echo poststart >> {log}")]}, runtime=script)
    c.restore("/image")
    assert lines(log) == ["poststart"]
    c.pause()
    c.resume()
    c.update({})
    assert lines(log) == ["poststart"]
    c.destroy()


# -- what it costs -----------------------------------------------------------------------------------------------------


@needs_strace
def test_start_without_hooks_writes_as_often_as_before(home: Path, spawn: Spawn, tmp_path: Path) -> None:
    """A start without hooks makes two saves, the intent and the result, and no other call that changes a file."""
    trace = tmp_path / "trace"
    calls = "access,faccessat,faccessat2,rename,renameat,renameat2,unlink,unlinkat,memfd_create,pwrite64,ftruncate"
    worker = spawn(*STRACE, str(trace), "-e", f"trace={calls}", "-e", "signal=none")
    worker.call(_create_and_start_here, home)
    worker.let_go()
    worker.wait()
    whole = trace.read_text()
    between = whole[whole.index("from here") : whole.index("to here")].splitlines()
    process = whole[: whole.index("from here")].rpartition("\n")[2].split()[0]
    begun = re.findall(rf"^{process} +(\w+)\(", "\n".join(between[1:-1]), re.MULTILINE)
    assert begun == ["rename", "rename"]


def _create_and_start_here(root: Path) -> None:
    runtime = Script()
    try:
        c = Container.new(root, "c", runtime=runtime)
        os.access(root / "from here", os.F_OK)
        c.start()
        os.access(root / "to here", os.F_OK)
        c.destroy()
    finally:
        runtime.end()


def test_failing_hook_is_no_success_where_children_are_not_waited_for(home: Path) -> None:
    """A process that ignores SIGCHLD cannot tell how a hook ended, and does not take it for success."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(HookError, match="unknown"):
            new(home, {"createRuntime": [sh("exit 1")]})
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not StateDir(home).ids()


def test_record_changed_by_a_hook_does_not_end_its_creation(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody saves in a transaction while the hooks of a creation run is kept, and the creation goes on."""

    def hook(*_: object) -> None:
        with StateFile(root_dir=home, id="c").transaction(Container) as mine:
            mine.owner = "somebody"

    monkeypatch.setattr("statefile._container.run_hooks", hook)
    c = new(home, {"createRuntime": [sh("exit 0")]})
    assert (c.status, c.owner) == (Status.CREATED, "somebody")
