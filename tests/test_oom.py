"""`oom_score_adj` of sandboxes and helpers, on real processes and their files in `/proc`."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statefile import Container, Created, FullID, ProcessRef, ProcessRuntime, Sandbox, StateDir, StateFile, _oom
from tests.harness import STRACE, names, needs_strace
from tests.test_container import home, on_disk, pid_of, spec_of
from tests.test_lifecycle import Script, script

if TYPE_CHECKING:
    from collections.abc import Callable

    from statefile._container_state import ContainerState
    from tests.harness import Spawn

__all__ = ["home", "script"]  # fixtures: pytest finds them by name

OWN = int(Path("/proc/self/oom_score_adj").read_text())
CRI = ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id")
CRIO = ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID")

# Raising a score is allowed to everybody, lowering it below where it started is not: so all scores here are above ours.
LOW, MIDDLE, HIGH = (min(1000, OWN + n) for n in (100, 200, 300))
lowers = pytest.mark.root
"""Goes back to a lower score, which may need a right."""


def score(process: ProcessRef | int | None) -> int:
    """What the kernel says."""
    pid = process.pid if isinstance(process, ProcessRef) else process
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def asks(number: object, keys: tuple[str, str] = CRI, *, joins: str | None = "pod", **more: Any) -> dict[str, Any]:
    """The spec of a container in sandbox `pod` that asks for a score; `None` asks for none."""
    annotations = {keys[0]: "sandbox"} if joins is None else {keys[0]: "container", keys[1]: joins}
    return {"annotations": annotations, "process": {} if number is None else {"oomScoreAdj": number}, **more}


def pod(root: Path, runtime: Script, number: object = None, keys: tuple[str, str] = CRI) -> Container:
    """The infrastructure container of sandbox `pod`: its process is the sandbox's."""
    c = Container.new(root, "pod", spec=asks(number, keys, joins=None), runtime=runtime)
    c.start()
    return c


def started(root: Path, name: str, runtime: Script, spec: dict[str, Any]) -> Container:
    """A running container."""
    c = Container.new(root, name, spec=spec, runtime=runtime)
    c.start()
    return c


# -- the rule ----------------------------------------------------------------------------------------------------------


@lowers
@pytest.mark.parametrize("keys", [CRI, CRIO], ids=["containerd", "CRI-O"])
def test_sandbox_has_the_lowest_score_that_is_asked_for(home: Path, script: Script, keys: tuple[str, str]) -> None:
    """After each start and each destruction the sandbox has the lowest score of its containers, and at last its own again."""
    sandbox = pod(home, script, keys=keys)
    high = started(home, "high", script, asks(HIGH, keys))
    assert (high.saver.id, score(sandbox.init)) == (FullID("pod", "high"), HIGH)
    low = started(home, "low", script, asks(LOW, keys))
    assert score(sandbox.init) == LOW
    silent = started(home, "silent", script, asks(None, keys))
    middle = started(home, "middle", script, asks(MIDDLE, keys))
    assert score(sandbox.init) == LOW
    low.destroy()
    assert score(sandbox.init) == MIDDLE
    high.destroy()
    assert score(sandbox.init) == MIDDLE
    middle.destroy()
    assert score(sandbox.init) == OWN
    silent.destroy()
    assert score(sandbox.init) == OWN
    sandbox.destroy()


@lowers
def test_score_of_the_infrastructure_says_nothing_of_the_others(home: Path, script: Script) -> None:
    """A pause container's own score neither sets the sandbox's nor is among those of which the lowest counts."""
    script.instead["start"] = lambda c: Path(f"/proc/{pid_of(c)}/oom_score_adj").write_text(str(MIDDLE))
    sandbox = pod(home, script, LOW)
    assert score(sandbox.init) == MIDDLE
    del script.instead["start"]
    c = started(home, "c", script, asks(HIGH))
    assert score(sandbox.init) == HIGH
    c.destroy()
    assert score(sandbox.init) == OWN
    sandbox.destroy()


def test_score_0_is_a_score(home: Path, script: Script) -> None:
    """0 is asked for like any other number, and is no absence."""
    sandbox = pod(home, script)
    Path(f"/proc/{sandbox.init.pid if sandbox.init else 0}/oom_score_adj").write_text(str(HIGH))
    zero = started(home, "zero", script, asks(0)) if os.geteuid() == 0 else None
    assert score(sandbox.init) == (0 if zero else HIGH)


def test_unset_score_touches_nothing(home: Path, script: Script) -> None:
    """A container that asks for none leaves the score of sandbox and helpers as whoever set it wants it."""
    sandbox = pod(home, script)
    Path(f"/proc/{pid_of(sandbox)}/oom_score_adj").write_text(str(HIGH))
    helper = script.child()
    Path(f"/proc/{helper.pid}/oom_score_adj").write_text(str(MIDDLE))
    script.instead["create"] = lambda _: Created(init=script.child(), helpers={"gofer": helper})
    c = started(home, "c", script, asks(None))
    assert (score(sandbox.init), score(helper)) == (HIGH, MIDDLE)
    script.instead["destroy"] = lambda _: script.end(c.init)
    script.end(helper)
    c.destroy()
    assert score(sandbox.init) == HIGH


