"""Logarithms of sums of exponentials, which grow beyond every type on the way."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor
from rewrites.library.reductions import by_axes_input, runtime

_INF = np.inf
_LARGE = tensor(4, 3, values=[[777.0, 388.0, 0.0], [-1e30, -999.0, -1000.0], [_INF, 1.0, -_INF], [-_INF, -_INF, -_INF]])


@rule(
    name="onnx/log-sum-exp-by-the-largest",
    matches="ReduceLogSumExp",
    opsets=(13, 10**6),
    examples=[
        example(data=_LARGE, axes=[1], _opset=18),
        example(data=("n", 3, 4), axes=[-1, 0], keepdims=0, _opset=18),
        example(data=(2, 3), _opset=13),
        example(data=tensor("n", 3, low=80, high=99), axes=[1], keepdims=0, _opset=13),
    ],
    refuses=[runtime("ReduceLogSumExp", "3,2,2", "a,b,c", [1], because="axes")],
)
class LogSumExpByTheLargest:
    """ReduceLogSumExp -> ReduceMax Clip Sub Exp ReduceSum Log Add: beyond the largest element, which is added again.

    Source: TensorRT's parser imports it as Exp, ReduceSum and Log, of which the first is infinite beyond 88, in sixteen
    bits beyond 11 (`ReduceLogSumExp` in onnx-tensorrt's onnxOpImporters.cpp); ONNX Runtime does so in sixteen bits.
    """

    def applies(data):
        return data.known_dtype is None or data.known_dtype.kind not in "iu"

    def check(node):
        require(not by_axes_input(node) or node.inputs[1].constant is not None, "the axes must be known")

    def rewrite(op, node, data):
        axes = node.inputs[1].constant.tolist() if by_axes_input(node) else node.given.get("axes")
        if not axes:
            if node.given.get("noop_with_empty_axes"):
                return op.Identity(data)
            axes = list(range(data.rank))
        x = data if data.dtype.itemsize > 2 else op.Cast(data, to=np.float32)
        bound = float(np.finfo(x.dtype).max)
        top = op.Clip(op.ReduceMax(x, axes, keepdims=1), -bound, bound)
        made = op.Add(op.Log(op.ReduceSum(op.Exp(op.Sub(x, top)), axes, keepdims=1)), top)
        made = made if x is data else op.Cast(made, to=data.dtype)
        return made if node.given.get("keepdims", 1) else op.Squeeze(made, axes)
