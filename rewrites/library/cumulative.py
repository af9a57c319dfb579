"""Running sums and products."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

LONGEST = 2**16


@rule(
    name="onnx/cumsum-runtime-axis",
    matches="CumSum",
    examples=[
        example(x=(2, 3), axis=tensor(dtype="int64", values=1)),
        example(x=("n", 3), axis=tensor(dtype="int32", values=-2), exclusive=1, reverse=1),
    ],
    refuses=[example(x=tensor(2, 3, dtype="float64"), axis=tensor(dtype="int64", values=1), because="64 bits")],
)
class CumSumRuntimeAxis:
    """CumSum along an axis only known at run time -> CumSum Where: along every axis, and the right one taken.

    Source: the parser's CumSum takes a constant axis.
    """

    def applies(axis):
        return axis.constant is None

    def check(x):
        require(x.dtype != np.float64, "floats of 64 bits have no counterpart in TensorRT")

    def rewrite(op, node, x, axis):
        front = op.Where(op.Less(axis, 0), op.Add(axis, x.rank), axis)
        made = op.CumSum(x, 0, **node.given)
        for i in range(1, x.rank):
            made = op.Where(op.Equal(front, i), op.CumSum(x, i, **node.given), made)
        return made


@rule(
    name="onnx/cumprod-to-mul",
    matches="CumProd",
    opsets=(20, 10**6),
    examples=[
        example(
            text='< ir_version: 10, opset_import: [ "" : 26 ] > g (float[2,5] x) => (float[2,5] y)'
            " { a = Constant<value_int=1>() y = CumProd(x, a) }",
            _builds=False,
        ),  # the parser reads opset 24
        example(
            text='< ir_version: 10, opset_import: [ "" : 26 ] > g (int32[6,n] x) => (int32[6,n] y)'
            " { a = Constant<value_int=-2>() y = CumProd<exclusive=1, reverse=1>(x, a) }",
            _builds=False,
        ),
    ],
    refuses=[
        example(
            text='< ir_version: 10, opset_import: [ "" : 26 ] > g (float[n] x) => (float[n] y)'
            " { a = Constant<value_int=0>() y = CumProd(x, a) }",
            because="length",
        ),
    ],
)
class CumProdToMul:
    """CumProd -> Pad Slice Mul: shifted by 1, 2, 4 ... places and multiplied, in as many steps as the length has bits.

    Source: ONNX operator specification, opset 26; neither exporter nor the parser has it.
    """

    def check(x, axis):
        lengths = x.shape if axis.constant is None else [x.shape[axis]]
        known = all(type(n) is int and n <= LONGEST for n in lengths)
        require(known, f"the length along the axis must be known, and at most {LONGEST}")

    def rewrite(op, x, axis, exclusive, reverse):
        if axis.constant is not None:
            return product(op, x, int(axis) % x.rank, exclusive, reverse)
        front = op.Where(op.Less(axis, 0), op.Add(axis, x.rank), axis)
        made = product(op, x, 0, exclusive, reverse)
        for i in range(1, x.rank):
            made = op.Where(op.Equal(front, i), product(op, x, i, exclusive, reverse), made)
        return made


def product(op, x, axis, exclusive, reverse):
    """The running product along one axis."""
    made, step = shifted(op, x, axis, 1, reverse) if exclusive else x, 1
    while step < x.shape[axis]:
        made, step = op.Mul(made, shifted(op, made, axis, step, reverse)), 2 * step
    return made


def shifted(op, x, axis, step, backwards):
    """Moved along the axis by some places, ones coming in."""
    pads = [0] * (2 * x.rank)
    pads[axis + (x.rank if backwards else 0)] = step
    padded = op.Pad(x, pads, np.array(1, x.dtype))
    start, length = (step if backwards else 0), x.shape[axis]
    return op.Slice(padded, [start], [start + length], [axis])
