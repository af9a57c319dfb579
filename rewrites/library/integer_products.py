"""Products of 8-bit integers with zero points: TensorRT's parser has no ConvInteger and no MatMulInteger."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

_EXACT = 2**24 // 255**2


@rule(
    name="onnx/conv-integer-to-float",
    matches="ConvInteger",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(x=tensor(1, 2, 5, 5, dtype="int8", low=-9), w=tensor(3, 2, 3, 3, dtype="int8", low=-9), pads=[1] * 4),
        example(
            x=tensor("n", 1, 5, dtype="uint8"), w=tensor(2, 1, 2, dtype="uint8"),
            x_zero_point=np.array(3, np.uint8), w_zero_point=np.array(2, np.uint8),
        ),
    ],
    refuses=[example(x=tensor(1, 99, 9, dtype="int8"), w=tensor(3, 99, 3, dtype="int8"), because="24 bits")],
)  # fmt: skip
class ConvIntegerToFloat:
    """ConvInteger -> Cast Sub Conv Cast: in 32-bit floats, which hold sums of that length exactly.

    Source: the ONNX specification of ConvInteger; onnx-tensorrt's list of operators.
    """

    def check(w):
        require(w.shape[1:].size <= _EXACT, "sums of more than 258 products do not fit the 24 bits of a float")

    def rewrite(op, node, x, w, x_zero_point, w_zero_point):
        shifted = shift(op, x, x_zero_point, 1)
        return op.Cast(op.Conv(shifted, shift(op, w, w_zero_point, w.rank), **node.given), to=np.int32)


@rule(
    name="onnx/matmul-integer-to-float",
    matches="MatMulInteger",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(A=tensor(4, 3, dtype="int8", low=-9), B=tensor(3, 2, dtype="int8", low=-9)),
        example(A=tensor("n", 4, 3, dtype="uint8"), B=tensor(3, 2, dtype="uint8"), a_zero_point=np.array(3, np.uint8)),
    ],
    refuses=[example(A=tensor(1, 500, dtype="int8"), B=tensor(500, 2, dtype="int8"), because="24 bits")],
)
class MatMulIntegerToFloat:
    """MatMulInteger -> Cast Sub MatMul Cast: in 32-bit floats, which hold sums of that length exactly.

    Source: the ONNX specification of MatMulInteger; onnx-tensorrt's list of operators.
    """

    def check(A):
        require(A.shape.is_static(-1) and A.shape[-1] <= _EXACT, "sums of more than 258 products need over 24 bits")

    def rewrite(op, A, B, a_zero_point, b_zero_point):
        rows = shift(op, A, a_zero_point, 2 if a_zero_point is not None and a_zero_point.rank == 1 else 1)
        return op.Cast(op.MatMul(rows, shift(op, B, b_zero_point, 1)), to=np.int32)


def shift(op, x, zero_point, rank):
    """The values less their zero point, as floats; a zero point for each row gets the trailing axes of `rank`."""
    wide = op.Cast(x, to=np.float32)
    if zero_point is None:
        return wide
    zero = op.Cast(zero_point, to=np.float32)
    if zero_point.rank == 1 and rank > 1:
        zero = op.Reshape(zero, [-1] + [1] * (rank - 1))
    return op.Sub(wide, zero)
