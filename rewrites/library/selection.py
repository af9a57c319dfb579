"""Selecting by value: TensorRT-RTX has no NonZero; where the model says how many there are, comparing finds them."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

LARGEST = 2**24


def known_count(node, output=0, axis=0):
    """The declared number of selected elements; refuses when the model does not say."""
    dims = node.outputs[output].dims if len(node.outputs) > output and node.outputs[output] else None
    require(
        dims is not None and type(dims[axis]) is int,
        "how many elements are selected must be known: TensorRT-RTX has no NonZero",
    )
    return dims[axis]


def first_true(op, mask, count):
    """The positions of the first `count` true elements of a vector, in order."""
    length = op.Shape(mask)
    places = op.Range(0, op.Squeeze(length, [0]), 1)
    before = op.CumSum(op.Cast(mask, to=np.int32), 0)
    hit = op.And(
        op.Unsqueeze(mask, [0]), op.Equal(op.Unsqueeze(before, [0]), np.arange(1, count + 1, dtype=np.int32)[:, None])
    )
    return op.ReduceSum(op.Mul(op.Cast(hit, to=np.int64), places), [1], keepdims=0)


@rule(
    name="onnx/compress-to-gather",
    matches="Compress",
    opsets=(11, 10**6),
    examples=[
        example(input=(3, 4), condition=np.array([True, False, True]), axis=0),
        example(input=("n", 4), condition=np.array([False, True, True]), axis=1),
        example(
            text="g (float[3,4] x, bool[5] c) => (float[2] y) { y = Compress(x, c) }",
            c=tensor(5, dtype="bool", values=[0, 1, 0, 0, 1]),
        ),
    ],
    refuses=[
        example(text="g (float[3,4] x, bool[3] c) => (float[n,4] y) { y = Compress<axis=0>(x, c) }", because="how many")
    ],
)
class CompressToGather:
    """Compress -> Gather: the condition is constant, or it is known how many elements it selects.

    Source: the parser has no importer for Compress, and TensorRT-RTX no NonZero.
    """

    def check(node, condition, axis):
        if condition.constant is None:
            known_count(node, axis=0 if axis is None else axis)

    def rewrite(op, node, input, condition, axis):
        data, along = (op.Reshape(input, [-1]), 0) if axis is None else (input, axis)
        if condition.constant is not None:
            chosen, size = np.flatnonzero(condition.constant), data.shape[along]
            return op.Gather(data, chosen[chosen < size] if type(size) is int else chosen, axis=along)
        return op.Gather(data, first_true(op, condition, known_count(node, axis=along)), axis=along)


@rule(
    name="onnx/non-zero-of-known-count",
    matches="NonZero",
    needed_by={"tensorrt_rtx": "all versions"},
    opsets=(13, 10**6),
    examples=[
        example(
            text="g (bool[2,2] x) => (int64[2,3] y) { y = NonZero(x) }",
            x=tensor(2, 2, dtype="bool", values=[[1, 0], [1, 1]]),
        ),
        example(
            text="g (float[n] x) => (int64[1,2] y) { y = NonZero(x) }",
            x=tensor("n", values=[0, 2, 0, 4]),
            _sizes={"n": 4},
        ),
    ],
    refuses=[example(X=(2, 3), because="how many")],
)
class NonZeroOfKnownCount:
    """NonZero -> CumSum Equal ReduceSum Div Mod: the positions, when it is known how many there are.

    Source: NVIDIA/TensorRT#4120; the parser's "NonZero plugin creator version 1 was not found".
    """

    def check(node, X):
        known_count(node, axis=1)
        require(X.dtype.kind in "fib", "only numbers and booleans are compared with zero")

    def rewrite(op, node, X):
        mask = X if X.dtype == np.bool_ else op.Not(op.Equal(X, 0))
        flat = first_true(op, op.Reshape(mask, [-1]), known_count(node, axis=1))
        rows = []
        for axis in reversed(range(X.rank)):
            size = op.Gather(op.Shape(X), [axis])
            rows.append(op.Unsqueeze(op.Mod(flat, size), [0]))
            flat = op.Div(flat, size)
        return op.Concat(*reversed(rows), axis=0)


@rule(
    name="onnx/scatter-by-mask",
    opsets=(13, 10**6),
    examples=[
        example(
            text="g (float[2,3] x, bool[2,3] m, float[k] v, int64[1] n) => (float[2,3] y) {"
            " at = NonZero(m) places = Transpose<perm = [1, 0]>(at)"
            " start = Constant<value_ints = [0]>() axes = Constant<value_ints = [0]>()"
            " few = Slice(v, start, n, axes) y = ScatterND(x, places, few) }",
            m=tensor(2, 3, dtype="bool", values=[[1, 0, 1], [0, 1, 0]]), n=tensor(1, dtype="int64", values=[3]),
            _sizes={"k": 5},
        ),
        example(
            text="g (float[b,3] x, bool[b,1] m, float[k] v, int64[1] n) => (float[b,3] y) {"
            " s = Shape(x) wide = Expand(m, s) at = NonZero(wide) places = Transpose<perm = [1, 0]>(at)"
            " start = Constant<value_ints = [0]>() axes = Constant<value_ints = [0]>()"
            " few = Slice(v, start, n, axes) y = ScatterND(x, places, few) }",
            m=tensor("b", 1, dtype="bool", values=[[1], [0], [1]]), n=tensor(1, dtype="int64", values=[6]),
            _sizes={"b": 3, "k": 7},
        ),
    ],
)  # fmt: skip
class ScatterByMask:
    """NonZero Transpose Slice ScatterND -> CumSum Gather Where: each place takes the value that is due to it.

    Source: how torch.onnx writes index_put by a mask; the parser's "NonZero plugin creator version 1 was not found".
    """

    def pattern(op, data, mask, values, end):
        places = op.Transpose(op.NonZero(mask), perm=[1, 0])
        return op.ScatterND(data, places, op.Slice(values, [0], end, [0]))

    def check(data, mask, values):
        require(values.rank == 1 and mask.rank == data.rank, "one value for each place of a mask of the data's rank")
        require(covers(mask, data), "the mask must have the data's shape")

    def rewrite(op, data, mask, values, end):
        chosen = op.Reshape(mask if mask.dtype == np.bool_ else op.Not(op.Equal(mask, 0)), [-1])
        before = op.Sub(op.CumSum(op.Cast(chosen, to=np.int64), 0), 1)
        last = op.Sub(op.Shape(values), 1)
        taken = op.Gather(values, op.Max(op.Min(before, last), 0))
        return op.Reshape(op.Where(chosen, taken, op.Reshape(data, [-1])), op.Shape(data))


def covers(mask, data):
    """Whether a mask is known to have the shape of the data: because it is expanded to it, or by its dimensions."""
    if mask.producer is not None and mask.producer.op == "Expand":
        shape = mask.producer.inputs[1].producer
        if shape is not None and shape.op == "Shape" and shape.inputs[0] == data:
            return True
    return mask.dims is not None and None not in mask.dims and mask.dims == data.dims


@rule(
    name="onnx/unique-of-known-count",
    matches="Unique",
    opsets=(13, 10**6),
    examples=[
        example(
            text="g (float[6] x) => (float[4] y, int64[4] i, int64[6] v, int64[4] c) { y, i, v, c ="
            " Unique<sorted=0>(x) }",
            x=tensor(6, values=[2, 1, 1, 3, 4, 3]),
        ),
        example(
            text="g (float[n,3] x) => (float[2,3] y, int64[2] i, int64[n] v, int64[2] c) { y, i, v, c ="
            " Unique<axis=0>(x) }",
            x=tensor("n", 3, values=[[1, 0, 0], [1, 0, 0], [0, 3, 4]]),
            _sizes={"n": 3},
        ),
    ],
    refuses=[example(X=(4,), because="how many")],
)
class UniqueOfKnownCount:
    """Unique -> Equal Less ReduceSum Gather: all pairs are compared, when it is known how many differ.

    Source: the parser has no importer for Unique, whose result has a size that only its values tell.
    """

    def check(node, X, axis):
        known_count(node, axis=axis or 0)
        static = [d for d in X.shape if type(d) is int]
        require(
            np.prod(static, dtype=np.float64) ** 2 <= LARGEST, f"all pairs are compared: more than {LARGEST} of them"
        )
        require(
            axis is None or X.rank == 1 or X.shape[:axis].size * X.shape[axis % X.rank + 1 :].size <= 64,
            "rows of more than 64 elements",
        )

    def rewrite(op, node, X, axis, sorted):
        count, along = known_count(node, axis=axis or 0), 0 if axis is None else axis % X.rank
        data = op.Reshape(X, [-1]) if axis is None else X
        equal, less = compared(op, as_rows(op, data, along))
        places = op.Range(0, op.Squeeze(op.Gather(op.Shape(data), [along]), [0]), 1)
        earlier = op.Less(op.Unsqueeze(places, [0]), op.Unsqueeze(places, [1]))
        first = op.Equal(total(op, op.And(equal, earlier)), 0)
        ahead = op.And(less if sorted else earlier, op.Unsqueeze(first, [0]))
        leader = op.And(equal, op.Unsqueeze(first, [0]))
        rank = total(op, ahead)
        inverse = op.ReduceSum(op.Mul(op.Cast(leader, to=np.int64), op.Unsqueeze(rank, [0])), [1], keepdims=0)
        member = op.Equal(np.arange(count)[:, None], op.Unsqueeze(inverse, [0]))
        leading = op.Cast(op.And(member, op.Unsqueeze(first, [0])), to=np.int64)
        indices = op.ReduceSum(op.Mul(leading, op.Unsqueeze(places, [0])), [1], keepdims=0)
        made = op.Gather(data, indices, axis=along), indices, inverse, total(op, member)
        return made[: len(node.outputs)]


def as_rows(op, data, axis):
    """[items, elements]: everything at one place of the axis as a row."""
    order = [axis, *(i for i in range(data.rank) if i != axis)]
    width = 1 if data.rank == 1 else data.shape[:axis].size * data.shape[axis + 1 :].size
    return op.Reshape(op.Transpose(data, perm=order), [-1, width])


def compared(op, rows):
    """Whether row i equals row j, and whether row j comes before row i, element by element: [items, items] each."""
    equal = less = None
    for column in range(rows.shape[1]):
        x = op.Gather(rows, [column], axis=1)
        mine, other = x, op.Transpose(x, perm=[1, 0])
        same, before = op.Equal(mine, other), op.Less(other, mine)
        less = before if less is None else op.Or(less, op.And(equal, before))
        equal = same if equal is None else op.And(equal, same)
    return equal, less


def total(op, mask):
    """How many are true in each row."""
    return op.ReduceSum(op.Cast(mask, to=np.int64), [1], keepdims=0)