def test_helpers_get_the_score_of_their_container(home: Path, script: Script) -> None:
    """After the start each helper has its container's own score, whatever the sandbox's is."""
    sandbox = pod(home, script)
    started(home, "low", script, asks(LOW))
    helpers = {name: script.child() for name in ("gofer", "monitor")}
    script.instead["create"] = lambda _: Created(init=script.child(), helpers=helpers)
    c = started(home, "c", script, asks(HIGH))
    assert [score(helper) for helper in helpers.values()] == [HIGH, HIGH]
    assert (score(sandbox.init), score(c.init)) == (LOW, OWN)
    for helper in helpers.values():
        script.end(helper)


def test_container_on_its_own_is_its_sandbox(home: Path, script: Script) -> None:
    """A container without a sandbox is one: its process gets the score, and the record keeps the one it had before."""
    c = started(home, "c", script, {"process": {"oomScoreAdj": HIGH}})
    assert score(c.init) == HIGH
    assert on_disk(home)["sandbox"] == {"id": "c", "pid": pid_of(c), "originalOomScoreAdj": OWN}


def test_runtime_that_sets_scores_itself_is_not_disturbed(home: Path) -> None:
    """With `ProcessRuntime` process and monitor of a container have its score."""
    spec = spec_of(home)
    spec["process"]["oomScoreAdj"] = HIGH
    c = Container.new(home, "c", spec=spec, runtime=ProcessRuntime())
    c.start()
    assert [score(ref) for ref in (c.init, *c.helpers.values())] == [HIGH, HIGH]
    c.destroy()


def test_restored_container_counts_as_started(home: Path, script: Script) -> None:
    """`restore` sets the scores as `start` does."""
    sandbox = pod(home, script)
    Container.new(home, "c", spec=asks(HIGH), runtime=script).restore("/image")
    assert score(sandbox.init) == HIGH


# -- where the sandbox and its first score come from ---------------------------------------------------------------------


@lowers
def test_score_before_all_is_remembered_by_the_record(home: Path, script: Script) -> None:
    """What the sandbox's process had when it was made is in the record of each container, and is what it goes back to."""

    def create(_: Container) -> Created:
        init = script.child()
        Path(f"/proc/{init.pid}/oom_score_adj").write_text(str(MIDDLE))
        return Created(init=init)

    script.instead["create"] = create
    sandbox = pod(home, script)
    del script.instead["create"]
    c = started(home, "c", script, asks(HIGH))
    assert score(sandbox.init) == HIGH
    record = json.loads(c.saver.state_path.read_bytes())
    assert record["sandbox"] == {"id": "pod", "pid": pid_of(sandbox), "originalOomScoreAdj": MIDDLE}
    Container.load(home, "c", runtime=script).destroy()
    assert score(sandbox.init) == MIDDLE


@lowers
def test_runtime_may_say_what_the_score_was(home: Path, script: Script) -> None:
    """A `Sandbox` with a score of its own, as the runtime hands it over, is kept, and its process found by its number."""
    process = script.child()
    sandbox = Sandbox(id="pod", pid=process.pid, original_oom_score_adj=MIDDLE)
    script.instead["create"] = lambda _: Created(init=process, sandbox=sandbox)
    root = pod(home, script)
    script.instead["create"] = lambda _: Created(init=script.child(), sandbox=Sandbox(id="pod", pid=process.pid))
    c = started(home, "c", script, asks(HIGH))
    assert (root.sandbox, c.sandbox) == (sandbox, sandbox)
    assert score(process) == HIGH
    c.destroy()
    assert score(process) == MIDDLE


def test_bare_number_is_the_sandbox_only_while_it_surely_lives(home: Path, script: Script) -> None:
    """A sandbox of which only the PID is known gets its score after a start; after a destruction the number is left alone."""
    process = script.child()
    script.instead["create"] = lambda _: Created(init=script.child(), sandbox=Sandbox(id="pod", pid=process.pid))
    c = started(home, "c", script, asks(HIGH))
    assert score(process) == HIGH
    c.destroy()
    assert score(process) == HIGH


def test_reused_pid_is_left_alone(script: Script) -> None:
    """If the process of the record is gone and its number is another's, that one keeps its score."""
    stranger = script.child()
    dead = stranger.model_copy(update={"start_ticks": (stranger.start_ticks or 1) - 1})
    _oom._set_score(dead, HIGH)
    assert score(stranger) == OWN
    _oom._set_score(stranger, HIGH)
    assert score(stranger) == HIGH


# -- what goes wrong -----------------------------------------------------------------------------------------------------


def _gone(script: Script, c: Container) -> None:
    script.end(c.init)


def _zombie(script: Script, c: Container) -> None:
    script.end(c.init, reap=False)


