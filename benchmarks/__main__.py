"""`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME` runs one, `--help` after the name says how."""

from __future__ import annotations

import sys

from benchmarks import contention, cycle, handover, imports, listing, plugin, uncontended

BENCHMARKS = {
    entry.name: entry
    for entry in (
        cycle.BENCHMARK,
        imports.BENCHMARK,
        uncontended.BENCHMARK,
        contention.BENCHMARK,
        handover.BENCHMARK,
        listing.BENCHMARK,
        plugin.BENCHMARK,
    )
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help"}:
        print("usage: python -m benchmarks NAME [--help | options]\n")
        for name, benchmark in BENCHMARKS.items():
            print(f"  {name:<12} {benchmark.summary}")
        return 0
    name, *rest = arguments
    if name not in BENCHMARKS:
        print(f"no benchmark is called {name!r}: choose from {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    try:
        BENCHMARKS[name].main(rest)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
