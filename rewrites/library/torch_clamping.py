"""Clamping and shrinking: infinity stays infinite, and NaN stays NaN."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, tensor

_EXTREMES = tensor(5, values=[math.inf, -math.inf, math.nan, 0.25, -2.0])


def _clamped(x: Any, low: Any, high: Any) -> Any:
    import torch

    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        for bound, nearest in ((low, torch.maximum), (high, torch.minimum)):
            if bound is not None:
                kind = torch.result_type(x, bound)
                x = nearest(x.to(kind), torch.as_tensor(bound).to(kind))
        return x
    if not x.is_floating_point():
        return torch.clamp(x, low, high)
    if low == 0 and high is None:
        return torch.relu(x)
    return torch.clamp(x, -math.inf if low is None else low, math.inf if high is None else high)


@lowering(
    "aten::clamp",
    examples=[
        example(self=_EXTREMES, min=0.0),
        example(self=_EXTREMES, max=0.5),
        example(self=("n", 3), min=-0.5, max=0.5),
        example(op_type="aten::clamp.Tensor", self=("n", 3), max=(3,)),
        example(self=tensor(2, 3, dtype="int64", low=-9, high=9), min=-3),
    ],
)
def clamp(x, min=None, max=None):
    """clamp -> Clip with both bounds, or Relu: where one is left out, ONNX's Clip takes the largest number for it.

    Source: ONNX specification, Clip: its bounds are those of the type, "numeric_limits::max()".
    """
    return _clamped(x, min, max)


@lowering(
    "aten::clamp_min",
    examples=[
        example(self=_EXTREMES, min=1e-3),
        example(op_type="aten::clamp_min.Tensor", self=("n", 3), min=(3,)),
        example(self=tensor("n", dtype="int32", low=-9, high=9), min=2),
    ],
)
def clamp_min(x, min):
    """clamp_min -> Clip with both bounds, or Max."""
    return _clamped(x, min, None)


@lowering(
    "aten::clamp_max",
    examples=[
        example(self=_EXTREMES, max=1e-3),
        example(op_type="aten::clamp_max.Tensor", self=("n", 3), max=(3,)),
        example(self=tensor("n", dtype="int32", low=-9, high=9), max=2),
    ],
)
def clamp_max(x, max):
    """clamp_max -> Clip with both bounds, or Min."""
    return _clamped(x, None, max)


@lowering("aten::hardshrink", examples=[example(self=_EXTREMES), example(self=("n", 3), lambd=1.0)])
def hardshrink(x, lambd=0.5):
    """hardshrink -> Abs LessOrEqual Where: what is near zero becomes zero; NaN is not near."""
    import torch

    return torch.where(x.abs() <= lambd, torch.zeros((), dtype=x.dtype), x)


@lowering("aten::softshrink", examples=[example(self=_EXTREMES), example(self=("n", 3), lambd=1.0)])
def softshrink(x, lambd=0.5):
    """softshrink -> Clip Sub: what is near zero is taken off; NaN is not near."""
    return x - x.clamp(-lambd, lambd)
