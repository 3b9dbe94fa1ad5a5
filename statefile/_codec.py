"""Bytes to model and back, exactly: what cannot be read back the same is refused, never changed on the way.

JSON libraries bend values without a word: NaN becomes `null`, an integer beyond 64 bits a float, a document too deep to be
read back is written all the same. `encode` and `decode` notice each of these, and do it in C where nothing is wrong: the walk
in Python starts only to name the culprit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypeAlias, TypeVar, cast

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, SchemaSerializer
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from statefile._record import Opaque, Revisioned
from statefile._storable import MAX_DEPTH, UnstorableValue, check_storable, deeper_than
from statefile.errors import CorruptStateError, StateFileError, UnstorableStateError

MAX_BYTES = 64 * 2**20
"""The largest state that is read or written."""

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


# -- writing -----------------------------------------------------------------------------------------------------------


def encode(state: object, *, path: str) -> bytes:
    """Return `state` (a pydantic model, dataclass or mapping) as one JSON object that `decode` reads back the same.

    Raises:
        UnstorableStateError: JSON cannot hold it: NaN or an infinity, an integer beyond 64 bits, a lone surrogate, a key
            that is no string, a type without a JSON form, more than `MAX_DEPTH` levels, more than `MAX_BYTES`.
    """
    at_once = _ways.get(type(state)) or _way(type(state))
    data = at_once(state, path=path)
    if data is not None:
        return data
    try:
        data = _encode(state)
        if data[:1] != b"{":
            raise UnstorableValue("", f"is no JSON object but of type {type(state).__name__}")
        if len(data) > MAX_BYTES:
            raise UnstorableValue("", f"has {len(data)} bytes, more than {MAX_BYTES}")
    except UnstorableValue as unstorable:
        raise UnstorableStateError(path=path, field=unstorable.field, reason=unstorable.reason) from unstorable.__cause__
    return data


_Plain: TypeAlias = "Callable[[Any], Any]"
_Way: TypeAlias = "Callable[..., bytes | None]"
_ways: dict[type, _Way] = {}


def _way(type_: type) -> _Way:
    """How values of `type_` are written in one go: the way returns `None` where something must be looked at more closely."""
    opaque = _opaque_fields(type_) if issubclass(type_, BaseModel) else {}
    way: _Way = _look_closely
    if opaque:
        keys = [(name, b"," + key, plain) for name, (key, plain) in opaque.items()]
        to_json = cast("Any", _serializer(cast("Any", type_))).to_json
        way = functools.partial(_at_once, to_json=to_json, exclude={*opaque, *_computed_fields(type_)}, opaque=keys)
    _ways[type_] = way
    return way


def _look_closely(_state: object, *, path: str) -> None:  # noqa: ARG001  # as the other way
    return None


def _at_once(
    state: BaseModel,
    *,
    path: str,
    to_json: Callable[..., bytes],
    exclude: set[str],
    opaque: list[tuple[str, bytes, _Plain | None]],
) -> bytes | None:
    """Everything in C, in one function: what is called between costs as much as what is done."""
    try:
        data = to_json(state, by_alias=True, exclude=exclude, warnings="error")  # a field of another type than its own
        if b"NaN" in data or b"Infinity" in data or data == b"{}" or _MANY_DIGITS in data.translate(_DIGITS_TO_ZERO):
            return None
        parts = [data[:-1]]
        for name, key, plain in opaque:
            value = getattr(state, name) if plain is None else plain(getattr(state, name))
            value = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
            if value[:1] != b"{" or b"null" in value:  # no object; or a NaN
                return None
            parts += key, value
    except PydanticSerializationError as error:
        # An exception out of a signal handler, should it come within a serializer of an embedder's, is no more to be known
        # again here: told is that one failed, and it is not asked a second time.
        if "Error calling function" in str(error):
            raise UnstorableStateError(path=path, field="", reason=f"has no JSON form: {error}") from error
        return None
    except (TypeError, ValueError, RecursionError):
        return None  # orjson's errors are TypeErrors, pydantic's ValueErrors
    parts.append(b"}")
    data = b"".join(parts)
    return None if len(data) > MAX_BYTES or _may_be_deep(data, MAX_DEPTH) else data


def _encode(state: object) -> bytes:
    if not isinstance(state, BaseModel):
        return _dumps(_plain(state))
    opaque = _opaque_fields(type(state))
    if not opaque:
        return _dumps(_plain(state))
    data = _dumps(_plain(state, opaque))[:-1]
    parts = [data] if len(data) > 1 else []
    for name, (key, plain) in opaque.items():
        parts.append(key + _dumps(_opaque_value(state, name, plain), levels=1, at=name))
    return b"{" * (len(data) == 1) + b",".join(parts) + b"}"


def _opaque_value(state: BaseModel, name: str, plain: _Plain | None) -> Any:  # noqa: ANN401  # a JSON object
    value = getattr(state, name)
    if plain is not None:
        return plain(value)
    if not isinstance(value, dict | None):
        raise UnstorableValue(name, f"is no JSON object but of type {type(value).__name__}")
    return cast("Any", value)


def _plain(state: object, exclude: Collection[str] = ()) -> object:
    """A model or dataclass as the JSON values that it stands for, NaN kept as NaN; anything else as it is.

    Computed fields are no state: read back, they would stand beside what is computed then.
    """
    if not isinstance(state, BaseModel) and isinstance(state, Mapping):
        return dict(cast("Mapping[str, Any]", state))
    serializer = _serializer(cast("Any", type(state)))
    left_out: Any = {*exclude, *_computed_fields(type(state))} or None
    try:
        return serializer.to_python(state, mode="json", by_alias=True, exclude=left_out, warnings="error")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        _let_interrupts_through(error)
        raise UnstorableValue("", f"has no JSON form: {error}") from error


def _dumps(value: object, *, levels: int = 0, at: str = "") -> bytes:
    """`value` as JSON, proved to read back the same; it will stand `levels` deep, in the field `at`."""
    try:
        data = orjson.dumps(value, default=_foreign, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except orjson.JSONEncodeError as error:
        if isinstance(error.__cause__, UnstorableValue):
            raise error.__cause__ from None
        _let_interrupts_through(error)
        check_storable(value, levels, at)
        raise UnstorableValue(at, f"has no JSON form: {error.__cause__ or error}") from error
    # NaN and the infinities come out as null. Without a null there is none; with one, reading back tells.
    deep = _may_be_deep(data, MAX_DEPTH - levels) and deeper_than(orjson.loads(data), MAX_DEPTH - levels)
    if deep or (b"null" in data and orjson.loads(data) != value):
        check_storable(value, levels, at)
    if deep:  # within a model, where the walk does not go
        raise UnstorableValue(at, f"is nested deeper than {MAX_DEPTH} levels")
    return data


def _let_interrupts_through(error: BaseException) -> None:
    """Raise what an exception out of a signal handler was before a library took it for a failure of its own."""
    cause = error.__cause__
    while cause is not None:
        if not isinstance(cause, Exception):
            raise cause
        cause = cause.__cause__


def _foreign(value: object) -> object:
    """For orjson: the JSON values that stand for a model or another type within a mapping."""
    plain = _plain(value)
    check_storable(plain, 0, "")
    return plain


@functools.cache
def _serializer(type_: Any) -> SchemaSerializer:  # noqa: ANN401  # any class
    """The serializer of `type_` that keeps NaN: pydantic's own, by default, writes it as `null`."""
    if issubclass(type_, BaseModel):
        type_.model_rebuild()
        schema = type_.__pydantic_core_schema__
    elif dataclasses.is_dataclass(type_):
        schema = TypeAdapter(cast("Any", type_)).core_schema
    else:
        schema = cast("Any", {"type": "any"})
    return SchemaSerializer(schema, cast("Any", {"ser_json_inf_nan": "constants"}))


