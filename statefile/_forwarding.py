"""Signals that are meant for a container and reach the process that waits for it: passed on, in the order in which they came.

The handler only notes the number, which is safe at any instruction; a thread asks the runtime. So the main thread, which waits,
may be inside anything when a signal comes, also inside the runtime.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from statefile import _log
from statefile.errors import StateFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from queue import SimpleQueue

OWN = frozenset({
    *(signal.SIGKILL, signal.SIGSTOP),  # nobody can catch these
    *(signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS),  # its faults
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF),  # its timers
    *(signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG),  # its children and its descriptors
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),  # its terminal
})  # fmt: skip
"""What concerns the waiting process itself; all others are forwarded unless the caller names his own."""


@contextlib.contextmanager
def forwarding(send: Callable[[int], None], signals: Iterable[int] | None, name: str) -> Generator[None]:
    """In the block `send` is called with the number of each signal that this process gets. See `Container.forward_signals`."""
    import queue  # noqa: PLC0415  # for attached runs only
    import threading  # noqa: PLC0415

    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals reach the main thread: call forward_signals() there")
    wanted = signal.valid_signals() - OWN if signals is None else {_catchable(number) for number in signals}
    came: SimpleQueue[int] = queue.SimpleQueue()
    thread = threading.Thread(target=_pass_on, args=(came, send, name), name=f"forward signals to {name}", daemon=True)
    before: dict[int, object] = {}
    thread.start()
    try:
        for number in wanted:
            # What this process was told to ignore (as by nohup) it ignores; what no Python code has set is nobody's to restore.
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                before[number] = signal.signal(number, lambda number, _frame: came.put(number))
        yield
    finally:
        try:
            _restore(before)
        finally:
            came.put(0)
            thread.join()


def _restore(before: dict[int, object]) -> None:
    """Put back all handlers, also if one of them is called meanwhile and raises, as for Ctrl-C: that is raised then."""
    interrupt: BaseException | None = None
    for _ in range(_TRIES * len(before)):
        if not before:
            break
        try:
            number, handler = next(iter(before.items()))
            signal.signal(number, handler)  # type: ignore[arg-type]
            del before[number]
        except BaseException as error:  # noqa: BLE001  # raised below
            interrupt = error
    if interrupt is not None:
        raise interrupt


_TRIES = 3


def _pass_on(came: SimpleQueue[int], send: Callable[[int], None], name: str) -> None:
    while number := came.get():
        try:
            send(number)
        except (StateFileError, OSError) as error:  # it has ended, or may not be signalled
            _log.info("%s: signal %d was not forwarded: %s", name, number, error)


def _catchable(number: int) -> int:
    if number not in signal.valid_signals() or number in {signal.SIGKILL, signal.SIGSTOP}:
        raise ValueError(f"signal {number!r} cannot be caught, so it cannot be forwarded")
    return number
