"""One step of a debugged run: what ran, on what, and how far the other side is from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from bridge.compare.figures import Figures
from bridge.frontend.provenance import Origin


@dataclass(frozen=True)
class DebugStep:
    """An operator that PyTorch has run, or an engine.

    Attributes:
        number: which step of the run, from 0.
        origin: operator, module path and type, and the user's source line.
        runs_in: ``"engine 0"``, or ``"PyTorch: "`` and why; ``"PyTorch"`` where nothing runs beside it.
        place: the branches and iterations that it ran in, outermost first.
        inputs, outputs: PyTorch's values by their names in the graph; tensors, numbers, lists.
        found: what the ONNX graph, or the engine, has in the place of the outputs, by the same names.
        figures: how far that is from PyTorch's; None where nothing could be compared.
        arriving: the largest relative error among what it reads there.
        differs: whether an error begins here: above the tolerance, and ten times what arrives.
        onnx_nodes: the ONNX nodes that stand for it.
        rules: rewrite rules that made them.
        stopped_by: why the run stopped here: ``"difference"``, or the breakpoint; empty where it went on.
    """

    number: int
    origin: Origin
    runs_in: str
    place: tuple[str, ...]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    found: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures | None = None
    arriving: float = 0.0
    differs: bool = False
    onnx_nodes: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    stopped_by: str = ""

    @property
    def operator(self) -> str:
        """``aten::softmax``."""
        return self.origin.operator

    def without_values(self) -> DebugStep:
        """The same, with shapes and dtypes in the place of tensors."""
        told = [{name: described(value) for name, value in side.items()} for side in (self.inputs, self.outputs)]
        return replace(self, inputs=told[0], outputs=told[1], found={})

    def __str__(self) -> str:
        shown = ", ".join(described(value) for value in self.inputs.values())
        made = ", ".join(described(value) for value in self.outputs.values())
        parts = [f"{self.number:>5}", self.operator, self.origin.module_path, f"({shown}) -> {made}"]
        parts += [f"[{', '.join(self.place)}]"] if self.place else []
        parts += [f"error {self.figures.relative:.2g}"] if self.figures is not None else []
        parts += ["<-- differs"] if self.differs else []
        return "  ".join(filter(None, [*parts, self.runs_in, self.origin.source]))

    def describe(self) -> str:
        """The step and its values, in several lines."""
        lines = [str(self).strip()]
        for title, side in (("input", self.inputs), ("output", self.outputs), ("found", self.found)):
            lines += [f"  {title:<6} {name}: {summary(value)}" for name, value in side.items()]
        if self.figures is not None:
            shown = f"largest {self.figures.max_absolute:.3g}, relative {self.figures.relative:.3g}"
            lines.append(f"  error  {shown}; {self.arriving:.3g} arrives")
        lines += [f"  onnx   {name}" for name in self.onnx_nodes]
        lines += [f"  rule   {name}" for name in self.rules]
        return "\n".join(lines)


def described(value: Any) -> str:
    """A value in a word: ``4x8 float32`` for a tensor."""
    if isinstance(value, torch.Tensor | np.ndarray):
        shape = "x".join(map(str, value.shape)) or "scalar"
        return f"{shape} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, str):
        return value if len(value) <= 40 else f"{value[:37]}..."
    if isinstance(value, list | tuple):
        inside = ", ".join(map(described, value[:6])) + (", ..." if len(value) > 6 else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return repr(value) if isinstance(value, int | float | bool | None | complex) else type(value).__name__


def summary(value: Any) -> str:
    """`described`, with the range of a tensor's numbers."""
    if not isinstance(value, torch.Tensor | np.ndarray) or not math.prod(value.shape):
        return described(value)
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value, dtype=np.float64))
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    wide = tensor.detach().double()
    odd = int((~wide.isfinite()).sum())
    told = f"min {wide.min():.4g}, mean {wide.mean():.4g}, max {wide.max():.4g}"
    return f"{described(value)}, {told}" + (f", {odd} not finite" if odd else "")