@pytest.mark.parametrize("how", [_gone, _zombie])
def test_process_that_exits_meanwhile_is_no_error(
    home: Path, script: Script, how: Callable[[Script, Container], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A process that ends during the start, or a sandbox that has ended before the destruction, is no error and no warning."""
    script.instead["start"] = lambda c: how(script, c)
    c = started(home, "c", script, {"process": {"oomScoreAdj": HIGH}})
    assert on_disk(home)["status"] == "running"
    script.instead["destroy"] = lambda _: None
    c.destroy()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert names(home) == []


@pytest.mark.parametrize("error", ["EINVAL", "EACCES", "ESRCH"])
@needs_strace
def test_refused_score_never_fails_a_start(home: Path, spawn: Spawn, error: str) -> None:
    """If the kernel refuses the score, the start succeeds, and a warning says why unless the process was just gone."""
    worker = spawn(*STRACE, os.devnull, "-e", "trace=pwrite64", "-e", f"inject=pwrite64:error={error}", "-e", "signal=none")
    status, warnings, found = worker.call(_start_refused, home)
    assert (status, found) == ("running", OWN)
    assert len(warnings) == (0 if error == "ESRCH" else 2)
    assert all("oom_score_adj of process" in warning for warning in warnings)


def _start_refused(root: Path) -> tuple[str, list[str], int]:
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("statefile").addHandler(handler)
    runtime = Script()
    try:
        sandbox = pod(root, runtime)
        helper = runtime.child()
        runtime.instead["create"] = lambda _: Created(init=runtime.child(), helpers={"gofer": helper})
        c = started(root, "c", runtime, asks(HIGH))
        found = score(sandbox.init)
        return str(c.status), warnings, found
    finally:
        logging.getLogger("statefile").removeHandler(handler)
        runtime.end()


@pytest.mark.parametrize("number", [1001, -1001, True, "5", 1.5, [], 10**18], ids=repr)
def test_score_that_is_none_is_logged_and_passed_over(
    home: Path, script: Script, number: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A spec with a score that the kernel does not know starts, with a warning, and counts as one that asks for none."""
    sandbox = pod(home, script)
    started(home, "good", script, asks(HIGH))
    started(home, "bad", script, asks(number)).destroy()
    assert score(sandbox.init) == HIGH
    assert "process.oomScoreAdj" in caplog.text


def test_corrupt_sibling_is_passed_over(home: Path, script: Script) -> None:
    """A container of the sandbox that cannot be read, or vanishes, hides none of the others."""
    sandbox = pod(home, script)
    StateFile(root_dir=home, id=FullID("pod", "aaa")).state_path.write_text("{")
    StateFile(root_dir=home, id=FullID("pod", "zzz")).state_path.symlink_to("/nowhere")
    low = started(home, "low", script, asks(LOW))
    started(home, "high", script, asks(HIGH))
    assert score(sandbox.init) == LOW
    if os.geteuid() == 0:
        low.destroy()
        assert score(sandbox.init) == HIGH


def test_containers_are_listed_without_a_lock(home: Path, script: Script) -> None:
    """The scores are set after the lock was released, so that a sandbox of any size keeps nobody waiting."""
    pod(home, script)
    seen: list[bool] = []
    really = StateDir.load_sandbox

    def look(self: StateDir, sandbox_id: str, type_: Any) -> Any:
        seen.append(StateFile(root_dir=home, id=FullID("pod", "c")).holder() is not None)
        return really(self, sandbox_id, type_)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateDir, "load_sandbox", look)
        started(home, "c", script, asks(HIGH)).destroy()
    assert seen
    assert not any(seen)


@lowers
def test_container_that_comes_meanwhile_is_not_overlooked(home: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another starts between the look at the containers and the writing of the score, the score is right in the end."""
    sandbox = pod(home, script)
    c = started(home, "c", script, asks(HIGH))
    really = _oom._others
    came: list[Container] = []

    def others(container: ContainerState) -> Any:
        found = really(container)
        if not came:
            came.append(Container.new(home, "late", spec=asks(LOW), runtime=script))
            _oom._set_score(sandbox.init or ProcessRef(pid=1), LOW)
        return found

    monkeypatch.setattr(_oom, "_others", others)
    c.destroy()
    assert score(sandbox.init) == LOW


@needs_strace
def test_nobody_looks_for_siblings_where_none_asks(home: Path, spawn: Spawn, tmp_path: Path) -> None:
    """Start and destruction of a container that asks for no score neither list the root nor open a score."""
    trace = tmp_path / "trace"
    worker = spawn(*STRACE, str(trace), "-e", "trace=openat,open,getdents64", "-e", "signal=none")
    worker.call(_life, home)
    worker.let_go()
    worker.wait()
    text = trace.read_text()
    after = text[text.index("marker") :]
    assert "oom_score_adj" not in after
    assert "getdents" not in after


def _life(root: Path) -> None:
    runtime = Script()
    try:
        c = Container.new(root, "c", runtime=runtime)
        Path("/proc/self/marker").exists()
        with open(os.devnull), pytest.raises(FileNotFoundError):
            open(root / "marker")  # noqa: SIM115  # it is not there
        c.start()
        c.destroy()
    finally:
        runtime.end()
