"""A comparison's report in text and as a page: verdict, outputs, the error along the graph, layers, versions."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from bridge.report import terminal
from bridge.report.html import Html, Verdict, page, section, table, tag

if TYPE_CHECKING:
    from bridge.compare.figures import Figures
    from bridge.compare.layers import LayerRow
    from bridge.compare.outputs import OutputRow
    from bridge.compare.results import ComparisonReport

_FIGURES = ("max abs", "mean abs", "relative", "cosine", "SNR dB")
_OUTPUTS = ("inputs", "output", "dtype", "shape", *_FIGURES, "atol", "rtol", "verdict")
_SHOWN = 40
_WIDTH, _HEIGHT, _MARGIN, _DECADES = 760, 180, 46, 9


def to_text(report: ComparisonReport) -> str:
    """For a terminal: all outputs, and the layers around the first that diverges."""
    parts: list[object] = [f"{report.reference}  against  {report.compiled}", report.verdict]
    parts.append(terminal.grid("Outputs", _OUTPUTS, [_output(row) for row in report.outputs]))
    if report.layers:
        shown = _around(report)
        title = f"Layers ({len(shown)} of {len(report.layers)})"
        parts.append(terminal.grid(title, _headers(report), [_layer(report, row) for row in shown]))
    return terminal.to_text(*parts, width=180)


def _around(report: ComparisonReport) -> list[LayerRow]:
    """The rows around the first divergence, else those with the largest errors, in their order."""
    first = report.first_divergence
    if first is not None:
        start = max(0, first.order - 5)
        return report.layers[start : start + _SHOWN]
    largest = sorted(report.layers, key=lambda row: -row.figures.relative)[:_SHOWN]
    return sorted(largest, key=lambda row: row.order)


def to_html(report: ComparisonReport) -> str:
    """One page."""
    parts: list[object] = [section("Outputs", table(_OUTPUTS, [_output(row) for row in report.outputs]))]
    if report.layers:
        rows = [[_marked(row, cell) for cell in _layer(report, row)] for row in report.layers]
        parts += [section("Error along the graph", _curve(report)), section("Layers", table(_headers(report), rows))]
    parts.append(section("Versions", table(("package", "version"), list(report.versions.items()))))
    kind: Verdict = "bad" if not report.passed else "warning" if report.first_divergence else "good"
    below = f"{report.reference} against {report.compiled}"
    return page("Comparison", report.verdict, *parts, kind=kind, subtitle=below)


def _output(row: OutputRow) -> tuple[object, ...]:
    verdict = "passed" if row.passed else f"FAILED {row.reason}".strip()
    return (row.inputs, row.name, row.dtype, str(row.shape), *_figures(row.figures), row.atol, row.rtol, verdict)


def _figures(figures: Figures | None) -> tuple[object, ...]:
    if figures is None:
        return ("",) * len(_FIGURES)
    return figures.max_absolute, figures.mean_absolute, figures.relative, f"{figures.cosine:.6f}", f"{figures.snr:.1f}"


def _headers(report: ComparisonReport) -> tuple[str, ...]:
    return ("", "module", "operator", *report.stages, "arrives", "growth", "max abs", "rewritten by", "source")


def _layer(report: ComparisonReport, row: LayerRow) -> tuple[object, ...]:
    errors = [row.stages[name].figures.relative if name in row.stages else "" for name in report.stages]
    mark = f"{row.order} <-- {row.guilty_stage}" if row.guilty else str(row.order)
    growth = f"{row.growth:.1f}x" if math.isfinite(row.growth) else "new"
    rules, origin = ", ".join(row.rules), row.origin
    return (mark, origin.module_path, origin.operator, *errors, row.arriving, growth,
            row.figures.max_absolute, rules, origin.source)  # fmt: skip


def _marked(row: LayerRow, cell: object) -> object:
    return tag("span", f"{cell:.4g}" if isinstance(cell, float) else cell, css="bad") if row.guilty else cell


def _curve(report: ComparisonReport) -> Html:
    """Relative error of each layer on a logarithmic scale, as bars; red where an error begins."""
    step = (_WIDTH - _MARGIN) / len(report.layers)
    parts = []
    for decade in range(0, _DECADES + 1, 3):
        y = _HEIGHT * decade / _DECADES + 8
        parts.append(f'<text x="{_MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">1e-{decade}</text>')
    for row in report.layers:
        height = max(_HEIGHT * _level(row.figures.relative), 1.0)
        colour = "bad" if row.guilty else "warning" if row.figures.relative > report.noise else "good"
        x, y = _MARGIN + row.order * step, _HEIGHT + 8 - height
        label = escape(f"{row.order} {row.origin}: {row.figures.relative:.3g}")
        place = f'x="{x:.2f}" y="{y:.1f}" width="{max(step * 0.9, 0.4):.2f}" height="{height:.1f}"'
        parts.append(f'<rect {place} style="fill: var(--{colour})"><title>{label}</title></rect>')
    return Html(f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 12}" role="img">{"".join(parts)}</svg>')


def _level(error: float) -> float:
    """From 0 at 1e-9 to 1 at 1 and above."""
    if not error > 0:
        return 0.0
    return min(1.0, max(0.0, 1 + math.log10(min(error, 1.0)) / _DECADES))
