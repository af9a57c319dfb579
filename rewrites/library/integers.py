"""Arithmetic of whole numbers that TensorRT does in floating point."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

_WIDE, _HUGE = {"dtype": "int64", "low": -99, "high": 99}, [-(2**31), 2**40 + 3, -(2**50) - 1, 7, -1]
_LARGEST = 63


def _whole(value):
    return value.known_dtype in (np.int32, np.int64)


@rule(
    name="onnx/floored-mod-of-integers",
    matches="Mod",
    examples=[
        example(A=tensor(2, 3, **_WIDE), B=tensor(3, dtype="int64", low=1, high=9)),
        example(A=tensor("n", dtype="int32", low=-99, high=99), B=np.int32(-7)),
        example(A=tensor(5, dtype="int64", values=_HUGE), B=np.int64(1_000_003)),
        example(A=tensor(5, dtype="int64", values=_HUGE), B=tensor(5, dtype="int64", values=[3, -5, 9, -2, 4])),
    ],
)
class FlooredModOfIntegers:
    """Mod of integers with the divisor's sign -> Div Mul Sub, Where: exact where the divisor is added to the rest.

    Source: the parser rounds the quotient down in floating point (importMod in onnx-tensorrt, ElementWiseOperation
    FLOOR_DIV): on TensorRT 10.6 `remainder` and `floor_divide` of int64 were wrong beyond what a float holds.
    """

    def applies(A, fmod):
        return not fmod and _whole(A)

    def rewrite(op, A, B):
        rest = op.Sub(A, op.Mul(op.Div(A, B), B))
        zero = np.zeros((), A.dtype)
        other_side = op.And(op.Xor(op.Less(rest, zero), op.Less(B, zero)), op.Not(op.Equal(rest, zero)))
        return op.Where(other_side, op.Add(rest, B), rest)


@rule(
    name="onnx/power-of-integers",
    matches="Pow",
    opsets=(13, 10**6),
    examples=[
        example(X=tensor(2, 3, **_WIDE), Y=np.int64(2)),
        example(X=tensor("n", dtype="int32", low=-20, high=20), Y=np.int32(5)),
        example(X=tensor(3, dtype="int64", values=[2**31 - 1, -3, 0]), Y=np.int64(2)),
        example(X=tensor("n", **_WIDE), Y=np.array([0])),
        example(X=tensor("n", 3, **_WIDE), Y=tensor(3, dtype="int64", low=0, high=9)),
        example(X=tensor(4, dtype="int32", values=[-1, 1, 5, -1]), Y=tensor(4, dtype="int32", values=[-3, -2, 3, 62])),
    ],
    refuses=[example(X=tensor(3, dtype="int32", low=1, high=9), Y=np.float32(0.5), because="fraction")],
)
class PowerOfIntegers:
    """Pow of integers by a whole number -> Mul Mul, by squaring: exact, and wraps around as PyTorch does.

    Powers above 63, which are beyond 64 bits for all but 0, 1 and -1, are not told apart where they are no constant.
    Source: TensorRT's ElementWiseOperation POW, which is of floats; the square of an int64 was wrong on TensorRT 10.6.
    """

    def applies(X):
        return _whole(X)

    def check(Y):
        exponent = Y.constant
        integral = exponent is not None and exponent.size == 1 and float(exponent.item()).is_integer()
        require(_whole(Y) or integral, "the exponent may be a fraction")

    def rewrite(op, X, Y):
        exponent = Y.constant
        if exponent is not None and exponent.size == 1 and exponent.ndim <= 1 and 0 <= exponent.item() <= _LARGEST:
            return _power(op, X, int(exponent.item()))
        return _powers(op, X, op.Cast(Y, to=X.dtype))


def _power(op, x, exponent):
    result, square = None, x
    while exponent:
        if exponent % 2:
            result = square if result is None else op.Mul(result, square)
        exponent //= 2
        square = op.Mul(square, square) if exponent else square
    if result is None:
        return op.Add(op.Mul(x, np.zeros((), x.dtype)), np.ones((), x.dtype))
    return op.Identity(x) if result is x else result


def _powers(op, x, exponents):
    """By the bits of each exponent; negative ones leave 0 of all but 1 and -1."""
    zero, one, two = (np.array(number, x.dtype) for number in (0, 1, 2))
    left, square, result = op.Abs(exponents), x, None
    for _ in range(_LARGEST.bit_length()):
        half = op.Div(left, two)
        factor = op.Where(op.Equal(op.Sub(left, op.Mul(half, two)), one), square, one)
        result = factor if result is None else op.Mul(result, factor)
        left, square = half, op.Mul(square, square)
    lost = op.And(op.Less(exponents, zero), op.Not(op.Equal(op.Abs(x), one)))
    return op.Where(lost, zero, result)
