"""Dropout in training, from the uniform numbers that TensorRT has: they are its own, whatever the seed."""

from __future__ import annotations

import numpy as np

from rewrites import example, rule, tensor


@rule(
    name="onnx/dropout-training-to-where",
    matches="Dropout",
    needed_by={"tensorrt": "all versions"},
    opsets=(12, 10**6),
    examples=[
        example(
            data=(2, 3), ratio=tensor(values=0.0), training_mode=tensor(dtype="bool", values=True), _outputs=2,
        ),
        example(
            data=("n", 3), ratio=tensor(values=0.5), training_mode=tensor(dtype="bool", values=False), _outputs=2,
        ),
    ],
)  # fmt: skip
class DropoutTrainingToWhere:
    """Dropout with a mode of run time -> RandomUniformLike GreaterOrEqual Where: zeros where the number is small.

    Source: the ONNX specification of Dropout, opset 13; onnx-tensorrt wants the mode to be an initializer.
    """

    def applies(training_mode):
        return training_mode is not None and (training_mode.constant is None or bool(training_mode.constant.all()))

    def rewrite(op, node, data, ratio, training_mode, seed):
        drawn = op.RandomUniformLike(data, dtype=1, low=0.0, high=1.0, seed=seed)
        ratio = np.array(0.5, np.float32) if ratio is None else op.Cast(ratio, to=np.float32)
        kept = op.Or(op.GreaterOrEqual(drawn, ratio), op.Not(training_mode))
        factor = op.Cast(op.Where(training_mode, op.Div(1.0, op.Sub(1.0, ratio)), 1.0), to=data.dtype)
        y = op.Where(kept, op.Mul(data, factor), np.array(0, data.dtype))
        return (y, kept)[: len([v for v in node.outputs if v])]
