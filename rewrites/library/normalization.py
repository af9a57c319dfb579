"""Normalizations in the forms that parsers refuse."""

from __future__ import annotations

from rewrites import example, require, rule
from rewrites.definitions import expand


@rule(
    name="onnx/layer-normalization-outputs",
    matches="LayerNormalization",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(X=(2, 3, 4), Scale=(4,), B=(4,), _outputs=3),
        example(X=("n", 3, 4), Scale=(3, 4), axis=-2, epsilon=0.01, _outputs=2),
    ],
)
class LayerNormalizationOutputs:
    """LayerNormalization with mean and deviation -> ReduceMean Sub Mul Sqrt Div: the operator's definition.

    Source: the function body in the ONNX specification, opset 17; onnx-tensorrt's importer asserts one output.
    """

    def applies(node):
        return len(node.outputs) > 1

    def rewrite(op, node):
        return expand(op, node)


@rule(
    name="onnx/batch-normalization-training",
    matches="BatchNormalization",
    needed_by={"tensorrt": "all versions"},
    opsets=(14, 10**6),
    examples=[
        example(
            X=(2, 3, 4, 5), scale=(3,), B=(3,), input_mean=(3,), input_var=(3,), training_mode=1, _outputs=3,
        ),
        example(
            X=("n", 3, "l"), scale=(3,), B=(3,), input_mean=(3,), input_var=(3,), training_mode=1, momentum=0.7,
            _outputs=3,
        ),
    ],
)  # fmt: skip
class BatchNormalizationTraining:
    """BatchNormalization in training -> ReduceMean Sub Mul Sqrt Div: statistics of the batch, running ones moved on.

    Source: the ONNX specification of BatchNormalization, opset 15; onnx-tensorrt asserts inference.
    """

    def applies(training_mode):
        return bool(training_mode)

    def check(X):
        require(X.rank >= 2, "the input needs a batch and channels")

    def rewrite(op, node, X, scale, B, input_mean, input_var, epsilon, momentum):
        axes, across = [0, *range(2, X.rank)], [1, -1, *([1] * (X.rank - 2))]
        mean = op.ReduceMean(X, axes, keepdims=1) if op.opset >= 18 else op.ReduceMean(X, axes=axes, keepdims=1)
        centred = op.Sub(X, mean)
        square = op.Mul(centred, centred)
        variance = op.ReduceMean(square, axes, keepdims=1) if op.opset >= 18 else op.ReduceMean(square, axes=axes)
        unit = op.Div(centred, op.Sqrt(op.Add(variance, epsilon)))
        y = op.Add(op.Mul(unit, op.Reshape(scale, across)), op.Reshape(B, across))
        moved = [
            op.Add(op.Mul(old, momentum), op.Mul(op.Reshape(new, [-1]), 1 - momentum))
            for old, new in ((input_mean, mean), (input_var, variance))
        ]
        return (y, *moved)[: len([v for v in node.outputs if v])]
