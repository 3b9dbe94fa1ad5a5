"""From a spec to a plan: everything that the monitor has to know, judged before any process is started.

What is read of the OCI spec is `process` without what needs a kernel object of its own:

| key | meaning here |
| --- | --- |
| `args` | the program and its arguments; a name without a slash is searched for in the PATH of `env` |
| `env` | the whole environment, as in every OCI runtime; the last of two entries with one name counts |
| `cwd` | a directory of the host, since no root filesystem is entered; a relative one starts at the bundle |
| `user` | `umask` always. `uid`, `gid`, `additionalGids` if the creator is root; otherwise 0 stands for the creator |
| `rlimits`, `oomScoreAdj`, `noNewPrivileges` | as in the OCI spec |

Not isolated, and so not read: `root`, `mounts`, `linux` (namespaces, cgroups, seccomp), capabilities, labels, `terminal`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard

from statefile.process_runtime._errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

_INT_MAX = 2**31 - 1
_ID_MAX = 2**32 - 2
_OOM_MAX = 1000
_NICE_MIN, _NICE_MAX = -20, 19
_SHOWN = 120
_UNLIMITED = 2**63 - 1
"""From here on a limit of the spec (unsigned) means none: the kernel counts no further."""


class Plan(TypedDict):
    """What the monitor is told: plain values that `marshal` can carry."""

    suffix: str
    """Of the files `monitor` and `leader`: empty for the first process of the container."""
    waits: bool
    """Whether the process waits to be started, and leaves its exit status: the first one does."""
    args: list[bytes]
    env: dict[bytes, bytes]
    cwd: bytes
    umask: int | None
    user: tuple[int, int, list[int]] | None
    rlimits: list[tuple[str, int, int, int]]
    oom_score_adj: int | None
    no_new_privileges: bool


def plan_of(spec: object, bundle_dir: str, *, args: object = None) -> Plan:
    """The plan for the process of `spec`, or for `args` beside it, in its environment.

    Raises:
        SpecError: it says something that cannot be done.
    """
    process = _mapping(_mapping(spec, "spec").get("process"), "process")
    user = _mapping(process.get("user"), "process.user")
    return Plan(
        suffix="" if args is None else f"-{os.urandom(8).hex()}",
        waits=args is None,
        args=_args(process.get("args"), "process.args") if args is None else _args(args, "args"),
        env=_env(process.get("env")),
        cwd=_cwd(process.get("cwd"), bundle_dir),
        umask=optional_int(user.get("umask"), "process.user.umask", 0, 0o7777),
        user=_user(user),
        rlimits=rlimits(process.get("rlimits"), "process.rlimits"),
        oom_score_adj=oom_score_adj(process.get("oomScoreAdj"), "process.oomScoreAdj"),
        no_new_privileges=process.get("noNewPrivileges") is True,
    )


def oom_score_adj(value: object, field: str) -> int | None:
    """The value, within the kernel's bounds."""
    return optional_int(value, field, -_OOM_MAX, _OOM_MAX)


def nice(value: object, field: str) -> int | None:
    """The value, within the kernel's bounds."""
    return optional_int(value, field, _NICE_MIN, _NICE_MAX)


def rlimits(value: object, field: str) -> list[tuple[str, int, int, int]]:
    """Limits as (name, number, soft, hard), in the numbers that `setrlimit` takes."""
    if not value:
        return []
    import resource  # noqa: PLC0415  # few specs have limits

    return [_rlimit(item, f"{field}.{index}", vars(resource)) for index, item in enumerate(_items(value, field))]


def _rlimit(value: object, field: str, known: Mapping[str, Any]) -> tuple[str, int, int, int]:
    limit = _mapping(value, field)
    name = limit.get("type")
    number = known.get(name) if isinstance(name, str) and name.startswith("RLIMIT_") else None
    if not isinstance(name, str) or number is None:
        raise SpecError(field=f"{field}.type", reason=f"is {_shown(name)}: no limit that this system knows")
    soft, hard = (optional_int(limit.get(key), f"{field}.{key}", -1, 2**64 - 1) for key in ("soft", "hard"))
    if soft is None or hard is None:
        raise SpecError(field=field, reason="needs both soft and hard")
    soft, hard = (known["RLIM_INFINITY"] if not 0 <= bound < _UNLIMITED else bound for bound in (soft, hard))
    if hard != known["RLIM_INFINITY"] and (soft > hard or soft == known["RLIM_INFINITY"]):
        raise SpecError(field=f"{field}.soft", reason="is larger than hard")
    return name, number, soft, hard


def optional_int(value: object, field: str, least: int, most: int) -> int | None:
    """The value, which is `None` or an integer within the bounds.

    Raises:
        SpecError: it is anything else.
    """
    if value is None or (type(value) is int and least <= value <= most):
        return value
    raise SpecError(field=field, reason=f"is {_shown(value)}: it has to be an integer from {least} to {most}")


def _args(value: object, field: str) -> list[bytes]:
    args = [_text(arg, f"{field}.{index}") for index, arg in enumerate(_items(value, field))]
    if not args or not args[0]:
        raise SpecError(field=field, reason="names no program to run")
    return args


def _env(value: object) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for index, item in enumerate(_items(value, "process.env")):
        name, equals, content = _text(item, f"process.env.{index}").partition(b"=")
        if not name or not equals:
            raise SpecError(field=f"process.env.{index}", reason="has to be NAME=value")
        found[name] = content
    return found


def _cwd(value: object, bundle_dir: str) -> bytes:
    if value is not None and not isinstance(value, str):
        raise SpecError(field="process.cwd", reason=f"is {_shown(value)}: it has to be a string")
    return _text(os.path.abspath(os.path.join(bundle_dir or "/", value or "")), "process.cwd")


def _user(user: Mapping[str, object]) -> tuple[int, int, list[int]] | None:
    """Who the process becomes; `None` for whoever creates it."""
    uid, gid = (optional_int(user.get(key), f"process.user.{key}", 0, _ID_MAX) or 0 for key in ("uid", "gid"))
    groups = list(_groups(user.get("additionalGids")))
    if os.geteuid() == 0:
        return (uid, gid, groups) if uid or gid or groups else None
    for key, number, own in (("uid", uid, {0, os.geteuid()}), ("gid", gid, {0, os.getegid()})):
        if number not in own:
            raise SpecError(field=f"process.user.{key}", reason=f"is {number}: only root can run a process as another user")
    return None


def _groups(value: object) -> Iterator[int]:
    for index, item in enumerate(_items(value, "process.user.additionalGids")):
        number = optional_int(item, f"process.user.additionalGids.{index}", 0, _ID_MAX)
        if number is not None:
            yield number


def _text(value: object, field: str) -> bytes:
    """A string as the kernel takes it: JSON is UTF-8, whatever the locale says. No error shows it: it may be a secret."""
    if not isinstance(value, str) or "\0" in value:
        raise SpecError(field=field, reason="has to be a string without NUL")
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise SpecError(field=field, reason=f"cannot be encoded: {error.reason}") from None


def _items(value: object, field: str) -> Sequence[object]:
    if value is None:
        return ()
    if not _is_sequence(value):
        raise SpecError(field=field, reason=f"is {_shown(value)}: it has to be a list")
    return value


def _is_sequence(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _mapping(value: object, field: str) -> Mapping[str, object]:
    if value is None:
        return {}
    if not _is_mapping(value):
        raise SpecError(field=field, reason=f"is {_shown(value)}: it has to be an object")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping)