@functools.cache
def _opaque_fields(type_: type[BaseModel]) -> dict[str, tuple[bytes, _Plain | None]]:
    """The opaque fields of a model, each with its JSON key as it stands in the file, and what makes it plain."""
    return {
        name: (orjson.dumps(field.serialization_alias or name) + b":", mark.plain)
        for name, field in type_.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Opaque)
    }


def _computed_fields(type_: Any) -> Collection[str]:  # noqa: ANN401  # any class
    return type_.model_computed_fields if issubclass(type_, BaseModel) else ()


def prove_loadable(data: bytes, type_: type, *, path: str, context: object) -> None:
    """Read back what is to be saved.

    Raises:
        UnstorableStateError: it could not be loaded as a `type_` again.
    """
    try:
        decode(data, type_, path=path, context=context)
    except CorruptStateError as error:
        reason = f"could not be loaded again as a {type_.__name__}: {error.reason}"
        raise UnstorableStateError(path=path, field="", reason=reason) from error


def build(model: type[M], path: object, /, **fields: object) -> M:
    """Make a `model` for the state file at `path`.

    Raises:
        UnstorableStateError: a field has the wrong type.
    """
    try:
        return model(**fields)
    except ValidationError as error:
        raise UnstorableStateError(path=str(path), field="", reason=f"is invalid: {_first_error(error)}") from None


# -- reading -----------------------------------------------------------------------------------------------------------


def decode(data: bytes, type_: type[T], *, path: str, context: object = None) -> T:
    """Return the JSON object in `data` as a `type_`: a pydantic model, dataclass, `TypedDict` or `dict`.

    Validators see `context` as `info.context`.

    Raises:
        CorruptStateError: `data` is no such thing, or holds an integer beyond 64 bits, or is nested deeper than `MAX_DEPTH`.
    """
    if len(data) > MAX_BYTES:
        raise CorruptStateError(path=path, kind="too large", reason=f"it has more than {MAX_BYTES} bytes")
    try:
        parsed: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _corrupt(data, error, path) from error
    if type(parsed) is not dict:
        name = type(parsed).__name__
        raise CorruptStateError(path=path, kind="not an object", reason=f"a state is a JSON object, this is of type {name}")
    if _may_be_deep(data, MAX_DEPTH) and deeper_than(parsed, MAX_DEPTH):
        raise CorruptStateError(path=path, kind="too deep", reason=f"it is nested deeper than {MAX_DEPTH} levels")
    if _MANY_DIGITS in data.translate(_DIGITS_TO_ZERO):
        _check_integers(data, path)  # which recurses: never before the depth is known
    if type_ is dict:
        return cast("T", parsed)
    python, from_json = _validators_of.get(type_) or _validators(type_)
    state: T  # declared, where a `cast` would be a real call
    try:
        state = python(parsed, context=context)
    except ValidationError:
        pass
    else:
        return state
    try:
        # A strict model takes from JSON text what it refuses from Python values (a date from a string).
        return cast("T", from_json(data, context=context))
    except ValidationError as error:
        raise _refusal(error, type_, cast("dict[str, Any]", parsed), path) from None


