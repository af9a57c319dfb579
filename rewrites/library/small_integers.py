"""Integers of 8 bits: TensorRT binds them, and computes with 32 bits and more."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor
from rewrites.library.bits import narrowed, widened, wrapped

UINT32 = 12
THROUGH = {2: np.dtype(np.uint8), 4: np.dtype(np.uint16), 5: np.dtype(np.int16), UINT32: np.dtype(np.uint32)}
SMALL = (np.uint8, np.int8, np.uint16, np.int16, np.uint32)
ARITHMETIC = "Add Sub Mul Div Max Min Mod Clip Abs Neg Sign Sum Pow"
COMPARISON = "Greater GreaterOrEqual Less LessOrEqual Equal"
MOVING = (
    "Where Gather GatherElements GatherND ScatterElements ScatterND Expand Tile Pad Trilu Transpose Reshape"
    " Concat Slice Split "
    "Squeeze Unsqueeze Flatten DepthToSpace SpaceToDepth"
)
U8, S8 = {"dtype": "uint8", "low": 0, "high": 256}, {"dtype": "int8", "low": -128, "high": 128}


def small(value):
    return value is not None and value.known_dtype in SMALL


@rule(
    name="onnx/small-integer-arithmetic",
    matches=ARITHMETIC.split(),
    examples=[
        example(A=tensor(2, 3, **U8), B=tensor(3, **U8), op_type="Add"),
        example(A=tensor("n", 3, **U8), B=tensor("n", 1, **U8), op_type="Mul"),
        example(A=tensor("n", **S8), B=tensor("n", dtype="int8", low=1, high=99), op_type="Div"),
        example(data_0=[tensor(4, **U8), tensor(4, **U8)], op_type="Max"),
        example(A=tensor(5, **S8), B=tensor(5, dtype="int8", low=1, high=9), op_type="Mod"),
        example(input=tensor("n", **S8), max=np.int8(5), op_type="Clip"),
    ],
)
class SmallIntegerArithmetic:
    """Add of 8 bits -> Cast Add Cast: compute with 32 bits, and wrap around as 8 bits do.

    Source: the parser's "requires input of types other than UINT8"; sums of INT8 saturate there.
    """

    def applies(node):
        return small(node.inputs[0])

    def rewrite(op, node):
        wide = [v and (widened(op, v) if small(v) else v) for v in node.inputs]
        return narrowed(op, op.call(node.op, *wide, **node.given), node.inputs[0].dtype)


@rule(
    name="onnx/small-integer-comparison",
    matches=COMPARISON.split(),
    examples=[
        example(A=tensor(2, 3, **U8), B=tensor(3, **U8), op_type="Greater"),
        example(A=tensor("n", 3, **S8), B=tensor("n", 1, **S8), op_type="Equal"),
    ],
)
class SmallIntegerComparison:
    """Greater of 8 bits -> Cast Greater: compare with 32 bits.

    Source: the parser's "requires input of types other than UINT8".
    """

    def applies(node):
        return small(node.inputs[0])

    def rewrite(op, node):
        return op.call(node.op, *(widened(op, v) for v in node.inputs))


@rule(
    name="onnx/small-integer-movement",
    matches=MOVING.split(),
    examples=[
        example(condition=tensor(2, dtype="bool"), X=tensor(2, **U8), Y=tensor(2, **U8)),
        example(data=tensor("n", 3, **U8), indices=np.array([2, 0]), axis=1, op_type="Gather"),
        example(input=tensor(2, 3, **U8), repeats=[2, 1], op_type="Tile"),
        example(data=tensor(1, "h", 4, 3, **U8), perm=[0, 3, 1, 2], op_type="Transpose"),
        example(input=tensor(2, 4, **U8), split=[1, 3], axis=1, op_type="Split", _outputs=2),
    ],
)
class SmallIntegerMovement:
    """Gather of 8 bits without sign -> Cast Gather Cast: move 32 bits.

    Source: the parser takes UINT8 only at the inputs and outputs of an engine.
    """

    def applies(node):
        beyond = (np.uint8, np.uint16, np.int16, np.uint32)
        return any(v is not None and v.known_dtype in beyond and v.constant is None for v in node.inputs)

    def rewrite(op, node):
        wide = [v and (widened(op, v) if small(v) else v) for v in node.inputs]
        made = op.call(node.op, *wide, **node.given, _outputs=len(node.outputs))
        dtype = node.outputs[0].dtype
        return tuple(op.Cast(v, to=dtype) for v in (made if isinstance(made, tuple) else (made,)))


@rule(
    name="onnx/cast-through-small-integers",
    examples=[
        example(x=tensor(2, 3, dtype="int32", low=-600, high=600), small=2, to=6),
        example(x=tensor("n", dtype="int64", low=-600, high=600), small=2, to=1),
        example(x=tensor("n", low=0, high=255.0), small=2, to=7),
        example(x=tensor("n", dtype="int64", low=-99999, high=99999), small=5, to=1),
        example(x=tensor(3, dtype="int64", low=-99999, high=99999), small=12, to=7),
    ],
    refuses=[example(x=tensor(2, dtype="int32"), small=3, to=6, because="TensorRT's own")],
)
class CastThroughSmallIntegers:
    """Cast Cast, by way of 8 bits without sign or of 16 bits -> Div Mul Sub Cast: drop the higher bits by arithmetic.

    Source: the parser's "TensorRT does not support UINT8 types for intermediate tensors" and "Unsupported data type".
    """

    def pattern(op, x, small, to):
        return op.Cast(op.Cast(x, to=small), to=to)

    def check(x, small):
        require(small in THROUGH, "what is in between is TensorRT's own")
        require(x.dtype.kind in "iuf", "only numbers have higher bits")

    def rewrite(op, x, small, to):
        whole = op.Cast(x, to=np.int64 if small == UINT32 else np.int32) if x.dtype.kind == "f" else widened(op, x)
        whole = op.Cast(whole, to=np.int64) if small == UINT32 else whole
        return op.Cast(wrapped(op, whole, THROUGH[small]), to=to)
