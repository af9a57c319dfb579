"""A diff's report in text and as a page: verdict, what differs in words and sizes, layers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridge.report import amount, terminal
from bridge.report.html import Html, Verdict, chart, page, section, table, tag

if TYPE_CHECKING:
    from bridge.diff.matching import LayerDiff
    from bridge.diff.report import DiffReport
    from bridge.diff.sides import Layer

_FACTS = ("", "a", "b")
_LAYERS = ("operators", "a", "b", "differs", "precision a", "precision b", "ms a", "ms b")
_SHOWN = 40
_BARS = 15


def to_text(report: DiffReport) -> str:
    """For a terminal: what differs, and the layers that do, or take longest to change."""
    parts: list[object] = [f"a  {report.a.label}", f"b  {report.b.label}", report.verdict]
    parts.append(terminal.grid("Sizes and times", _FACTS, _sizes(report)))
    for name in dict.fromkeys(fact.section for fact in report.facts):
        rows = [(fact.name, fact.a, fact.b) for fact in report.facts if fact.section == name]
        parts.append(terminal.grid(name, _FACTS, rows))
    shown = _interesting(report)
    if shown:
        parts.append(terminal.grid(_title(report, len(shown)), _LAYERS, [_row(row) for row in shown]))
    parts += [f"in PyTorch in {side} only: {told}" for side, told in _left(report)]
    return terminal.to_text(*parts, width=180)


def to_html(report: DiffReport) -> str:
    """One page."""
    parts: list[object] = [section("Sizes and times", table(_FACTS, _sizes(report)))]
    for name in dict.fromkeys(fact.section for fact in report.facts):
        rows = [(fact.name, fact.a, fact.b) for fact in report.facts if fact.section == name]
        parts.append(section(name, table(_FACTS, rows)))
    left = list(_left(report))
    if left:
        parts.append(section("Operators in PyTorch on one side only", table(("side", "operator"), left)))
    slower = [(_operators(row), b - a) for row in report.layers for a, b in [row.ms] if a is not None and b is not None]
    slower = sorted((item for item in slower if item[1] > 0), key=lambda item: -item[1])[:_BARS]
    if slower:
        parts.append(section("Slower in b, by milliseconds", chart(slower, unit="ms")))
    if report.layers:
        cells = [[_marked(row, cell) for cell in _row(row)] for row in report.layers]
        parts.append(section(_title(report, len(report.layers)), table(_LAYERS, cells)))
    kind: Verdict = "warning" if report.different else "good"
    return page("Diff", report.verdict, *parts, kind=kind, subtitle=f"{report.a.label} | {report.b.label}")


def _title(report: DiffReport, shown: int) -> str:
    name = report.layers_are
    return f"{name[0].upper()}{name[1:]} ({shown} of {len(report.layers)}, {len(report.changed_layers)} differ)"


def _sizes(report: DiffReport) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [("engines", str(report.a.engines), str(report.b.engines))]
    rows.append(("operators in PyTorch", str(len(report.a.in_torch)), str(len(report.b.in_torch))))
    for name in dict.fromkeys((*report.a.sizes, *report.b.sizes)):
        sizes = (report.a.sizes.get(name), report.b.sizes.get(name))
        rows.append((name, *("" if size is None else amount(size) for size in sizes)))
    if report.a.ms is not None or report.b.ms is not None:
        rows.append(("a call", *("" if side.ms is None else f"{side.ms:.4g} ms" for side in (report.a, report.b))))
    return rows


def _interesting(report: DiffReport) -> list[LayerDiff]:
    """What differs, else what changed most in time; the others are in the page and in the JSON."""
    changed = report.changed_layers

    def cost(row: LayerDiff) -> float:
        a, b = row.ms
        return abs((b or 0.0) - (a or 0.0))

    timed = sorted((row for row in report.layers if not row.changes and cost(row)), key=cost, reverse=True)
    return [*changed, *timed][:_SHOWN]


def _row(row: LayerDiff) -> tuple[object, ...]:
    a, b = row.ms
    times = ("" if a is None else a, "" if b is None else b)
    kinds = (_precision(row.a), _precision(row.b))
    return (_operators(row), _layers(row.a), _layers(row.b), ", ".join(row.changes), *kinds, *times)


def _operators(row: LayerDiff) -> str:
    return _few([f"{o.module_path}/{o.operator}".lstrip("/") for o in row.origins])


def _layers(layers: Sequence[Layer]) -> str:
    return _few([layer.kind or layer.name for layer in layers])


def _few(words: Sequence[str], most: int = 4) -> str:
    counted = [f"{words.count(word)} {word}" if words.count(word) > 1 else word for word in dict.fromkeys(words)]
    return ", ".join(counted[:most]) + (f" and {len(counted) - most} more" if len(counted) > most else "")


def _precision(layers: Sequence[Layer]) -> str:
    return ", ".join(sorted({layer.precision for layer in layers if layer.precision}))


def _left(report: DiffReport) -> list[tuple[str, str]]:
    return [(side, told) for side, items in zip(("a", "b"), report.left, strict=True) for told in items]


def _marked(row: LayerDiff, cell: object) -> object:
    if not row.changes or isinstance(cell, Html):
        return cell
    return tag("span", f"{cell:.4g}" if isinstance(cell, float) else cell, css="warning")
