"""A profile for the terminal, as a page with a flame graph, and as a Chrome trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from bridge.report import page, seconds, table, to_text
from bridge.report.html import Html, section
from bridge.report.terminal import grid

if TYPE_CHECKING:
    from bridge.profiling.results import Part, ProfileReport

_SHOWN = 20
_ROW = 22  # pixels
_THINNEST = 0.0005  # of the whole; narrower than a pixel

_FLAME = """
.flame { position: relative; font: 12px/20px ui-monospace, monospace; }
.flame div { position: absolute; height: 21px; overflow: hidden; white-space: nowrap; padding: 0 3px; color: #1c2024;
  border-radius: 2px; border: 1px solid var(--paper); } .flame div:hover { filter: brightness(1.15); }
.flame .module { background: #f2b366; } .flame .layer { background: #8fb8e8; } .flame .torch { background: #b7c98b; }
"""


def text_of(report: ProfileReport) -> str:
    """The longest parts, and how the whole divides."""
    rows = [
        (seconds(part.ms / 1e3), _share(part.ms, report.ms), _title(part), part.type, ", ".join(part.sources))
        for part in report.parts[:_SHOWN]
    ]
    more = len(report.parts) - len(rows)
    lines = [_verdict(report), to_text(grid("", ("time", "share", "layer", "type", "source"), rows), width=160)]
    return "\n".join([*lines, *([f"and {more} shorter"] if more else [])])


def _verdict(report: ProfileReport) -> str:
    in_torch = sum(part.ms for part in report.in_torch)
    text = f"{seconds(report.call_ms / 1e3)} a call; layer by layer {seconds(report.ms / 1e3)}: "
    engines = f"{len(report.engines)} engine{'s' * (len(report.engines) != 1)}"
    text += f"{len(report.layers)} layers of {engines} {_share(report.ms - in_torch, report.ms)}"
    return text + (f", operators in PyTorch {_share(in_torch, report.ms)}" if report.in_torch else "")


def _share(ms: float, whole: float) -> str:
    return f"{100 * ms / whole:.1f} %" if whole else "0 %"


def _title(part: Part) -> str:
    """The user's words for a layer where they are known, else the backend's."""
    if not part.origins:
        return part.name
    return f"{part.module_path or 'main'}: {' + '.join(operator.removeprefix('aten::') for operator in part.operators)}"


def page_of(report: ProfileReport) -> str:
    """The whole page."""
    rows = [
        (part.ms, _share(part.ms, report.ms), _title(part), part.type, ", ".join(part.sources), part.name)
        for part in report.parts
    ]
    engines = ", ".join(dict.fromkeys(f"{engine.backend} {engine.version}" for engine in report.engines))
    return page(
        "Profile",
        _verdict(report),
        Html(f"<style>{_FLAME}</style>"),
        section("By module", _flame(report)),
        section("By layer", table(("ms", "share", "layer", "type", "source", "the backend's name"), rows)),
        subtitle=f"{engines}; means of {report.runs} calls, in which each layer waits for the one before it",
    )


@dataclass
class _Frame:
    """A box of the flame graph, with those that stand on it."""

    name: str
    ms: float = 0.0
    css: str = "module"
    told: str = ""
    inside: dict[str, _Frame] = field(default_factory=dict)

    def child(self, key: str, css: str = "module") -> _Frame:
        return self.inside.setdefault(key, _Frame(key, css=css))

    def depth(self) -> int:
        return 1 + max((frame.depth() for frame in self.inside.values()), default=0)


def _frames(report: ProfileReport) -> _Frame:
    root = _Frame("call")
    for part in report.parts:
        frame = root
        frame.ms += part.ms
        for name in part.module_path.split(".") if part.module_path else ():
            frame = frame.child(name)
            frame.ms += part.ms
        leaf = frame.child(_title(part) + part.name, "layer" if part.engine else "torch")
        leaf.name = " + ".join(part.operators) or part.name
        leaf.ms, leaf.told = leaf.ms + part.ms, "\n".join([part.name, part.type, *part.sources])
    return root


def _flame(report: ProfileReport) -> Html:
    root = _frames(report)
    boxes: list[str] = []
    _draw(root, 0.0, 0, root.ms or 1.0, boxes)
    return Html(f'<div class="flame" style="height:{root.depth() * _ROW}px">{"".join(boxes)}</div>')


def _draw(frame: _Frame, left: float, level: int, whole: float, boxes: list[str]) -> None:
    if frame.ms / whole < _THINNEST:
        return
    hover = escape(
        f"{frame.name}\n{seconds(frame.ms / 1e3)}, {_share(frame.ms, whole)}\n{frame.told}".strip(), quote=True
    )
    place = f"left:{100 * left / whole:.3f}%;width:{100 * frame.ms / whole:.3f}%;top:{level * _ROW}px"
    boxes.append(f'<div class="{frame.css}" style="{place}" title="{hover}">{escape(frame.name)}</div>')
    for inner in sorted(frame.inside.values(), key=lambda one: -one.ms):
        _draw(inner, left, level + 1, whole, boxes)
        left += inner.ms


def trace_of(report: ProfileReport) -> dict[str, Any]:
    """Trace Event Format: a row for PyTorch and one for each engine, times in microseconds."""
    known = {(part.engine, part.name): part for part in report.parts}
    rows = {engine.digest: index + 1 for index, engine in enumerate(report.engines)}
    events: list[dict[str, Any]] = [_named(0, "PyTorch")]
    events += [_named(rows[engine.digest], f"{engine.backend} {engine.digest[:8]}") for engine in report.engines]
    for span in report.spans:
        row = rows.get(span.name, 0) if span.layers is not None else 0
        name = f"engine {span.name[:8]}" if span.layers is not None else span.name
        events.append(_event(name, "engine" if row else "torch", row, span.start, span.ms, {"run": span.run}))
        for layer in span.layers or ():
            part = known[span.name, layer.name]
            told = {"layer": layer.name, "module": part.module_path, "source": ", ".join(part.sources)}
            events.append(_event(_title(part), layer.type or "layer", row, span.start + layer.start, layer.ms, told))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _named(row: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "thread_name", "pid": 0, "tid": row, "args": {"name": name}}


def _event(name: str, kind: str, row: int, start: float, ms: float, told: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": kind,
        "pid": 0,
        "tid": row,
        "ts": start * 1e3,
        "dur": ms * 1e3,
        "args": told,
    }
