"""The way back from pooling."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor


@rule(
    name="onnx/max-unpool-to-scatter",
    matches="MaxUnpool",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(
            X=(1, 1, 2, 2),
            I=tensor(1, 1, 2, 2, values=[[[[5, 7], [13, 15]]]], dtype="int64"),
            kernel_shape=[2, 2],
            strides=[2, 2],
        ),
        example(
            X=("n", 1, 2),
            I=tensor("n", 1, 2, values=[[[1, 2]], [[4, 7]]], dtype="int64"),
            kernel_shape=[2],
            strides=[2],
        ),
    ],
)
class MaxUnpoolToScatter:
    """MaxUnpool -> ConstantOfShape ScatterElements: put every value at its flat index, zeros elsewhere.

    A given output shape pads the end, as the specification's own test expects; ONNX Runtime reads the indices in it.
    Source: the ONNX specification of MaxUnpool, opset 22.
    """

    def check(node, output_shape):
        require(node.inputs[0].shape[1:].is_static(), "channels and pooled axes must be static")
        require(output_shape is None or node.outputs[0].shape[2:].is_static(), "the output's shape must be static")

    def rewrite(op, node, X, I, output_shape):  # noqa: E741
        spatial = unpooled(node)
        shape = op.Concat(op.Shape(X, start=0, end=2), np.array(spatial), axis=0)
        empty = op.Expand(np.zeros(1, X.dtype), op.Unsqueeze(op.ReduceProd(shape, [0], keepdims=0), [0]))
        flat = op.ScatterElements(empty, op.Reshape(I, [-1]), op.Reshape(X, [-1]), axis=0)
        made = op.Reshape(flat, [-1, X.shape[1], *spatial])
        if output_shape is None:
            return made
        more = [b - a for a, b in zip(spatial, node.outputs[0].shape[2:], strict=True)]
        return op.Pad(made, [0] * (X.rank + 2) + more) if any(more) else made


def unpooled(node):
    """The spatial sizes that the attributes mean."""
    sizes, kernel = node.inputs[0].shape[2:], node.given["kernel_shape"]
    strides, pads = node.given.get("strides", [1] * len(kernel)), node.given.get("pads", [0] * (2 * len(kernel)))
    around = [a + b for a, b in zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)]
    return [(n - 1) * s - p + k for n, s, p, k in zip(sizes, strides, around, kernel, strict=True)]
