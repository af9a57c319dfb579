"""HTML reports: one file each, without anything loaded from elsewhere, readable in light and dark and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

Verdict = Literal["good", "warning", "bad", "plain"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --paper: #ffffff; --panel: #f4f5f7; --line: #d9dce1;
  --good: #18794e; --warning: #a35200; --bad: #c62a2f; --accent: #0b68cb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a0a6b0; --paper: #15181c; --panel: #1f242a;
  --line: #343a42; --good: #4cc38a; --warning: #f1a10d; --bad: #ff6369; --accent: #6cb2f7; } }
* { box-sizing: border-box; }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.verdict { border-left: .4rem solid var(--soft); background: var(--panel); padding: .75rem 1rem; margin: 1rem 0; }
.verdict.good { border-color: var(--good); } .verdict.warning { border-color: var(--warning); }
.verdict.bad { border-color: var(--bad); }
.good { color: var(--good); } .warning { color: var(--warning); } .bad { color: var(--bad); }
.soft { color: var(--soft); }
.verdict.good, .verdict.warning, .verdict.bad { color: inherit; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { position: sticky; top: 0; background: var(--paper); color: var(--soft); font-weight: 600; }
td.number { text-align: right; white-space: nowrap; } code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: var(--panel); padding: .75rem; overflow-x: auto; } svg { max-width: 100%; height: auto; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } svg .bar { fill: var(--accent); }
@media print { body { margin: 0; max-width: none; } th { position: static; } }
"""


class Html(str):
    """Text that is HTML already. Everything else is escaped wherever it enters a page."""

    __slots__ = ()


def html(value: object) -> Html:
    """The value as HTML: escaped, unless it is `Html`."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def tag(name: str, *content: object, css: str = "") -> Html:
    """An element with escaped content."""
    attribute = f' class="{escape(css)}"' if css else ""
    return Html(f"<{name}{attribute}>{''.join(html(item) for item in content)}</{name}>")


def page(title: str, verdict: str, *parts: object, kind: Verdict = "plain", subtitle: str = "") -> str:
    """A whole page: title, the verdict first, then the parts.

    Args:
        title: the page's title.
        verdict: what the reader wants to know, in a sentence or two.
        parts: `Html`, or text that is escaped.
        kind: the verdict's colour.
        subtitle: when, with which versions.
    """
    body = "\n".join(html(part) for part in parts)
    below = tag("div", subtitle, css="soft") if subtitle else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"{tag('h1', title)}{below}\n{tag('div', verdict, css=f'verdict {kind}')}\n{body}\n</body>\n</html>\n"
    )


def section(title: str, *parts: object) -> Html:
    """A heading and what belongs under it."""
    return Html(tag("section", tag("h2", title), *parts))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table; numbers go to the right."""
    head = tag("tr", *(tag("th", header) for header in headers))
    body = (tag("tr", *(_cell(value) for value in row)) for row in rows)
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), css="wide")


def _cell(value: object) -> Html:
    if isinstance(value, float):
        return tag("td", f"{value:.4g}", css="number")
    return tag("td", f"{value:,}", css="number") if type(value) is int else tag("td", "" if value is None else value)


def chart(values: Sequence[tuple[str, float]], *, unit: str = "", width: int = 720) -> Html:
    """Horizontal bars, one per (label, value), longest first come as they are given."""
    most = max((value for _, value in values), default=0.0) or 1.0
    left, line = 260, 20
    bars = []
    for index, (label, value) in enumerate(values):
        y, length = index * line, max((width - left - 90) * value / most, 1.0)
        bars.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(label[-42:])}</text>')
        bars.append(f'<rect class="bar" x="{left}" y="{y + 3}" width="{length:.1f}" height="{line - 6}"/>')
        bars.append(f'<text x="{left + length + 6:.1f}" y="{y + 14}">{value:.4g} {escape(unit)}</text>')
    return Html(f'<svg viewBox="0 0 {width} {len(values) * line}" role="img">{"".join(bars)}</svg>')
