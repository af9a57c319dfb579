"""Bits: TensorRT has no operators on them, so they are taken apart with integer arithmetic."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor


@rule(
    name="onnx/bitwise-to-arithmetic",
    matches=["BitwiseAnd", "BitwiseOr", "BitwiseXor"],
    opsets=(18, 10**6),
    examples=[
        example(A=tensor(2, 3, dtype="int32", low=-1000, high=1000), B=tensor(3, dtype="int32", low=-1000, high=1000)),
        example(A=tensor("n", dtype="uint8", high=256), B=tensor("n", dtype="uint8", high=256), op_type="BitwiseOr"),
        example(A=tensor("n", 2, dtype="int32", low=-(2**31), high=2**31 - 1), B=np.int32(77), op_type="BitwiseXor"),
        example(
            A=tensor(4, dtype="int64", low=-(2**62), high=2**62), B=tensor(4, dtype="int64", low=-(2**62), high=2**62)
        ),
    ],
    refuses=[example(A=tensor(2, dtype="uint64"), B=tensor(2, dtype="uint64"), because="64 bits unsigned")],
)
class BitwiseToArithmetic:
    """BitwiseAnd -> Div Mod Mul: every bit of both numbers, combined, times its weight.

    A constant mask costs only its bits. Source: NVIDIA's operator table has no Bitwise operators.
    """

    def check(node):
        require(node.inputs[0].dtype != np.uint64, "64 bits unsigned have no counterpart in TensorRT")

    def rewrite(op, node):
        a, b = node.inputs
        both = bits_and(op, widened(op, a), widened(op, b), 8 * a.dtype.itemsize)
        if node.op == "BitwiseAnd":
            return narrowed(op, both, a.dtype)
        total = op.Add(widened(op, a), widened(op, b))
        times = 1 if node.op == "BitwiseOr" else 2
        return narrowed(op, op.Sub(total, op.Mul(both, times)), a.dtype)


@rule(
    name="onnx/bitwise-not-to-sub",
    matches="BitwiseNot",
    opsets=(18, 10**6),
    examples=[
        example(X=tensor(2, 3, dtype="int32", low=-9, high=9)),
        example(X=tensor("n", dtype="uint8", high=256)),
        example(X=tensor("n", dtype="int64", low=-9, high=9)),
    ],
)
class BitwiseNotToSub:
    """BitwiseNot -> Sub: all bits turned is -1 - x, or 2^bits - 1 - x without sign.

    Source: two's complement; NVIDIA's operator table has no BitwiseNot.
    """

    def applies(X):
        return X.known_dtype != np.uint64

    def rewrite(op, X):
        ones = -1 if X.dtype.kind == "i" else 2 ** (8 * X.dtype.itemsize) - 1
        return narrowed(op, op.Sub(ones, widened(op, X)), X.dtype)


@rule(
    name="onnx/bitshift-to-arithmetic",
    matches="BitShift",
    examples=[
        example(X=tensor(2, 3, dtype="uint8", high=256), Y=tensor(2, 3, dtype="uint8", high=8), direction="LEFT"),
        example(X=tensor("n", dtype="uint8", high=256), Y=tensor("n", dtype="uint8", high=8), direction="RIGHT"),
        example(X=tensor("n", dtype="uint8", high=256), Y=np.uint8(3), direction="RIGHT"),
    ],
    refuses=[
        example(X=tensor(2, dtype="uint64"), Y=tensor(2, dtype="uint64"), direction="LEFT", because="64 bits unsigned")
    ],
)
class BitshiftToArithmetic:
    """BitShift -> Mul or Div: by a power of two, rounding down, within the bits of the type.

    Source: definition of BitShift in the ONNX operator specification; the parser has no importer.
    """

    def check(X):
        require(X.dtype != np.uint64, "64 bits unsigned have no counterpart in TensorRT")

    def rewrite(op, X, Y, direction):
        bits, number, right = 8 * X.dtype.itemsize, widened(op, X), direction in ("RIGHT", b"RIGHT")
        amount, moved = widened(op, Y), number
        outside = op.Or(op.Less(amount, 0), op.GreaterOrEqual(amount, bits))
        shift = op.Clip(amount, 0, bits - 1)
        for step in reversed([2**i for i in range(bits.bit_length() - 1)]):
            on = op.GreaterOrEqual(shift, step)
            further = floor_divide(op, moved, 2**step) if right else op.Mul(moved, np.array(2**step, moved.dtype))
            shift, moved = op.Where(on, op.Sub(shift, step), shift), op.Where(on, further, moved)
        nothing = op.Where(op.Less(number, 0), -1, 0) if right else op.constant(0)
        return narrowed(op, op.Where(outside, op.Cast(nothing, to=moved.dtype), moved), X.dtype)


def widened(op, x):
    """The number in a type that TensorRT computes with: 64 bits for 32 bits without sign, 32 bits for smaller ones."""
    if x.dtype in (np.int32, np.int64):
        return x
    wide = np.dtype(np.int64 if x.dtype == np.uint32 else np.int32)
    return op.Cast(x, to=wide) if x.constant is None else op.constant(x.constant, wide)


def narrowed(op, x, dtype):
    """The number in a type of fewer bits, wrapping around."""
    return x if x.dtype == dtype else op.Cast(wrapped(op, x, dtype), to=dtype)


def wrapped(op, x, dtype):
    """The number, in its own type, that is left when only the bits of `dtype` are kept."""
    modulus = 2 ** (8 * dtype.itemsize)
    low = 0 if dtype.kind == "u" else modulus // 2
    shifted = op.Add(x, low) if low else x
    inside = op.Sub(shifted, op.Mul(floor_divide(op, shifted, modulus), modulus))
    return op.Sub(inside, low) if low else inside


def floor_divide(op, x, divisor):
    """x / divisor, rounding down: integer division in ONNX rounds towards zero, and -1 - x turns every bit."""
    return op.Where(op.Less(x, 0), op.Sub(-1, op.Div(op.Sub(-1, x), divisor)), op.Div(x, divisor))


def bits_and(op, a, b, bits):
    """a & b, bit by bit, the highest as the sign."""
    mask = b.constant if b.constant is not None else None
    total = None
    wide = 8 * a.dtype.itemsize
    for bit in range(bits):
        if mask is not None and not np.any(mask >> bit & 1):
            continue
        weight = np.array(1, a.dtype) << np.array(bit, a.dtype) if bit < wide - 1 else np.array(np.iinfo(a.dtype).min)
        term = op.Mul(op.Mul(bit_of(op, a, bit), bit_of(op, b, bit)), np.asarray(weight, a.dtype))
        total = term if total is None else op.Add(total, term)
    return op.Mul(op.Add(a, b), 0) if total is None else total


def bit_of(op, x, bit):
    """One bit of every number, 0 or 1."""
    if x.constant is not None:
        return op.constant(x.constant >> bit & 1, x.dtype)
    if bit == 8 * x.dtype.itemsize - 1:
        return op.Cast(op.Less(x, 0), to=x.dtype)
    shifted = floor_divide(op, x, 2**bit) if bit else x
    return op.Sub(shifted, op.Mul(floor_divide(op, shifted, 2), 2))
