"""Elementwise operators on types, or with constants, that the parser does not take."""

from __future__ import annotations

import numpy as np

from rewrites import example, rule, tensor

FP8, ROUNDED_TO_LARGEST = 17, 464.0


@rule(
    name="onnx/floored-mod-of-floats",
    matches="Mod",
    opsets=(13, 10**6),
    examples=[
        example(A=(2, 3), B=tensor(3, low=0.5, high=2.0)),
        example(A=tensor("n", values=[-3.5, 2.0, 4.0]), B=tensor("n", values=[2.0, -1.5, -2.0]), _sizes={"n": 3}),
    ],
)
class FlooredModOfFloats:
    """Mod of floats with the divisor's sign -> Mod with the dividend's sign, Add.

    Source: opset 28 of the ONNX specification; the parser's "fmod attribute is set to 0.
    Inputs cannot be of floating point types".
    """

    def applies(A, fmod):
        return not fmod and A.known_dtype is not None and A.known_dtype.kind not in "iu"

    def rewrite(op, A, B):
        rest = op.Mod(A, B, fmod=1)
        other_side = op.Less(op.Mul(op.Sign(rest), op.Sign(B)), 0.0)
        return op.Where(other_side, op.Add(rest, B), rest)


@rule(
    name="onnx/cast-to-fp8-by-scale",
    matches="Cast",
    opsets=(19, 10**6),
    examples=[
        example(input=(2, 3), to=FP8),
        example(input=tensor("n", values=[500.0, 464.0, -449.0, 0.3]), to=FP8, saturate=0, _sizes={"n": 4}),
    ],
)
class CastToFp8ByScale:
    """Cast to FP8 -> QuantizeLinear with the scale 1: TensorRT makes FP8 by quantizing only.

    Source: the builder's "datatype FP8 but is not produced by" a quantize layer.
    """

    def applies(input, to):
        return to == FP8 and input.known_dtype is not None and input.known_dtype.kind != "i"

    def rewrite(op, node, input, saturate):
        if not saturate:
            input = op.Where(op.Greater(op.Abs(input), ROUNDED_TO_LARGEST), np.array(np.nan, input.dtype), input)
        return op.QuantizeLinear(input, op.constant(1, input.dtype), op.constant(0, node.outputs[0].dtype))


@rule(
    name="onnx/cast-from-fp8-by-scale",
    matches="Cast",
    opsets=(19, 10**6),
    examples=[
        example(input=tensor(2, 3, dtype="float8_e4m3fn", values=[[1, 2, 3], [4, 5, 6]]), to=1),
        example(input=tensor("n", dtype="float8_e4m3fn", values=[1, 2]), to=10),
    ],
)
class CastFromFp8ByScale:
    """Cast of FP8 -> DequantizeLinear with the scale 1: TensorRT reads FP8 by dequantizing only.

    Source: the builder's "datatype FP8 but is not consumed by" a dequantize layer.
    """

    def applies(input, to):
        return input.known_dtype is not None and input.known_dtype.name == "float8_e4m3fn" and to in (1, 10, 16)

    def rewrite(op, node, input):
        return op.DequantizeLinear(input, op.constant(1, node.outputs[0].dtype))


@rule(
    name="onnx/cast-like-to-cast",
    matches="CastLike",
    opsets=(15, 10**6),
    needed_by={"any": "all versions"},
    examples=[
        example(input=(2, 3), target_type=tensor(1, dtype="int32")),
        example(input=tensor("n", dtype="int64"), target_type=tensor(1, dtype="float16")),
    ],
)
class CastLikeToCast:
    """CastLike -> Cast: the type is known when the engine is built.

    Source: ONNX operator specification; other rules then see one operator for both.
    """

    def rewrite(op, node, input, target_type):
        options = {"saturate": node.given["saturate"]} if op.opset >= 19 and "saturate" in node.given else {}
        return op.Cast(input, to=target_type.dtype, **options)
