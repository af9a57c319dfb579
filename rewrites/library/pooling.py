"""Pooling: dilations, ceil mode, any norm, the places of maxima."""

from __future__ import annotations

import math

import numpy as np

from rewrites import example, require, rule
from rewrites.windows import Windows, kept_attributes

_POOLS = ["MaxPool", "AveragePool"]


@rule(
    name="onnx/ceil-pool-to-pads",
    matches=[*_POOLS, "LpPool"],
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(X=(1, 2, 6, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        example(X=("n", 1, 2, 2), kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1, _opset=22),
        example(op_type="AveragePool", X=("n", 1, 6), kernel_shape=[3], strides=[2], pads=[1, 0], ceil_mode=1),
    ],
    refuses=[example(X=(1, 2, "length"), kernel_shape=[3], strides=[2], ceil_mode=1, because="static")],
)
class CeilPoolToPads:
    """MaxPool ceil_mode -> MaxPool pads: padding at the end that makes as many windows.

    TensorRT also counts a last window that begins in the padding; the specification leaves it out.
    Source: the output shape in the ONNX specification of MaxPool, opset 22; measured on TensorRT-RTX 1.7.
    """

    def applies(node, ceil_mode):
        return ceil_mode and not node.given.get("count_include_pad") and node.attributes.get("auto_pad") == "NOTSET"

    def check(node):
        require(node.inputs[0].shape[2:].is_static(), "the pooled axes must be static")
        windows, dims = Windows.of(node), node.outputs[0].shape[2:]
        counts = [windows.count(axis) for axis in range(len(dims))]
        require(list(dims) == counts, f"{counts} windows contradict the declared output {list(dims)}")

    def rewrite(op, node):
        pads = Windows.of(node).covering_pads()
        return op.call(node.op, *node.inputs, pads=pads, _outputs=len(node.outputs), **kept_attributes(node))


@rule(
    name="onnx/pool-to-shifted-slices",
    matches=_POOLS,
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(X=(1, 2, 8, 9), kernel_shape=[3, 2], dilations=[2, 3], strides=[1, 2], pads=[1, 0, 1, 0]),
        example(X=("n", 2, "length"), kernel_shape=[3], dilations=[2], _sizes={"length": 9}),
        example(op_type="AveragePool", X=("n", 2, 8, 8), kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]),
        example(
            op_type="AveragePool", X=(1, 2, 8), kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1,
            count_include_pad=1,
        ),
    ],
    refuses=[
        example(
            op_type="AveragePool", X=(1, 1, "l"), kernel_shape=[2], dilations=[2], pads=[1, 1], because="static",
            _sizes={"l": 9},
        )
    ],
)  # fmt: skip
class PoolToShiftedSlices:
    """MaxPool dilations -> Pad Slice Max: the maximum (or mean) of shifted slices, one axis after the other.

    Source: onnx-tensorrt asserts dilations of 1; it counts padding added by ceil_mode in means.
    """

    def applies(node, ceil_mode):
        dilated = any(d != 1 for d in node.given.get("dilations", ()))
        counts = ceil_mode and bool(node.given.get("count_include_pad"))
        return (dilated or counts) and len(node.outputs) == 1 and node.attributes.get("auto_pad") == "NOTSET"

    def check(node, ceil_mode):
        windows, static = Windows.of(node), node.inputs[0].shape[2:].is_static()
        padded = any(windows.pads) and node.op == "AveragePool"
        require(static or not (ceil_mode or padded), "the pooled axes must be static")

    def rewrite(op, node):
        windows, x = Windows.of(node), node.inputs[0]
        if node.op == "MaxPool":
            lowest = -np.inf if x.dtype.kind not in "iu" else np.iinfo(x.dtype).min
            return windows.reduce(op, windows.pad(op, x, lowest), "Max")
        total = windows.reduce(op, windows.pad(op, x, 0), "Add")
        return op.Div(total, windows.counts(bool(node.given.get("count_include_pad"))).astype(x.dtype))


