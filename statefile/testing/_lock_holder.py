"""The program that holds a lock for `held_lock`: run by its path, so that it loads little, and is there in no time.

Its argument is the lock file. It says `held` once it has the lock, keeps it until it is told a line, or its stdin ends, and
then releases, and removes the file if it has made it.
"""

from __future__ import annotations

import os
import sys

from statefile._claim import Claim


def hold(path: str) -> None:
    """Hold the lock of the file at `path`; ends the process."""
    claim = Claim(path, create=True)
    if not claim.try_lock():
        sys.exit(f"{path} is locked already")
    if not claim.is_current():
        sys.exit(f"{path} was removed meanwhile")
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.readline()
    claim.abandon()
    os._exit(0)  # what an interpreter does at its end takes as long as all the rest


if __name__ == "__main__":
    hold(sys.argv[1])
