"""Errors: what each is, what it carries, what it tells the reader to do, and that it survives the way to another process."""

from __future__ import annotations

import copy
import errno
import inspect
import multiprocessing
import pickle
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

import statefile
from statefile import Action, FullID, LockHolder, Status, errors
from statefile.errors import StateFileError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Row:
    """One class of the tree: what it is made from, what else it is, and what its message must say."""

    make: dict[str, Any]
    builtin: type[Exception] | None = None
    errno: int | None = None
    says: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # where an attribute is not what the constructor was given


PATH = "/run/x/c_sandbox:s.state"
LOCK = "/run/x/c_sandbox:s.lock"

FAILED: list[Exception] = [errors.HookError(hook="poststop", path="/h", reason="exit 1"), OSError("no inode")]

# Written out by hand: the tree in the module's docstring is for people, this is for the machine.
TREE = {
    errors.InvalidIDError: Row({"id": "a/b", "reason": "why"}, ValueError, says=("'a/b'", "why")),
    errors.InvalidRootError: Row({"root_dir": b"x", "reason": "why"}, ValueError, says=("b'x'", "why")),
    errors.NotFoundError: Row({"id": "c", "path": PATH}, FileNotFoundError, errno.ENOENT, ("'c'", PATH, "StateDir.ids()")),
    errors.AlreadyExistsError: Row(
        {"id": "c", "path": PATH}, FileExistsError, errno.EEXIST, ("'c'", PATH, "choose another ID, or destroy it first")
    ),
    errors.AmbiguousIDError: Row(
        {"id": "c", "candidates": [FullID("s", "c1"), FullID("s", "c2")]},
        LookupError,
        says=("'c'", "2 containers", "s/c1, s/c2", "give more of the ID"),
        facts={"candidates": (FullID("s", "c1"), FullID("s", "c2"))},
    ),
    errors.LockTimeoutError: Row(
        {"path": LOCK, "timeout": 1.5, "holder": LockHolder(7, "runsc start")},
        TimeoutError,
        errno.ETIMEDOUT,
        (LOCK, "pid 7 (runsc start)", "1.5 s"),
    ),
    errors.NotLockedError: Row({"path": LOCK, "operation": "save"}, RuntimeError, says=(LOCK, "save", "call lock() first")),
    errors.DeadlockError: Row({"path": LOCK}, RuntimeError, says=(LOCK, "Pass the locked object on")),
    errors.LockLostError: Row({"path": LOCK}, says=(LOCK, "lock again", "reload")),
    errors.LockUnsupportedError: Row(
        {"path": LOCK, "errno": errno.ENOLCK}, OSError, errno.ENOLCK, (LOCK, "No locks available", "local file system")
    ),
    errors.CorruptStateError: Row(
        {"path": PATH, "kind": "truncated", "reason": "why"}, ValueError, says=(PATH, "truncated", "why", "destroy()")
    ),
    errors.UnsupportedVersionError: Row(
        {"path": PATH, "version": 3, "supported": 1}, says=(PATH, "version 3", "writes 1", "upgrade statefile")
    ),
    errors.UnstorableStateError: Row(
        {"path": PATH, "field": "a.b", "reason": "is nan"}, ValueError, says=(PATH, "'a.b' is nan", "was not saved")
    ),
    errors.StaleStateError: Row(
        {"path": PATH, "revision": 2, "found": 5}, RuntimeError, says=(PATH, "revision 5", "at 2", "load it under the lock")
    ),
    errors.UnsafePathError: Row(
        {"path": PATH, "found": "a FIFO", "expected": "a regular file", "errno": errno.EINVAL},
        OSError,
        errno.EINVAL,
        (PATH, "a FIFO", "a regular file", "see who put it there"),
    ),
    errors.StateIOError: Row(
        {"path": PATH, "operation": "write", "errno": errno.ENOSPC},
        OSError,
        errno.ENOSPC,
        ("write", PATH, "No space left"),
        facts={"applied": False},
    ),
    errors.InvalidTransitionError: Row(
        {"id": "c", "action": Action.START, "status": Status.STOPPED, "allowed": [Action.DELETE, Action.WAIT]},
        RuntimeError,
        says=("'c'", "start", "stopped", "delete, wait"),
        facts={"allowed": (Action.DELETE, Action.WAIT)},
    ),
    errors.UnsupportedActionError: Row({"action": Action.PAUSE, "runtime": "Toy"}, says=("Toy", "pause")),
    errors.InvalidRuntimeError: Row({"runtime": "Toy", "reason": "has no probe"}, TypeError, says=("Toy", "has no probe")),
    errors.SpecError: Row({"field": "process.args", "reason": "is empty"}, ValueError, says=("process.args is empty",)),
    errors.InvalidRuntimeError: Row(
        {"runtime": "Toy", "reason": "create must return a Created"}, TypeError, says=("Toy", "must return a Created")
    ),
    errors.SpecError: Row({"field": "process.args", "reason": "is empty"}, ValueError, says=("process.args is empty",)),
    errors.WaitTimeoutError: Row({"id": "c", "timeout": 2.0}, TimeoutError, errno.ETIMEDOUT, ("'c'", "2 s")),
    errors.StillRunningError: Row({"id": "c", "pids": [7, 9]}, says=("'c'", "7, 9", "try again"), facts={"pids": (7, 9)}),
    errors.DestroyError: Row(
        {"message": "container 'c'", "exceptions": FAILED, "id": "c"},
        ExceptionGroup,
        says=("'c'", "hook /h failed", "no inode"),
        facts={"exceptions": tuple(FAILED)},
    ),
    errors.HookError: Row({"hook": "poststart", "path": "/h", "reason": "exit 1"}, says=("poststart", "/h", "exit 1")),
}

