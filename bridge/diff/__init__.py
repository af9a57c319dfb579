"""Two compiled modules, engines or ONNX models side by side: structure, precision, memory and time."""

from bridge.diff.matching import LayerDiff
from bridge.diff.report import DiffReport, FactDiff, diff
from bridge.diff.sides import Layer, Side

__all__ = ["DiffReport", "FactDiff", "Layer", "LayerDiff", "Side", "diff"]
