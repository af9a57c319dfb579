"""What profiling found: as an object, as text, as a page and as a trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from bridge.errors import SpecError
from bridge.report.writing import write_text
from bridge.runtime.record import OriginRecord
from bridge.runtime.timing import Span


@dataclass(frozen=True)
class Engine:
    """An engine that ran: its plan's digest, its backend and that backend's version."""

    digest: str
    backend: str
    version: str


@dataclass(frozen=True)
class Part:
    """A layer of an engine, or an operator of PyTorch.

    Attributes:
        engine: digest of the engine; None for an operator of PyTorch.
        name: the backend's name for the layer, or the operator's.
        type: the backend's word for what it does.
        ms: milliseconds in a call, the mean over the runs, all its runs within a call together.
        origins: the user's operators in it; several where layers were fused, none where the backend does not tell.
    """

    engine: str | None
    name: str
    type: str
    ms: float
    origins: tuple[OriginRecord, ...] = ()

    @property
    def module_path(self) -> str:
        """The innermost module that all its origins are in; empty for the outermost."""
        paths = [origin.module_path.split(".") if origin.module_path else [] for origin in self.origins]
        shared: list[str] = []
        for names in zip(*paths, strict=False):
            if len(set(names)) > 1:
                break
            shared.append(names[0])
        return ".".join(shared)

    @property
    def sources(self) -> tuple[str, ...]:
        """The user's source lines, ``file.py:12 in forward``."""
        return tuple(dict.fromkeys(origin.source for origin in self.origins if origin.source))

    @property
    def operators(self) -> tuple[str, ...]:
        """The TorchScript operators in it."""
        return tuple(dict.fromkeys(origin.operator for origin in self.origins))


@dataclass(frozen=True)
class ProfileReport:
    """Where the time goes.

    Attributes:
        call_ms: milliseconds of a call without profiling, waited for: the median over the runs.
        runs: how many calls were timed.
        engines: in the order of their first run.
        parts: layers and operators, the longest first.
        spans: what ran when, run by run.
    """

    call_ms: float
    runs: int
    engines: Sequence[Engine]
    parts: Sequence[Part]
    spans: Sequence[Span] = field(repr=False)

    @property
    def layers(self) -> list[Part]:
        """The layers of engines, the longest first."""
        return [part for part in self.parts if part.engine is not None]

    @property
    def in_torch(self) -> list[Part]:
        """The operators that PyTorch ran, the longest first."""
        return [part for part in self.parts if part.engine is None]

    @property
    def ms(self) -> float:
        """Milliseconds of all parts of a call together, one after the other."""
        return sum(part.ms for part in self.parts)

    def modules(self) -> dict[str, float]:
        """Milliseconds in each module, all inside it included, by its path; "" is the outermost."""
        found: dict[str, float] = {"": 0.0}
        for part in self.parts:
            for end in _ancestors(part.module_path):
                found[end] = found.get(end, 0.0) + part.ms
        return found

    def to_dict(self) -> dict[str, Any]:
        """All but the single runs, JSON-able."""
        parts = [{**asdict(part), "module_path": part.module_path} for part in self.parts]
        engines = [asdict(engine) for engine in self.engines]
        return {
            "call_ms": self.call_ms,
            "runs": self.runs,
            "engines": engines,
            "parts": parts,
            "modules": self.modules(),
        }

    def to_trace(self) -> dict[str, Any]:
        """The runs as a Chrome trace, for chrome://tracing and https://ui.perfetto.dev (Trace Event Format)."""
        from bridge.profiling.pages import trace_of

        return trace_of(self)

    def to_html(self) -> str:
        """One page that stands alone: a flame graph by modules, and a table of the parts."""
        from bridge.profiling.pages import page_of

        return page_of(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the page (``.html``) or the trace (``.json``).

        Raises:
            SpecError: the name ends otherwise.
        """
        target = Path(fspath(path))
        if target.suffix == ".html":
            write_text(target, self.to_html())
        elif target.suffix == ".json":
            write_text(target, json.dumps(self.to_trace()))
        else:
            raise SpecError(f"save: {target.name}", hint="end it in .html for the page or .json for the trace")

    def __str__(self) -> str:
        from bridge.profiling.pages import text_of

        return text_of(self)


def _ancestors(path: str) -> list[str]:
    """The path and all around it: "a.b" -> ["", "a", "a.b"]."""
    names = path.split(".") if path else []
    return ["", *(".".join(names[: count + 1]) for count in range(len(names)))]
