"""What every test gets: root-only tests skip visibly, hypothesis keeps no clock."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The per-test timeout catches what hangs; how long one example takes says more about the machine than about the code.
settings.register_profile("statefile", deadline=None)
settings.load_profile("statefile")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `root` for ordinary users."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
