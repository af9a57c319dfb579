"""Deformable convolutions."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule

_NEEDS = {"tensorrt": "all versions"}


@rule(
    name="onnx/deform-conv-to-grid-sample",
    matches="DeformConv",
    needed_by=_NEEDS,
    opsets=(19, 10**6),
    examples=[
        example(X=(1, 2, 5, 6), W=(3, 2, 2, 2), offset=(1, 8, 4, 5)),
        example(
            X=("n", 4, 5, 5), W=(6, 2, 3, 3), offset=("n", 36, 3, 3), mask=("n", 18, 3, 3), B=(6,),
            group=2, offset_group=2, pads=[1, 1, 1, 1], strides=[2, 2],
        ),
    ],
    refuses=[example(X=(1, 2, "h", 6), W=(3, 2, 2, 2), offset=(1, 8, 4, 5), _sizes={"h": 5}, because="static")],
)  # fmt: skip
class DeformConvToGridSample:
    """DeformConv -> GridSample Mul MatMul: sample every place of the kernel, weigh it, and multiply by the kernel.

    Source: the ONNX specification of DeformConv, opset 19; TensorRT has it as a plugin that its parser often lacks.
    """

    def check(X, W, offset):
        static = X.shape[1:].is_static() and W.shape.is_static() and offset.shape[1:].is_static()
        require(static and X.rank == 4, "all axes but the batch must be static, two of them spatial")

    def rewrite(op, node, X, W, offset, mask, B, group, offset_group):
        places, (rows, columns) = W.shape[2] * W.shape[3], offset.shape[2:]
        channels = X.shape[1] // offset_group
        sampled = []
        for g in range(offset_group):
            part = op.Slice(X, [g * channels], [(g + 1) * channels], [1])
            moved = op.Slice(offset, [2 * g * places], [2 * (g + 1) * places], [1])
            found = op.GridSample(part, grid_of(op, node, moved), mode=bilinear(op), align_corners=0)
            if mask is not None:
                weight = op.Slice(mask, [g * places], [(g + 1) * places], [1])
                found = op.Mul(found, op.Reshape(weight, [-1, 1, places * rows, columns]))
            sampled.append(found)
        x = op.Concat(*sampled, axis=1) if offset_group > 1 else sampled[0]
        x = op.Reshape(x, [-1, group, X.shape[1] // group * places, rows * columns])
        kernel = op.Reshape(W, [1, group, W.shape[0] // group, W.shape[1] * places])
        y = op.Reshape(op.MatMul(kernel, x), [-1, W.shape[0], rows, columns])
        return y if B is None else op.Add(y, op.Reshape(B, [1, -1, 1, 1]))


def bilinear(op):
    return "linear" if op.opset >= 20 else "bilinear"


def grid_of(op, node, moved):
    """Where to sample, in GridSample's -1..1 (x, y): shape [batch, places * rows, columns, 2]."""
    given, (height, width), kernel = node.given, node.inputs[0].shape[2:], node.inputs[1].shape[2:]
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    pads, sizes = given.get("pads", [0, 0, 0, 0]), node.inputs[2].shape[2:]
    starts = [np.arange(n) * s - p for n, s, p in zip(sizes, strides, pads, strict=False)]
    places = [np.arange(k) * d for k, d in zip(kernel, dilations, strict=True)]
    y = np.add.outer(places[0], starts[0])[:, None, :, None] + np.zeros((1, kernel[1], 1, sizes[1]))
    x = np.add.outer(places[1], starts[1])[None, :, None, :] + np.zeros((kernel[0], 1, sizes[0], 1))
    regular = np.stack([y, x], 2).reshape(1, -1, *sizes)
    scale = np.array([2 / height, 2 / width], np.float64)
    steps = np.tile(scale, kernel[0] * kernel[1])[None, :, None, None]
    dtype = moved.dtype
    unit = op.Add(op.Mul(moved, steps.astype(dtype)), ((regular + 0.5) * steps - 1).astype(dtype))
    pairs = op.Reshape(unit, [-1, kernel[0] * kernel[1], 2, sizes[0], sizes[1]])
    swapped = op.Transpose(op.Gather(pairs, np.array([1, 0]), axis=2), perm=[0, 1, 3, 4, 2])
    return op.Reshape(swapped, [-1, kernel[0] * kernel[1] * sizes[0], sizes[1], 2])