every_error = pytest.mark.parametrize(("cls", "row"), TREE.items(), ids=lambda value: getattr(value, "__name__", ""))


def facts(error: BaseException) -> dict[str, Any]:
    """Everything that a caller can read from an error."""
    seen = {"type": type(error), "text": str(error), "args": repr(error.args), "repr": repr(error), **vars(error)}
    if isinstance(error, OSError):
        seen |= {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
    return seen


def made(cls: Callable[..., StateFileError], row: Row) -> StateFileError:
    """The example."""
    return cls(**row.make)


def test_table_has_every_error() -> None:
    """Every error that the package defines is in the table of these tests, and can be imported from the front door."""
    defined = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)}
    assert defined - {StateFileError} == set(TREE)
    assert all(getattr(statefile, cls.__name__) is cls for cls in defined)


def test_tree_in_the_docstring_is_the_tree() -> None:
    """The tree that people read names every class, and after it the builtin that the class also is."""
    assert errors.__doc__
    drawn = dict(re.findall(r"─ (\w+Error) +(\w+Error|ExceptionGroup)?", errors.__doc__))
    assert drawn == {cls.__name__: row.builtin.__name__ if row.builtin else "" for cls, row in TREE.items()}


@every_error
def test_error_is_also_the_builtin_that_a_caller_expects(cls: type[StateFileError], row: Row) -> None:
    """Every error is a `StateFileError`, and besides that exactly the builtin in the table."""
    bases = [base for base in cls.__mro__ if base.__module__ == "builtins"]
    expected = [base for base in (row.builtin or Exception).__mro__ if base is not object]
    assert [base for base in bases if base is not object] == expected
    assert issubclass(cls, StateFileError)
    with pytest.raises(row.builtin or StateFileError):
        raise made(cls, row)


@every_error
def test_error_carries_its_facts(cls: type[StateFileError], row: Row) -> None:
    """What an error was made from, and every attribute that its docstring names, can be read from it."""
    error = made(cls, row)
    expected = row.make | row.facts
    expected.pop("expected", None)  # what belongs there is for the message alone
    assert {name: getattr(error, name) for name in expected} == expected
    documented = re.findall(r"^ {4,8}(\w+): ", inspect.getdoc(cls) or "", re.MULTILINE)
    assert documented
    assert all(hasattr(error, name) for name in documented), documented


