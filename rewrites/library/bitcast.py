"""The bits of one type read as another."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule
from rewrites.library.bits import narrowed, widened

MANTISSA, BIAS = 2**23, 127
POWERS = np.exp2(np.arange(-BIAS + 1, BIAS + 1, dtype=np.float64)).astype(np.float32)


def cast(shape, kind, to, because=None):
    """An example at the opset that has BitCast, which no parser reads."""
    head = '< ir_version: 10, opset_import: [ "" : 26 ] >'
    made = {1: "float", 2: "uint8", 3: "int8", 6: "int32", 7: "int64"}[to]
    return example(
        text=f"{head} g ({kind}[{shape}] x) => ({made}[{shape}] y) {{ y = BitCast<to={to}>(x) }}",
        because=because,
        _builds=False,
    )


@rule(
    name="onnx/bitcast-to-arithmetic",
    matches="BitCast",
    opsets=(20, 10**6),
    examples=[cast("2,3", "float", 6), cast("n", "int32", 1), cast("n", "int8", 2), cast("3", "uint8", 3)],
    refuses=[cast("2", "double", 7, because="not written out")],
)
class BitCastToArithmetic:
    """BitCast -> Where Gather Mul Add: sign, exponent and mantissa put together or taken apart.

    Subnormal numbers are read as zero, as GPUs do.
    Source: IEEE 754; TensorRT has no operator on bits.
    """

    def check(node, input):
        pair = (input.dtype.name, node.outputs[0].dtype.name)
        small = all(name in ("int8", "uint8", "bool") for name in pair)
        require(
            small or pair in (("float32", "int32"), ("int32", "float32")),
            f"{pair[0]} as {pair[1]} is not written out here",
        )

    def rewrite(op, node, input):
        to = node.outputs[0].dtype
        if to == np.float32:
            return float_of_bits(op, input)
        return bits_of_float(op, input) if to == np.int32 else narrowed(op, widened(op, input), to)


def bits_of_float(op, x):
    """The 32 bits of a float, as an integer."""
    size, exponent = op.Abs(x), op.Cast(op.Mul(x, 0.0), to=np.int32)
    for step in (128, 64, 32, 16, 8, 4, 2, 1):
        further = op.Min(op.Add(exponent, step), len(POWERS) - 1)
        exponent = op.Where(op.GreaterOrEqual(size, op.Gather(POWERS, further)), further, exponent)
    normal = op.GreaterOrEqual(size, float(POWERS[0]))
    fraction = op.Mul(op.Sub(op.Div(size, op.Gather(POWERS, exponent)), 1.0), float(MANTISSA))
    number = op.Add(op.Mul(op.Add(exponent, 1), MANTISSA), op.Cast(fraction, to=np.int32))
    number = op.Where(op.IsInf(x), 255 * MANTISSA, op.Where(normal, number, 0))
    number = op.Where(op.IsNaN(x), 255 * MANTISSA + MANTISSA // 2, number)
    negative = op.Less(op.Where(op.Equal(x, 0.0), op.Div(1.0, x), x), 0.0)
    return op.Where(negative, op.Add(number, np.int32(-(2**31))), number)


def float_of_bits(op, bits):
    """The float that 32 bits are."""
    negative = op.Less(bits, 0)
    plain = op.Where(negative, op.Add(bits, np.int32(-(2**31))), bits)
    exponent = op.Div(plain, MANTISSA)
    fraction = op.Sub(plain, op.Mul(exponent, MANTISSA))
    power = op.Gather(POWERS, op.Max(op.Min(op.Sub(exponent, 1), len(POWERS) - 1), 0))
    size = op.Mul(power, op.Add(op.Mul(op.Cast(fraction, to=np.float32), 1 / MANTISSA), 1.0))
    size = op.Where(op.Equal(exponent, 0), 0.0, size)
    beyond = op.Where(op.Equal(fraction, 0), np.float32(np.inf), np.float32(np.nan))
    size = op.Where(op.Equal(exponent, 255), beyond, size)
    return op.Where(negative, op.Neg(size), size)
