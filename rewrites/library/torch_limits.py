"""Elementwise operators at the ends of their ranges, where the exporter's formulas overflow or forget NaN."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.lowering import in_single_precision

_NAN, _INF = float("nan"), float("inf")
_ENDS = tensor(8, values=[_NAN, _INF, -_INF, 0.0, -0.0, -200.0, 0.3, 200.0])
_OTHERS = tensor(8, values=[1.0, 2.0, _INF, -0.0, 0.0, -201.0, -_INF, _NAN])


@lowering("aten::sign", examples=[example(self=_ENDS), example(self=("n", 3))])
def sign(x):
    """sign -> Greater Less Sub: NaN has the sign 0."""
    require(x.is_floating_point(), "whole numbers have a sign")
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@lowering("aten::sgn", examples=[example(self=_ENDS), example(self=("n", 3))])
def sgn(x):
    """sgn -> Greater Less Sub, as `sign`."""
    return sign.function(x)


@lowering(
    "aten::log_sigmoid",
    examples=[
        example(self=_ENDS),
        example(self=("n", 3)),
        example(self=tensor(4, dtype="float16", values=[2.5, 6.0, -6.0, 0.1]), _rtol=1e-3, _atol=0.0),
    ],
)
@in_single_precision
def log_sigmoid(x):
    """log_sigmoid -> Min Exp Log: the logarithm of a sigmoid that is rounded to zero would be infinite."""
    import torch

    return torch.where(x < 0, x, torch.zeros_like(x) * x.sign()) - torch.log1p(torch.exp(-x.abs()))


def _added_logs(a: Any, b: Any, scale: float) -> Any:
    import torch

    kind = torch.result_type(a, b)
    a, b = a.to(kind), b.to(kind)
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    made = high + torch.log1p(torch.exp((low - high) * scale)) / scale
    return torch.where((a == b) & torch.isinf(a), a, made)


@lowering("aten::logaddexp", examples=[example(self=_ENDS, other=_OTHERS), example(self=("n", 3), other=(3,))])
@in_single_precision
def logaddexp(a, b):
    """logaddexp -> Max Min Exp Log: the greater one is taken out, so that exponentials do not overflow."""
    return _added_logs(a, b, 1.0)


@lowering("aten::logaddexp2", examples=[example(self=_ENDS, other=_OTHERS), example(self=("n", 3), other=(3,))])
@in_single_precision
def logaddexp2(a, b):
    """logaddexp2 -> Max Min Exp Log, as `logaddexp`."""
    return _added_logs(a, b, math.log(2.0))
