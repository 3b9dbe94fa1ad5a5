"""A runtime of one's own: the five methods that every runtime has, on little more than `os`, and a container driven by it.

Nothing is kept in memory: each method may run in another process, and whoever ran the one before may have been killed. What is
left out (`pause`, `processes`, `wait`, …) is an action that a container of this runtime refuses by name.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from statefile import Container, Created, InvalidTransitionError, ProcessRef, Status, UnsupportedActionError

if TYPE_CHECKING:
    from collections.abc import Iterator

STOP_FIRST = 'kill -STOP $$; exec "$@"'  # a shell that stops itself and, once continued, becomes the program


class ToyRuntime:
    def create(self, container: Container) -> Created:
        command = ["sh", "-c", STOP_FIRST, "sh", *container.spec["process"]["args"]]
        pid = os.posix_spawn("/bin/sh", command, {"TOY": mark_of(container)}, setsid=True)
        os.waitpid(pid, os.WUNTRACED)  # until it has stopped
        return Created(init=ProcessRef.of(pid))

    def start(self, container: Container) -> None:
        first_of(container).send_signal(signal.SIGCONT)  # a serious one would wait, and say why the program cannot be run

    def signal(self, container: Container, number: int, *, all: bool) -> None:
        for process in family_of(container) if all else [first_of(container)]:
            process.send_signal(number)

    def destroy(self, container: Container) -> None:
        while processes := list(family_of(container)):  # those of an interrupted `create` too, which no record names
            for process in processes:
                process.send_signal(signal.SIGKILL)
                process.wait(timeout=5)

    def probe(self, container: Container) -> Status | str:
        process = container.init
        if process is None or process.presence().value == "unknown":
            return container.status
        if process.presence().value == "gone":
            return Status.STOPPED
        return Status.CREATED if state_of(process.pid) == "T" else Status.RUNNING


def mark_of(container: Container) -> str:
    return str(container.saver.state_path)


def family_of(container: Container) -> Iterator[ProcessRef]:
    """The living processes with the container's mark in their environment, which children have from their parents."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            process = ProcessRef.of(int(pid))
            if f"TOY={mark_of(container)}\0".encode() in environment_of(int(pid)):
                yield process
        except OSError:  # it has just ended, or is none of ours
            continue


def environment_of(pid: int) -> bytes:
    while not (found := Path(f"/proc/{pid}/environ").read_bytes()) and state_of(pid) in "RD":
        pass  # at work and without an environment: it is in the middle of an `exec`
    return found


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "X"  # it has just ended


def first_of(container: Container) -> ProcessRef:
    assert container.init  # on record since `create` has returned it
    return container.init


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        toy = Container.new(root, "toy", spec={"process": {"args": ["sleep", "100"]}}, runtime=ToyRuntime())
        print(toy.status, "- its process exists, and waits")
        try:
            toy.start()
            print(toy.status, "- the program runs")
            for verb in (toy.start, toy.pause):
                try:
                    verb()
                except (InvalidTransitionError, UnsupportedActionError) as error:
                    print(f"  {type(error).__name__}: {error}")
            toy.signal(signal.SIGTERM)
            toy.wait(timeout=10)
            print(toy.status, "- without a `wait` of its own, the runtime cannot tell how:", toy.exit_status)
        finally:
            toy.destroy()
        print("left under the root:", os.listdir(root))


if __name__ == "__main__":
    main()
