"""What a record is: a model whose JSON keys are camelCase and which forgets nothing; `_codec` reads and writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from statefile.errors import StaleStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Record(BaseModel):
    """A model whose JSON keys are camelCase, and which keeps the keys that it does not know."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        serialize_by_alias=True,
        extra="allow",
        ser_json_inf_nan="constants",
        defer_build=True,  # a command uses one or two of the models: the others need not be built when it starts
    )


class Revisioned(Record):
    """A record that counts its saves, so that one which was not made from what the file says is noticed.

    Attributes:
        revision: grows by one with each save. Order comes from it, never from a clock.
    """

    revision: int = Field(default=0, strict=True, ge=0)

    def mark(self) -> dict[str, Any]:
        """The keys of the file, and their values, by which `check_follows` knows it again."""
        return {"revision": self.revision}

    def check_follows(self, found: Mapping[str, Any] | None, path: str) -> None:
        """Raise if this record must not replace what was `found` at `path`, nothing or a JSON object.

        Raises:
            StaleStateError: the file is at another revision.
        """
        revision = self.revision if found is None else found.get("revision", 0)
        if revision != self.revision and type(revision) is int:  # else it is no record of ours
            raise StaleStateError(path=path, revision=self.revision, found=revision)

    @classmethod
    def check_readable(cls, found: Mapping[str, Any], path: str) -> None:
        """Raise if the JSON object at `path` cannot be expected to be one of ours; a subclass may know a reason."""


class Opaque:
    """Marks a field that is written past pydantic: as the JSON object that it is, or as the JSON that `plain` makes of it."""

    def __init__(self, plain: Callable[[Any], Any] | None = None) -> None:
        self.plain = plain


JSONObject = Annotated[dict[str, Any], Opaque()]
"""An opaque JSON object in a model: kept whole, never interpreted."""
