"""Process identity: whom a PID meant, what became of him, and that nobody else is ever signalled or waited for in his place."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from statefile import Container, CorruptStateError, ProcessRef, StateIOError, _process
from statefile._process import PID_MAX, Presence, command_of, descendants
from tests.harness import PATIENCE, become_nobody, until
from tests.test_lifecycle import put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Spawn

OTHER_BOOT = "00000000-0000-4000-8000-000000000000"


def changed(ref: ProcessRef, **facts: Any) -> ProcessRef:
    """Another process that has the same number."""
    return ref.model_copy(update=facts)


def state(pid: int) -> str:
    """One letter, as `ps` shows it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextlib.contextmanager
def killing(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """See to it that it ends with the block, and its session with it; `Popen` reaps it."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, in a session of its own; reaped in the end."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process, killing(process):
        yield process


@pytest.fixture
def zombie(sleeper: subprocess.Popen[bytes]) -> ProcessRef:
    """A process that has ended and that nobody has reaped yet."""
    ref = ProcessRef.of(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    return ref


HEADLESS = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


@pytest.fixture
def headless() -> Iterator[ProcessRef]:
    """A process whose first thread has ended while another lives on: it looks like a zombie, and runs."""
    with subprocess.Popen([sys.executable, "-c", HEADLESS], start_new_session=True) as process, killing(process):
        until(lambda: state(process.pid) == "Z")
        yield ProcessRef.of(process.pid)


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, timeout=5)  # a thread of another test may be on its way out


# -- identity ----------------------------------------------------------------------------------------------------------


def test_identity_is_what_the_kernel_says(sleeper: subprocess.Popen[bytes]) -> None:
    """A process is its PID, start ticks, boot and PID namespace, each as `/proc` has it, and none from a clock."""
    stat = Path(f"/proc/{sleeper.pid}/stat").read_text()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ref = ProcessRef.of(sleeper.pid)
    assert ref == ProcessRef(
        pid=sleeper.pid,
        start_ticks=int(stat.rpartition(")")[2].split()[19]),
        boot_id=boot,
        pid_namespace=os.stat(f"/proc/{sleeper.pid}/ns/pid").st_ino,
    )
    assert ProcessRef.current().pid == os.getpid()
    assert {ref, ProcessRef.of(sleeper.pid)} == {ref}
    with pytest.raises(ValidationError):
        ref.pid = 1


def test_identity_in_a_file() -> None:
    """The keys are camelCase, what is unknown is null, and a key of a later version is kept."""
    ref = ProcessRef.model_validate({"pid": 7, "later": [1]})
    assert ref.model_dump(mode="json") == {"pid": 7, "startTicks": None, "bootId": None, "pidNamespace": None, "later": [1]}
    assert ProcessRef.model_validate(ProcessRef.current().model_dump()) == ProcessRef.current()


def test_identity_follows_no_clock(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock and the computed boot time say, a process is the one it was."""
    import psutil

    ref = ProcessRef.of(sleeper.pid)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 176)
    monkeypatch.setattr(psutil, "boot_time", lambda: 176.0)
    assert ref.presence() is Presence.ALIVE
    assert ProcessRef.of(sleeper.pid) == ref


@pytest.mark.parametrize("name", ["a) Z 1 (b", "((", "))) 1 2 3", "a b", "x\ny", ") X 0 0 0"])
def test_any_name_of_a_program_is_read_right(tmp_path: Path, name: str) -> None:
    """A program may be called whatever it likes: parentheses, blanks and lines in its name confuse nobody."""
    sleep = shutil.which("sleep")
    assert sleep
    (tmp_path / name).symlink_to(sleep)
    with subprocess.Popen([tmp_path / name, "1000"], start_new_session=True) as process, killing(process):
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == f"{name}\n")
        ref = ProcessRef.of(process.pid)
        assert ref.presence() is Presence.ALIVE
        assert ref.send_signal(signal.SIGKILL) is Presence.ALIVE


def test_nobody_has_that_number() -> None:
    """Of a number that no process has, no identity is made."""
    with pytest.raises(ProcessLookupError):
        ProcessRef.of(PID_MAX)


