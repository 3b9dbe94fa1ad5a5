"""Fuzzing guided by coverage: `python -m tests.fuzz [CORPUS] [-max_total_time=60]` for a minute, needs atheris.

All that an input must hold is in `tests.test_fuzz.one_input`. What libFuzzer finds it writes to `crash-…` (see its option
`-artifact_prefix`); `python -m tests.fuzz crash-…` tries that one again.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")  # has no types, and is an option

with atheris.instrument_imports(include=["statefile"]):
    from tests.test_fuzz import SEEDS, ground, one_input


def main() -> None:
    """Fuzz until libFuzzer has enough; real records are where it starts."""
    with tempfile.TemporaryDirectory() as corpus, ground() as place:
        for number, seed in enumerate(SEEDS):
            for kind in (b"\0", b"\1"):
                (Path(corpus) / f"{number}-{kind[0]}").write_bytes(kind + seed)
        (Path(corpus) / "name").write_bytes(b"\2c_sandbox:s.state")
        (Path(corpus) / "id").write_bytes(b"\3c1")
        given = sys.argv[1:]
        single = any(Path(argument).is_file() for argument in given)
        atheris.Setup([sys.argv[0], *given, *[corpus][: not single]], lambda data: one_input(place, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
