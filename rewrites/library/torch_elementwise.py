"""Elementwise operators that ONNX lacks."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, tensor
from rewrites.library.torch_arithmetic import is_negative
from rewrites.lowering import in_single_precision

_NAN, _INF = float("nan"), float("inf")
_LEFT = tensor(5, values=[1.0, _NAN, -2.0, _NAN, 0.0])
_RIGHT = tensor(5, values=[-1.0, 3.0, _NAN, _NAN, 0.5])


def _promoted(a: Any, b: Any) -> tuple[Any, Any]:
    import torch

    kind = torch.result_type(a, b)
    return a.to(kind), b.to(kind)


def _known(a: Any, b: Any, best: Any) -> Any:
    """The better one, or the one that is a number."""
    import torch

    a, b = _promoted(a, b)
    if not a.is_floating_point():
        return best(a, b)
    return torch.where(torch.isnan(a), b, torch.where(torch.isnan(b), a, best(a, b)))


@lowering("aten::fmax", examples=[example(self=_LEFT, other=_RIGHT), example(self=("n", 3), other=(3,))])
def fmax(a, b):
    """fmax -> Max Where: a number wins over NaN."""
    import torch

    return _known(a, b, torch.maximum)


@lowering("aten::fmin", examples=[example(self=_LEFT, other=_RIGHT), example(self=("n", 3), other=(3,))])
def fmin(a, b):
    """fmin -> Min Where: a number wins over NaN."""
    import torch

    return _known(a, b, torch.minimum)


@lowering(
    "aten::copysign.Tensor",
    examples=[
        example(self=("n", 3), other=(3,)),
        example(self=(4,), other=tensor(4, values=[0.0, -0.0, -1.0, float("inf")])),
    ],
)
def copysign(a, b):
    """copysign -> Abs Neg Where: the sign of a zero is that of its reciprocal."""
    import torch

    kind = torch.result_type(a, b)
    kind = kind if kind.is_floating_point else torch.get_default_dtype()
    a, b = a.to(kind), b.to(kind)
    return torch.where(is_negative(b), -a.abs(), a.abs())


@lowering(
    "aten::hypot",
    examples=[
        example(self=("n", 3), other=(3,)),
        example(self=tensor(2, values=[3e30, 0.0]), other=tensor(2, values=[4e30, 0.0])),
        example(self=tensor(3, values=[_INF, _NAN, 1.0]), other=tensor(3, values=[_NAN, -_INF, _NAN])),
    ],
)
def hypot(a, b):
    """hypot -> Div Sqrt Mul: the greater one is taken out, so that squares do not overflow.

    Infinite beside NaN, as in C99, F.10.4.3.
    """
    import torch

    a, b = (x.abs() for x in _promoted(a, b))
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    ratio = low / torch.where(high == 0, torch.ones_like(high), high)
    made = high * torch.sqrt(1 + ratio * ratio)
    return torch.where(torch.isinf(a), a, torch.where(torch.isinf(b), b, made))


@lowering(
    "aten::heaviside",
    examples=[example(self=tensor(4, values=[-1.0, 0.0, 2.0, _NAN]), values=(4,)), example(self=("n", 3), values=(3,))],
)
def heaviside(x, values):
    """heaviside -> Greater Where."""
    import torch

    made = torch.where(x == 0, values + torch.zeros_like(x), (x > 0).to(x.dtype))
    return torch.where(torch.isnan(x), torch.zeros_like(made), made) if x.is_floating_point() else made


@lowering(
    "aten::frexp.Tensor",
    examples=[example(self=("n", 3)), example(self=tensor(6, values=[1.0, 0.0, -8.0, 0.75, 1e-45, _INF]))],
)
def frexp(x):
    """frexp -> Log Floor Pow: the exponent by logarithm, then put right where that rounded.

    What is tiny is made larger first, and powers of two are applied in halves: subnormal ones may be taken for zero.
    """
    import torch

    given, tiny = x, x.abs() < 2.0**-100
    x = torch.where(tiny, x * 2.0**64, x)
    plain = ~((x == 0) | torch.isinf(x) | torch.isnan(x))
    exponent = torch.floor(torch.log(torch.where(plain, x.abs(), torch.ones_like(x))) / math.log(2.0)) + 1

    def fraction(exponent):
        half = torch.floor(exponent / 2)
        return x * torch.pow(2.0, -half) * torch.pow(2.0, half - exponent)

    size = fraction(exponent).abs()
    exponent = exponent + (size >= 1).to(x.dtype) - (size < 0.5).to(x.dtype)
    told = torch.where(plain, exponent - 64 * tiny.to(x.dtype), torch.zeros_like(x))
    return torch.where(plain, fraction(exponent), given), told.to(torch.int32)


@lowering(
    "aten::sinc",
    examples=[
        example(self=("n", 3)),
        example(self=tensor(6, values=[0.0, -0.0, 1e-20, 7.77, -30.25, _NAN])),
        example(self=tensor(4, dtype="float16", values=[0.0, 7.77, -29.75, 0.5]), _rtol=1e-3, _atol=1e-5),
        example(self=tensor("n", dtype="int64", low=-3, high=3)),
    ],
)
@in_single_precision
def sinc(x):
    """sinc -> Mul Sin Div Where: rounded once in sixteen bits, in which pi times x has no digits left for the sine."""
    import torch

    angle = math.pi * (x if x.is_floating_point() else x.to(torch.get_default_dtype()))
    zero = angle == 0
    return torch.where(
        zero, torch.ones_like(angle), torch.sin(angle) / torch.where(zero, torch.ones_like(angle), angle)
    )
