"""The program of the monitor: the parent of one process of a container, and of the orphans below it.

It runs in an interpreter of its own, with the standard library alone and as little of that as will do, because its start is
what a user waits for: nothing of the package is imported here, and `_signal` (the C half of `signal`) saves a third of it.

Who it is, it writes to the directory before it forks; all files are named relative to the open directory. So once a
destroyer has removed the directory, a monitor that comes late can write nothing there and ends without having forked. The
forked process does the same for itself before it does anything else: nothing runs that the directory does not tell of.

File descriptors on entry: 0 the plan, 1 and 2 the answer, 3 the directory, 4 and 5 stdout and stderr of the process.
All signals are blocked and stay so: only SIGKILL ends the monitor before its last child is gone.
"""

from __future__ import annotations

import errno
import marshal
import os

TYPE_CHECKING = False  # the name is enough for type checkers; importing `typing` takes longer than all the rest here
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from statefile.process_runtime._plan import Plan
else:
    try:
        import _signal as signal
    except ImportError:
        import signal

_ANSWER, _DIRECTORY, _STDOUT, _STDERR = 1, 3, 4, 5
_PR_GET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 3, 36, 38
_EXIT_NOT_FOUND, _EXIT_CANNOT_RUN = 127, 126

EXIT_ROOM = b" " * 31 + b"\n"
"""What `exit` holds until there is a status: room, so that a full disk cannot lose it."""


class RefusedError(Exception):
    """The system refused a step of the preparation."""

    def __init__(self, operation: str, path: str | bytes, number: int | None) -> None:
        super().__init__(operation, path, number)
        self.message = message(b"error", str(number or errno.EIO).encode(), operation.encode(), os.fsencode(path) or b"(empty)")


class _Step:
    """Turns an `OSError` inside it into a `RefusedError` that says what was tried."""

    def __init__(self, operation: str, path: str | bytes) -> None:
        self._what = (operation, path)

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Say what failed."""
        if isinstance(error, (OSError, ValueError, OverflowError)):
            raise RefusedError(*self._what, getattr(error, "errno", None) or errno.EINVAL) from error


def message(*fields: bytes) -> bytes:
    """Fields as they travel through the answer pipe and the start FIFO: none of them is empty or holds NUL."""
    return b"\0".join(fields) + b"\0\0"


def main() -> None:
    """Run the plan on descriptor 0 in a grandchild of the caller; never returns."""
    plan: Plan = marshal.loads(_read_all(0))  # noqa: S302  # from the interpreter that started this one, through a memfd
    if os.fork():
        os._exit(0)  # the caller reaps this one, at once; the monitor it need not
    answer = _own_descriptors()
    try:
        _monitor(plan, answer)
    except RefusedError as refused:
        _tell(answer, refused.message)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the creator has to know
        _tell(answer, message(b"error", str(errno.EIO).encode(), b"run", ascii(error).encode()))
    os._exit(1)


def _own_descriptors() -> int:
    """Close what the caller leaked, keep the rest from the programs to come, and return the answer's new number."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > _STDERR:
            _close(int(name))
    answer = os.dup(_ANSWER)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    for number in (_DIRECTORY, _STDOUT, _STDERR):
        os.set_inheritable(number, False)  # noqa: FBT003  # the function's own form
    return answer


def _monitor(plan: Plan, answer: int) -> NoReturn:
    """Publish this process, make the files, fork the process that is asked for, and stay until no child is left."""
    umask = os.umask(0o077)
    os.setsid()
    os.chdir("/")  # no mount is kept busy
    suffix, waits = plan["suffix"], plan["waits"]
    me = _publish("monitor" + suffix)
    ending = _ending_files() if waits else ()
    go, let_go = os.pipe()
    child = os.fork()
    if child == 0:
        for descriptor in (*ending, let_go):
            os.close(descriptor)
        _become(plan, me, umask, answer, go)
    for descriptor in (go, answer, _STDOUT, _STDERR):
        os.close(descriptor)
    adopts = _prctl(_PR_SET_CHILD_SUBREAPER)
    os.close(let_go)  # from here on no orphan can get away, so the program may run
    _reap(child, ending)
    if ending:
        _rename("leader", "ended")
    else:
        _unlink("leader" + suffix)
    _unlink("monitor" + suffix)
    if ending and adopts:
        _note(ending[1], b"empty\n", len(EXIT_ROOM))
    os._exit(0)


def _ending_files() -> tuple[int, int]:
    """Make what tells of the end: a FIFO that this process holds open until the status is in the file `exit`."""
    with _Step("create a file in", b"the run directory"):
        os.mkfifo("start", 0o600, dir_fd=_DIRECTORY)
        os.mkfifo("alive", 0o600, dir_fd=_DIRECTORY)
        alive = os.open("alive", os.O_RDWR | os.O_CLOEXEC, dir_fd=_DIRECTORY)
        record = os.open("exit", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=_DIRECTORY)
        os.write(record, EXIT_ROOM)
    return alive, record


