"""Quantized operators: TensorRT knows symmetric Q/DQ pairs; everything else is written out in floating point.

Products of 8-bit integers are sums below 2^24, exact in 32-bit floating point, for up to 256 terms; longer sums are
taken apart.
"""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

EXACT = 256
WRITTEN_OUT = (np.uint8, np.int8, np.uint16, np.int16)
U8, S8 = {"dtype": "uint8", "low": 0, "high": 256}, {"dtype": "int8", "low": -128, "high": 128}


def scale(value=0.05):
    return np.float32(value)


def along(op, vector, rank, axis):
    """A scale or zero point, ready to multiply with a tensor: a scalar as it is, a vector laid along the axis."""
    if vector.rank == 0 or (vector.shape.is_static() and vector.shape.size == 1):
        return op.Reshape(vector, np.zeros(0, np.int64)) if vector.rank else vector
    return op.Reshape(vector, [-1 if i == axis % rank else 1 for i in range(rank)]) if vector.rank == 1 else vector


def as_float(op, x, dtype=np.float32):
    """Converted; constants at once, since TensorRT takes 8-bit constants only in front of a DequantizeLinear."""
    return op.Cast(x, to=dtype) if x.constant is None else op.constant(x.constant.astype(dtype))


def centred(op, x, zero_point, axis=0):
    """x - zero point, as floats."""
    values = as_float(op, x)
    return values if zero_point is None else op.Sub(values, along(op, as_float(op, zero_point), x.rank, axis))


def symmetric(dtype, factor, zero_point):
    """Whether this is the quantization that TensorRT has itself: INT8, zero point 0, a constant scale."""
    zero = zero_point is None or (zero_point.constant is not None and not np.any(zero_point.constant))
    return dtype == np.int8 and zero and factor.constant is not None and factor.dtype == np.float32 and factor.rank < 2


def real(op, x, factor, zero_point, axis=0):
    """The numbers that a quantized tensor stands for, in 32-bit floats."""
    if symmetric(x.dtype, factor, zero_point):
        return op.DequantizeLinear(x, one_or_many(factor), axis=axis % x.rank)
    return op.Mul(centred(op, x, zero_point, axis), along(op, as_float(op, factor), x.rank, axis))


def quantized(op, x, factor, zero_point, axis=0):
    """Round to the nearest, ties to even, add the zero point, and saturate."""
    if symmetric(zero_point.dtype, factor, zero_point):
        factors = one_or_many(factor)
        return op.QuantizeLinear(x, factors, np.zeros(factors.shape, np.int8), axis=axis % x.rank)
    factor, zero = as_float(op, factor, x.dtype), as_float(op, zero_point, x.dtype)
    return rounded(op, x, along(op, factor, x.rank, axis), along(op, zero, x.rank, axis), zero_point.dtype)


def one_or_many(factor):
    """A constant scale; a vector of one element as a scalar, which means the whole tensor."""
    return factor.constant.reshape(()) if factor.constant.size == 1 else factor.constant


def rounded(op, x, factor, zero, dtype):
    """x / factor, rounded, plus zero, saturated and converted."""
    steps, limits = op.Add(op.Round(op.Div(x, factor)), zero), np.iinfo(dtype)
    return op.Cast(op.Min(op.Max(steps, float(limits.min)), float(limits.max)), to=dtype)


@rule(
    name="onnx/qlinear-matmul-to-matmul",
    matches="QLinearMatMul",
    examples=[
        example(
            a=tensor(2, 4, **U8),
            a_scale=scale(),
            a_zero_point=np.uint8(128),
            b=tensor(4, 3, **U8),
            b_scale=scale(),
            b_zero_point=np.uint8(100),
            y_scale=scale(1.0),
            y_zero_point=np.uint8(3),
            _atol=1,
        ),
        example(
            a=tensor("n", 4, **S8),
            a_scale=scale(),
            a_zero_point=np.int8(0),
            b=tensor(4, 3, **S8),
            b_scale=scale(),
            b_zero_point=np.int8(0),
            y_scale=scale(1.0),
            y_zero_point=np.int8(0),
            _atol=1,
        ),
    ],
)
class QLinearMatMulToMatMul:
    """QLinearMatMul -> Sub Mul MatMul Div Round: the definition in floating point.

    Source: ONNX operator specification; the parser has no importer.
    """

    def rewrite(op, a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point):
        product = op.MatMul(real(op, a, a_scale, a_zero_point, -2), real(op, b, b_scale, b_zero_point, -1))
        return quantized(op, product, y_scale, y_zero_point, -2)


