"""One verb on one container, by a process of its own: python one_verb.py ROOT ID create --bundle DIR

It prints the status that the container has afterwards, or the error by its name, and exits with 0 or 1. A shell, an
orchestrator or a cron job would run such a thing; nothing lives in memory from one to the next.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from statefile import Container, ProcessRuntime, StateFileError

if TYPE_CHECKING:
    from statefile import Created

VERBS = ("create", "start", "pause", "resume", "recover", "destroy")


def act(options: argparse.Namespace) -> str:
    """Do it, and return the status afterwards."""
    runtime = StallingRuntime(options.stall) if options.stall else ProcessRuntime()
    if options.verb == "create":
        spec = json.loads((options.bundle / "config.json").read_text())
        container = Container.new(
            options.root, options.id, spec=spec, bundle_dir=options.bundle, runtime=runtime, timeout=options.timeout
        )
    else:
        # Exact: whoever means `web` must not destroy `web-2` because `web` has just gone.
        container = Container.load(options.root, options.id, runtime=runtime, exact=True)
        getattr(container, options.verb)(timeout=options.timeout)
    return "destroyed" if options.verb == "destroy" else container.status


class StallingRuntime(ProcessRuntime):
    """For a demo: in the middle of an action it says so, and waits there to be killed."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def create(self, container: Container) -> Created:
        created = super().create(container)
        self.stall("created")  # the process exists, and the record does not know of it
        return created

    def pause(self, container: Container) -> None:
        for process in self.processes(container)[1:]:
            process.send_signal(signal.SIGSTOP)
        self.stall("half-paused")  # all are stopped but the first
        super().pause(container)
        self.stall("paused")  # all are stopped, and the record does not say so

    def stall(self, here: str) -> None:
        if here == self.where:
            print("stalled", flush=True)
            sys.stdin.read()  # ends when whoever was to kill this process has ended first


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One verb on one container.")
    parser.add_argument("root", type=Path, help="the root directory, where the state files are")
    parser.add_argument("id", help="the container")
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--bundle", type=Path, default=Path(), help="for create: the directory with the config.json")
    parser.add_argument("--timeout", type=float, help="how many seconds to wait for the lock, if not for good")
    parser.add_argument("--on-go", action="store_true", help="print `ready`, and begin when a line comes from stdin")
    parser.add_argument("--stall", choices=("created", "half-paused", "paused"), help="stop there, and wait to be killed")
    return parser.parse_args()


def main() -> int:
    options = parsed()
    if options.on_go:
        print("ready", flush=True)
        if not sys.stdin.readline():
            return 2
    try:
        print(act(options))
    except (StateFileError, ExceptionGroup, OSError, ValueError) as error:  # a group is what destroy() raises
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
