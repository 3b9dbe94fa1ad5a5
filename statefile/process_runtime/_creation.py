"""Making a container's first process, and further ones beside it: whole, or nothing is left of it."""

from __future__ import annotations

import errno
import logging
import os
import signal
from typing import TYPE_CHECKING, NamedTuple

from statefile.errors import StateIOError
from statefile.process_runtime._directory import read_text
from statefile.process_runtime._family import leader_of, parse_ref
from statefile.process_runtime._launch import abandon, drain, launch, noted_on
from statefile.process_runtime._plan import plan_of
from statefile.process_runtime._sweep import sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statefile._container import Container
    from statefile._process import ProcessRef
    from statefile.process_runtime._directory import RunDirectory
    from statefile.process_runtime._launch import Launched


logger = logging.getLogger("statefile")


class Setting(NamedTuple):
    """What the runtime, not the container, says about new processes."""

    interpreter: str
    stdio: str


def create(setting: Setting, directory: RunDirectory, container: Container) -> Launched:
    """Make the directory and the first process, which waits to be started; on any exception nothing of them is left.

    Raises:
        SpecError: the spec cannot be run; nothing was touched.
        StateIOError: the system refuses.
        StillRunningError: what is there of an earlier container of that name does not end.
    """
    plan = plan_of(container.spec, container.bundle_dir)
    with directory.opened() as left:
        if left is not None:
            logger.warning("%s is left from a container whose record is lost: ending what runs of it", directory.path)
    sweep(directory, container)

    def undo(answer: int) -> None:
        sweep(directory, container)
        drain(answer)

    try:
        descriptor = directory.make()
        try:
            return launch(setting.interpreter, plan, descriptor, stdio=setting.stdio, title=container.id, undo=undo)
        finally:
            os.close(descriptor)
    except BaseException as error:
        with noted_on(error):
            sweep(directory, container)
        raise


def execute(setting: Setting, directory: RunDirectory, container: Container, args: Sequence[str]) -> ProcessRef:
    """Run another program with a monitor of its own; on any exception it does not run.

    Raises:
        SpecError: it cannot be run; nothing was touched.
        StateIOError: the system refuses.
    """
    plan = plan_of(container.spec, container.bundle_dir, args=args)
    with directory.opened() as descriptor:
        if descriptor is None:
            raise StateIOError(path=directory.path, operation="open", errno=errno.ENOENT)
        if container.init not in leader_of(descriptor):  # its name means another run by now
            raise StateIOError(path=directory.path, operation="execute in", errno=errno.ESRCH)

        def undo(answer: int) -> None:
            abandon(answer)  # whoever has not yet answered ends now; whoever has can be found
            for ref in parse_ref(read_text(descriptor, f"leader{plan['suffix']}") or ""):
                ref.send_signal(signal.SIGKILL)

        launched = launch(setting.interpreter, plan, descriptor, stdio=setting.stdio, title=container.id, undo=undo)
        return launched.leader
