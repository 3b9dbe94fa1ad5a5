"""The benchmarks run, tell the truth about their shape, and leave nothing behind. How fast anything is, no test asks."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _locks, _rounds, _strips, contention, cycle, imports
from benchmarks.__main__ import BENCHMARKS
from statefile import Container, Durability

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks` from the checkout."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50, **options)


def numbers_in(value: object) -> list[float]:
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers_in(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, int | float) else []


def test_alone_it_lists_them() -> None:
    """`python -m benchmarks` alone names every benchmark and what it measures."""
    done = run()
    assert done.returncode == 0
    assert list(BENCHMARKS) == ["cycle", "import", "uncontended", "contention", "handover", "listing", "plugin"]
    for name, benchmark in BENCHMARKS.items():
        assert f"{name:<12} {benchmark.summary}" in done.stdout


@pytest.mark.parametrize("name", BENCHMARKS)
def test_json_and_tables_say_what_was_found(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each benchmark prints one JSON object with the machine's size and finite numbers; the tables are made from it alone."""
    benchmark = BENCHMARKS[name]
    done = run(name, "--quick", "--json", *(["--root", str(tmp_path)] if benchmark.rooted else []))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["benchmark"], found["quick"]) == (name, True)
    assert {"cores", "kernel", "python"} <= set(found["machine"])
    assert found["results"]
    least = -1e4 if name == "plugin" else 0  # it shows differences, which may be below 0
    assert all(math.isfinite(number) and number >= least for number in numbers_in(found))
    assert list(tmp_path.iterdir()) == []

    benchmark.show(found)
    shown = capsys.readouterr().out
    for row in found["results"]:
        assert next(iter(row.values())) in shown


def test_tables_begin_with_the_machine() -> None:
    """Without `--json` the first line says on what machine the figures were found."""
    done = run("uncontended", "--quick", "--only", "flock,statefile")
    assert done.returncode == 0
    assert f"Linux {os.uname().release}" in done.stdout.splitlines()[0]
    assert "flock, descriptor kept" in done.stdout
    assert "SQLite" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing"], "no benchmark is called 'nothing': choose from cycle, "),
        (["cycle", "--rounds", "0"], "0 is less than 1"),
        (["contention", "--seconds", "nan"], "nan is no time above 0"),
        (["contention", "--only", "nothing"], "no lock to measure begins with 'nothing': choose from flock, "),
        (["contention", "--plot", "/no/such/place.svg"], "cannot write /no/such/place.svg: No such file"),
        (["cycle", "--root", "/no/such/place"], "cannot make a directory in /no/such/place: No such file"),
    ],
)
def test_bad_arguments_are_explained(arguments: list[str], complaint: str) -> None:
    """A wrong name or option ends the run at once, with what is wrong and no traceback."""
    done = run(*arguments)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# -- cycle and import --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_raw_side_makes_the_same_system_calls(tmp_path: Path) -> None:
    """What a cycle is compared with are its own system calls, each of them and as often."""
    done = run("cycle", "--syscalls", "--json", "--root", str(tmp_path))
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    for side in json.loads(done.stdout)["syscalls"]:
        assert sorted(side["raw"]) == sorted(side["statefile"]), side["durability"]
        assert side["same"]


@pytest.mark.parametrize("durability", Durability)
def test_the_raw_side_does_the_same_to_the_state(durability: Durability, tmp_path: Path) -> None:
    """After a cycle of either side the file holds the same state, one revision on."""
    file = cycle.prepare(str(tmp_path), "c1", durability)
    before = file.load(dict)
    cycle.Raw(file).cycle()
    assert file.load(dict) == before | {"revision": before["revision"] + 1}
    cycle.cycle(file)
    assert file.load(dict) == before | {"revision": before["revision"] + 2}
    assert file.load(Container).revision == before["revision"] + 2
    assert len(list(tmp_path.iterdir())) == 2


