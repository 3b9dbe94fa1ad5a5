"""Forked processes that are told what to do through a pipe each, and none of which outlives its block."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

STUCK = 90.0
"""Seconds after which a process that says nothing is given up: longer than every deadline of a lock."""


@dataclass(frozen=True)
class Worker:
    """A process and the pipe to it."""

    process: ForkProcess
    pipe: Connection

    def tell(self, message: object = None) -> None:
        self.pipe.send(message)

    def hear(self, within: float = STUCK) -> Any:  # noqa: ANN401  # whatever it says
        """What it says next.

        Raises:
            TimeoutError: it said nothing in time.
            EOFError: it has ended.
        """
        if not self.pipe.poll(within):
            raise TimeoutError(f"process {self.process.pid} has said nothing for {within:.0f} s")
        return self.pipe.recv()

    def stop(self) -> None:
        """Stop it as Ctrl-Z does; on return it stands still."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        # Looking without reaping: how it ends is for `crew` to collect.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def crew(work: Callable[..., object], jobs: Sequence[tuple[Any, ...]]) -> Iterator[list[Worker]]:
    """A process for each of `jobs`, which calls `work(pipe, *job)`; at the end of the block every one is dead and reaped."""
    context = multiprocessing.get_context("fork")
    workers: list[Worker] = []
    try:
        for job in jobs:
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(work, there, job), daemon=True)
            workers.append(Worker(process, here))
            process.start()
            there.close()
        yield workers
    finally:
        for worker in workers:
            if worker.process.pid is not None:
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


def _work(work: Callable[..., object], pipe: Connection, job: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all; only the first process has something to say
    with contextlib.suppress(EOFError, BrokenPipeError):  # the first process has gone
        work(pipe, *job)


def sleep_until(moment: float) -> None:
    """Sleep until `time.monotonic()` says `moment`, which is the same for all processes."""
    time.sleep(max(0.0, moment - time.monotonic()))
