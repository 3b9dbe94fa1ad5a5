"""What this runtime refuses that others may not."""

from __future__ import annotations

from statefile.errors import SpecError

__all__ = ["SpecError"]
