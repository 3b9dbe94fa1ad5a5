"""What the file says of a container: the typed record, and how it is loaded, refreshed and saved.

The record shares its keys with runsc's where the meaning is the same. Keys that this version does not know are kept, and so
is `saver` as the file spells it: its root directory is the path under which the writer saw it.
"""

from __future__ import annotations

import os
import re
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_core import core_schema

from statefile._ids import validate_id
from statefile._lifecycle import Action, Status
from statefile._process import ProcessRef
from statefile._record import JSONObject, Opaque, Record, Revisioned
from statefile._state_file import StateFile, place_of, save_own
from statefile.errors import StaleStateError, UnsupportedVersionError
from statefile.oci import OCI_VERSION, State, annotations_of
from statefile.runtime import ExitStatus, Sandbox  # noqa: TC001  # pydantic reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


SCHEMA_VERSION = 1
"""The version of the record that is written: the reader's business only when it grows."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII).fullmatch


def _check_timestamp(value: str) -> str:
    if value and not _RFC3339(value):
        raise ValueError("is no RFC 3339 time with a zone, such as 2024-01-02T03:04:05.123456789Z")
    return value


def _empty_for_null(value: object) -> object:
    return {} if value is None else value


E = TypeVar("E", bound=StrEnum)


class _KnownOr:
    """Reads a string as the member of its enumeration, where there is one, and writes it as a string.

    No enumeration's own way: pydantic would ask each member for its value, which is Python, and lose in there what comes out
    of a signal handler.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: object) -> core_schema.CoreSchema:  # noqa: ANN401  # a union
        """Of `E | str`."""
        words: dict[str, StrEnum] = {member.value: member for member in get_args(source)[0]}

        def known(word: str) -> str:
            return words.get(word, word)

        return core_schema.no_info_after_validator_function(known, core_schema.str_schema())


KnownOr = Annotated[E | str, _KnownOr()]
"""A word of ours, or one of a later version's, which is kept."""

Timestamp = Annotated[str, AfterValidator(_check_timestamp)]
"""An RFC 3339 time as text: every digit is kept, runsc's nanoseconds included. For people only: order is `revision`."""