_DIGITS_TO_ZERO = bytes(ord("0") if chr(i) in "0123456789" else i for i in range(256))
_MANY_DIGITS = b"0" * 19
"""2**63 has 19 digits: only a document with so many in a row can hold an integer that orjson reads as a float."""


def _check_integers(data: bytes, path: str) -> None:
    import json  # noqa: PLC0415  # only the rare document with a long run of digits gets here

    def check(digits: str) -> int:
        if len(digits) > _INTEGER_DIGITS or not -(2**63) <= int(digits) < 2**64:
            shown = digits if len(digits) <= _INTEGER_DIGITS else f"{digits[:_INTEGER_DIGITS]}…"
            raise CorruptStateError(
                path=path, kind="integer out of range", reason=f"{shown} does not fit in 64 bits, so it would be changed"
            )
        return 0

    json.loads(data, parse_int=check)


_INTEGER_DIGITS = 20


def _may_be_deep(data: bytes, limit: int) -> bool:
    """Whether it is worth looking: there are more brackets than levels allowed."""
    return len(data.translate(None, _ALL_BUT_OPENING)) > limit


_ALL_BUT_OPENING = bytes(i for i in range(256) if i not in b"{[")


def _corrupt(data: bytes, error: orjson.JSONDecodeError, path: str) -> CorruptStateError:
    """Say in an operator's words what `data` is."""
    if not data.strip():
        kind, reason = "empty", f"it has {len(data)} bytes, and none of them says anything"
    elif _NULS in data or not data.strip(b"\0"):
        kind, reason = "nul-filled", f"{data.count(0)} of its {len(data)} bytes are NUL, as after a power cut"
    elif (wrong := _decode_error(data)) is not None and wrong.reason == "unexpected end of data":
        kind, reason = "truncated", f"it ends in the middle of a character, after {len(data)} bytes"
    elif wrong is not None:
        kind, reason = "not utf-8", f"byte {wrong.start} is not UTF-8"
    elif "depth limit" in error.msg:
        kind, reason = "too deep", f"it is nested deeper than {MAX_DEPTH} levels"
    elif error.pos >= len(error.doc.rstrip()):
        kind, reason = "truncated", f"it ends in the middle, after {len(data)} bytes"
    else:
        kind, reason = "not json", f"{error.msg} (line {error.lineno}, column {error.colno})"
    return CorruptStateError(path=path, kind=kind, reason=reason)


_NULS = bytes(4)
"""So many in a row no text has, in whatever encoding."""


def _decode_error(data: bytes) -> UnicodeDecodeError | None:
    try:
        data.decode()
    except UnicodeDecodeError as wrong:
        return wrong
    return None


def _refusal(error: ValidationError, type_: Any, parsed: dict[str, Any], path: str) -> StateFileError:  # noqa: ANN401
    if isinstance(type_, type) and issubclass(type_, Revisioned):
        try:
            type_.check_readable(parsed, path)
        except StateFileError as later:
            return later
    return CorruptStateError(path=path, kind="invalid", reason=_first_error(error))


def _first_error(error: ValidationError) -> str:
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    where = ".".join(str(part) for part in first["loc"])
    others = f" (and {len(more)} more)" if more else ""
    return f"field {where!r}: {first['msg']}{others}" if where else f"{first['msg']}{others}"


def _readable_typed_dict(type_: Any) -> Any:  # noqa: ANN401  # a TypedDict is no type to a type checker
    """The same `TypedDict` in a form that pydantic can read: before Python 3.12 it refuses those of `typing`."""
    fields = get_type_hints(type_, include_extras=True)
    wrapped = {name: hint if name in type_.__required_keys__ else NotRequired[hint] for name, hint in fields.items()}
    return TypedDict(type_.__name__, wrapped)  # type: ignore[operator]


_validators_of: dict[Any, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def _validators(type_: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:  # noqa: ANN401  # a TypedDict is no type to a type checker
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        type_.model_rebuild()
        found: tuple[Callable[..., Any], Callable[..., Any]] = (
            type_.__pydantic_validator__.validate_python,
            type_.__pydantic_validator__.validate_json,
        )
    else:
        adapter = TypeAdapter[Any](cast("Any", _readable_typed_dict(type_) if is_typeddict(cast("Any", type_)) else type_))
        found = (adapter.validate_python, adapter.validate_json)
    _validators_of[type_] = found
    return found
