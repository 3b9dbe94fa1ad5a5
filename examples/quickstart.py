"""Four processes want to start one container, and one of them does."""

import multiprocessing
import signal
import tempfile

from statefile import Container, InvalidTransitionError, ProcessRuntime, StateDir


def start(root: str) -> str:
    try:
        Container.load(root, "web", runtime=ProcessRuntime()).start()
    except InvalidTransitionError as error:
        return f"refused to {error.action}: it is {error.status}"
    return "started"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root, multiprocessing.Pool(4) as pool:
        web = Container.new(root, "web", spec={"process": {"args": ["/bin/sleep", "100"]}}, runtime=ProcessRuntime())
        print(*sorted(pool.map(start, [root] * 4)), sep="\n")
        web.signal(signal.SIGTERM)
        print(web.wait())
        web.delete()
        print("left:", StateDir(root).ids())
