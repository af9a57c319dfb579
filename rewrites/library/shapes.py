"""Shapes: axes, depths and sizes that TensorRT wants at build time."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor
from rewrites.library.shapes_at_run_time import kept_sizes, membership, not_negative, size_at


def runtime(text, **options):
    """An example in text whose axes are an input."""
    return example(text=f"g ({text} }}", **options)


def ints(*values):
    return tensor(len(values), dtype="int64", values=list(values))


@rule(
    name="onnx/squeeze-runtime-axes",
    matches=["Squeeze", "Unsqueeze"],
    opsets=(13, 10**6),
    examples=[
        runtime("float[1,3,4,5] x, int64[1] axes) => (float[3,4,5] y) { y = Squeeze(x, axes)", axes=ints(0)),
        runtime("float[1,n,1,5] x, int64[2] axes) => (float[a,b] y) { y = Squeeze(x, axes)", axes=ints(-2, 0)),
        runtime("float[3,n] x, int64[2] axes) => (float[a,b,c,d] y) { y = Unsqueeze(x, axes)", axes=ints(-1, 1)),
        runtime("float[3,n] x, int64[1] axes) => (float[1,3,n] y) { y = Unsqueeze(x, axes)", axes=ints(0)),
    ],
    refuses=[
        runtime(
            "float[1,3] x, int64[k] axes) => (float[a] y) { y = Squeeze(x, axes)",
            axes=tensor("k", dtype="int64", values=[0]),
            because="how many axes",
        ),
    ],
)
class SqueezeRuntimeAxes:
    """Squeeze with axes only known at run time -> Reshape: to the sizes that are left.

    Source: the parser's "squeeze axis is not a constant".
    """

    def applies(node):
        return len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].constant is None

    def check(node):
        require(node.inputs[1].shape.is_static(), "how many axes there are must be known")

    def rewrite(op, node):
        data, axes = node.inputs
        known = node.outputs[0].dims
        if known is not None and known.is_static():
            return op.Reshape(data, list(known))
        count = axes.shape.size
        if node.op == "Squeeze":
            return op.Reshape(data, kept_sizes(op, data, membership(op, axes, data.rank), data.rank - count))
        return op.Reshape(
            data, with_ones(op, data, membership(op, not_negative(op, axes, data.rank + count), data.rank + count))
        )


def with_ones(op, data, member):
    """The sizes of `data` with ones put in where an axis is a member."""
    sizes, before, made = op.Concat(op.Shape(data), [1], axis=0), op.constant([0]), []
    for is_member in member:
        size = op.Gather(sizes, op.Min(before, [data.rank]))
        made.append(op.Add(is_member, op.Mul(op.Sub([1], is_member), size)))
        before = op.Add(before, op.Sub([1], is_member))
    return op.Concat(*made, axis=0)


@rule(
    name="onnx/center-crop-pad-to-slice-pad",
    matches="CenterCropPad",
    opsets=(18, 10**6),
    examples=[
        runtime("float[10,7,3] x, int64[3] s) => (float[a,b,c] y) { y = CenterCropPad(x, s)", s=ints(6, 9, 3)),
        example(input_data=("h", 7, 3), shape=[6, 9], axes=[0, 1]),
        example(input_data=(4, "w"), shape=[3], axes=[-1]),
    ],
)
class CenterCropPadToSlicePad:
    """CenterCropPad -> Slice Pad: cut what is too long, then fill up what is too short.

    Source: definition in the ONNX operator specification; the parser has no importer.
    """

    def rewrite(op, node, input_data, shape, axes):
        axes = [a % input_data.rank for a in (axes or range(input_data.rank))]
        for i, axis in enumerate(axes):
            size, wanted = size_at(op, input_data, axis), op.Gather(shape, [i])
            surplus, lack = op.Max(op.Sub(size, wanted), [0]), op.Max(op.Sub(wanted, size), [0])
            start = op.Div(surplus, 2)
            cut = op.Slice(input_data, start, op.Add(start, op.Min(size, wanted)), [axis])
            before, none = op.Div(lack, 2), op.constant([0] * input_data.rank)
            left, right = none_but(op, none, axis, before), none_but(op, none, axis, op.Sub(lack, before))
            input_data = op.Pad(cut, op.Concat(left, right, axis=0))
        known = node.outputs[0].dims
        return op.Reshape(input_data, list(known)) if known is not None and known.is_static() else input_data


def none_but(op, zeros, axis, size):
    """Zeros, and `size` at one axis."""
    parts = [op.constant([0] * axis), size, op.constant([0] * (zeros.shape[0] - axis - 1))]
    return op.Concat(*(p for p in parts if p.dims != (0,)), axis=0)


@rule(
    name="onnx/slice-by-64-bits",
    matches="Slice",
    opsets=(11, 10**6),
    examples=[
        runtime(
            "float[2,9] x, int32[1] s, int32[1] e) => (float[2,m] y) { a = Constant<value=int32[1]{1}>() t ="
            " Constant<value=int32[1]{-2}>()"
            " y = Slice(x, s, e, a, t)",
            s=tensor(1, dtype="int32", values=[8]),
            e=tensor(1, dtype="int32", values=[0]),
        ),
        runtime(
            "float[n,9] x, int32[1] s, int32[1] e) => (float[m,9] y) { a = Constant<value=int32[1]{0}>() y ="
            " Slice(x, s, e, a)",
            s=tensor(1, dtype="int32", values=[0]),
            e=tensor(1, dtype="int32", values=[1]),
        ),
    ],
)
class SliceBy64Bits:
    """Slice by 32-bit positions known at run time -> Cast Slice.

    Source: the parser computes shapes with 64 bits, and its "ONNXTRT_ShapeElementWise" refuses to mix them with 32.
    """

    def applies(node):
        return any(v is not None and v.known_dtype == np.int32 and v.constant is None for v in node.inputs[1:])

    def rewrite(op, node):
        data, *bounds = node.inputs
        return op.Slice(data, *(v and wide(op, v) for v in bounds))


def wide(op, value):
    """As 64-bit integers."""
    return op.Cast(value, to=np.int64) if value.constant is None else op.constant(value.constant, np.int64)


@rule(
    name="onnx/upsample-to-expand",
    matches="Upsample",
    opsets=(9, 9),
    examples=[
        example(
            text="g (float[1,1,2,2] x, float[4] s) => (float[1,1,4,6] y) { y = Upsample(x, s) }",
            _opset=9,
            s=tensor(4, values=[1, 1, 2, 3]),
        ),
        example(
            text="g (float[1,3,2] x, float[3] s) => (float[1,3,4] y) { y = Upsample(x, s) }",
            _opset=9,
            s=tensor(3, values=[1, 1, 2]),
        ),
    ],
)
class UpsampleToExpand:
    """Upsample by whole numbers -> Reshape Expand Reshape: the shapes say how often each element is repeated.

    Source: the parser takes constant scales only.
    """

    def applies(node, scales, mode):
        given, made = node.inputs[0].dims, node.outputs[0].dims
        static = given is not None and made is not None and given.is_static() and made.is_static()
        return scales.constant is None and mode in ("nearest", b"nearest") and static

    def check(node):
        pairs = zip(node.inputs[0].shape, node.outputs[0].shape, strict=True)
        require(all(b % a == 0 for a, b in pairs), "only whole numbers of repetitions")

    def rewrite(op, node, X):
        made = node.outputs[0].shape
        apart = [size for d in X.shape for size in (d, 1)]
        repeated = [size for d, m in zip(X.shape, made, strict=True) for size in (d, m // d)]
        return op.Reshape(op.Expand(op.Reshape(X, apart), repeated), list(made))
