"""Quantized operators of ONNX Runtime's own domain, which its quantization tool writes (QOperator format)."""

from __future__ import annotations

from rewrites import example, require, rule
from rewrites.library.quantized import U8, along, as_float, quantized, real

_HEAD = '<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>'
_NAMES = "float {0}s = {{{1}}}, uint8 {0}z = {{{2}}}"


def written(call, shape="n,3,4,5", result="n,3,4,5"):
    """An example: a call of one of the operators on `a` and `b`; the result's scale is `ys`."""
    constants = ", ".join(_NAMES.format(*one) for one in (("a", 0.05, 120), ("b", 0.02, 100), ("y", 0.1, 110)))
    inputs = f"(uint8[{shape}] a, uint8[{shape}] b)" if " b," in call else f"(uint8[{shape}] a)"
    return f"{_HEAD}\ng {inputs} => (uint8[{result}] y) <{constants}> {{ y = com.microsoft.{call} }}"


def unary(call, **options):
    from rewrites import tensor

    shape = options.pop("shape", ("n", 3, 4, 5))
    text = written(call, ",".join(map(str, shape)), options.pop("result", ",".join(map(str, shape))))
    inputs = {"a": tensor(*shape, **U8)} | ({"b": tensor(*shape, **U8)} if " b," in call else {})
    return example(text=text, _atol=1, **inputs, **options)


def sigmoid(op, node, x):
    return op.Sigmoid(x)


def leaky_relu(op, node, x):
    return op.LeakyRelu(x, alpha=node.attributes.get("alpha", 0.01))


def global_average(op, node, x):
    return op.GlobalAveragePool(x)


def average(op, node, x):
    return op.AveragePool(x, **{k: v for k, v in node.attributes.items() if k != "channels_last"})


def softmax(op, node, x):
    axis = node.attributes.get("axis", -1) % x.rank
    if node.attributes["opset"] >= 13 or axis == x.rank - 1:
        return op.Softmax(x, axis=axis)
    return op.Reshape(op.Softmax(op.Flatten(x, axis=axis), axis=1), op.Shape(x))


_OF_ONE = {
    "QLinearSigmoid": sigmoid, "QLinearLeakyRelu": leaky_relu, "QLinearGlobalAveragePool": global_average,
    "QLinearAveragePool": average, "QLinearSoftmax": softmax,
}  # fmt: skip


@rule(
    name="microsoft/quantized-to-float",
    matches=[f"com.microsoft::{name}" for name in _OF_ONE],
    examples=[
        unary("QLinearSigmoid(a, as, az, ys, yz)", shape=(2, 3)),
        unary("QLinearSigmoid(a, as, az, ys, yz)"),
        unary("QLinearLeakyRelu <alpha = 0.2> (a, as, az, ys, yz)"),
        unary("QLinearGlobalAveragePool(a, as, az, ys, yz)", result="n,3,1,1"),
        unary("QLinearAveragePool <kernel_shape = [2, 2], pads = [0, 1, 1, 0]> (a, as, az, ys, yz)", result="n,3,4,5"),
        unary("QLinearSoftmax <axis = 1, opset = 13> (a, as, az, ys, yz)"),
        unary("QLinearSoftmax <axis = 2, opset = 12> (a, as, az, ys, yz)"),
    ],
    refuses=[
        example(
            text=written("QLinearGlobalAveragePool <channels_last = 1> (a, as, az, ys, yz)", result="n,1,1,5"),
            because="channels last",
        )
    ],
)
class QuantizedToFloat:
    """QLinear operators of one input -> Sub Mul, the operator, Div Round: in floating point.

    Source: ONNX Runtime, docs/ContribOperators.md; TensorRT's parser has no importer.
    """

    def check(node):
        require(not node.attributes.get("channels_last", 0), "images with their channels last are not handled")
        require(len(node.inputs) == 5 and node.inputs[4] is not None, "the result's zero point says its type")

    def rewrite(op, node):
        x, factor, zero, y_factor, y_zero = node.inputs
        return quantized(op, _OF_ONE[node.op](op, node, real(op, x, factor, zero)), y_factor, y_zero)


@rule(
    name="microsoft/quantized-sum-to-float",
    matches=["com.microsoft::QLinearAdd", "com.microsoft::QLinearMul"],
    examples=[
        unary("QLinearAdd(a, as, az, b, bs, bz, ys, yz)", shape=(2, 3)),
        unary("QLinearAdd(a, as, az, b, bs, bz, ys, yz)"),
        unary("QLinearMul(a, as, az, b, bs, bz, ys, yz)"),
    ],
)
class QuantizedSumToFloat:
    """QLinearAdd -> Sub Mul Add Div Round: in floating point; QLinearMul as well.

    Source: ONNX Runtime, docs/ContribOperators.md; TensorRT's parser has no importer.
    """

    def check(node):
        require(len(node.inputs) == 8 and node.inputs[7] is not None, "the result's zero point says its type")

    def rewrite(op, node):
        a, a_factor, a_zero, b, b_factor, b_zero, factor, zero = node.inputs
        made = op.call(node.op.removeprefix("QLinear"), real(op, a, a_factor, a_zero), real(op, b, b_factor, b_zero))
        return quantized(op, made, factor, zero)


@rule(
    name="microsoft/quantized-concat-to-float",
    matches="com.microsoft::QLinearConcat",
    examples=[
        unary("QLinearConcat <axis = 1> (ys, yz, a, as, az, b, bs, bz)", shape=(2, 3), result="2,6"),
        unary("QLinearConcat <axis = 1> (ys, yz, a, as, az, b, bs, bz)", result="n,6,4,5"),
    ],
)
class QuantizedConcatToFloat:
    """QLinearConcat -> Sub Mul Concat Div Round: in floating point.

    Source: ONNX Runtime, docs/ContribOperators.md; TensorRT's parser has no importer.
    """

    def rewrite(op, node):
        factor, zero, *rest = node.inputs
        parts = [real(op, *rest[i : i + 3]) for i in range(0, len(rest), 3)]
        return quantized(op, op.Concat(*parts, axis=node.attributes["axis"]), factor, zero)


@rule(
    name="microsoft/quantized-gemm-to-float",
    matches="com.microsoft::QGemm",
    examples=[
        unary("QGemm <transB = 1> (a, as, az, b, bs, bz, , ys, yz)", shape=(2, 3), result="2,2"),
        unary("QGemm <transA = 1, alpha = 0.5> (a, as, az, b, bs, bz, , ys, yz)", shape=(3, "n"), result="n,n"),
    ],
)
class QuantizedGemmToFloat:
    """QGemm -> Sub Mul Gemm Div Round: in floating point; the bias has the step of the product.

    Source: ONNX Runtime, docs/ContribOperators.md; TensorRT's parser has no importer.
    """

    def rewrite(op, node):
        a, a_factor, a_zero, b, b_factor, b_zero, *rest = node.inputs
        bias, factor, zero = [*rest, None, None, None][:3]
        require(factor is None or zero is not None, "the result's zero point says its type")
        turned, alpha = node.attributes.get("transB", 0), node.attributes.get("alpha", 1.0)
        columns = real(op, b, b_factor, b_zero, 0 if turned else 1)
        made = op.Gemm(
            real(op, a, a_factor, a_zero), columns, transA=node.attributes.get("transA", 0), transB=turned, alpha=alpha
        )
        if bias is not None:
            step = op.Mul(op.Mul(along(op, a_factor, 0, 0), b_factor), alpha)
            made = op.Add(made, op.Mul(as_float(op, bias), step))
        return made if factor is None else quantized(op, made, factor, zero)