@pytest.mark.parametrize("bad", [0, -1, 2**22 + 1, 2**31, 2**40, "7", True, 7.0, None, [7]])
@pytest.mark.parametrize("of", ["init", "sandbox", "helpers", "pending"])
def test_impossible_number_is_refused_at_load(root: Path, bad: Any, of: str) -> None:
    """What can be no PID makes the record corrupt, and the error names file and field; but 0 is no sandbox process yet."""
    ref = {"pid": bad}
    value = {
        "init": ref,
        "sandbox": ref | {"id": "c"},
        "helpers": {"gofer": ref},
        "pending": {"action": "start", "actor": ref},
    }[of]
    path = put(root, {"status": "running", of: value})
    if (of, type(bad), bad) == ("sandbox", int, 0):
        assert Container.load(root, "c").process is None
        return
    with pytest.raises(CorruptStateError) as caught:
        Container.load(root, "c")
    assert (caught.value.path, caught.value.kind) == (str(path), "invalid")
    where = {"init": "init.pid", "sandbox": "sandbox.pid", "helpers": "helpers.gofer.pid", "pending": "pending.actor.pid"}[of]
    assert f"'{where}'" in caught.value.reason


@pytest.mark.parametrize(
    ("field", "bad"),
    [(f, b) for f in ("startTicks", "pidNamespace") for b in (-1, "7", True, 1.5)] + [("bootId", 7), ("bootId", [])],
)
def test_impossible_identity_is_refused_at_load(root: Path, field: str, bad: Any) -> None:
    """Ticks and namespaces are integers, a boot is a string: anything else makes the record corrupt."""
    put(root, {"status": "running", "init": {"pid": 7, field: bad}})
    with pytest.raises(CorruptStateError, match=f"'init.{field}'"):
        Container.load(root, "c")


# -- presence ----------------------------------------------------------------------------------------------------------


def test_living_process_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    """A process that runs, or is stopped, is alive."""
    ref = ProcessRef.of(sleeper.pid)
    assert ref.presence() is Presence.ALIVE
    sleeper.send_signal(signal.SIGSTOP)
    until(lambda: state(sleeper.pid) == "T")
    assert ref.presence() is Presence.ALIVE


def test_zombie_is_gone(zombie: ProcessRef) -> None:
    """A process that has ended is gone, though its parent has yet to reap it."""
    assert state(zombie.pid) == "Z"
    assert zombie.presence() is Presence.GONE


