"""What a dry run found, as text and as a page with the graph drawn."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from bridge.report.html import Html, Verdict, page, section, table
from bridge.report.terminal import amount, grid, to_text

if TYPE_CHECKING:
    from bridge.support import DryRun, PlannedSegment, PlannedTensor

_MOST_STEPS = 400
_MOST_OPERATORS = 6
_LINE, _WIDTH = 34, 640


def as_text(found: DryRun) -> str:
    """The report for a terminal."""
    parts: list[object] = [_verdict(found), f"decided by {found.checked_by}"]
    if found.segments:
        rows = [
            (i, _operators(s), _tensors(s.inputs), _tensors(s.outputs), amount(s.weights))
            for i, s in enumerate(found.segments)
        ]
        parts.append(grid("Engines", ("", "operators", "inputs", "outputs", "weights"), rows))
        parts += [f"engine {i} is in {s.block}" for i, s in enumerate(found.segments) if s.block != "graph"]
    if found.unsupported:
        parts += ["In PyTorch", *(f"{item}" for item in found.unsupported)]
    return to_text(*parts)


def to_html(found: DryRun) -> str:
    """The report as one HTML page that needs nothing else."""
    kind: Verdict = "good" if not found.unsupported else "warning" if found.segments else "bad"
    parts: list[object] = [section("Order", _drawing(found))] if found.steps else []
    if found.segments:
        parts.append(section("Engines", *(_segment(i, s) for i, s in enumerate(found.segments))))
    if found.unsupported:
        headers = ("operator", "module", "source line", "because", "what would change it", "schema")
        rows = [
            (_code(o.operator), o.module_path, o.source_line, o.reason, o.remedy, _code(o.schema))
            for o in found.unsupported
        ]
        parts.append(section("Operators that stay in PyTorch", table(headers, rows)))
    return page(
        f"{found.title}.{found.method}", _verdict(found), *parts, kind=kind, subtitle=f"decided by {found.checked_by}"
    )


def _verdict(found: DryRun) -> str:
    engines, left = len(found.segments), len(found.unsupported)
    count = f"{engines} engine{'' if engines == 1 else 's'}"
    if not left:
        return f"{found.title}.{found.method}: all {found.operators} operators in {count}"
    inside = f"{found.operators - left} of {found.operators} operators"
    return f"{found.title}.{found.method}: {inside} in {count}, {left} in PyTorch"


def _operators(segment: PlannedSegment) -> str:
    items = list(segment.operators.items())
    shown = [f"{count} {name}" if count > 1 else name for name, count in items[:_MOST_OPERATORS]]
    return ", ".join(shown) + (
        f" and {len(items) - _MOST_OPERATORS} other kinds" if len(items) > _MOST_OPERATORS else ""
    )


def _tensors(tensors: tuple[PlannedTensor, ...]) -> str:
    return "; ".join(f"{t.name}: {t.dtype} {_shape(t.shape)}" for t in tensors)


def _shape(shape: tuple[int | str, ...] | None) -> str:
    return "of any rank" if shape is None else "x".join(map(str, shape)) or "scalar"


def _code(text: str) -> Html:
    return Html(f"<code>{escape(text)}</code>")


def _segment(index: int, segment: PlannedSegment) -> Html:
    rows = [("input", t.name, t.dtype, _shape(t.shape), _range(segment, t.name)) for t in segment.inputs]
    rows += [("output", t.name, t.dtype, _shape(t.shape), "") for t in segment.outputs]
    rules = ", ".join(f"{name} x{count}" for name, count in segment.rewrites.items()) or "none"
    listed = "".join(f"<li><code>{escape(node)}</code></li>" for node in segment.nodes)
    where = "" if segment.block == "graph" else f" in {escape(segment.block)}"
    return Html(
        f'<h3 id="engine-{index}">Engine {index}{where}</h3>'
        f"<p>{escape(_operators(segment))}; {segment.onnx_nodes:,} ONNX nodes, "
        f"weights of {amount(segment.weights)}; rewrite rules: {escape(rules)}</p>"
        f"{table(('', 'name', 'dtype', 'shape', 'smallest / usual / largest'), rows)}"
        f"<details><summary>{len(segment.nodes):,} nodes</summary><ol>{listed}</ol></details>"
    )


def _range(segment: PlannedSegment, name: str) -> str:
    shapes = segment.ranges.get(name)
    return " / ".join(_shape(shape) for shape in shapes) if shapes and shapes[0] != shapes[2] else ""


def _drawing(found: DryRun) -> Html:
    """What runs after what, from the top: engines as coloured boxes, runs of PyTorch operators as plain ones."""
    boxes = _boxes(found)
    drawn = []
    for row, (label, link) in enumerate(boxes[:_MOST_STEPS]):
        y = row * _LINE
        fill = "var(--accent)" if link else "var(--panel)"
        ink = ' style="fill:#fff"' if link else ""
        box = (
            f'<rect x="1" y="{y + 1}" width="{_WIDTH - 2}" height="24" rx="4" style="fill:{fill};stroke:var(--line)"/>'
        )
        box += f'<text x="12" y="{y + 17}"{ink}>{escape(label)}</text>'
        drawn.append(f'<a href="{link}">{box}</a>' if link else box)
        if row + 1 < min(len(boxes), _MOST_STEPS):
            drawn.append(f'<path d="M{_WIDTH // 2} {y + 25} v8" style="stroke:var(--soft)"/>')
    more = f"<p>and {len(boxes) - _MOST_STEPS:,} more steps</p>" if len(boxes) > _MOST_STEPS else ""
    height = min(len(boxes), _MOST_STEPS) * _LINE
    return Html(f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">{"".join(drawn)}</svg>{more}')


def _boxes(found: DryRun) -> list[tuple[str, str]]:
    """(label, link) of each box; neighbouring PyTorch operators share one."""
    boxes: list[tuple[str, str]] = []
    run: list[str] = []
    for kind, what in [*found.steps, ("end", "")]:
        if kind == "PyTorch":
            run.append(str(what))
            continue
        if run:
            boxes.append((f"PyTorch: {_shortened(run)}", ""))
            run = []
        if kind == "engine":
            segment = found.segments[int(what)]
            boxes.append((f"engine {what}: {_clipped(_operators(segment), 80)}", f"#engine-{what}"))
    return boxes


def _shortened(names: list[str]) -> str:
    return _clipped(", ".join(dict.fromkeys(names)), 80) + (f" ({len(names)} nodes)" if len(names) > 1 else "")


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
