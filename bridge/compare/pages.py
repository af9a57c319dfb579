"""A comparison's report in text and as a page: verdict, outputs, the graph with its errors, layers, versions."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from bridge.compare import drawing
from bridge.report import terminal
from bridge.report.html import Html, Verdict, html, page, section, table, tag

if TYPE_CHECKING:
    from bridge.compare.figures import Figures
    from bridge.compare.histograms import Histogram
    from bridge.compare.layers import LayerRow
    from bridge.compare.outputs import OutputRow
    from bridge.compare.results import ComparisonReport

_FIGURES = ("max abs", "mean abs", "relative", "cosine", "SNR dB")
_OUTPUTS = ("inputs", "output", "dtype", "shape", *_FIGURES, "atol", "rtol", "verdict")
_SHARES = ("part in half precision alone", "nodes", "relative error of the result")
_SHOWN = 40
_BAR = 12
_FILTER = """
<p><label>Filter <input id="filter" type="search" size="30" placeholder="module, operator, rule, file"></label>
<label><input id="begins" type="checkbox"> only where an error begins</label></p>
<script>
const words = document.getElementById("filter"), begins = document.getElementById("begins");
function filterRows() {
  const wanted = words.value.toLowerCase();
  for (const row of document.querySelectorAll("#layers tbody tr")) {
    const isRight = !begins.checked || row.classList.contains("begins");
    row.hidden = !(isRight && row.textContent.toLowerCase().includes(wanted));
  }
}
words.addEventListener("input", filterRows); begins.addEventListener("input", filterRows);
</script>
"""
_STYLE = """
#layers { font-size: 13px; } #layers tr:target { outline: 2px solid var(--accent); }
#layers tr.begins td { font-weight: 600; } #layers td { padding: .15rem .5rem; }
#layers td:last-child, #layers th { white-space: nowrap; } #layers .wide { max-height: 46rem; overflow: auto; }
"""


def to_text(report: ComparisonReport) -> str:
    """For a terminal: all outputs, and the layers around the first that diverges."""
    parts: list[object] = [f"{report.reference}  against  {report.compiled}", report.verdict]
    parts += [f"note: {note}" for note in report.notes]
    parts.append(terminal.grid("Outputs", _OUTPUTS, [_output(row) for row in report.outputs]))
    if report.layers:
        shown = _around(report)
        title = f"Layers ({len(shown)} of {len(report.layers)}); bars from 1e-9 to 1"
        rows = [(_mark(row), _bar(row), *_layer(report, row)) for row in shown]
        parts.append(terminal.grid(title, ("", "error", *_headers(report)), rows))
    if report.bisection and report.bisection.shares:
        parts.append(terminal.grid("Half precision, part by part", _SHARES, _shares(report)))
    packages = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    parts.append("; ".join([*(f"{name}: {value}" for name, value in report.settings.items()), packages]))
    return terminal.to_text(*parts, width=200)


def _around(report: ComparisonReport) -> list[LayerRow]:
    """The rows around the first divergence, else those with the largest errors, in their order."""
    first = report.first_divergence
    if first is not None:
        start = max(0, first.order - 5)
        return report.layers[start : start + _SHOWN]
    largest = sorted(report.layers, key=lambda row: -row.figures.relative)[:_SHOWN]
    return sorted(largest, key=lambda row: row.order)


def to_html(report: ComparisonReport) -> str:
    """One page, which needs nothing else."""
    parts: list[object] = [Html(f"<style>{drawing.STYLE}{_STYLE}</style>")]
    parts += [tag("p", f"Note: {note}", css="warning") for note in report.notes]
    parts.append(section("Outputs", table(_OUTPUTS, [_output(row) for row in report.outputs])))
    if report.layers:
        parts += _pictures(report)
    if report.bisection and report.bisection.shares:
        parts.append(section("Half precision, part by part", table(_SHARES, _shares(report))))
    if report.layers:
        parts.append(section("Layers", Html(_FILTER), _table(report)))
    parts.append(section("Settings", table(("setting", "value"), list(report.settings.items()))))
    parts.append(section("Versions", table(("package", "version"), list(report.versions.items()))))
    kind: Verdict = "bad" if not report.passed else "warning" if report.first_divergence else "good"
    below = f"{report.reference} against {report.compiled}"
    return page("Comparison", report.verdict, *parts, kind=kind, subtitle=below)


def _pictures(report: ComparisonReport) -> list[Html]:
    plots = Html(tag("div", *(_plot(report, one) for one in report.histograms), css="plots"))
    found = [
        section("Error along the graph", drawing.curve(report.layers, report.stages)),
        section(f"The graph ({len(report.layers)} operators)", drawing.legend(), drawing.graph(report.layers)),
    ]
    told = tag("p", "Grey: the reference's values; line: the other's; below: elements by absolute error.", css="soft")
    return [*found, section("The largest errors", told, plots)] if report.histograms else found


def _plot(report: ComparisonReport, found: Histogram) -> Html:
    row = report.layers[found.order]
    bad = [f"{count} of the {side}'s values are not finite"
           for side, count in zip(("reference", "other"), found.not_finite, strict=True) if count]  # fmt: skip
    told = f"{row.order} {row.origin}: relative error {row.stages[found.stage].figures.relative:.3g}"
    caption = tag("figcaption", "; ".join([told, *bad, f"{found.exact} elements equal"]))
    return tag("figure", caption, drawing.histogram(found))


def _output(row: OutputRow) -> tuple[object, ...]:
    verdict = "passed" if row.passed else f"FAILED {row.reason}".strip()
    return (row.inputs, row.name, row.dtype, str(row.shape), *_figures(row.figures), row.atol, row.rtol, verdict)


def _figures(figures: Figures | None) -> tuple[object, ...]:
    if figures is None:
        return ("",) * len(_FIGURES)
    return figures.max_absolute, figures.mean_absolute, figures.relative, f"{figures.cosine:.6f}", f"{figures.snr:.1f}"


def _headers(report: ComparisonReport) -> tuple[str, ...]:
    return ("module", "operator", *report.stages, "arrives", "growth", "max abs", "SNR dB", "made by", "source")


def _layer(report: ComparisonReport, row: LayerRow) -> tuple[object, ...]:
    errors = [row.stages[name].figures.relative if name in row.stages else "" for name in report.stages]
    growth = f"{row.growth:.1f}x" if math.isfinite(row.growth) else "new"
    return (row.origin.module_path, row.origin.operator, *errors, row.arriving, growth, row.figures.max_absolute,
            f"{row.figures.snr:.0f}", ", ".join(row.rules), row.origin.source)  # fmt: skip


def _mark(row: LayerRow) -> str:
    return f"{row.order} <-- {row.guilty_stage}" if row.guilty else str(row.order)


def _bar(row: LayerRow) -> str:
    error = row.figures.relative
    level = 0.0 if not error > 0 else min(1.0, max(0.0, 1 + math.log10(min(error, 1.0)) / 9))
    return "#" * round(level * _BAR)


def _table(report: ComparisonReport) -> Html:
    """The layers, in the order of execution, every error on its colour; each row can be linked to."""
    headers = ("", *_headers(report))
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(_table_row(report, row) for row in report.layers)
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return Html(f'<div id="layers"><div class="wide">{whole}</div></div>')


def _table_row(report: ComparisonReport, row: LayerRow) -> str:
    css = ' class="begins"' if row.guilty else ""
    stages = [f"{drawing.colour(row.stages[name].figures.relative)}" if name in row.stages else ""
              for name in report.stages]  # fmt: skip
    colours = ["", "", "", *stages]
    cells = [_mark(row), *_layer(report, row)]
    colours += [""] * (len(cells) - len(colours))
    made = "".join(_cell(cell, colour) for cell, colour in zip(cells, colours, strict=True))
    return f'<tr id="row-{row.order}"{css}>{made}</tr>'


def _cell(value: object, colour: str) -> str:
    if isinstance(value, float):
        return f'<td class="number {colour}">{value:.3g}</td>'
    return f"<td>{html(value)}</td>"


def _shares(report: ComparisonReport) -> list[tuple[object, ...]]:
    assert report.bisection is not None
    return [(share.module_path, share.nodes, share.relative) for share in report.bisection.shares]
