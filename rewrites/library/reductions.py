"""Reductions: the axes must be known at build time, and elements must be numbers."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from rewrites import example, require, rule, tensor
from rewrites.library.shapes_at_run_time import kept_sizes, membership, size_at

REDUCTIONS = (
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare"
)
EMPTY = {
    "ReduceProd": 1.0,
    "ReduceMax": -np.inf,
    "ReduceMin": np.inf,
    "ReduceLogSum": -np.inf,
    "ReduceLogSumExp": -np.inf,
}


def by_axes_input(node):
    return len(node.inputs) > 1 and node.inputs[1] is not None and "axes" not in node.given


@rule(
    name="onnx/reduce-small-types",
    matches=["ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"],
    examples=[
        example(data=tensor(2, 3, dtype="bool"), axes=[1], keepdims=1),
        example(data=tensor("n", 3, dtype="bool"), axes=[0], keepdims=0, op_type="ReduceMin"),
        example(data=tensor(2, 3, dtype="uint8"), axes=[1]),
    ],
)
class ReduceSmallTypes:
    """ReduceMax of bool or 8 bits -> Cast ReduceMax Cast: TensorRT reduces numbers of 16 bits and more.

    Source: the element types of TensorRT's IReduceLayer; the parser refuses BOOL and UINT8.
    """

    def applies(node):
        return node.inputs[0].known_dtype in (np.bool_, np.uint8, np.int8)

    def rewrite(op, node):
        data, *axes = node.inputs
        return op.Cast(op.call(node.op, op.Cast(data, to=np.int32), *axes, **node.given), to=data.dtype)


@rule(
    name="onnx/reduce-nothing",
    matches=REDUCTIONS.split(),
    opsets=(13, 10**6),
    priority=-2,
    examples=[
        example(data=(2, 0, 4), axes=[1], op_type="ReduceSum"),
        example(data=("n", 0, 4), axes=[1], keepdims=0, op_type="ReduceProd"),
        example(data=(2, 0, 4), axes=[1], op_type="ReduceLogSum", _opset=18),
        example(data=tensor(2, 0, dtype="bool"), axes=[1], op_type="ReduceMax"),
    ],
    refuses=[example(data=(2, 0), axes=[1], op_type="ReduceMean", because="mean of nothing")],
)
class ReduceNothing:
    """ReduceSum over no elements -> Expand: the neutral element, as the specification says of empty sets.

    Source: ONNX specification, "reduction over an empty set of values"; TensorRT's IReduceLayer wants elements.
    """

    def applies(node):
        dims = node.inputs[0].dims
        return dims is not None and 0 in dims and 0 not in (node.outputs[0].dims or (0,))

    def check(node):
        require(node.op != "ReduceMean", "the mean of nothing is not a number")
        finite = node.op not in EMPTY or node.op == "ReduceProd"
        require(node.inputs[0].dtype.kind in "fb" or finite, "integers have no infinity")
        require(node.outputs[0].shape.is_static() or by_axes_input(node), "the shape of the result must be known")

    def rewrite(op, node):
        fill = np.array(max(EMPTY.get(node.op, 0.0), 0.0) if node.inputs[0].dtype == bool else EMPTY.get(node.op, 0.0))
        fill = fill.astype(node.inputs[0].dtype)
        shape = node.outputs[0].shape
        if shape.is_static():
            return op.constant(np.full(shape, fill))
        sizes = op.Shape(node.inputs[0])
        kept = [i for i, d in enumerate(node.inputs[0].shape) if d != 0]
        require(len(kept) == len(shape) or node.given.get("keepdims", 1), "only empty axes may be reduced")
        if node.given.get("keepdims", 1):
            return op.Expand(fill, op.Max(sizes, [1]))
        return op.Expand(fill, op.Gather(sizes, kept))


@rule(
    name="onnx/reduce-integers-by-floats",
    matches=["ReduceL2", "ReduceLogSum", "ReduceLogSumExp"],
    examples=[
        example(data=tensor(2, 3, dtype="int32", low=1, high=9), axes=[1], op_type="ReduceL2", _opset=18),
        example(data=tensor("n", 3, dtype="int64", low=1, high=9), axes=[0], op_type="ReduceLogSum", _opset=18),
    ],
)
class ReduceIntegersByFloats:
    """ReduceL2 of integers -> Cast ReduceL2 Cast: roots and logarithms of floats, cut to whole numbers.

    Source: the parser's "does not support the given operator SQRT" of integers.
    """

    def applies(node):
        return node.inputs[0].known_dtype in (np.int32, np.int64)

    def rewrite(op, node):
        data, *axes = node.inputs
        return op.Cast(op.call(node.op, op.Cast(data, to=np.float32), *axes, **node.given), to=data.dtype)


def runtime(call, given, made, axes, count=None, **options):
    """An example whose axes are an input."""
    op_type, _, attributes = call.partition("<")
    call = f"{op_type}<{attributes}" if attributes else op_type
    text = f"g (float[{given}] x, int64[{count or len(axes)}] axes) => (float[{made}] y) {{ y = {call}(x, axes) }}"
    spec = tensor(count or len(axes), dtype="int64", values=axes)
    return example(text=text, axes=spec, _opset=18, **options)


@rule(
    name="onnx/reduce-runtime-axes",
    matches=REDUCTIONS.split(),
    opsets=(13, 10**6),
    examples=[
        runtime("ReduceSum<keepdims=0>", "3,2,2", "a,b", [1]),
        runtime("ReduceMax", "3,n,2", "a,b,c", [-2, 0]),
        runtime("ReduceLogSumExp", "3,2,2", "a,b,c", [-1]),
        runtime("ReduceL2<keepdims=0>", "3,2,4", "2,4", [0]),
        runtime("ReduceL1", "3,2,4", "1,1,1", []),
    ],
    refuses=[runtime("ReduceSum", "3,2,2", "a,b,c", [1], count="k", because="how many axes")],
)
class ReduceRuntimeAxes:
    """ReduceSum with axes only known at run time -> ReduceSum Concat Slice for every axis: reduce it and take"
    " that, or do not.

    Where the shapes of input and output say which axes are meant, these become constant.
    Source: the parser's "Axis input must resolve to a build-time constant".
    """

    def applies(node):
        return by_axes_input(node) and node.inputs[1].constant is None

    def check(node):
        require(node.inputs[1].shape.is_static(), "how many axes are reduced must be known")
        require(node.inputs[0].dtype.kind in "fi", "only numbers are reduced")

    def rewrite(op, node):
        data, axes = node.inputs
        keep, options = node.given.get("keepdims", 1), {k: v for k, v in node.given.items() if k != "keepdims"}
        if axes.shape.size == 0:
            return op.call(node.op, data, None, keepdims=keep, **options)
        known = axes_told_by_shapes(data.shape, node.outputs[0].dims, axes.shape.size, keep)
        if known is not None:
            return op.call(node.op, data, known, keepdims=keep, **options)
        member = membership(op, axes, data.rank)
        reduced = COMPOSED.get(node.op, plainly)(op, node.op, data, member)
        return reduced if keep else op.Reshape(reduced, kept_sizes(op, data, member, data.rank - axes.shape.size))


def axes_told_by_shapes(given, made, count, keep):
    """The reduced axes, when both shapes are static and allow only one choice; axes of size one do not matter."""
    if made is None or not given.is_static() or not made.is_static() or (keep and len(made) != len(given)):
        return None
    if keep:
        return [i for i, (a, b) in enumerate(zip(given, made, strict=False)) if a != b] or None
    fitting = [
        c
        for c in combinations(range(len(given)), count)
        if [d for i, d in enumerate(given) if i not in c] == list(made)
    ]
    return list(fitting[0]) if len(fitting) == 1 else None


def plainly(op, reduction, data, member):
    """Reduce the axes that are members, and keep their place as size one."""
    for axis, is_member in enumerate(member):
        size = size_at(op, data, axis)
        both = op.Concat(data, op.call(reduction, data, [axis], keepdims=1), axis=axis)
        data = op.Slice(both, op.Mul(size, is_member), op.Add(size, is_member), [axis])
    return data


def log_sum_exp(op, _, data, member):
    top = plainly(op, "ReduceMax", data, member)
    return op.Add(op.Log(plainly(op, "ReduceSum", op.Exp(op.Sub(data, top)), member)), top)


COMPOSED = {
    "ReduceL1": lambda op, _, x, m: plainly(op, "ReduceSum", op.Abs(x), m),
    "ReduceL2": lambda op, _, x, m: op.Sqrt(plainly(op, "ReduceSum", op.Mul(x, x), m)),
    "ReduceSumSquare": lambda op, _, x, m: plainly(op, "ReduceSum", op.Mul(x, x), m),
    "ReduceLogSum": lambda op, _, x, m: op.Log(plainly(op, "ReduceSum", x, m)),
    "ReduceLogSumExp": log_sum_exp,
}
