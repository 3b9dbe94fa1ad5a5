"""What this runtime refuses that others may not; alone in its file, so that importing the package stays cheap."""

from __future__ import annotations

from statefile.errors import StateFileError


class SpecError(StateFileError, ValueError):
    """The spec, or what else was handed over, cannot be run here; nothing was started or changed.

    Attributes:
        field: where, as a dotted path.
        reason: what is wrong with it.
    """

    field: str
    reason: str

    def __init__(self, *, field: str, reason: str) -> None:
        """Name the field and the reason."""
        super().__init__(f"{field} {reason}", field=field, reason=reason)
