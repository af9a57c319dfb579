"""What a comparison found: as data, as text, as a page."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bridge.compare.bisecting import Bisection
from bridge.compare.histograms import Histogram
from bridge.compare.layers import LayerRow
from bridge.compare.outputs import OutputRow
from bridge.report.writing import write_report

STAGE_WORDS = {
    "exported": "in the exported ONNX, before rewriting and casting",
    "rewritten": "in the rewritten and typed ONNX",
    "reference": "in the rewritten ONNX under ONNX's reference evaluator",
    "engine": "in the engine",
    "compiled": "in what is compared itself",
    "half": "in PyTorch's own half precision",
}
_PACKAGES = ("torch", "onnx", "onnxruntime", "polygraphy", "tensorrt", "tensorrt-rtx", "numpy")


def versions() -> dict[str, str]:
    """Python's version, ours, and those of the packages that take part and are installed."""
    from bridge._about import __version__

    found = {"python": platform.python_version(), "bridge": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass
class ComparisonReport:
    """The result of `bridge.compare`; `str()` is the report in text.

    Attributes:
        outputs: one row per output and set of inputs.
        layers: one row per operator whose result could be matched, in the order of execution.
        noise: the relative error up to which layers of the last stage count as equal.
        notes: what could not be compared, and why.
        bisection: what was found where it was asked for.
        histograms: of the results with the largest errors.
        settings: what the comparison was told.
    """

    reference: str
    compiled: str
    outputs: list[OutputRow]
    layers: list[LayerRow] = field(default_factory=list)
    noise: float = 0.0
    notes: list[str] = field(default_factory=list)
    bisection: Bisection | None = None
    histograms: list[Histogram] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def passed(self) -> bool:
        """Whether every output is within its tolerances, for every set of inputs."""
        return all(row.passed for row in self.outputs)

    @property
    def first_divergence(self) -> LayerRow | None:
        """The first operator at which an error begins that does not come from before."""
        return next((row for row in self.layers if row.guilty), None)

    @property
    def stages(self) -> list[str]:
        """The names of the stages that were compared, in their order."""
        return [name for name in STAGE_WORDS if any(name in row.stages for row in self.layers)]

    @property
    def verdict(self) -> str:
        """What came out, in a sentence or two."""
        failed = [row for row in self.outputs if not row.passed]
        sets = len({row.inputs for row in self.outputs})
        counted = f"{len(self.outputs)} output{'s' * (len(self.outputs) != 1)}, {sets} set{'s' * (sets != 1)} of inputs"
        first = f"{len(failed)} of {counted}: {failure(failed[0])}." if failed else f"The outputs agree ({counted})."
        found = str(self.bisection) if self.bisection and (failed or self.first_divergence) else ""
        return " ".join(filter(None, [first, self._blame(), found]))

    def _blame(self) -> str:
        row = self.first_divergence
        if row is None:
            return self._nothing() if self.layers else ""
        stage = row.guilty_stage
        assert stage is not None
        found = row.stages[stage]
        told = f"The error begins at {row.origin}, {STAGE_WORDS[stage]}: "
        told += f"relative error {found.figures.relative:.3g}, where {found.arriving:.3g} arrives"
        if math.isinf(found.figures.max_absolute):
            told += "; one of the two is infinite or NaN where the other is not"
        if row.rules:
            told += f"; its ONNX nodes were made by {', '.join(row.rules)}"
        return f"{told}; {self._before(row, stage)}."

    def _nothing(self) -> str:
        if self.passed or "compiled" in self.stages:
            return "No layer diverges."
        return (
            "No layer diverges in what is made anew of the reference with these settings. What it was compared with "
            "was not looked into; it may have been made of another module or with other settings."
        )

    def _before(self, row: LayerRow, stage: str) -> str:
        """What the stages before say of the same operator."""
        before = [name for name in row.judged[: row.judged.index(stage)] if name in row.stages]
        if before:
            return f"it agrees {STAGE_WORDS[before[-1]]}"
        return "it is the first stage that was compared"

    def to_dict(self) -> dict[str, Any]:
        """The report as data that JSON can hold: what is not finite becomes text."""
        data: dict[str, Any] = _plain(
            {
                "passed": self.passed,
                "verdict": self.verdict,
                "reference": self.reference,
                "compiled": self.compiled,
                "outputs": [asdict(row) for row in self.outputs],
                "layers": [_layer(row) for row in self.layers],
                "first_divergence": self.first_divergence.order if self.first_divergence else None,
                "noise": self.noise,
                "notes": self.notes,
                "bisection": asdict(self.bisection) if self.bisection else None,
                "histograms": [asdict(one) for one in self.histograms],
                "settings": self.settings,
                "versions": self.versions,
            }
        )
        return data

    def save(self, path: str | Path) -> Path:
        """Writes the report: as JSON where the name ends in .json, else as one HTML page that needs nothing else."""
        from bridge.compare.pages import to_html

        return write_report(path, self.to_dict, lambda: to_html(self))

    def __str__(self) -> str:
        from bridge.compare.pages import to_text

        return to_text(self)


def failure(row: OutputRow) -> str:
    """Why an output failed."""
    if row.figures is None:
        return f"output {row.name!r}: {row.reason}"
    return f"output {row.name!r}: {row.reason} (relative error {row.figures.relative:.3g})"


def _layer(row: LayerRow) -> dict[str, Any]:
    stages = {name: {**asdict(stage), "growth": stage.growth} for name, stage in row.stages.items()}
    return {**asdict(row), "stages": stages, "guilty_stage": row.guilty_stage}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, Path):
        return str(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