def test_reaped_process_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    """A number that no process has any more means one that is gone, however little is known of it."""
    ref = ProcessRef.of(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert ref.presence() is Presence.GONE
    assert ProcessRef(pid=ref.pid).presence() is Presence.GONE


def test_process_without_its_first_thread_is_alive(headless: ProcessRef) -> None:
    """While one thread runs the process does, whatever its first thread looks like."""
    assert state(headless.pid) == "Z"
    assert headless.presence() is Presence.ALIVE


@pytest.mark.parametrize("step", [-1, 1, 10**6])
def test_reused_number_is_gone(sleeper: subprocess.Popen[bytes], step: int) -> None:
    """One tick of difference is another process: the one that was meant is gone."""
    ref = ProcessRef.of(sleeper.pid)
    assert changed(ref, start_ticks=(ref.start_ticks or 0) + step).presence() is Presence.GONE


def test_process_of_another_boot_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    """After a reboot every process of before is gone, also where number, ticks and namespace fit by chance."""
    ref = ProcessRef.of(sleeper.pid)
    assert changed(ref, boot_id=OTHER_BOOT).presence() is Presence.GONE
    assert changed(ref, boot_id=OTHER_BOOT, pid_namespace=1, start_ticks=None).presence() is Presence.GONE


@pytest.mark.parametrize(
    "facts",
    [{"pid_namespace": 1}, {"start_ticks": None}, {"boot_id": None}, {"start_ticks": None, "boot_id": None}],
    ids=["other namespace", "no ticks", "no boot", "a bare number"],
)
def test_what_cannot_be_decided_is_unknown(sleeper: subprocess.Popen[bytes], facts: dict[str, Any]) -> None:
    """A number that is in use means nothing without all that makes an identity."""
    assert changed(ProcessRef.of(sleeper.pid), **facts).presence() is Presence.UNKNOWN


def test_unknown_namespace_is_the_readers(sleeper: subprocess.Popen[bytes]) -> None:
    """A record without a namespace was written in the reader's."""
    assert changed(ProcessRef.of(sleeper.pid), pid_namespace=None).presence() is Presence.ALIVE


def _look(ref: ProcessRef) -> tuple[Presence, Presence, Presence]:
    return ref.presence(), ref.send_signal(signal.SIGKILL), ref.wait(PATIENCE)


def _look_without_proc(ref: ProcessRef, gone: int) -> tuple[Any, Presence]:
    subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
    return _look(ref), ProcessRef(pid=gone).presence()


def _look_at_hidden(ref: ProcessRef, how: str) -> tuple[Any, str]:
    subprocess.run(["mount", "-t", "proc", "-o", f"hidepid={how}", "proc", "/proc"], check=True)
    ref.presence()  # loads the codecs, which may be out of nobody's reach
    become_nobody()
    try:
        ProcessRef.of(ref.pid)
    except ProcessLookupError as error:
        return _look(ref), str(error)
    return _look(ref), ""


@pytest.mark.root
@pytest.mark.parametrize("how", ["1", "2"])
def test_hidden_process_is_unknown(spawn: Spawn, sleeper: subprocess.Popen[bytes], how: str) -> None:
    """Where `/proc` hides other users' processes, nothing is claimed of them, and nothing is sent to them."""
    worker = spawn("unshare", "--mount", "--propagation", "private")
    looks, said = worker.call(_look_at_hidden, ProcessRef.of(sleeper.pid), how)
    assert looks == (Presence.UNKNOWN,) * 3
    assert "can be seen" in said
    assert sleeper.poll() is None


@pytest.mark.root
def test_without_proc_nothing_is_claimed(spawn: Spawn, sleeper: subprocess.Popen[bytes]) -> None:
    """Where there is no `/proc`, what runs is unknown, and what does not is gone."""
    worker = spawn("unshare", "--mount", "--propagation", "private")
    looks, gone = worker.call(_look_without_proc, ProcessRef.of(sleeper.pid), PID_MAX)
    assert looks == (Presence.UNKNOWN,) * 3
    assert gone is Presence.GONE
    assert sleeper.poll() is None


@pytest.mark.root
def test_process_seen_from_another_pid_namespace_is_unknown(spawn: Spawn, sleeper: subprocess.Popen[bytes]) -> None:
    """The same number means different processes inside and outside, and neither side judges the other's."""
    worker = spawn("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    inner = worker.call(ProcessRef.current)
    assert inner.pid_namespace != ProcessRef.current().pid_namespace
    assert inner.presence() is Presence.UNKNOWN
    assert inner.send_signal(signal.SIGKILL) is Presence.UNKNOWN
    assert worker.call(_look, ProcessRef.of(sleeper.pid)) == (Presence.UNKNOWN,) * 3
    assert worker.call(ProcessRef.current) == inner
    assert sleeper.poll() is None


# -- signals -----------------------------------------------------------------------------------------------------------


def test_signal_reaches_its_process(sleeper: subprocess.Popen[bytes]) -> None:
    """What is alive gets the signal."""
    assert ProcessRef.of(sleeper.pid).send_signal(signal.SIGTERM) is Presence.ALIVE
    assert sleeper.wait(PATIENCE) == -signal.SIGTERM


def test_signal_reaches_a_process_without_its_first_thread(headless: ProcessRef) -> None:
    """A process that looks like a zombie, and runs, can be killed."""
    assert headless.send_signal(signal.SIGKILL) is Presence.ALIVE
    assert headless.wait(PATIENCE) is Presence.GONE


def strangers(ref: ProcessRef) -> dict[Presence, list[ProcessRef]]:
    """Identities that have a number in common with a living process, and no more, by what is to be said of them."""
    return {
        Presence.GONE: [changed(ref, start_ticks=(ref.start_ticks or 0) - 1), changed(ref, boot_id=OTHER_BOOT)],
        Presence.UNKNOWN: [changed(ref, pid_namespace=1), changed(ref, boot_id=None), ProcessRef(pid=ref.pid)],
    }


@pytest.mark.parametrize("pidfd", [True, False])
def test_signal_reaches_nobody_else(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, pidfd: bool) -> None:
    """Who has a number by chance gets no signal, with pidfds and without, and the sender learns why."""
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", failing(errno.ENOSYS))
    for presence, refs in strangers(ProcessRef.of(sleeper.pid)).items():
        for ref in refs:
            assert ref.send_signal(signal.SIGKILL) is presence
            assert ref.wait(0) is presence
    assert sleeper.poll() is None


def test_zombie_gets_no_signal(zombie: ProcessRef) -> None:
    """What has ended cannot be signalled, and that is no error."""
    assert zombie.send_signal(signal.SIGKILL) is Presence.GONE


def test_number_of_a_thread_gets_no_signal() -> None:
    """A thread is no process: by its number nobody is signalled, least of all the process that it belongs to."""
    go = threading.Event()
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        number = thread.native_id
        assert number
        with contextlib.suppress(ProcessLookupError):
            ref = ProcessRef.of(number)
            assert ref.send_signal(signal.SIGUSR1) is Presence.GONE
            assert ref.wait(0) is Presence.GONE
        assert ProcessRef(pid=number).send_signal(signal.SIGUSR1) is not Presence.ALIVE
        assert got == []
    finally:
        go.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("number", [-1, 65, 999])
def test_signal_that_is_none(sleeper: subprocess.Popen[bytes], number: int) -> None:
    """An impossible signal is an error that names the process, and harms nobody."""
    with pytest.raises(StateIOError) as caught:
        ProcessRef.of(sleeper.pid).send_signal(number)
    assert (caught.value.errno, caught.value.path) == (errno.EINVAL, f"/proc/{sleeper.pid}")
    assert sleeper.poll() is None


def _kill_as_nobody(ref: ProcessRef, *, pidfd: bool) -> Presence:
    ref.presence()  # as above
    if not pidfd:
        os.pidfd_open = failing(errno.ENOSYS)
    become_nobody()
    return ref.send_signal(signal.SIGKILL)


@pytest.mark.root
@pytest.mark.parametrize("pidfd", [True, False])
def test_process_of_another_user_may_not_be_signalled(spawn: Spawn, sleeper: subprocess.Popen[bytes], pidfd: bool) -> None:
    """What the system forbids is an error with its errno; it is never read as gone."""
    with pytest.raises(StateIOError) as caught:
        spawn(fresh=True).call(_kill_as_nobody, ProcessRef.of(sleeper.pid), pidfd=pidfd)
    assert (caught.value.errno, caught.value.path) == (errno.EPERM, f"/proc/{sleeper.pid}")
    assert sleeper.poll() is None


def failing(number: int) -> Callable[..., int]:
    """A system call that always gives that errno."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


GONE = [errno.ESRCH, errno.EINVAL, errno.ENOENT]
NO_PIDFDS = [errno.ENOSYS, errno.EPERM, errno.EMFILE, errno.ENFILE]


@pytest.mark.parametrize("number", GONE, ids=errno.errorcode.get)
def test_no_pidfd_of_it_means_gone(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """When the kernel says that the number is no process's, nobody is signalled by it."""
    monkeypatch.setattr(os, "pidfd_open", failing(number))
    ref = ProcessRef.of(sleeper.pid)
    assert ref.send_signal(signal.SIGKILL) is Presence.GONE
    assert ref.wait(PATIENCE) is Presence.GONE
    assert changed(ref, pid_namespace=1).send_signal(signal.SIGKILL) is Presence.UNKNOWN
    assert sleeper.poll() is None


@pytest.mark.parametrize("number", NO_PIDFDS, ids=errno.errorcode.get)
def test_without_pidfds_the_number_is_used(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where a kernel, a filter or a limit denies pidfds, the identity is checked and the number signalled."""
    monkeypatch.setattr(os, "pidfd_open", failing(number))
    ref = ProcessRef.of(sleeper.pid)
    assert ref.wait(0.02) is Presence.ALIVE
    assert ref.send_signal(signal.SIGTERM) is Presence.ALIVE
    assert ref.wait(PATIENCE) is Presence.GONE
    assert sleeper.wait(PATIENCE) == -signal.SIGTERM


def test_other_failure_to_open_is_an_error(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has foreseen is neither gone nor a reason to fall back."""
    monkeypatch.setattr(os, "pidfd_open", failing(errno.EIO))
    ref = ProcessRef.of(sleeper.pid)
    acts: list[Callable[[], Presence]] = [lambda: ref.send_signal(signal.SIGKILL), lambda: ref.wait(0)]
    for act in acts:
        with pytest.raises(StateIOError) as caught:
            act()
        assert caught.value.errno == errno.EIO
    assert sleeper.poll() is None


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
def test_filtered_pidfd_signal_falls_back(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where a filter lets pidfds be opened but not be signalled, the number is used after the identity was checked."""
    monkeypatch.setattr(signal, "pidfd_send_signal", failing(number))
    assert ProcessRef.of(sleeper.pid).send_signal(signal.SIGTERM) is Presence.ALIVE
    assert sleeper.wait(PATIENCE) == -signal.SIGTERM


@pytest.mark.parametrize("number", GONE, ids=errno.errorcode.get)
def test_process_that_ends_before_the_signal(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A process that ends between check and signal is gone; only ESRCH says that, and nothing else goes unnoticed."""
    monkeypatch.setattr(signal, "pidfd_send_signal", failing(number))
    ref = ProcessRef.of(sleeper.pid)
    if number == errno.ESRCH:
        assert ref.send_signal(signal.SIGTERM) is Presence.GONE
    else:
        with pytest.raises(StateIOError) as caught:
            ref.send_signal(signal.SIGTERM)
        assert caught.value.errno == number
    assert sleeper.poll() is None


@pytest.mark.parametrize("opens", [errno.ENOSYS, None])
def test_process_that_ends_before_the_number_is_used(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, opens: int | None
) -> None:
    """Also without pidfds a signal that came too late is not reported as sent."""
    if opens:
        monkeypatch.setattr(os, "pidfd_open", failing(opens))
    monkeypatch.setattr(signal, "pidfd_send_signal", failing(errno.ENOSYS))
    monkeypatch.setattr(os, "kill", failing(errno.ESRCH))
    assert ProcessRef.of(sleeper.pid).send_signal(signal.SIGTERM) is Presence.GONE


def test_identity_is_checked_after_the_process_is_held(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that changes hands while the pidfd is opened gets no signal to its new owner."""
    ref = ProcessRef.of(sleeper.pid)
    stat = _process._read_stat(ref.pid)
    assert isinstance(stat, _process._Stat)
    other = stat._replace(start_ticks=stat.start_ticks + 1)
    really = os.pidfd_open

    def change_hands(pid: int) -> int:
        monkeypatch.setattr(_process, "_read_stat", lambda _: other)
        return really(pid)

    monkeypatch.setattr(os, "pidfd_open", change_hands)
    assert ref.send_signal(signal.SIGKILL) is Presence.GONE
    assert sleeper.poll() is None


# -- waiting -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sleeps, instead of waiting for an event, fails."""

    def refuse(seconds: float) -> None:
        raise AssertionError(f"slept for {seconds} s")

    monkeypatch.setattr("statefile._process.time", SimpleNamespace(monotonic=time.monotonic, sleep=refuse))


@pytest.mark.usefixtures("no_sleep")
def test_wait_returns_when_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    """A waiter sleeps in the kernel until the process ends, and is not late."""
    ref = ProcessRef.of(sleeper.pid)
    found: list[tuple[Presence, float]] = []
    waiter = threading.Thread(target=lambda: found.append((ref.wait(), time.monotonic())))
    waiter.start()
    until(lambda: any("pidfd" in os.readlink(f) for f in Path("/proc/self/fd").iterdir() if f.is_symlink()))
    assert not found
    killed = time.monotonic()
    sleeper.kill()
    waiter.join()
    ((presence, when),) = found
    assert presence is Presence.GONE
    assert when - killed < 5


@pytest.mark.usefixtures("no_sleep")
def test_wait_gives_up_in_time(sleeper: subprocess.Popen[bytes], headless: ProcessRef) -> None:
    """When the time is up and not before, the process is still alive; the wait has cost next to nothing."""
    for ref in (ProcessRef.of(sleeper.pid), headless):
        begin, used = time.monotonic(), time.process_time()
        assert ref.wait(0.3) is Presence.ALIVE
        assert time.monotonic() - begin >= 0.3
        assert time.process_time() - used < 0.05
        assert ref.wait(0) is Presence.ALIVE
        assert ref.wait(-1) is Presence.ALIVE


def test_wait_for_what_has_ended(zombie: ProcessRef) -> None:
    """What has ended, or was never seen, is not waited for."""
    assert zombie.wait() is Presence.GONE
    assert ProcessRef(pid=PID_MAX).wait() is Presence.GONE


def test_wait_for_the_unknown_returns_at_once(sleeper: subprocess.Popen[bytes]) -> None:
    """Nobody is waited for in another's place."""
    for presence, refs in strangers(ProcessRef.of(sleeper.pid)).items():
        assert [ref.wait() for ref in refs] == [presence] * len(refs)


# -- who else ----------------------------------------------------------------------------------------------------------


def is_zombie(ref: ProcessRef) -> bool:
    """Whether it has ended and is there still."""
    with contextlib.suppress(OSError):
        return state(ref.pid) == "Z"
    return False


def test_descendants() -> None:
    """All living processes below one are found, each as an identity, and no zombies; below one that is gone there are none."""
    script = "sleep 1000 & sh -c 'sleep 1000 & wait' & wait"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as shell, killing(shell):
        until(lambda: len(descendants(shell.pid)) == 3)
        found = descendants(shell.pid)
        assert all(ref.presence() is Presence.ALIVE and ref.start_ticks is not None for ref in found)
        os.killpg(shell.pid, signal.SIGSTOP)  # now nobody is reaped
        for ref in found:
            ref.send_signal(signal.SIGKILL)
            assert ref.wait(PATIENCE) is Presence.GONE
        assert any(map(is_zombie, found))
        assert descendants(shell.pid) == []
    assert descendants(PID_MAX) == []


def test_command_of(zombie: ProcessRef) -> None:
    """A process is shown by its command line, one that has none by its name, one that is gone not at all."""
    with subprocess.Popen(["sleep", "60"]) as asleep:
        try:
            until(lambda: command_of(asleep.pid) == "sleep 60")  # a process that has just begun has no command line yet
        finally:
            asleep.kill()
    assert command_of(zombie.pid) == "sleep"
    assert command_of(PID_MAX) is None


# -- when the system has nothing left --------------------------------------------------------------------------------------


def test_boot_is_asked_for_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor the boot is unknown for that moment, and not for the rest of the process's life."""
    monkeypatch.setattr(_process, "_boot_ids", [])

    def exhausted(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", exhausted)
        assert _process.current_boot_id() is None
    assert ProcessRef.current().boot_id


def test_process_that_could_not_be_looked_at_is_not_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a process that is not there is a `ProcessLookupError`; any other failure to look is told with its errno."""

    def exhausted(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", exhausted)
        with pytest.raises(StateIOError) as caught:
            ProcessRef.current()
    assert caught.value.errno == errno.EMFILE


class OddError(Exception):
    """What a signal handler raises."""


def test_interrupted_looks_at_a_process_keep_no_descriptor() -> None:
    """An exception out of a signal handler at any moment of a look loses no descriptor."""

    def handler(*_: object) -> None:
        raise OddError

    me = ProcessRef.current()
    before = len(os.listdir("/proc/self/fd"))
    was = signal.signal(signal.SIGALRM, handler)
    try:
        for n in range(1500):
            with contextlib.suppress(OddError):
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + n % 100 * 1e-6)
                while True:
                    me.presence()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, was)
    assert len(os.listdir("/proc/self/fd")) == before