def now() -> str:
    """The time in UTC with nanoseconds, as runsc writes it."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


class Pending(Record):
    """An action that was begun: found under the lock, it means that whoever began it has died.

    Attributes:
        action: what was begun.
        actor: the process that began it.
        since: when, for people to read.
    """

    action: KnownOr[Action]
    actor: ProcessRef
    since: Timestamp = ""


def _as_in_the_file(saver: StateFile) -> Any:  # noqa: ANN401  # a JSON object
    return place_of(saver).spelling or {"rootDir": str(saver.root_dir), "id": saver.id.to_json()}


class ContainerState(Revisioned):
    """The record of a container.

    Attributes:
        id: its ID; its sandbox's is in `saver.id`.
        spec: the OCI spec, opaque but for the few keys that are read.
        bundle_dir: the bundle that it was made from.
        created_at: when, for people to read; never changed, since it tells this container from the next one of its ID.
        owner: who made it.
        console_socket: a Unix socket that gets the terminal.
        status: what it was when last saved, or what a check of its process found since.
        sandbox: the sandbox that it runs in.
        init: its first process.
        helpers: processes that live and die with it, by name.
        exit_status: how its first process ended; `None` if it has not, or nobody knows.
        pending: an action that was begun.
        paused_from: while paused: what it was before.
        saver: its state file.
        schema_version: the version of this record.
        revision: grows by one with each save.
    """

    id: Annotated[str, AfterValidator(validate_id)]
    spec: Annotated[JSONObject, BeforeValidator(_empty_for_null)] = Field(default_factory=dict)
    bundle_dir: str = ""
    created_at: Timestamp = ""
    owner: str = ""
    console_socket: str = ""
    status: KnownOr[Status]
    sandbox: Sandbox | None = None
    init: ProcessRef | None = None
    helpers: Annotated[dict[str, ProcessRef], BeforeValidator(_empty_for_null)] = Field(default_factory=dict)
    exit_status: ExitStatus | None = None
    pending: Pending | None = None
    paused_from: KnownOr[Status] | None = None
    saver: Annotated[StateFile, Opaque(_as_in_the_file)] = Field(default=None, validate_default=True)  # made from what was read
    schema_version: int = Field(default=SCHEMA_VERSION, strict=True, ge=1)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401  # pydantic's signature
        """Refuse a configuration with which no verb could work.

        Raises:
            TypeError: the subclass is `frozen`, or validates assignments.
        """
        super().__pydantic_init_subclass__(**kwargs)
        for option in ("frozen", "validate_assignment"):
            if cls.model_config.get(option):
                raise TypeError(f"{cls.__name__}: a container changes with each verb, so {option}=True is not possible")

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of the spec."""
        return annotations_of(self.spec)

    @property
    def process(self) -> ProcessRef | None:
        """The process whose end is the container's: `init` or, in a record of runsc's, the sandbox's by its bare PID."""
        if self.init is not None:
            return self.init
        if self.sandbox is not None and self.sandbox.pid > 0:
            return ProcessRef(pid=self.sandbox.pid)
        return None

    def _oci_state(self, status: Status | str) -> State:
        """What `state` prints and a hook reads, in `status`."""
        process = self.process
        return State(
            oci_version=str(self.spec.get("ociVersion") or OCI_VERSION),
            id=self.id,
            status=str(status),
            pid=process.pid if process is not None and status is not Status.STOPPED else 0,
            bundle=self.bundle_dir,
            annotations=self.annotations,
        )

    def __repr_args__(self) -> Iterable[tuple[str, Any]]:
        """Short: a spec has hundreds of lines."""
        yield "id", str(self.saver.id)
        yield "status", str(self.status)
        yield "revision", self.revision
        if self.init is not None:
            yield "pid", self.init.pid

    # -- in and out ----------------------------------------------------------------------------------------------------

    @field_validator("saver", mode="plain")
    @classmethod
    def _saver_of_the_reader(cls, value: object, info: ValidationInfo) -> StateFile:
        """The state file that was read, under the root by which the caller knows it; what it says goes back to the file."""
        if isinstance(info.context, StateFile):
            place_of(info.context).spelling = value
            return info.context
        return value if isinstance(value, StateFile) else StateFile.model_validate(value)

    @field_serializer("saver")
    def _saver_as_in_the_file(self, saver: StateFile) -> Any:  # noqa: ANN401  # a JSON object
        """For `model_dump`; a save passes it by, since an exception out of a signal handler would be lost in here."""
        return _as_in_the_file(saver)

    def _reload(self) -> None:
        """Become what the file says now.

        Raises:
            NotFoundError, CorruptStateError, UnsafePathError, StateIOError: as for `StateFile.load`.
        """
        self._become(self.saver.load(type(self)))

    def _become(self, other: Self) -> None:
        vars(self).update(vars(other))
        object.__setattr__(self, "__pydantic_extra__", other.__pydantic_extra__)
        object.__setattr__(self, "__pydantic_fields_set__", other.__pydantic_fields_set__)

    def mark(self) -> dict[str, Any]:
        """What tells the file from one of another version, of another container of that ID, or of another revision."""
        return {"schemaVersion": self.schema_version, "createdAt": self.created_at, "revision": self.revision}

    def check_follows(self, found: Mapping[str, Any] | None, path: str) -> None:
        """Raise if this record must not replace what was `found` at `path`, nothing or a JSON object.

        Raises:
            UnsupportedVersionError: one of the two is of a newer major version.
            StaleStateError: the file is at another revision, or of another container, made under that ID since.
        """
        _check_version(self.schema_version, path)
        if found is not None:
            self.check_readable(found, path)
            created_at = found.get("createdAt", "")
            if created_at != self.created_at:
                since = f"it was made at {created_at}, the object to save at {self.created_at}"
                raise StaleStateError(path=path, revision=self.revision, found=found.get("revision", 0), reason=since)
        super().check_follows(found, path)

    @classmethod
    def check_readable(cls, found: Mapping[str, Any], path: str) -> None:
        """Raise `UnsupportedVersionError` if the JSON object at `path` says that it is of a newer major version."""
        _check_version(found.get("schemaVersion"), path)

    def _save_locked(self) -> None:
        """Save this object as the next revision; raises as `StateFile.save_locked`, file and revision then being as before."""
        save_own(self.saver, self)


def _check_version(version: object, path: str) -> None:
    if type(version) is int and version > SCHEMA_VERSION:
        raise UnsupportedVersionError(path=path, version=version, supported=SCHEMA_VERSION)


def user_name() -> str:
    """Who runs this process: the name or, where there is none, the number."""
    import pwd  # noqa: PLC0415  # reads the user database: for creations only

    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