@every_error
def test_error_says_what_and_what_to_do(cls: type[StateFileError], row: Row) -> None:
    """The message is one line with the facts in it, and with the next step where there is one."""
    text = str(made(cls, row))
    assert row.says
    assert all(part in text for part in row.says), text
    assert "\n" not in text
    assert not text.startswith("[Errno")


@every_error
def test_os_errors_look_like_those_of_the_system(cls: type[StateFileError], row: Row) -> None:
    """An error that is an `OSError` has the errno, its text and the file name where `except OSError` looks for them."""
    error = made(cls, row)
    if row.errno is None:
        assert not isinstance(error, OSError)
    else:
        assert isinstance(error, OSError)
        assert error.errno == row.errno
        assert error.strerror
        assert error.filename == row.make.get("path")


@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda error, p=protocol: pickle.loads(pickle.dumps(error, p)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    ],
    ids=["copy", "deepcopy", *(f"pickle{protocol}" for protocol in range(pickle.HIGHEST_PROTOCOL + 1))],
)
@every_error
def test_error_survives_pickling(cls: type[StateFileError], row: Row, again: Callable[[Any], Any]) -> None:
    """A pickled or copied error is the same in type, text and every fact, notes included."""
    error = made(cls, row)
    error.add_note("a note")
    assert facts(again(error)) == facts(error)
    assert facts(again(again(error))) == facts(error)


def fail(name: str) -> None:
    """Raise that error, in another process."""
    cls = getattr(errors, name)
    raise cls(**TREE[cls].make)


def test_error_crosses_a_pool(spawn: Callable[..., Any]) -> None:
    """An error raised in a `multiprocessing` worker arrives as itself: its class takes keywords, which pickle cannot replay."""
    assert spawn(fresh=True).call(errors_from_a_pool) == [cls.__name__ for cls in TREE]


def errors_from_a_pool() -> list[str]:
    """Raise each error in a pool, and compare what arrives."""
    arrived = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for cls, row in TREE.items():
            with pytest.raises(StateFileError) as caught:
                pool.apply(fail, (cls.__name__,))
            assert str(caught.value) == str(made(cls, row))
            arrived.append(type(caught.value).__name__)
    return arrived


def test_ambiguous_id_lists_a_few_and_keeps_all() -> None:
    """A message stays readable with 1,000 candidates; the attribute has every one."""
    candidates = [FullID("s", f"c{n:03}") for n in range(1000)]
    error = errors.AmbiguousIDError(id="c", candidates=candidates)
    assert len(str(error)) < 300
    assert "and 990 more" in str(error)
    assert error.candidates == tuple(candidates)


def test_unknown_holder_is_said_to_be_unknown() -> None:
    """Where the kernel hides the holder, the message says so instead of naming nobody."""
    error = errors.LockTimeoutError(path=LOCK, timeout=0, holder=None)
    assert "cannot be seen from here" in str(error)
    assert "at the first try" in str(error)


def test_failed_flush_says_that_the_new_state_is_there() -> None:
    """A `StateIOError` with `applied` says that it is done all the same."""
    error = errors.StateIOError(path="/run/x", operation="flush directory", errno=errno.EIO, applied=True)
    assert error.applied
    assert "done all the same" in str(error)


def test_nothing_possible_is_said() -> None:
    """A status that allows no action at all is reported as such, not with an empty list."""
    error = errors.InvalidTransitionError(id="c", action=Action.START, status=Status.CREATING, allowed=())
    assert "possible now: nothing" in str(error)


def test_root_error_can_be_raised_bare() -> None:
    """`StateFileError` itself works like any exception, with a text, facts, or neither."""
    assert str(StateFileError()) == ""
    assert str(StateFileError("text")) == "text"
    assert vars(StateFileError("text", fact=1)) == {"fact": 1}
