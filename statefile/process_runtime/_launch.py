"""Starting a monitor from a process that may have threads: spawned, never forked, and reaped before we return."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import marshal
import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

from statefile.errors import StateFileError, StateIOError
from statefile.process_runtime._directory import told
from statefile.process_runtime._family import parse_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from statefile._process import ProcessRef
    from statefile.process_runtime._plan import Plan

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); import _monitor; _monitor.main()"
"""An import and not a script: only imports find their byte code ready."""

_PLAN_FILE = "memfd:plan"
"""As `/proc` shows it."""

_ABOVE_STANDARD = 10
"""Descriptors are lifted out of the way of the numbers that the monitor expects."""


class Launched(NamedTuple):
    """What a monitor answers."""

    monitor: ProcessRef
    leader: ProcessRef


def launch(interpreter: str, plan: Plan, directory: int, *, stdio: str, title: str, undo: Callable[[int], None]) -> Launched:
    """Start a monitor with its process; on return the process waits to be started, or (if it need not) runs its program.

    On an exception after the monitor was started, `undo` has been called with the pipe that it answers through.

    Raises:
        StateIOError: a step was refused, here, in the monitor or in its process.
    """
    with contextlib.ExitStack() as stack:
        plan_file = stack.enter_context(_memory_file(marshal.dumps(dict(plan), 2)))
        out, err = stack.enter_context(_output(stdio))
        with told("open", "pipe"):
            answer, answer_end = os.pipe()
        stack.callback(os.close, answer)
        try:
            child = _spawn(interpreter, title, (plan_file, answer_end, answer_end, directory, out, err))
        finally:
            os.close(answer_end)
        try:
            return _launched(_read_all(answer), interpreter)
        except BaseException as error:
            with noted_on(error):
                undo(answer)
            raise
        finally:
            with contextlib.suppress(ChildProcessError):  # somebody reaps whatever he finds, or ignores SIGCHLD
                os.waitpid(child, 0)


def drain(answer: int) -> None:
    """Wait until the monitor and its process have ended, or have gone so far that they can be found."""
    _read_all(answer)


def abandon(answer: int) -> None:
    """Let the process end by itself, unless it has been announced already."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.dup2(null, answer, inheritable=False)
    finally:
        os.close(null)


@contextlib.contextmanager
def noted_on(error: BaseException) -> Generator[None]:
    """Keep a failing clean-up from hiding why there was one: it becomes a note of `error`."""
    try:
        yield
    except StateFileError as failure:
        error.add_note(str(failure))


def _spawn(interpreter: str, title: str, descriptors: tuple[int, ...]) -> int:
    """Start the monitor's interpreter with `descriptors` as 0, 1, 2, …; the child that it returns ends once it has forked."""
    command = [interpreter, "-I", "-S", *_caching(), "-c", _PROGRAM, os.path.dirname(__file__), title]
    signals = signal.valid_signals()
    with contextlib.ExitStack() as stack, told("start a monitor with", interpreter):
        actions: list[tuple[int, int, int]] = []
        for target, descriptor in enumerate(descriptors):
            lifted = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STANDARD)
            stack.callback(os.close, lifted)
            actions.append((os.POSIX_SPAWN_DUP2, lifted, target))
        # What finds libraries, and no more: the monitor may live long, and the environment may hold secrets.
        environment = {name: value for name, value in os.environ.items() if name.startswith("LD_")}
        return os.posix_spawn(interpreter, command, environment, file_actions=actions, setsigmask=signals, setsigdef=signals)


def _caching() -> list[str]:
    """Where byte code is to be kept, which an isolated interpreter does not read from the environment."""
    options = ["-B"] if sys.dont_write_bytecode else []
    return options if sys.pycache_prefix is None else [*options, "-X", f"pycache_prefix={sys.pycache_prefix}"]


@contextlib.contextmanager
def _memory_file(content: bytes) -> Generator[int]:
    """A file to read `content` from: unlike with a pipe, nobody has to read for the writer to get on."""
    with told("create", _PLAN_FILE):
        descriptor = os.memfd_create("plan", os.MFD_CLOEXEC)
    try:
        with told("write to", _PLAN_FILE), open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _output(stdio: str) -> Generator[tuple[int, int]]:
    """The descriptors for stdout and stderr."""
    if stdio == "inherit":
        yield 1, 2
        return
    path = os.devnull if stdio == "null" else stdio
    with told("open", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600)
    try:
        yield descriptor, descriptor
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)


def _launched(answer: bytes, interpreter: str) -> Launched:
    """Judge the answer.

    Raises:
        StateIOError: it is not that all went well.
    """
    raise_refusal(answer)
    kind, *texts = answer.partition(b"\0\0")[0].split(b"\0")
    refs = [ref for text in texts for ref in parse_ref(text.decode("ascii", "replace"))]
    if kind == b"ready" and len(refs) == len(Launched._fields):
        return Launched(*refs)
    last = answer.decode("utf-8", "replace").strip().rpartition("\n")[2] or "it ended without an answer"
    raise StateIOError(operation=f"start a monitor ({last}) with", path=interpreter, errno=errno.ECHILD)


def raise_refusal(answer: bytes) -> None:
    """Look for a refusal among the messages of a monitor or its process.

    Raises:
        StateIOError: there is one.
    """
    for text in answer.split(b"\0\0"):
        kind, *facts = text.split(b"\0")
        if kind == b"error" and len(facts) == _REFUSAL_FACTS and facts[0].isdigit():
            number, operation, path = facts
            raise StateIOError(operation=operation.decode(), path=os.fsdecode(path), errno=int(number))


_REFUSAL_FACTS = 3
