"""Scattering with a reduction: the parser refuses it, or worse, TensorRT 8.6 ignores the reduction."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

LARGEST = 2**26
COMBINE = {
    "add": ("Add", "ReduceSum"),
    "mul": ("Mul", "ReduceProd"),
    "max": ("Max", "ReduceMax"),
    "min": ("Min", "ReduceMin"),
}


def index(*shape, high, low=0):
    return tensor(*shape, dtype="int64", low=low, high=high)


def neutral(reduction, dtype):
    """The value that changes nothing."""
    if reduction in ("add", "mul"):
        return np.array(reduction == "mul", dtype)
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return np.array(low if reduction == "max" else high, dtype)


def check_reduction(reduction, data):
    require(reduction in COMBINE, f"the reduction {reduction} is not defined")
    require(data.dtype.kind in "fi", "only numbers are reduced")


def affordable(*sizes):
    known = [s for s in sizes if isinstance(s, int)]
    require(
        np.prod(known, dtype=np.float64) <= LARGEST,
        f"comparing every index with every place takes more than {LARGEST} elements",
    )


@rule(
    name="onnx/scatter-nd-reduction",
    matches="ScatterND",
    opsets=(16, 10**6),
    examples=[
        example(data=(4, 3), indices=index(5, 1, high=4), updates=(5, 3), reduction="add"),
        example(
            data=("n", 3), indices=index("m", 1, low=-3, high=3), updates=("m", 3), reduction="add", _sizes={"n": 3}
        ),
        example(data=(4, 3), indices=index(5, 2, high=3), updates=(5,), reduction="max"),
        example(data=(4, 3, 2), indices=index(2, 3, 1, high=4), updates=(2, 3, 3, 2), reduction="mul"),
        example(
            data=tensor(4, dtype="int64"),
            indices=index("m", 1, high=4),
            updates=tensor("m", dtype="int64"),
            reduction="min",
        ),
        example(
            data=tensor(4, dtype="int32"),
            indices=index("m", 1, high=4),
            updates=tensor("m", dtype="int32"),
            reduction="add",
        ),
    ],
    refuses=[
        example(data=(70000,), indices=index(1000, 1, high=9), updates=(1000,), reduction="max", because="elements")
    ],
)
class ScatterNDReduction:
    """ScatterND with a reduction -> Equal MatMul, or Equal Where Reduce: every place gathers its updates,"
    " repeated ones too.

    Source: NVIDIA/TensorRT#3650, microsoft/onnxruntime#23618; the parser's "ScatterND with reduction is not supported".
    """

    def applies(reduction):
        return reduction != "none"

    def check(data, indices, reduction):
        check_reduction(reduction, data)
        require(indices.shape.is_static(-1), "how many axes are indexed must be known")
        depth = indices.shape[-1]
        by_matmul = reduction == "add" and data.dtype.kind == "f"
        affordable(*data.shape[: depth if by_matmul else data.rank], *indices.shape[:-1])

    def rewrite(op, data, indices, updates, reduction):
        depth = indices.shape[-1]
        sizes = op.Shape(data)
        indexed, rest = op.Slice(sizes, [0], [depth]), op.Slice(sizes, [depth], [data.rank])
        row = op.ReduceProd(rest, keepdims=1) if depth < data.rank else op.constant([1])
        places = op.ReduceProd(indexed, keepdims=1)
        wanted = op.Reshape(flat_index(op, indices, indexed, depth), [1, -1])
        given, at = op.Reshape(updates, op.Concat([-1], row, axis=0)), op.Range(0, op.Squeeze(places, [0]), 1)
        hit = op.Equal(op.Unsqueeze(at, [1]), wanted)
        found = gathered(op, hit, given, reduction)
        return op.call(COMBINE[reduction][0], data, op.Reshape(found, sizes))


@rule(
    name="onnx/scatter-nd-none",
    matches="ScatterND",
    needed_by={"tensorrt": "all versions"},
    opsets=(16, 10**6),
    examples=[
        example(data=(4, 3), indices=index(2, 1, high=4), updates=(2, 3), reduction="none"),
        example(data=("n", 3), indices=index("m", 1, high=1), updates=("m", 3), reduction="none", _sizes={"m": 1}),
    ],
)
class ScatterNDNone:
    """ScatterND with the reduction "none" -> ScatterND: the default, unsaid.

    Source: onnx-tensorrt 10's importer asserts that there is no such attribute, whatever it says.
    """

    def applies(node):
        return node.given.get("reduction") in ("none", b"none")

    def rewrite(op, data, indices, updates):
        return op.ScatterND(data, indices, updates)


def flat_index(op, indices, indexed, depth):
    """The position of each index tuple among the indexed axes laid end to end, shape [..., 1]."""
    total = None
    for axis in range(depth):
        part = op.Gather(indices, [axis], axis=-1)
        size = op.Gather(indexed, [axis])
        front = op.Where(op.Less(part, 0), op.Add(part, size), part)
        total = front if total is None else op.Add(op.Mul(total, size), front)
    return total


def gathered(op, hit, given, reduction):
    """For each place (row of `hit`), its updates (rows of `given`) reduced."""
    if reduction == "add" and given.dtype.kind == "f":
        return op.MatMul(op.Cast(hit, to=given.dtype), given)
    chosen = op.Where(op.Unsqueeze(hit, [2]), op.Unsqueeze(given, [0]), neutral(reduction, given.dtype))
    return reduced(op, chosen, reduction, 1)


def reduced(op, x, reduction, axis):
    """Reduce one axis away."""
    return op.call(COMBINE[reduction][1], x, [axis], keepdims=0)


@rule(
    name="onnx/scatter-elements-reduction",
    matches="ScatterElements",
    opsets=(16, 10**6),
    examples=[
        example(data=(4, 3), indices=index(5, 3, high=4), updates=(5, 3), axis=0, reduction="add"),
        example(data=("n", 5), indices=index("n", 3, low=-5, high=5), updates=("n", 3), axis=1, reduction="max"),
        example(data=(3, 4, 2), indices=index(2, 6, 2, high=4), updates=(2, 6, 2), axis=-2, reduction="mul"),
        example(
            data=tensor(5, dtype="int64"),
            indices=index("m", high=5),
            updates=tensor("m", dtype="int64"),
            reduction="min",
        ),
    ],
    refuses=[
        example(
            data=("n", 5), indices=index("m", 3, high=5), updates=("m", 3), axis=1, reduction="add", because="same size"
        ),
    ],
)
class ScatterElementsReduction:
    """ScatterElements with a reduction -> Equal Where Reduce: every place gathers its updates, repeated ones too.

    Source: NVIDIA/TensorRT#3650 and #3750; the parser's "Unsupported reduction type".
    """

    def applies(reduction):
        return reduction != "none"

    def check(data, indices, axis, reduction):
        check_reduction(reduction, data)
        for i, (d, u) in enumerate(zip(data.shape, indices.shape, strict=False)):
            fits = i == axis % data.rank or (d == u and d is not None) or (type(d) is int and type(u) is int)
            require(fits, f"axis {i} of the data and of the updates must have the same size, or both be static")
        affordable(*data.shape, indices.shape[axis])

    def rewrite(op, data, indices, updates, axis, reduction):
        axis %= data.rank
        size = op.Gather(op.Shape(data), [axis])
        front = op.Where(op.Less(indices, 0), op.Add(indices, op.Cast(size, to=indices.dtype)), indices)
        ends = [
            0 if i == axis or d == u else d - u for i, (d, u) in enumerate(zip(data.shape, indices.shape, strict=False))
        ]
        if any(ends):
            pads = [0] * len(ends) + ends
            front, updates = (
                op.Pad(front, pads, np.array(-1, front.dtype)),
                op.Pad(updates, pads, np.array(0, updates.dtype)),
            )
        places = op.Cast(op.Range(0, op.Squeeze(size, [0]), 1), to=indices.dtype)
        places = op.Reshape(places, [-1, *[1] * (data.rank - axis)])
        hit = op.Equal(places, op.Unsqueeze(front, [axis]))
        chosen = op.Where(hit, op.Unsqueeze(updates, [axis]), neutral(reduction, data.dtype))
        return op.call(COMBINE[reduction][0], data, reduced(op, chosen, reduction, axis + 1))


@rule(
    name="onnx/tensor-scatter-to-gather",
    matches="TensorScatter",
    opsets=(24, 10**6),
    examples=[
        example(past_cache=(2, 5, 3), update=(2, 2, 3), write_indices=index(2, high=3), _opset=24),
        example(
            past_cache=("b", 2, 5, 3),
            update=("b", 2, 4, 3),
            write_indices=index("b", high=5),
            mode="circular",
            _opset=24,
        ),
        example(past_cache=(2, 5, 3), update=(2, 2, 3), axis=1, _opset=24),
    ],
)
class TensorScatterToGather:
    """TensorScatter -> GatherElements Where: every place of the cache takes its update, if it has one.

    Source: the parser's "Only linear mode is supported" and "The past_cache tensor is required to be 4D".
    """

    def applies(past_cache, mode):
        return mode == "circular" or past_cache.dims is None or len(past_cache.dims) != 4

    def rewrite(op, past_cache, update, write_indices, axis, mode):
        axis, rank = axis % past_cache.rank, past_cache.rank
        sizes = op.Shape(past_cache)
        length = op.Gather(sizes, [axis])
        at = op.Reshape(op.Range(0, op.Squeeze(length, [0]), 1), [-1, *[1] * (rank - axis - 1)])
        if write_indices is not None:
            first = op.Mod(write_indices, length) if mode == "circular" else write_indices
            at = op.Sub(at, op.Reshape(first, [-1, *[1] * (rank - 1)]))
        if mode == "circular":
            at = op.Where(op.Less(at, 0), op.Add(at, length), at)
        count = op.Gather(op.Shape(update), [axis])
        inside = op.And(op.GreaterOrEqual(at, 0), op.Less(at, count))
        found = op.GatherElements(update, op.Expand(op.Where(inside, at, 0), sizes), axis=axis)
        return op.Where(inside, found, past_cache)
