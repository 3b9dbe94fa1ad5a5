"""A lock that somebody else has: another process, for real."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from statefile._atomic import make_root
from statefile._container_state import ContainerState
from statefile._process import ProcessRef
from statefile._state_file import StateFile
from statefile.testing import _lock_holder

if TYPE_CHECKING:
    from collections.abc import Generator


@contextlib.contextmanager
def held_lock(of: ContainerState | StateFile) -> Generator[ProcessRef]:
    """In the block another process holds the lock of a container, or of a state file; yields which process.

    Where there is no state file yet, it holds the lock as one who is about to make it. It can be killed in the block, as any
    process; otherwise it releases at the end of the block, and should this process die, then. Until then the lock is held, and
    nobody else was shut out before.

    Raises:
        TypeError: `of` is neither.
        RuntimeError: the lock was not free, or cannot be taken; what the other process said is in the message.
    """
    state_file = state_file_of(of)
    if not state_file.root_dir.exists():
        make_root(str(state_file.root_dir), durable=False)
    # -S: what it needs is on this process's path, and `site` takes long. -P: and not in its own directory.
    command = [sys.executable, "-S", "-P", _lock_holder.__file__, str(state_file.lock_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    with subprocess.Popen(  # noqa: S603  # this very interpreter
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as holder:
        if holder.stdout is None or holder.stderr is None or holder.stdout.readline() != "held\n":
            _, said = holder.communicate()
            raise RuntimeError(f"no other process can hold the lock of {state_file.id}: {said.strip()}")
        process = ProcessRef.of(holder.pid)
        try:
            yield process
        finally:
            holder.communicate("go\n")  # the end of the file would not come while a forked child has a copy of our end


def state_file_of(of: object) -> StateFile:
    """The state file of a container, or itself.

    Raises:
        TypeError: `of` is neither.
    """
    if isinstance(of, ContainerState):
        return of.saver
    if not isinstance(of, StateFile):
        raise TypeError(f"give a Container or a StateFile, not {of!r:.80}")
    return of
