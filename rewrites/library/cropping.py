"""Cropping and padding to given sizes."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

_STATIC = "the sizes must be static, before and after"


@rule(
    name="onnx/center-crop-pad",
    matches="CenterCropPad",
    needed_by={"tensorrt": "all versions"},
    opsets=(18, 10**6),
    examples=[
        example(input_data=(10, 7, 3), shape=np.array([7, 10, 3])),
        example(input_data=("n", 5, 8), shape=np.array([8, 3]), axes=[-2, -1]),
        example(
            text="g (float[2,5] x, int64[2] s) => (float[2,8] y) { y = CenterCropPad(x, s) }",
            s=tensor(2, values=[2, 8], dtype="int64"),
        ),
    ],
    refuses=[example(input_data=("n", 5), shape=np.array([7, 10]), because=_STATIC)],
)
class CenterCropPad:
    """CenterCropPad -> Slice Pad: what is cut or added at either end, a number for each axis.

    Source: the ONNX specification of CenterCropPad, opset 18; onnx-tensorrt's list of operators.
    """

    def check(node, input_data, axes):
        for axis in axes_of(input_data, axes):
            require(input_data.shape.is_static(axis) and node.outputs[0].shape.is_static(axis), _STATIC)

    def rewrite(op, node, input_data, axes):
        chosen = axes_of(input_data, axes)
        pairs = [(input_data.shape[a], node.outputs[0].shape[a]) for a in chosen]
        starts = [max(0, (before - after) // 2) for before, after in pairs]
        ends = [s + min(before, after) for s, (before, after) in zip(starts, pairs, strict=True)]
        y = op.Slice(input_data, starts, ends, chosen)
        pads = np.zeros((2, input_data.rank), np.int64)
        for axis, (before, after) in zip(chosen, pairs, strict=True):
            missing = max(0, after - before)
            pads[:, axis] = missing // 2, missing - missing // 2
        return op.Pad(y, pads.ravel(), np.zeros((), input_data.dtype)) if pads.any() else y


def axes_of(value, axes):
    return [a % value.rank for a in axes or range(value.rank)]
