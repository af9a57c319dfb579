"""Tensors made from sizes: one-hot rows, ranges, diagonals."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor
from rewrites.library.shapes_at_run_time import size_at


def runtime(text, **options):
    """An example in text."""
    return example(text=f"g ({text} }}", **options)


@rule(
    name="onnx/one-hot-to-equal",
    matches="OneHot",
    examples=[
        example(
            indices=tensor(2, 3, dtype="int64", low=-4, high=6), depth=tensor(dtype="int64", values=5), values=(2,)
        ),
        example(
            indices=tensor("n", dtype="int64", high=5), depth=tensor(1, dtype="int64", values=[5]), values=(2,), axis=0
        ),
        runtime(
            "int64[n] i, int64 depth, float[2] values) => (float[n,5] y) { y = OneHot(i, depth, values)",
            depth=tensor(dtype="int64", values=5),
        ),
    ],
    refuses=[
        example(
            indices=tensor(3, dtype="int64"),
            depth=tensor(dtype="float32", values=5),
            values=(2,),
            because="whole number",
        )
    ],
)
class OneHotToEqual:
    """OneHot -> Equal Where: compare with every class.

    Source: the parser's OneHot takes a constant depth and 32-bit indices only.
    """

    def applies(depth, indices, values):
        plain = indices.known_dtype in (np.int32, np.int64) and values.known_dtype == np.float32
        return depth.constant is None or not plain

    def check(node, depth):
        known = node.outputs[0].dims is not None and node.outputs[0].dims.is_static()
        require(
            depth.constant is not None or known or depth.dtype.kind in "iu",
            "a depth known at run time must be a whole number",
        )

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
    name="onnx/range-of-floats",
    matches="Range",
    opsets=(11, 10**6),
    examples=[
        runtime(
            "float start, float end, float step) => (float[3] y) { y = Range(start, end, step)",
            start=tensor(values=1.0),
            end=tensor(values=7.5),
            step=tensor(values=2.5),
        ),
        runtime(
            "float start) => (float[3] y) { e = Constant<value_float=6.0>() s = Constant<value_float=2.0>() y ="
            " Range(start, e, s)",
            start=tensor(values=0.5),
        ),
        runtime(
            "float[n] x) => (float16[3] y) { s = Constant<value = float16 {0}>() e = Constant<value = float16 {6}>()"
            " d = Constant<value = float16 {2}>() r = Range(s, e, d) f = Shape(x) z = Cast<to=10>(f) y = Add(r, z)"
        ),
    ],
    refuses=[
        runtime(
            "float s, float e, float d) => (float[n] y) { y = Range(s, e, d)",
            because="how many",
            s=tensor(values=1.0),
            e=tensor(values=3.0),
            d=tensor(values=1.0),
        )
    ],
)
class RangeOfFloats:
    """Range of floats -> Mul Add: the constants 0, 1, 2 ... times the step.

    Source: the parser computes ranges of floats only as constants of 32 bits.
    """

    def applies(start, limit, delta):
        constant = all(v.constant is not None for v in (start, limit, delta))
        return (
            start.known_dtype is not None
            and start.known_dtype.kind not in "iu"
            and not (constant and start.dtype == np.float32)
        )

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


@rule(
    name="onnx/eye-like-of-dynamic-shape",
    matches="EyeLike",
    examples=[
        example(input=(3, "n"), k=1),
        example(input=tensor("m", "n", dtype="int32"), dtype=1, k=-1),
    ],
)
class EyeLikeOfDynamicShape:
    """EyeLike of a dynamic shape -> Range Equal Cast: where column less row is k.

    Source: the parser's "Eyelike does not work for dynamically shaped tensors".
    """

    def applies(input):
        return input.dims is not None and not input.dims.is_static()

    def rewrite(op, input, k, dtype):
        rows, columns = (op.Range(0, op.Squeeze(size_at(op, input, axis), [0]), 1) for axis in (0, 1))
        on = op.Equal(op.Unsqueeze(columns, [0]), op.Add(op.Unsqueeze(rows, [1]), k))
        return op.Cast(on, to=dtype or input.dtype)
