"""Division that rounds, and what it leaves over."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.lowering import in_single_precision

_INF = float("inf")
_LEFT = tensor(9, values=[1.0, 0.3, -0.3, 0.7, -0.5, 5.0, 0.0, _INF, -7.0])
_RIGHT = tensor(9, values=[0.1, 0.1, 0.1, -0.1, -_INF, 0.0, -2.0, 3.0, 2.0])
_WHOLE = {"self": tensor(9, dtype="int64", values=[7, -7, 7, -7, 6, -6, 0, 2**40 + 1, -(2**40)])}
_BY_WHOLE = {**_WHOLE, "other": tensor(9, dtype="int64", values=[3, 3, -3, -3, 3, 3, -2, 2**20, 2**20])}
_QUOTIENTS = [
    example(self=_LEFT, other=_RIGHT),
    example(self=("n", 3), other=(3,)),
    example(self=("n",), other=-0.3),
    example(**_BY_WHOLE),
    example(**_WHOLE, other=-3),
]


def _typed(a: Any, b: Any) -> tuple[Any, Any]:
    """Both in the dtype of the result."""
    import torch

    kind = torch.result_type(a, b)
    return torch.as_tensor(a).to(kind), torch.as_tensor(b).to(kind)


def _floating(a: Any, b: Any) -> tuple[Any, Any]:
    """Both in the dtype of the result, which is to be floating."""
    a, b = _typed(a, b)
    require(a.is_floating_point(), "whole numbers are divided another way")
    return a, b


def _whole(a: Any, b: Any) -> tuple[Any, Any]:
    """Of whole numbers, the quotient rounded down and what is left over, with the sign of the divisor."""
    import torch

    quotient = torch.div(a, b, rounding_mode="trunc")
    rest = a - quotient * b
    other_side = (rest != 0) & ((b < 0) != (rest < 0))
    return torch.where(other_side, quotient - 1, quotient), torch.where(other_side, rest + b, rest)


def _rest(a: Any, b: Any) -> tuple[Any, Any]:
    """What is left over with the sign of `a`, and whether the divisor's sign is another."""
    import torch

    rest = torch.where(torch.isinf(b) & ~torch.isinf(a) & ~torch.isnan(a), a, torch.fmod(a, b))
    return rest, (rest != 0) & ((b < 0) != (rest < 0))


@lowering("aten::remainder", examples=_QUOTIENTS)
@in_single_precision
def remainder(a, b):
    """remainder -> Mod Add: exact, where a quotient would be rounded first; what is finite stays beside infinity."""
    import torch

    a, b = _typed(a, b)
    if not a.is_floating_point():
        return _whole(a, b)[1]
    rest, other_side = _rest(a, b)
    return torch.where(other_side, rest + b, rest)


def _floored(a: Any, b: Any) -> Any:
    import torch

    a, b = _floating(a, b)
    rest, other_side = _rest(a, b)
    quotient = (a - rest) / b - other_side.to(a.dtype)
    lower = torch.floor(quotient)
    return torch.where(b == 0, a / b, torch.where(quotient - lower > 0.5, lower + 1, lower))


@lowering("aten::floor_divide", examples=_QUOTIENTS)
@in_single_precision
def floor_divide(a, b):
    """floor_divide -> Mod Div Floor: the quotient of what the exact rest leaves, as 1 // 0.1 is 9.

    Source: div_floor_floating in PyTorch's c10/util/generic_math.h, after Python's float.__floordiv__.
    """
    a, b = _typed(a, b)
    return _floored(a, b) if a.is_floating_point() else _whole(a, b)[0]


@lowering(
    "aten::div",
    examples=[
        example(op_type="aten::div.Tensor_mode", self=_LEFT, other=_RIGHT, rounding_mode="floor"),
        example(op_type="aten::div.Tensor_mode", self=("n", 3), other=(3,), rounding_mode="floor"),
        example(op_type="aten::div.Scalar_mode", self=_LEFT, other=0.5, rounding_mode="trunc"),
        example(
            op_type="aten::div.Tensor_mode",
            self=tensor("n", 3, low=1e19, high=1e20),
            other=tensor(3, low=1.0, high=2.0),
            rounding_mode="trunc",
        ),
        example(op_type="aten::div.Tensor_mode", **_BY_WHOLE, rounding_mode="floor"),
        example(op_type="aten::div.Scalar_mode", **_WHOLE, other=-3, rounding_mode="trunc"),
    ],
)
@in_single_precision
def div(a, b, *, rounding_mode=None):
    """div that rounds -> Mod Div Floor as `floor_divide`, or Div Ceil Floor Where: the exporter goes through int64."""
    import torch

    if rounding_mode is not None and not torch.result_type(a, b).is_floating_point:
        a, b = _typed(a, b)
        return _whole(a, b)[0] if rounding_mode == "floor" else torch.div(a, b, rounding_mode="trunc")
    if rounding_mode == "floor":
        return _floored(a, b)
    a, b = _floating(a, b)
    ratio = a / b
    return torch.where(ratio < 0, torch.ceil(ratio), torch.floor(ratio)) if rounding_mode == "trunc" else ratio


_BY_NUMBER = {"self": tensor(6, dtype="int64", values=[-1, -9, 9, -8, 0, -(2**40)]), "other": 3}
_BY_TENSOR = {
    "self": tensor("n", 3, dtype="int32", low=-99, high=99),
    "other": tensor(3, dtype="int32", low=0, high=9),
}


@lowering(
    "aten::__rshift__",
    examples=[
        example(op_type="aten::__rshift__.Scalar", **_BY_NUMBER),
        example(op_type="aten::__rshift__.Tensor", **_BY_TENSOR),
    ],
)
def rshift(a, b):
    """Shift of integers to the right -> Div Sub Where: -1 - x turns every bit, so that the quotient is rounded down.

    Source: the exporter's (x + c) / 2^b - c, where c is whether x is negative, lost c for int64 on TensorRT 10.6.
    """
    return _shifted(a, b)


@lowering(
    "aten::bitwise_right_shift",
    examples=[
        example(op_type="aten::bitwise_right_shift.Tensor_Scalar", **_BY_NUMBER),
        example(op_type="aten::bitwise_right_shift.Tensor", **_BY_TENSOR),
    ],
)
def bitwise_right_shift(a, b):
    """bitwise_right_shift -> Div Sub Where, as __rshift__.

    Source: PyTorch's documentation: the shift is arithmetic.
    """
    return _shifted(a, b)


def _shifted(a: Any, b: Any) -> Any:
    import torch

    divisor = torch.ones_like(a) * 2**b if not isinstance(b, torch.Tensor) else torch.ones_like(a) << b
    down = -1 - torch.div(-1 - a, divisor, rounding_mode="trunc")
    return torch.where(a < 0, down, torch.div(a, divisor, rounding_mode="trunc"))
