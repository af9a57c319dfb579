"""Arithmetic that the exporter, or the arithmetic of C beneath it, takes otherwise at zeros, infinities and NaN."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, require, tensor

_EXTREMES = tensor(7, values=[math.inf, -math.inf, math.nan, 0.0, -0.0, 0.25, -2.0])
_TURNED = tensor(7, values=[-math.inf, -math.inf, 0.0, math.nan, 1.0, -math.inf, math.inf])


def is_negative(x: Any) -> Any:
    """Whether the sign is that of negative numbers, also of zeros, whose sign is that of their reciprocal."""
    return (x < 0) | ((x == 0) & (1 / x < 0))


@lowering(
    "aten::pow",
    examples=[
        example(op_type="aten::pow.Tensor_Scalar", self=_EXTREMES, exponent=0.5),
        example(op_type="aten::pow.Tensor_Scalar", self=("n", 3), exponent=-0.5),
    ],
    refuses=[
        example(op_type="aten::pow.Tensor_Scalar", self=(2, 3), exponent=3.0, because="roots"),
        example(op_type="aten::pow.Tensor_Tensor", self=(2, 3), exponent=(), because="roots"),
    ],
)
def pow_(x, exponent):
    """pow -> Sqrt, Reciprocal Sqrt: PyTorch takes roots, and that of -inf is NaN where a power of it is infinite."""
    import torch

    require(isinstance(exponent, float) and exponent in (0.5, -0.5), "only roots")
    return torch.sqrt(x) if exponent == 0.5 else torch.rsqrt(x)


@lowering(
    "aten::atan2",
    examples=[
        example(self=_EXTREMES, other=_TURNED),
        example(self=tensor(4, values=[0.0, 0.0, -0.0, -0.0]), other=tensor(4, values=[0.0, -0.0, 0.0, -0.0])),
        example(self=("n", 3), other=(3,)),
        example(self=tensor(3, dtype="int64", low=-3, high=3), other=tensor("n", 1, dtype="int64", low=-3, high=3)),
    ],
)
def atan2(y, x):
    """atan2 -> Div Atan Sub Neg Where: the angle of the absolute values, turned to the quadrant that the signs say.

    The exporter's own is NaN at the origin and between infinities.
    """
    import torch

    kind = torch.result_type(y, x)
    kind = kind if kind.is_floating_point else torch.get_default_dtype()
    y, x = y.to(kind), x.to(kind)
    high, wide = y.abs(), x.abs()
    ratio = torch.where(torch.isinf(high) & torch.isinf(wide), torch.ones((), dtype=kind), high / wide)
    angle = torch.atan(torch.where((high == 0) & (wide == 0), torch.zeros((), dtype=kind), ratio))
    angle = torch.where(is_negative(x), math.pi - angle, angle)
    return torch.where(is_negative(y), -angle, angle)


@lowering("aten::angle", examples=[example(self=_EXTREMES), example(self=("n", 3))])
def angle(x):
    """angle of real numbers -> Less Where: pi for negative ones; NaN stays."""
    import torch

    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    made = torch.where(x < 0, torch.full((), math.pi, dtype=x.dtype), torch.zeros((), dtype=x.dtype))
    return torch.where(torch.isnan(x), x, made)


@lowering(
    "aten::signbit", examples=[example(self=("n", 3)), example(self=tensor(4, values=[0.0, -0.0, -1.0, math.inf]))]
)
def signbit(x):
    """signbit -> Less Reciprocal Or: the sign of a zero is that of its reciprocal."""
    return is_negative(x) if x.is_floating_point() else x < 0


@lowering(
    "aten::xlogy",
    examples=[
        example(op_type="aten::xlogy.Tensor", self=_EXTREMES, other=_TURNED),
        example(op_type="aten::xlogy.Tensor", self=("n", 3), other=tensor(3, low=0.1, high=2.0)),
    ],
)
def xlogy(a, b):
    """xlogy -> Log Mul Where: nothing of any logarithm but that of NaN is nothing."""
    import torch

    a, b = torch.as_tensor(a), torch.as_tensor(b)
    kind = torch.result_type(a, b)
    kind = kind if kind.is_floating_point else torch.get_default_dtype()
    a, b = a.to(kind), b.to(kind)
    return torch.where((a == 0) & ~torch.isnan(b), torch.zeros((), dtype=kind), a * torch.log(b))


@lowering(
    "aten::logit",
    examples=[
        example(self=_EXTREMES, eps=0.1),
        example(self=tensor("n", 3, low=0.1, high=0.9)),
        example(self=(2, 3), eps=0.6),
    ],
)
def logit(x, eps=None):
    """logit -> Less Greater Where Div Log: bounds by comparisons, which leave NaN as it is, the lower one first."""
    import torch

    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    if eps is not None:
        low, high = (torch.full((), bound, dtype=x.dtype) for bound in (eps, 1 - eps))
        x = torch.where(x < low, low, torch.where(x > high, high, x))
    return torch.log(x / (1 - x))
