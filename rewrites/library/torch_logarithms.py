"""Exponentials and logarithms where rounding shows: near one, and at whole powers."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, tensor
from rewrites.lowering import in_single_precision

_INF, _NAN = math.inf, math.nan
_SMALL = tensor(11, values=[1e-30, -1e-30, 1e-9, -1e-9, 1e-5, -1e-5, 1e-3, -1e-3, 0.3, -0.3, 0.0])
_LARGE = tensor(9, values=[-1.0, -2.0, 0.51, 0.99, 80.0, 1e30, _INF, -_INF, _NAN])
_POWERS = tensor(9, values=[1.0, 2.0, 32768.0, 2.0**-13, 1e3, 1e5, 1e-3, 0.3, 7.0])
_ENDS = tensor(5, values=[0.0, -1.0, _INF, -_INF, _NAN])
_INTEGERS = tensor("n", dtype="int64", low=0, high=9)
_TERMS = 8


def _float(x: Any) -> Any:
    import torch

    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


@lowering(
    "aten::log1p",
    examples=[
        example(self=_SMALL, _atol=0.0),
        example(self=_LARGE),
        example(self=("n", 3)),
        example(self=_INTEGERS),
        example(self=tensor(3, dtype="float16", values=[1e-3, -2e-3, 5.0]), _rtol=1e-3, _atol=0.0),
    ],
)
@in_single_precision
def log1p(x):
    """log1p -> Add Log Sub Div Where: what 1 + x rounds off is added, times the slope.

    Source: W. Kahan, in the HP-15C Advanced Functions Handbook; `torch.onnx` writes Log(1 + x), which loses a small x.
    """
    import torch

    x = _float(x)
    larger = 1 + x
    made = torch.log(larger)
    return torch.where(x.abs() < 1, made + (x - (larger - 1)) / larger, made)


@lowering(
    "aten::expm1",
    examples=[
        example(self=_SMALL, _atol=0.0),
        example(self=_LARGE),
        example(self=("n", 3)),
        example(self=_INTEGERS),
        example(self=tensor(3, dtype="float16", values=[1e-3, -2e-3, 5.0]), _rtol=1e-3, _atol=0.0),
    ],
)
@in_single_precision
def expm1(x):
    """expm1 -> Mul Add, Exp Sub Where: below a half its power series.

    `torch.onnx` writes Exp(x) - 1, which loses a small x.
    """
    import torch

    x = _float(x)
    series = x / math.factorial(_TERMS)
    for term in range(_TERMS - 1, 0, -1):
        series = x * (series + 1 / math.factorial(term))
    return torch.where(x.abs() < 0.5, series, torch.exp(x) - 1)


def _logarithm(x: Any, base: float) -> Any:
    """Of whole powers of the base exactly their exponents: what is rounded down is a whole number less otherwise."""
    import torch

    made = torch.log(x) * (1 / math.log(base))
    whole = torch.round(made)
    return torch.where(torch.pow(base, whole) == x, whole, made)


_LOGARITHMS = [example(self=_POWERS), example(self=_ENDS), example(self=("n", 3)), example(self=_INTEGERS)]


@lowering("aten::log2", examples=_LOGARITHMS)
@in_single_precision
def log2(x):
    """log2 -> Log Mul, Round Pow Equal Where: exact at powers of two, as in PyTorch."""
    return _logarithm(_float(x), 2.0)


@lowering("aten::log10", examples=_LOGARITHMS)
@in_single_precision
def log10(x):
    """log10 -> Log Mul, Round Pow Equal Where: exact at powers of ten, as in PyTorch."""
    return _logarithm(_float(x), 10.0)