@rule(
    name="onnx/qlinear-conv-to-conv",
    matches="QLinearConv",
    examples=[
        example(
            x=tensor(1, 2, 5, 5, **U8),
            x_scale=scale(),
            x_zero_point=np.uint8(128),
            w=tensor(3, 2, 3, 3, **U8),
            w_scale=scale(),
            w_zero_point=np.uint8(120),
            y_scale=scale(1.0),
            y_zero_point=np.uint8(9),
            B=tensor(3, dtype="int32"),
            _atol=1,
        ),
        example(
            x=tensor("n", 2, 5, 5, **S8),
            x_scale=scale(),
            x_zero_point=np.int8(0),
            w=tensor(3, 2, 3, 3, **S8),
            w_scale=np.float32([0.1, 0.2, 0.3]),
            w_zero_point=np.zeros(3, np.int8),
            y_scale=scale(1.0),
            y_zero_point=np.int8(0),
            strides=[2, 2],
            _atol=1,
        ),
    ],
)
class QLinearConvToConv:
    """QLinearConv -> Sub Mul Conv Div Round: the definition in floating point.

    Source: ONNX operator specification; the parser has no importer.
    """

    def rewrite(op, node, x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B):
        step = op.Mul(along(op, x_scale, 0, 0), w_scale)
        bias = None if B is None else op.Mul(op.Cast(B, to=np.float32), step)
        image, kernel = real(op, x, x_scale, x_zero_point), real(op, w, w_scale, w_zero_point, 0)
        return quantized(op, op.Conv(image, kernel, bias, **node.given), y_scale, y_zero_point)


@rule(
    name="onnx/matmul-integer-to-matmul",
    matches="MatMulInteger",
    examples=[
        example(A=tensor(4, 3, **U8), B=tensor(3, 2, **U8), a_zero_point=np.uint8(12), b_zero_point=np.uint8(0)),
        example(A=tensor("n", 600, **S8), B=tensor(600, 2, **S8)),
        example(A=tensor("n", 3, **U8), B=tensor(3, 2, **S8), b_zero_point=np.int8([1, 2])),
    ],
    refuses=[example(A=tensor(2, "k", **U8), B=tensor("k", 2, **U8), because="exact")],
)
class MatMulIntegerToMatMul:
    """MatMulInteger -> Cast Sub MatMul Cast Add: exact sums of at most 256 products, added as integers.

    Source: ONNX operator specification; the parser has no importer.
    """

    def check(A):
        require(A.shape.is_static(-1), "the length of the sums must be known, for them to be exact")

    def rewrite(op, A, B, a_zero_point, b_zero_point):
        left, right = centred(op, A, a_zero_point, -2), centred(op, B, b_zero_point, -1)
        return exact_sum(op, left, right, A.shape[-1], max(right.rank - 2, 0), op.MatMul, left.rank - 1)


def exact_sum(op, left, right, length, right_axis, product, left_axis, step=EXACT):
    """The sum, in 32-bit integers, of the products of slices of at most `step`."""
    total = None
    for at in range(0, length, step):
        whole = length <= step
        a = left if whole else op.Slice(left, [at], [at + step], [left_axis])
        b = right if whole else op.Slice(right, [at], [at + step], [right_axis])
        part = op.Cast(product(a, b), to=np.int32)
        total = part if total is None else op.Add(total, part)
    return total


@rule(
    name="onnx/conv-integer-to-conv",
    matches="ConvInteger",
    examples=[
        example(x=tensor(1, 1, 4, 4, **U8), w=tensor(1, 1, 2, 2, **U8), x_zero_point=np.uint8(1), pads=[1, 1, 1, 1]),
        example(x=tensor("n", 60, 5, 5, **U8), w=tensor(2, 60, 3, 3, **S8), w_zero_point=np.int8([0, 3])),
    ],
    refuses=[example(x=tensor(1, 800, 4, **U8), w=tensor(2, 400, 2, **U8), group=2, because="grouped")],
)
class ConvIntegerToConv:
    """ConvInteger -> Cast Sub Conv Cast Add: exact sums of at most 256 products, added as integers.

    Source: ONNX operator specification; the parser has no importer.
    """

    def check(w, group):
        require(
            w.shape[1:].size <= EXACT or group == 1,
            "a long sum of a grouped convolution is not exact in floating point",
        )
        require(w.shape[2:].size <= EXACT, "the sum over one kernel is not exact in floating point")

    def rewrite(op, node, x, w, x_zero_point, w_zero_point):
        image, kernel = centred(op, x, x_zero_point), centred(op, w, w_zero_point, 0)
        step = max(1, EXACT // w.shape[2:].size)

        def product(a, b):
            return op.Conv(a, b, **node.given)

        if w.shape[1:].size <= EXACT:
            return op.Cast(product(image, kernel), to=np.int32)
        return exact_sum(op, image, kernel, w.shape[1], 1, product, 1, step)
