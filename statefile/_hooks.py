"""OCI hooks, as runtime-spec 1.3 has them ("POSIX-platform Hooks").

A hook is a program: absolute path, `args` as its argv, `env` as its whole environment, the container's state as JSON on
standard input, and at most `timeout` seconds, after which its whole process group is killed. The hooks of a kind run one after
another in the order of the spec.

Run here are the kinds whose place is the runtime's own namespace: `prestart` and `createRuntime` after the creation,
`poststart` after the start, `poststop` after the deletion. `createContainer` and `startContainer` belong into the container,
which only the runtime can enter: they are the runtime's to run, and only their form is checked.

Hooks run without the container's lock: a hook may ask for anything, and what it may not do yet is refused at once.

Standard input is a file in memory and no pipe: a hook that does not read is never in the way, however large the state.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from statefile import _log
from statefile._process import ProcessRef
from statefile.errors import HookError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from subprocess import Popen

    from statefile.oci import State

AFTER_CREATION = ("prestart", "createRuntime")
AFTER_START = ("poststart",)
AFTER_DELETION = ("poststop",)
KINDS = (*AFTER_CREATION, "createContainer", "startContainer", *AFTER_START, *AFTER_DELETION)

_SHOWN = 400
"""Bytes of a failed hook's standard error, the last ones, that its error shows."""


class Hook(NamedTuple):
    """One entry of `hooks` in a spec.

    Attributes:
        kind: when it runs.
        path: the program, absolute.
        args: its argv, the name first.
        env: its whole environment.
        timeout: seconds; `None` for no limit.
    """

    kind: str
    path: str
    args: list[str]
    env: dict[str, str]
    timeout: float | None


# -- what the spec says ------------------------------------------------------------------------------------------------


def check_hooks(spec: object) -> None:
    """Refuse a spec with an entry, of whatever kind, that is no hook.

    Raises:
        SpecError: where, and what is wrong.
    """
    hooks_of(spec, KINDS)


def hooks_of(spec: object, kinds: Iterable[str]) -> list[Hook]:
    """The hooks of these kinds, in their order.

    Raises:
        SpecError: an entry is no hook.
    """
    whole: Mapping[str, Any] = cast("Mapping[str, Any]", spec) if isinstance(spec, Mapping) else {}
    listed = _object(whole.get("hooks"), "hooks")
    return [
        _hook(kind, entry, f"hooks.{kind}.{index}")
        for kind in kinds
        for index, entry in enumerate(_list(listed.get(kind), f"hooks.{kind}"))
    ]


def _hook(kind: str, entry: object, field: str) -> Hook:
    if entry is None:
        _refuse(field, "has to be an object")
    found = _object(entry, field)
    path = _text(found.get("path"), f"{field}.path")
    if not path.startswith("/"):
        _refuse(f"{field}.path", f"has to be absolute, not {path!r:.80}")
    args = [_text(each, f"{field}.args.{index}") for index, each in enumerate(_list(found.get("args"), f"{field}.args"))]
    env: dict[str, str] = {}
    for index, each in enumerate(_list(found.get("env"), f"{field}.env")):
        name, equals, value = _text(each, f"{field}.env.{index}").partition("=")
        if not name or not equals:
            _refuse(f"{field}.env.{index}", "has to be NAME=value")
        env[name] = value
    return Hook(kind, path, args or [path], env, _timeout(found.get("timeout"), f"{field}.timeout"))


def _timeout(value: object, field: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        _refuse(field, f"has to be a number of seconds above 0, not {value!r:.80}")
    return value


def _object(value: object, field: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        _refuse(field, f"has to be an object, not {value!r:.80}")
    return cast("Mapping[str, Any]", value)


def _list(value: object, field: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        _refuse(field, f"has to be a list, not {value!r:.80}")
    return list(cast("list[Any]", value))


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        _refuse(field, f"has to be a string without NUL, not {value!r:.80}")
    return value


def _refuse(field: str, reason: str) -> NoReturn:
    raise SpecError(field=field, reason=reason)


# -- to run them -------------------------------------------------------------------------------------------------------


def run_hooks(hooks: Iterable[Hook], state: State) -> None:
    """Run them one after another: on return each has ended well.

    Raises:
        HookError: one failed; those after it did not run.
    """
    for hook in hooks:
        _run(hook, state)


def run_all_hooks(spec: object, kinds: Iterable[str], state: State) -> None:
    """Run the hooks of these kinds whatever happens: one that fails is logged, and the next one runs."""
    try:
        hooks = hooks_of(spec, kinds)
    except SpecError as error:  # a record that others wrote
        _log.warning("%s: its hooks were not run: %s", state.id, error)
        return
    for hook in hooks:
        try:
            _run(hook, state)
        except HookError as error:
            _log.warning("%s: %s", state.id, error)


def _run(hook: Hook, state: State) -> None:
    with contextlib.ExitStack() as files:
        try:
            stdin = _file_in_memory(files, state.model_dump_json(by_alias=True).encode())
            stderr = _file_in_memory(files, b"")
            process = _spawn(hook, stdin, stderr)
        except (OSError, ValueError) as error:
            raise HookError(hook=hook.kind, path=hook.path, reason=f"it cannot be run: {error}") from error
        try:
            reason = _reason_of_failure(process, hook.timeout)
        except BaseException:
            _kill_group(process)
            raise
        if reason:
            size = os.fstat(stderr).st_size
            said = os.pread(stderr, _SHOWN, max(0, size - _SHOWN)).decode("utf-8", "replace").strip()
            raise HookError(hook=hook.kind, path=hook.path, reason=f"{reason}; it said: {said}" if said else reason)


def _file_in_memory(files: contextlib.ExitStack, data: bytes) -> int:
    fd = os.memfd_create("statefile-hook", os.MFD_CLOEXEC)
    files.callback(os.close, fd)
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _spawn(hook: Hook, stdin: int, stderr: int) -> Popen[bytes]:
    import subprocess  # noqa: PLC0415  # most commands run no hook

    return subprocess.Popen(
        hook.args,
        executable=hook.path,
        env=hook.env,
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        process_group=0,
    )


def _reason_of_failure(process: Popen[bytes], timeout: float | None) -> str | None:
    """Wait for the hook to end; why it failed, or `None` if it ended well."""
    import subprocess  # noqa: PLC0415  # loaded by now

    end = None if timeout is None else time.monotonic() + timeout
    with contextlib.suppress(ProcessLookupError):  # no /proc: then without it
        ProcessRef.of(process.pid).wait(timeout)  # sleeps in the kernel, where Popen with a timeout would look and look
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # of which Popen would say that all went well
        process.returncode = 0
        return "how it ended is unknown: this process ignores SIGCHLD, or reaps whatever it finds"
    try:
        code = process.wait(None if end is None else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        _kill_group(process)
        return f"it ran longer than its timeout of {timeout:g} s and was killed with its process group"
    if code == 0:
        return None
    return f"exit code {code}" if code > 0 else f"killed by {_signal_name(-code)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _kill_group(process: Popen[bytes]) -> None:
    """The hook is not reaped yet, so its number, which is its group's too, is nobody else's."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
