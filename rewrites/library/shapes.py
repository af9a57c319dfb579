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
        runtime("float[1,3] x, int64[k] axes) => (float[a] y) { y = Squeeze(x, axes)", axes=tensor("k", dtype="int64", values=[0]),
                because="how many axes"),
    ],
)  # fmt: skip
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
        return op.Reshape(data, with_ones(op, data, membership(op, not_negative(op, axes, data.rank + count), data.rank + count)))


def with_ones(op, data, member):
    """The sizes of `data` with ones put in where an axis is a member."""
    sizes, before, made = op.Concat(op.Shape(data), [1], axis=0), op.constant([0]), []
    for is_member in member:
        size = op.Gather(sizes, op.Min(before, [data.rank]))
        made.append(op.Add(is_member, op.Mul(op.Sub([1], is_member), size)))
        before = op.Add(before, op.Sub([1], is_member))
    return op.Concat(*made, axis=0)


@rule(
    name="onnx/one-hot-to-equal",
    matches="OneHot",
    examples=[
        example(indices=tensor(2, 3, dtype="int64", low=-4, high=6), depth=tensor(dtype="int64", values=5), values=(2,)),
        example(indices=tensor("n", dtype="int64", high=5), depth=tensor(1, dtype="int64", values=[5]), values=(2,), axis=0),
        runtime("int64[n] i, int64 depth, float[2] values) => (float[n,5] y) { y = OneHot(i, depth, values)",
                depth=tensor(dtype="int64", values=5)),
    ],
    refuses=[example(indices=tensor(3, dtype="int64"), depth=tensor(dtype="float32", values=5), values=(2,), because="whole number")],
)  # fmt: skip
class OneHotToEqual:
    """OneHot -> Equal Where: compare with every class.

    Source: the parser's OneHot takes a constant depth and 32-bit indices only.
    """

    def applies(depth, indices, values):
        plain = indices.known_dtype in (np.int32, np.int64) and values.known_dtype == np.float32
        return depth.constant is None or not plain

    def check(node, depth):
        known = node.outputs[0].dims is not None and node.outputs[0].dims.is_static()
        require(depth.constant is not None or known or depth.dtype.kind in "iu", "a depth known at run time must be a whole number")

    def rewrite(op, node, indices, depth, values, axis):
        axis = axis % (indices.rank + 1)
        known = node.outputs[0].dims
        if depth.constant is not None or (known is not None and type(known[axis]) is int):
            count = int(depth) if depth.constant is not None else known[axis]
            size, places = op.constant([count]), op.constant(np.arange(count))
        else:
            size = op.Cast(op.Reshape(depth, [1]), to=np.int64)
            places = op.Range(0, op.Squeeze(size, [0]), 1)
        index = op.Cast(indices, to=np.int64)
        index = op.Where(op.Less(index, 0), op.Add(index, size), index)
        hit = op.Equal(op.Unsqueeze(index, [axis]), op.Reshape(places, [-1, *[1] * (indices.rank - axis)]))
        return op.Where(hit, op.Gather(values, [1]), op.Gather(values, [0]))


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
    name="onnx/range-of-floats",
    matches="Range",
    opsets=(11, 10**6),
    examples=[
        runtime("float start, float end, float step) => (float[3] y) { y = Range(start, end, step)",
                start=tensor(values=1.0), end=tensor(values=7.5), step=tensor(values=2.5)),
        runtime("float start) => (float[3] y) { e = Constant<value_float=6.0>() s = Constant<value_float=2.0>() y = Range(start, e, s)",
                start=tensor(values=0.5)),
        runtime("float[n] x) => (float16[3] y) { s = Constant<value = float16 {0}>() e = Constant<value = float16 {6}>()"
                " d = Constant<value = float16 {2}>() r = Range(s, e, d) f = Shape(x) z = Cast<to=10>(f) y = Add(r, z)"),
    ],
    refuses=[runtime("float s, float e, float d) => (float[n] y) { y = Range(s, e, d)", because="how many",
                     s=tensor(values=1.0), e=tensor(values=3.0), d=tensor(values=1.0))],
)  # fmt: skip
class RangeOfFloats:
    """Range of floats -> Mul Add: the constants 0, 1, 2 ... times the step.

    Source: the parser computes ranges of floats only as constants of 32 bits.
    """

    def applies(start, limit, delta):
        constant = all(v.constant is not None for v in (start, limit, delta))
        return start.known_dtype is not None and start.known_dtype.kind not in "iu" and not (constant and start.dtype == np.float32)

    def check(node, start, limit, delta):
        constant = all(v.constant is not None for v in (start, limit, delta))
        known = node.outputs[0].dims is not None and node.outputs[0].dims.is_static()
        require(constant or known, "how many numbers there are must be known when the engine is built")

    def rewrite(op, node, start, limit, delta):
        known = node.outputs[0].dims
        values = [v.constant for v in (start, limit, delta)]
        if all(v is not None for v in values):
            first, last, step = (np.asarray(v, np.float64).reshape(()) for v in values)
            return op.constant((first + np.arange(max(0, np.ceil((last - first) / step))) * step).astype(start.dtype))
        steps = op.constant(np.arange(known[0]).astype(start.dtype))
        return op.Add(op.Mul(steps, delta), start)