def _reap(child: int, ending: tuple[int, int] | tuple[()]) -> None:
    """Wait for every child there is or will be; record how `child` ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return
        if pid == child and ending:
            alive, record = ending
            code = os.waitstatus_to_exitcode(status)
            _note(record, b"signal %d" % -code if code < 0 else b"code %d" % code, 0)
            os.close(alive)
            child = 0  # its number is free now: an orphan may come with it


def _note(record: int, text: bytes, position: int) -> None:
    try:  # noqa: SIM105  # contextlib takes a millisecond to import
        os.pwrite(record, text, position)
    except OSError:
        pass  # the status stays unknown, but the children keep their parent


def _become(plan: Plan, monitor: bytes, umask: int, answer: int, go: int) -> NoReturn:
    """Turn this forked process into the one that is asked for; what fails is told to whoever waits for it."""
    tell = answer
    try:
        os.setsid()
        me = _publish("leader" + plan["suffix"])
        _prepare(plan, umask)
        _tell(answer, message(b"ready", monitor, me))
        if plan["waits"]:
            os.close(answer)
        _default_signals()
        os.read(go, 1)  # ends when the monitor is ready, or dead
        if plan["no_new_privileges"]:
            _prctl(_PR_GET_DUMPABLE)  # loads what it needs, while nobody waits
        if plan["waits"]:
            tell = _wait_at_the_gate()
        _last_steps(plan)
        _execute(plan)
    except RefusedError as refused:
        _tell(tell, refused.message)
        os._exit(_EXIT_NOT_FOUND if refused.args[2] == errno.ENOENT else _EXIT_CANNOT_RUN)
    except BaseException as error:  # noqa: BLE001  # whatever it is, it ends here and not in the monitor's code
        _tell(tell, message(b"error", str(errno.EIO).encode(), b"run", ascii(error).encode()))
    os._exit(_EXIT_CANNOT_RUN)


def _wait_at_the_gate() -> int:
    """Sleep in the kernel until a starter opens the FIFO, and return the end that it reads."""
    tell = os.open("start", os.O_WRONLY | os.O_CLOEXEC, dir_fd=_DIRECTORY)
    _unlink("start")
    return tell


def _prepare(plan: Plan, umask: int) -> None:
    """Do what can fail before anything is promised."""
    with _Step("enter", plan["cwd"]):
        os.chdir(plan["cwd"])
    score = plan["oom_score_adj"]
    if score is not None:
        with _Step(f"set oomScoreAdj to {score} in", "/proc/self/oom_score_adj"):
            _write_file("/proc/self/oom_score_adj", str(score).encode())
    _limit([limit for limit in plan["rlimits"] if limit[0] != "RLIMIT_NOFILE"])
    os.umask(umask if plan["umask"] is None else plan["umask"])
    os.dup2(_STDOUT, 1)
    os.dup2(_STDERR, 2)


def _last_steps(plan: Plan) -> None:
    """Do what would keep this process from its own files, if done earlier."""
    if plan["no_new_privileges"] and not _prctl(_PR_SET_NO_NEW_PRIVS):
        raise RefusedError("set noNewPrivileges for", plan["args"][0], errno.ENOSYS)
    _limit([limit for limit in plan["rlimits"] if limit[0] == "RLIMIT_NOFILE"])
    if plan["user"] is not None:
        uid, gid, groups = plan["user"]
        with _Step(f"become user {uid}, group {gid} for", plan["args"][0]):
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)


def _limit(limits: list[tuple[str, int, int, int]]) -> None:
    if limits:
        import resource  # noqa: PLC0415  # few plans have limits

        for name, number, soft, hard in limits:
            with _Step(f"set {name} (soft {soft}, hard {hard}) in", "/proc/self/limits"):
                resource.setrlimit(number, (soft, hard))


def _default_signals() -> None:
    """Undo what Python does to signals, so that the waiting process behaves as the program will."""
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _execute(plan: Plan) -> NoReturn:
    """Run the program, searched for in the PATH of its own environment unless its name has a slash.

    Raises:
        RefusedError: it cannot be run; the most telling reason.
    """
    args, environment = plan["args"], plan["env"]
    places = [b""] if b"/" in args[0] else environment.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    number = errno.ENOENT
    for place in places:
        try:
            os.execve(os.path.join(place, args[0]), args, environment)  # noqa: S606  # no shell: the spec names a program
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, None}:
                number = error.errno
            if number not in {errno.ENOENT, errno.EACCES}:
                break
    raise RefusedError("execute", args[0], number)


def _publish(name: str) -> bytes:
    """Write who this process is to the file `name`, whole or not at all, and return it."""
    with open("/proc/self/stat", "rb") as file:
        ticks = file.read().rpartition(b")")[2].split()[19]
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        boot = file.read().strip()
    me = b"%d %s %s %d" % (os.getpid(), ticks, boot, os.stat("/proc/self/ns/pid").st_ino)
    with _Step("publish a process in", "the run directory"):
        aside = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=_DIRECTORY)
        os.write(aside, me)
        os.close(aside)
        os.rename(f".{name}", name, src_dir_fd=_DIRECTORY, dst_dir_fd=_DIRECTORY)
    return me


def _prctl(option: int) -> bool:
    """Ask for `option` of this process, with 1 as its value; whether the kernel says 0, which is success."""
    try:
        import ctypes  # noqa: PLC0415  # a third of the start: done while the caller is already answered

        return bool(ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (1, 0, 0, 0))) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _tell(descriptor: int, text: bytes) -> None:
    """Write `text`; if nobody listens any more, this process has no reason to live."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        os.write(descriptor, text)
    except OSError:
        os._exit(_EXIT_CANNOT_RUN)


def _read_all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def _write_file(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _unlink(name: str) -> None:
    try:  # noqa: SIM105  # as above
        os.unlink(name, dir_fd=_DIRECTORY)
    except OSError:
        pass  # a destroyer was faster


def _rename(name: str, new: str) -> None:
    try:  # noqa: SIM105  # as above
        os.rename(name, new, src_dir_fd=_DIRECTORY, dst_dir_fd=_DIRECTORY)
    except OSError:
        pass  # a destroyer was faster


def _close(descriptor: int) -> None:
    try:  # noqa: SIM105  # as above
        os.close(descriptor)
    except OSError:
        pass  # the one that listed them
