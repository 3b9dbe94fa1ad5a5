"""A picture of who waited when: a strip for each lock, in it a row for each process, as an SVG for light and dark pages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Row = tuple["Sequence[tuple[float, float]]", "Sequence[float]"]
"""One process: its waits (since, until) and the moments at which it got the lock, in seconds."""

LONG, STARVED = 0.1, 1.0
"""Seconds from which a wait shows as long, and as starving."""

WIDTH = 960
LEFT, RIGHT = 24, 784  # of the time line
BARS, BARS_END = 804, 936  # of the bars that count
HEADER, HEADING, GAP, FOOTER = 104, 24, 16, 34
STRIP = 96  # pixels for the rows of one strip, where they are few enough to be seen

STYLE = """
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.title{font-size:19px;font-weight:600}.name{font-size:15px;font-weight:600}.end{text-anchor:end}.middle{text-anchor:middle}
.page{fill:#fff}.ink{fill:#1f2328}.dim{fill:#59636e}.track{fill:#e9edf1}.grid{stroke:#d1d9e0}
.got{stroke:#0969da}.count{fill:#0969da}.long{fill:#f4a63a}.starved{fill:#c5221f}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.ink{fill:#f0f6fc}.dim{fill:#9da7b1}.track{fill:#262d36}.grid{stroke:#3d444d}
.got{stroke:#58a6ff}.count{fill:#58a6ff}.long{fill:#c98314}.starved{fill:#f0524d}
}
"""


@dataclass(frozen=True)
class Strip:
    """One lock: its name, its figures in a line, and its rows."""

    title: str
    figures: str
    rows: Sequence[Row]


def draw(strips: Sequence[Strip], *, seconds: float, title: str, about: str) -> str:
    """The whole picture of `seconds` seconds."""
    pitch = [min(6.0, max(1.0, STRIP / len(strip.rows))) for strip in strips]
    heights = [step * len(strip.rows) for step, strip in zip(pitch, strips, strict=True)]
    height = HEADER + sum(HEADING + each + GAP for each in heights) + FOOTER
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{height:g}"',
        f'viewBox="0 0 {WIDTH} {height:g}">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height:g}" rx="8"/>',
        *header(title, about),
    ]
    top = float(HEADER)
    for strip, step, rows in zip(strips, pitch, heights, strict=True):
        parts += heading(strip, top + 15)
        parts += body(strip, top + HEADING, step, seconds)
        top += HEADING + rows + GAP
    parts += axis(seconds, top + 2)
    return "\n".join([*parts, "</svg>", ""])


def text(x: float, y: float, what: str, style: str) -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{escape(what)}</text>'


def header(title: str, about: str) -> Iterator[str]:
    yield text(LEFT, 36, title, "title ink")
    yield text(LEFT, 58, about, "dim")
    x = LEFT
    for style, what in (
        ("count", "takes the lock"),
        ("track", f"waits less than {LONG * 1e3:.0f} ms"),
        ("long", f"waits {LONG * 1e3:.0f} ms or longer"),
        ("starved", f"waits {STARVED:.0f} s or longer"),
    ):
        yield f'<rect class="{style}" x="{x}" y="72" width="14" height="10"/>'
        yield text(x + 20, 82, what, "ink")
        x += 46 + 7 * len(what)
    yield text(BARS, 82, "locks per process", "dim")


def heading(strip: Strip, y: float) -> Iterator[str]:
    counts = [len(got) for _, got in strip.rows]
    yield text(LEFT, y, strip.title, "name ink")
    yield text(RIGHT, y, strip.figures, "dim end")
    yield text(BARS, y, f"{min(counts):,} to {max(counts):,}", "dim")


def body(strip: Strip, top: float, pitch: float, seconds: float) -> Iterator[str]:
    """Below: a track for each process. On it: long waits. On top: a mark for each time that it got the lock."""
    thick = pitch * 5 / 6
    scale = (RIGHT - LEFT) / seconds
    tops = [top + pitch * number for number in range(len(strip.rows))]
    yield filled("track", ((LEFT, y, RIGHT - LEFT) for y in tops), thick)
    for style, least, most in (("long", LONG, STARVED), ("starved", STARVED, math.inf)):
        spans = (
            (LEFT + since * scale, y, (until - since) * scale)
            for y, (waits, _) in zip(tops, strip.rows, strict=True)
            for since, until in waits
            if least <= until - since < most
        )
        yield filled(style, spans, thick)
    marks = "".join(
        ticks(LEFT, y + thick / 2, [int(moment * scale) for moment in got])
        for y, (_, got) in zip(tops, strip.rows, strict=True)
    )
    yield f'<path class="got" stroke-width="{thick:.3g}" d="{marks}"/>'
    counts = [len(got) for _, got in strip.rows]
    bar = (BARS_END - BARS) / max(1, *counts)
    yield filled("count", ((BARS, y, count * bar) for y, count in zip(tops, counts, strict=True)), thick)


def filled(style: str, spans: Iterable[tuple[float, float, float]], thick: float) -> str:
    """Bars, each at (x, y) and so long, as one path."""
    bars = "".join(f"M{x:.5g} {y:.5g}h{length:.4g}v{thick:.3g}h-{length:.4g}z" for x, y, length in spans)
    return f'<path class="{style}" d="{bars}"/>'


def ticks(x: float, y: float, pixels: Sequence[int]) -> str:
    """A line with a dash wherever something is: neighbours become one dash, so that the file stays small."""
    where = sorted(set(pixels))
    if not where:
        return ""
    starts = [where[0], *(after for before, after in pairwise(where) if after > before + 1)]
    ends = [*(before for before, after in pairwise(where) if after > before + 1), where[-1]]
    moves = [f"M{x + starts[0]:g} {y:.5g}h{ends[0] - starts[0] + 1}"]
    moves += [f"m{start - end - 1} 0h{stop - start + 1}" for end, start, stop in zip(ends, starts[1:], ends[1:], strict=False)]
    return "".join(moves)


def axis(seconds: float, y: float) -> Iterator[str]:
    """Round moments of the time line, five or so."""
    step = next(
        step for power in range(-4, 8) for step in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if seconds / step <= 6
    )
    scale = (RIGHT - LEFT) / seconds
    for number in range(int(seconds / step + 1e-9) + 1):
        x = LEFT + number * step * scale
        yield f'<path class="grid" d="M{x:.5g} {y - 8:g}v6"/>'
        yield text(x, y + 12, f"{number * step:g} s", "dim middle")
