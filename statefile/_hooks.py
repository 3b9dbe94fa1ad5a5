"""OCI hooks, as runtime-spec 1.3 has them ("POSIX-platform Hooks").

A hook is a program: absolute path, `args` as its argv, `env` as its whole environment, the container's state as JSON on
standard input, and at most `timeout` seconds, after which its whole process group is killed. The hooks of a kind run one after
another in the order of the spec.

Standard input is a file in memory and no pipe: a hook that does not read is never in the way, however large the state.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BeforeValidator, Field, ValidationError

from statefile import _log
from statefile._process import Presence, ProcessRef
from statefile._record import Record
from statefile.errors import HookError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from subprocess import Popen

    from statefile.oci import State

_SHOWN = 400
"""Bytes of a failed hook's standard error that its error shows."""


class Hook(Record):
    """One entry of `hooks` in a spec.

    Attributes:
        path: the program, absolute.
        args: its argv, the name first; `[path]` if the spec has none.
        env: its whole environment, as `NAME=value`.
        timeout: seconds, at least 1; `None` for no limit.
    """

    path: str = Field(pattern=r"^/")
    args: Annotated[list[str], BeforeValidator(lambda value: value or [])] = Field(default_factory=list[str])
    env: Annotated[list[str], BeforeValidator(lambda value: value or [])] = Field(default_factory=list[str])
    timeout: float | None = Field(default=None, gt=0)


def hooks_of(spec: Mapping[str, Any], kind: str) -> list[Hook]:
    """The hooks of one kind, in their order.

    Raises:
        HookError: the spec's entry is no hook.
    """
    hooks = cast("dict[str, Any]", spec.get("hooks") or {})
    try:
        return [Hook.model_validate(hook) for hook in cast("list[object]", hooks.get(kind) or [])]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HookError(hook=kind, path="", reason=f"the spec's entry is invalid: {where}: {first['msg']}") from None


def run_hooks(spec: Mapping[str, Any], kind: str, state: State) -> None:
    """Run the hooks of one kind: on return each has ended well.

    Raises:
        HookError: one failed; those after it did not run.
    """
    for hook in hooks_of(spec, kind):
        _run(hook, kind, state)


def run_all_hooks(spec: Mapping[str, Any], kind: str, state: State) -> None:
    """Run the hooks of one kind whatever happens: one that fails is logged, and the next one runs."""
    try:
        hooks = hooks_of(spec, kind)
    except HookError as error:
        _log.warning("%s", error)
        return
    for hook in hooks:
        try:
            _run(hook, kind, state)
        except HookError as error:
            _log.warning("%s", error)


def _run(hook: Hook, kind: str, state: State) -> None:
    stdin, stderr = _file_in_memory(state.model_dump_json(by_alias=True).encode()), _file_in_memory(b"")
    try:
        process = _spawn(hook, kind, stdin, stderr)
        try:
            reason = _reason_of_failure(process, hook.timeout)
        except BaseException:
            _kill_group(process)
            raise
        if reason:
            said = os.pread(stderr, _SHOWN, 0).decode("utf-8", "replace").strip()
            raise HookError(hook=kind, path=hook.path, reason=f"{reason}; it said: {said}" if said else reason)
    finally:
        os.close(stdin)
        os.close(stderr)


def _file_in_memory(data: bytes) -> int:
    fd = os.memfd_create("statefile-hook", os.MFD_CLOEXEC)
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _spawn(hook: Hook, kind: str, stdin: int, stderr: int) -> Popen[bytes]:
    import subprocess  # noqa: PLC0415  # most commands run no hook

    environment = {name: value for name, _, value in (entry.partition("=") for entry in hook.env)}
    try:
        return subprocess.Popen(
            hook.args or [hook.path],
            executable=hook.path,
            env=environment,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            process_group=0,
        )
    except (OSError, ValueError) as error:
        raise HookError(hook=kind, path=hook.path, reason=f"it cannot be run: {error}") from error


def _reason_of_failure(process: Popen[bytes], timeout: float | None) -> str | None:
    """Wait for the hook to end; why it failed, or `None` if it ended well."""
    if ProcessRef.of(process.pid).wait(timeout) is Presence.ALIVE:
        _kill_group(process)
        return f"it ran longer than its timeout of {timeout:g} s and was killed with its process group"
    code = process.wait()
    if code == 0:
        return None
    return f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"


def _kill_group(process: Popen[bytes]) -> None:
    """The hook is not reaped yet, so its number, which is its group's too, is nobody else's."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
