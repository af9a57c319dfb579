"""Pictures of a comparison, as SVG: the error along the graph, the graph with the error as colour, histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bridge.compare.histograms import Histogram
from bridge.compare.layers import LayerRow
from bridge.report.html import Html

STEPS = 8
"""Colours of error: the first to 1e-7, one more a decade, the last above 0.1; `EXTREME` is what is not finite."""
EXTREME = "x"
STYLE = """
:root { --e0: #e4f1ea; --e1: #cfe6c4; --e2: #f3efb0; --e3: #fbd77c; --e4: #f9b15a; --e5: #f0803f; --e6: #dd4a33;
  --e7: #a81d2d; --ex: #6b1fb1; }
@media (prefers-color-scheme: dark) { :root { --e0: #1d3a2e; --e1: #2f5233; --e2: #6a6a24; --e3: #8f6b1a; --e4: #b5691c;
  --e5: #c9522a; --e6: #dd3b3b; --e7: #ff5c7a; --ex: #b57bff; } }
.map { overflow: auto; max-height: 42rem; border: 1px solid var(--line); padding: .5rem; }
.map svg { max-width: none; } .map path { fill: none; stroke: var(--soft); stroke-opacity: .45; }
.map rect { stroke: var(--line); } .map rect.begins { stroke: var(--bad); stroke-width: 3; }
.map rect.e6 + text, .map rect.e7 + text, .map rect.ex + text { fill: #fff; }
.map rect.none { fill: var(--panel); } .map a { cursor: pointer; }
.line { fill: none; stroke-width: 1.6; } .axis { stroke: var(--line); }
.legend span { display: inline-block; padding: 0 .5rem; margin-right: 1px; font-size: 12px; }
.legend .e6, .legend .e7, .legend .ex, td.e7, td.ex { color: #fff; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
.plots figure { margin: 0; border: 1px solid var(--line); padding: .6rem; } .plots figcaption { font-size: 13px; }
.reference { fill: var(--soft); fill-opacity: .45; } .other { fill: none; stroke: var(--accent); stroke-width: 1.5; }
.error { fill: var(--warning); }
""" + "".join(
    f".e{i} {{ fill: var(--e{i}); }} td.e{i}, span.e{i} {{ background: var(--e{i}); }}\n" for i in (*range(STEPS), "x")
)
_WIDTH, _HEIGHT, _MARGIN, _DECADES = 1100, 200, 46, 9
_STAGE_COLOURS = ("good", "accent", "soft", "bad", "warning", "ink")


def colour(error: float) -> str:
    """The class of an error's colour."""
    if not math.isfinite(error):
        return f"e{EXTREME}"
    return f"e{max(0, min(STEPS - 1, math.floor(math.log10(error)) + STEPS)) if error > 0 else 0}"


def legend() -> Html:
    """The colours in a line."""
    words = ["below 1e-7", *(f"1e-{decade}" for decade in range(7, 0, -1)), "inf, NaN"]
    spans = (f'<span class="e{i}">{word}</span>' for i, word in zip((*range(STEPS), EXTREME), words, strict=True))
    return Html(f'<p class="legend">{"".join(spans)} pale: folded into another; framed: an error begins</p>')


def curve(rows: Sequence[LayerRow], stages: Sequence[str]) -> Html:
    """The relative error of each stage in the order of execution, on a logarithmic scale; marks where one begins."""
    step = (_WIDTH - _MARGIN) / max(len(rows), 1)
    parts = []
    for decade in range(0, _DECADES + 1, 3):
        y = _HEIGHT * decade / _DECADES + 8
        parts.append(f'<line class="axis" x1="{_MARGIN}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">1e-{decade}</text>')
    for index, name in enumerate(stages):
        points = [
            f"{_MARGIN + (row.order + 0.5) * step:.1f},{_y(row.stages[name].figures.relative):.1f}"
            for row in rows
            if name in row.stages
        ]
        shade = _STAGE_COLOURS[index % len(_STAGE_COLOURS)]
        place = f'x="{_MARGIN + 8 + 90 * index}" y="{_HEIGHT + 26}"'
        parts.append(f'<polyline class="line" style="stroke: var(--{shade})" points="{" ".join(points)}"/>')
        parts.append(f'<text {place} style="fill: var(--{shade})">{name}</text>')
    for row in rows:
        if row.guilty:
            x, y = _MARGIN + (row.order + 0.5) * step, _y(row.figures.relative)
            circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="e7"><title>{escape(_title(row))}</title></circle>'
            parts.append(f'<a href="#row-{row.order}">{circle}</a>')
    return Html(f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 34}" role="img">{"".join(parts)}</svg>')


def _y(error: float) -> float:
    """The height of an error: at the bottom for 1e-9 and below, at the top for 1 and above."""
    level = 0.0 if not error > 0 else min(1.0, max(0.0, 1 + math.log10(min(error, 1.0)) / _DECADES))
    return 8 + _HEIGHT * (1 - level)


@dataclass(frozen=True)
class _Cell:
    """How the nodes of a graph are drawn: as boxes with a label, or as small squares where there are many."""

    width: int
    height: int
    across: int
    down: int
    ranks: int
    labelled: bool


_BOXES, _SQUARES = _Cell(168, 20, 180, 30, 34, True), _Cell(11, 11, 15, 15, 44, False)
_MOST_BOXES = 300


def graph(rows: Sequence[LayerRow]) -> Html:
    """Every operator below what it reads, in columns from left to right, in the colour of its error, as a link."""
    cell = _BOXES if len(rows) <= _MOST_BOXES else _SQUARES
    places, width, height = _layout(rows, cell)
    edges = [_edge(places[source], places[row.order], cell) for row in rows for source in row.reads]
    boxes = [_box(row, *places[row.order], cell) for row in rows]
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return Html(f'<div class="map"><svg {size} role="img">{"".join(edges)}{"".join(boxes)}</svg></div>')


def _layout(rows: Sequence[LayerRow], cell: _Cell) -> tuple[list[tuple[int, int]], int, int]:
    """Where each node is, and the size of the whole: by the longest path to it, and beside what it reads."""
    ranks: list[int] = []
    lanes: list[int] = []
    taken: dict[int, set[int]] = {}
    for row in rows:
        rank = max((ranks[source] + 1 for source in row.reads), default=0)
        wanted = lanes[row.reads[0]] if row.reads else 0
        free = (lane for lane in sorted(range(wanted + len(taken.get(rank, ())) + 1), key=lambda x: abs(x - wanted)))
        lane = next(lane for lane in free if lane not in taken.get(rank, ()))
        taken.setdefault(rank, set()).add(lane)
        ranks.append(rank)
        lanes.append(lane)
    starts = _column_starts(ranks, lanes, cell)
    places = [
        (starts[rank // cell.ranks] + lane * cell.across, 8 + rank % cell.ranks * cell.down)
        for rank, lane in zip(ranks, lanes, strict=True)
    ]
    deepest = min(max(ranks, default=0) + 1, cell.ranks)
    return places, starts[-1], 16 + deepest * cell.down


def _column_starts(ranks: Sequence[int], lanes: Sequence[int], cell: _Cell) -> list[int]:
    """Where each column begins, and where the last ends."""
    widest: dict[int, int] = {}
    for rank, lane in zip(ranks, lanes, strict=True):
        widest[rank // cell.ranks] = max(widest.get(rank // cell.ranks, 0), lane + 1)
    starts = [8]
    for column in range(max(widest, default=0) + 1):
        starts.append(starts[-1] + widest.get(column, 1) * cell.across + 10)
    return starts


def _edge(source: tuple[int, int], target: tuple[int, int], cell: _Cell) -> str:
    x1, y1 = source[0] + cell.width // 2, source[1] + cell.height
    x2, y2 = target[0] + cell.width // 2, target[1]
    bend = cell.down // 2
    return f'<path d="M{x1} {y1}C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"/>'


def _box(row: LayerRow, x: int, y: int, cell: _Cell) -> str:
    shade = colour(row.figures.relative) if row.judged[-1] in row.stages else "none"
    css = f"{shade}{' begins' if row.guilty else ''}"
    rounded = f'<rect class="{css}" x="{x}" y="{y}" width="{cell.width}" height="{cell.height}" rx="3"/>'
    label = f'<text x="{x + 5}" y="{y + 14}">{escape(_label(row))}</text>' if cell.labelled else ""
    return f'<a href="#row-{row.order}"><title>{escape(_title(row))}</title>{rounded}{label}</a>'


def _label(row: LayerRow) -> str:
    """The end of the module's path, and the operator: `..0.conv1 conv2d`."""
    operator = row.origin.operator.rpartition("::")[2][:16]
    path, room = row.origin.module_path, 25 - len(operator)
    return f"{path if len(path) <= room else f'..{path[-(room - 2) :]}'} {operator}".strip()


def _title(row: LayerRow) -> str:
    errors = ", ".join(f"{name} {stage.figures.relative:.3g}" for name, stage in row.stages.items())
    return f"{row.order} {row.origin}: {errors}"


def histogram(found: Histogram) -> Html:
    """The reference's values as an area, the others' as a line; below it the errors by decade."""
    width, height, base = 320, 90, 150
    most = max(*found.reference, *found.other, 1)
    step = width / len(found.reference)
    area = "".join(
        f'<rect class="reference" x="{i * step:.1f}" y="{height * (1 - _root(n, most)):.1f}" width="{step:.1f}" '
        f'height="{height * _root(n, most):.1f}"/>'
        for i, n in enumerate(found.reference)
        if n
    )
    line = " ".join(f"{(i + 0.5) * step:.1f},{height * (1 - _root(n, most)):.1f}" for i, n in enumerate(found.other))
    ticks = f'<text x="0" y="{height + 13}">{found.low:.3g}</text>'
    ticks += f'<text x="{width}" y="{height + 13}" text-anchor="end">{found.high:.3g}</text>'
    return Html(
        f'<svg viewBox="0 0 {width} {base + 16}" role="img">{area}<polyline class="other" points="{line}"/>{ticks}'
        f"{_decades(found, width, height + 20, base)}</svg>"
    )


def _decades(found: Histogram, width: int, top: int, base: int) -> str:
    """How many elements err by how much."""
    most, step = max(*found.errors, 1), width / len(found.errors)
    parts = []
    for index, count in enumerate(found.errors):
        height = (base - top) * _root(count, most)
        parts.append(
            f'<rect class="error" x="{index * step + 1:.1f}" y="{base - height:.1f}" width="{step - 2:.1f}" '
            f'height="{height:.1f}"><title>{count} elements</title></rect>'
        )
        if index % 2 == 0:
            parts.append(f'<text x="{index * step:.1f}" y="{base + 12}">1e{found.first_decade + index}</text>')
    return "".join(parts)


def _root(count: int, most: int) -> float:
    """Heights by the square root: rare values stay to be seen."""
    return math.sqrt(count / most)
