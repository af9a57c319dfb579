"""Quantizing and dequantizing with zero points, and at run time: TensorRT's own is symmetric with constant scales."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from rewrites import example, require, rule, tensor
from rewrites.library.quantized import S8, U8, WRITTEN_OUT, along, as_float, rounded

_INT4 = np.arange(-4, 4).reshape(4, 2).astype(ml_dtypes.int4)
_CONSTANT_ONLY = ("uint4", "float8_e5m2", "float8_e5m2fnuz", "float8_e4m3fnuz")


def beyond_tensorrt(node):
    """Whether a Q or DQ node has what TensorRT lacks: its type, a zero point other than 0, or a scale of run time.

    Integers of 32 bits are the biases of quantized layers; of types that TensorRT lacks, constants are known.
    """
    x, zero = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    dequantizes = node.op == "DequantizeLinear"
    kind = x.known_dtype if dequantizes else node.outputs[0].known_dtype
    if dequantizes and kind is not None and (kind == np.int32 or kind.name in _CONSTANT_ONLY):
        return kind == np.int32 or x.constant is not None
    symmetric = zero is None or (zero.constant is not None and not np.any(zero.constant.astype(np.float32)))
    if dequantizes and kind is not None and kind.name == "int4":
        return not symmetric and x.constant is not None
    return kind in WRITTEN_OUT and (kind != np.int8 or not symmetric or node.inputs[1].constant is None)


def spread(op, node, vector):
    """A scale or zero point at the rank of the input; blocks are repeated to their full size."""
    x, axis, block = (
        node.inputs[0],
        node.attributes.get("axis", 1) % max(node.inputs[0].rank, 1),
        node.attributes.get("block_size", 0),
    )
    if not block:
        return along(op, vector, x.rank, axis)
    repeated = op.Expand(op.Unsqueeze(vector, [axis + 1]), [1] * (axis + 1) + [block] + [1] * (x.rank - axis - 1))
    sizes = [-1 if i == axis else 0 for i in range(x.rank)]
    merged = op.Concat(
        *(op.Gather(op.Shape(vector), [i]) if s == 0 else op.constant([-1]) for i, s in enumerate(sizes)), axis=0
    )
    end = [x.dims[axis]] if x.dims.is_static(axis) else op.Gather(op.Shape(x), [axis])
    return op.Slice(op.Reshape(repeated, merged), [0], end, [axis])


@rule(
    name="onnx/dequantize-with-zero-point",
    matches="DequantizeLinear",
    opsets=(10, 10**6),
    examples=[
        example(x=tensor(4, **U8), x_scale=np.float32(2), x_zero_point=np.uint8(128)),
        example(x=tensor("n", 3, 2, **U8), x_scale=np.float32([2, 4, 5]), x_zero_point=np.uint8([84, 24, 196]), axis=1),
        example(x=tensor(1, 4, **S8), x_scale=(1, 2), x_zero_point=np.int8([[1, -3]]), axis=1, block_size=2, _opset=21),
        example(
            x=_INT4, x_scale=np.float32([[1, 2], [3, 4]]), x_zero_point=_INT4[:2, :2], axis=0, block_size=2, _opset=21
        ),
        example(
            x=np.arange(8).astype(ml_dtypes.uint4),
            x_scale=np.float32(2),
            x_zero_point=np.array(7, ml_dtypes.uint4),
            _opset=21,
        ),
        example(x=_INT4.astype(ml_dtypes.float8_e5m2), x_scale=np.float32(2), _opset=19),
        example(x=tensor("n", 3, dtype="int32", low=-9999, high=9999), x_scale=np.float32([2, 4, 5])),
    ],
)
class DequantizeWithZeroPoint:
    """DequantizeLinear -> Cast Sub Mul: the definition in floating point, for zero points other than 0.

    Source: the parser's "Found unsupported input type of UINT8", and "input has type Int32 but must have type FP8 ...";
    TensorRT's quantization is symmetric.
    """

    def applies(node):
        return beyond_tensorrt(node)

    def rewrite(op, node, x, x_scale, x_zero_point):
        values = as_float(op, x, x_scale.dtype)
        if x_zero_point is not None:
            values = op.Sub(values, spread(op, node, as_float(op, x_zero_point, x_scale.dtype)))
        return op.Mul(values, spread(op, node, x_scale))


@rule(
    name="onnx/quantize-with-zero-point",
    matches="QuantizeLinear",
    opsets=(10, 10**6),
    examples=[
        example(x=(2, 3), y_scale=np.float32(0.02), y_zero_point=np.uint8(128)),
        example(x=("n", 3, 2), y_scale=np.float32([0.02, 0.04, 0.05]), y_zero_point=np.uint8([84, 24, 196]), axis=1),
        example(
            x=(1, 4), y_scale=np.float32([[0.1, 0.2]]), y_zero_point=np.int8([[1, -3]]), axis=1, block_size=2, _opset=21
        ),
    ],
    refuses=[example(x=tensor(2, dtype="int32"), y_scale=np.float32(2), y_zero_point=np.uint8(1), because="floats")],
)
class QuantizeWithZeroPoint:
    """QuantizeLinear -> Div Round Add Clip Cast: the definition in floating point, for zero points other than 0.

    Source: the builder's "has `zero_point` which is not all 0"; TensorRT's quantization is symmetric.
    """

    def applies(node):
        return beyond_tensorrt(node)

    def check(x):
        require(x.dtype.kind not in "iu", "only floats are quantized")

    def rewrite(op, node, x, y_scale, y_zero_point):
        zero = (
            op.constant(0, x.dtype) if y_zero_point is None else spread(op, node, as_float(op, y_zero_point, x.dtype))
        )
        return rounded(op, x, spread(op, node, as_float(op, y_scale, x.dtype)), zero, node.outputs[0].dtype)


@rule(
    name="onnx/dynamic-quantize-to-arithmetic",
    matches="DynamicQuantizeLinear",
    examples=[example(x=(3, 4), _outputs=3), example(x=("n",), _outputs=3)],
)
class DynamicQuantizeToArithmetic:
    """DynamicQuantizeLinear -> ReduceMax ReduceMin Div Round Clip: the definition in the ONNX specification.

    Source: the parser has no importer.
    """

    def rewrite(op, x):
        flat = op.Reshape(x, [-1])
        top, bottom = op.Max(edge(op, "ReduceMax", flat), 0.0), op.Min(edge(op, "ReduceMin", flat), 0.0)
        scale = op.Div(op.Sub(top, bottom), 255.0)
        safe = op.Where(op.Equal(scale, 0.0), 1.0, scale)
        point = op.Round(op.Min(op.Max(op.Div(op.Sub(0.0, bottom), safe), 0.0), 255.0))
        steps = op.Min(op.Max(op.Add(op.Round(op.Div(x, safe)), point), 0.0), 255.0)
        return op.Cast(steps, to=np.uint8), scale, op.Cast(point, to=np.uint8)


def edge(op, reduction, flat):
    """The largest or smallest element, a scalar."""
    return op.call(reduction, flat, [0], keepdims=0)