def test_imports_are_measured_with_byte_code(tmp_path: Path) -> None:
    """The children find every module compiled, though they may not write byte code where the modules are."""
    children = imports.Children(str(tmp_path))
    children.compile()
    compiled = "\n".join(str(path) for path in tmp_path.rglob("*.pyc"))
    for name in children.modules(imports.PROGRAMS[imports.WHOLE]):
        if name.startswith("statefile"):
            place = name.replace(".", "/")
            assert f"/{place}/__init__." in compiled or f"/{place}." in compiled
    assert not [name for name in children.modules(imports.BARE) if name.startswith(("pydantic", "statefile"))]


# -- contention --------------------------------------------------------------------------------------------------------


def test_the_plot_is_an_svg_with_a_strip_for_each_lock(tmp_path: Path) -> None:
    """`--plot` writes well-formed XML: a strip for each lock that took part, with its figures, beside the usual output."""
    plot = tmp_path / "plot.svg"
    done = run("contention", "--quick", "--json", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    root = ET.parse(plot).getroot()
    assert root.tag == f"{SVG}svg"
    names = [text.text for text in root.iter(f"{SVG}text") if "name" in text.attrib["class"].split()]
    assert names == [row["lock"] for row in json.loads(done.stdout)["results"]]
    assert "prefers-color-scheme:dark" in (root.findtext(f"{SVG}style") or "")


def test_the_plot_shows_who_starved() -> None:
    """A wait of over a second stands out as one bar as long as it lasted; names that are markup do no harm."""
    rows = [([(0.0, 4.0)], []), ([(0.0, 0.01), (0.02, 0.3)], [0.01, 0.3])]
    drawn = _strips.draw([_strips.Strip("<a> & b", "1 < 2", rows)], seconds=4.0, title="<t>", about="")
    root = ET.fromstring(drawn)
    paths = {path.attrib["class"]: path.attrib["d"] for path in root.iter(f"{SVG}path") if path.attrib["class"] != "grid"}
    assert paths["starved"].count("M") == paths["long"].count("M") == 1
    assert f"h{_strips.RIGHT - _strips.LEFT}v" in paths["starved"]
    assert paths["got"].count("h") == 2
    assert "<a> & b" in [text.text for text in root.iter(f"{SVG}text")]


def test_ticks_side_by_side_become_one_dash() -> None:
    """Neighbouring marks are drawn as one line, others where they are."""
    assert _strips.ticks(10, 5, [0, 1, 1, 2, 7]) == "M10 5h3m4 0h1"
    assert _strips.ticks(10, 5, []) == ""


def test_a_wait_that_the_end_cuts_short_counts() -> None:
    """A process that never got the lock has waited for the whole round, and got it no times."""
    outcome = contention.outcome_of(([100.0, 101.0, 101.5, 109.0], 0.1, 0), begin=100.0, end=105.0)
    assert outcome.waits == [(0.0, 1.0), (1.5, 5.0)]
    assert outcome.got == [1.0]
    assert (outcome.longest, outcome.starved) == (3.5, True)


def test_a_lock_that_lets_two_in_is_called_broken(capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes inside at once are shouted about, and a lock without waits or locks has figures all the same."""
    row = contention.row_of("x", [[contention.Outcome([], [], 0.0, 2)]], [0], 1.0)
    contention.show({"processes": 1, "hold": 1, "seconds": 1, "rounds": 1, "results": [row], "skipped": []})
    assert "BROKEN: x let two processes in at once, 2 times" in capsys.readouterr().out


@pytest.mark.parametrize(("counts", "index"), [([5, 5, 5], 1.0), ([9, 0, 0], 1 / 3), ([0, 0], 0.0)])
def test_jain_index(counts: list[int], index: float) -> None:
    """The index is 1 if all have the same, 1/n if one has everything, and 0 if nobody has anything."""
    assert contention.jain(counts) == pytest.approx(index)


def test_a_missing_peer_is_skipped_visibly(capsys: pytest.CaptureFixture[str]) -> None:
    """A library that is not installed takes no part, and the output says so."""
    absent = _locks.Contender("absent", _locks.flock, 60.0, "no_such_package")
    present, missing = _locks.those_installed([_locks.FLOCK, absent], None)
    assert (present, missing) == ([_locks.FLOCK], ["absent, timeout=60"])
    _locks.say_who_is_missing(missing)
    assert "SKIPPED: absent, timeout=60 is not installed" in capsys.readouterr().out


CONTENDERS = [*{each.name: each for each in vars(_locks).values() if isinstance(each, _locks.Contender)}.values()]


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_every_contender_excludes(contender: _locks.Contender, tmp_path: Path) -> None:
    """Each lock that is compared is one: a process that wants it waits until it is given back."""
    if not contender.installed:
        pytest.skip(f"{contender.package} is not installed")
    lock = contender.lock(str(tmp_path))
    lock.acquire()
    other = (
        "import sys; from benchmarks import _locks; lock = getattr(_locks, sys.argv[1]).lock(sys.argv[2])\n"
        "print('there', flush=True); lock.acquire(); print('inside', flush=True); lock.release(); lock.close()"
    )
    name = next(name for name, value in vars(_locks).items() if value is contender)
    with subprocess.Popen([sys.executable, "-c", other, name, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
            lock.release()
            assert process.stdout.readline() == b"inside\n"
        finally:
            process.kill()
    lock.close()


# -- fairness of the measuring, and what is left behind ----------------------------------------------------------------


def test_tasks_take_turns_and_the_first_one_changes() -> None:
    """Every round runs every task, and each round begins with another one."""
    order: list[str] = []
    tasks = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = _rounds.interleave(tasks, rounds=3, progress=_rounds.Progress("x"), length=0.0)
    assert "".join(order[-9:]) == "abcbcacab"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 2), (0.51, 3), (0.99, 4), (1.0, 4)])
def test_quantile(share: float, value: float) -> None:
    """A quantile is one of the values: the smallest that so many do not exceed."""
    assert _rounds.quantile([4, 1, 3, 2], share) == value
    assert _rounds.quantile([], share) == 0


def test_the_bar_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a bar shows how far it is and is wiped at the end; elsewhere nothing is written."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    for terminal in (True, False):
        stderr = Terminal()
        monkeypatch.setattr(sys, "stderr", stderr)
        with _rounds.Progress("name") as progress:
            progress.begin(4)
            progress.step("half", by=2)
        written = stderr.getvalue()
        assert ("50% half" in written) is terminal
        assert written.endswith("\r\033[K") if terminal else written == ""


def test_the_bar_is_shown_while_it_runs() -> None:
    """A run at a terminal shows the bar on stderr, and its JSON is whole all the same."""
    outer, inner = pty.openpty()
    try:
        command = [sys.executable, "-m", "benchmarks", "cycle", "--quick", "--json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=inner, check=True, timeout=50)
        shown = os.read(outer, 1 << 16).decode(errors="replace")
    finally:
        os.close(outer)
        os.close(inner)
    assert "cycle █" in shown
    assert json.loads(done.stdout)["results"]


def gone(group: int) -> bool:
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C ends a run in the middle: every process is gone, and so is its directory."""
    command = [sys.executable, "-m", "benchmarks", "contention", "--only", "statefile", "--root", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            waited_until = time.monotonic() + 20
            while not list(tmp_path.rglob("*.state")):  # it has begun
                assert time.monotonic() < waited_until
                time.sleep(0.01)
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGINT)
            _, stderr = process.communicate(timeout=20)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert stderr == b""
    assert gone(process.pid)
    assert list(tmp_path.iterdir()) == []


def test_a_crew_is_reaped_whatever_happens() -> None:
    """Workers that loop, that are stopped or that die are all gone after the block, also after an exception in it."""
    program = """
import os, time
from benchmarks._crew import crew

def work(pipe, what):
    pipe.send(os.getpid())
    if what == "dies":
        os._exit(1)
    while True:
        time.sleep(1)

try:
    with crew(work, [("loops",), ("is stopped",), ("dies",)]) as workers:
        pids = [worker.hear() for worker in workers]
        workers[1].stop()
        try:
            workers[2].hear(5)
        except EOFError:
            raise KeyError("as wanted") from None
except KeyError:
    pass
for pid in pids:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        print("gone")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        start_new_session=True,
    )
    assert (done.stdout, done.stderr) == ("gone\n" * 3, "")
