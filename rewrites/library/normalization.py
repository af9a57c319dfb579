"""Normalizations in the forms that parsers refuse."""

from __future__ import annotations

from rewrites import example, rule
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