@rule(
    name="onnx/max-pool-indices",
    matches="MaxPool",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(X=(1, 2, 6, 6), kernel_shape=[2, 2], strides=[2, 2], _outputs=2),
        example(X=("n", 2, 5, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1], _outputs=2),
        example(X=(2, 2, 5, 6), kernel_shape=[3, 3], strides=[2, 2], storage_order=1, dilations=[2, 1], _outputs=2),
    ],
    refuses=[example(X=(1, 2, "l"), kernel_shape=[2], _outputs=2, because="static")],
)
class MaxPoolIndices:
    """MaxPool with indices -> Slice Concat ReduceMax Equal Where ReduceMin: the first place where the maximum stands.

    Where there is NaN, which ONNX leaves open, the last one, as in PyTorch.
    Source: onnx-tensorrt asserts one output; the order of ties is ONNX Runtime's, the first in the window.
    """

    def applies(node):
        return len(node.outputs) > 1 and node.attributes.get("auto_pad") == "NOTSET"

    def check(node):
        windows, x = Windows.of(node), node.inputs[0]
        require(x.shape[1:].is_static(), "channels and pooled axes must be static")
        require(math.prod(windows.kernel) <= 64, "windows of more than 64 elements cost too many nodes")

    def rewrite(op, node, storage_order):
        windows, x = Windows.of(node), node.inputs[0]
        stacked = windows.stack(op, windows.pad(op, x, -np.inf))
        highest = op.ReduceMax(stacked, [2], keepdims=1)
        places = windows.places(storage_order)
        found = op.ReduceMin(op.Where(op.Equal(stacked, highest), places, np.int64(2**31 - 1)), [2], keepdims=1)
        if x.dtype.kind not in "iu":  # NaN equals nothing
            last = op.ReduceMax(op.Where(op.IsNaN(stacked), places, np.int64(-1)), [2], keepdims=1)
            has = op.GreaterOrEqual(last, np.int64(0))
            highest, found = op.Where(has, np.array(np.nan, x.dtype), highest), op.Where(has, last, found)
        size, ones = math.prod(windows.sizes), [1] * len(windows.sizes)
        channels = x.shape[1]
        batch = op.Range(0, op.Squeeze(op.Shape(x, start=0, end=1), [0]), 1)
        first = op.Mul(op.Add(op.Mul(op.Unsqueeze(batch, [1]), channels), np.arange(channels)), size)
        return op.Squeeze(highest, [2]), op.Add(op.Squeeze(found, [2]), op.Reshape(first, [-1, channels, *ones]))


@rule(
    name="onnx/lp-pool-to-average",
    matches="LpPool",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(X=(1, 2, 6, 7), kernel_shape=[2, 2], p=3),
        example(X=("n", 2, "length"), kernel_shape=[3], p=1, pads=[1, 1], strides=[2], _sizes={"length": 9}),
        example(X=("n", 2, 9), kernel_shape=[3], dilations=[2], _opset=18),
    ],
)
class LpPoolToAverage:
    """LpPool -> Abs Pow AveragePool Mul Pow: the mean of the powers times the window's size.

    Source: onnx-tensorrt takes p of 1 and 2 without dilations.
    """

    def applies(node, ceil_mode=0):
        return not node.given.get("ceil_mode") and node.attributes.get("auto_pad") in ("NOTSET", "", None, "VALID")

    def rewrite(op, node, X, p):
        windows, powers = Windows.of(node), op.Pow(op.Abs(X), float(p))
        if any(d != 1 for d in windows.dilations):
            return op.Pow(windows.reduce(op, windows.pad(op, powers, 0), "Add"), 1.0 / p)
        attributes = kept_attributes(node, without=("p", "dilations"))
        pads = {"pads": node.given["pads"]} if "pads" in node.given else {}
        mean = op.AveragePool(powers, count_include_pad=1, **pads, **attributes)
        return op.Pow(op.Mul(mean, math.prod(node.given["kernel_shape"])), 1.0 / p)


@rule(
    name="onnx/global-lp-pool-to-reduce",
    matches="GlobalLpPool",
    needed_by={"tensorrt": "all versions"},
    examples=[example(X=(1, 2, 6, 7), p=3), example(X=("n", 2, "length"), p=1)],
)
class GlobalLpPoolToReduce:
    """GlobalLpPool -> Abs Pow ReduceSum Pow: its definition; parsers take p of 1 and 2 only."""

    def rewrite(op, X, p):
        axes = list(range(2, X.rank))
        return op.Pow(op.ReduceSum(op.Pow(op.Abs(X), float(p)), axes, keepdims=1), 1.0 / p)
