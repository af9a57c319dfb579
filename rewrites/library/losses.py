"""Losses: TensorRT's parser has none; the specification defines them in terms of other operators."""

from __future__ import annotations

from rewrites import example, rule, tensor
from rewrites.definitions import expand


@rule(
    name="onnx/loss-to-definition",
    matches=["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"],
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(input=(3, 5), target=tensor(3, dtype="int64", high=5)),
        example(input=("n", 5, 4), target=tensor("n", 4, dtype="int64", high=5), weight=(5,), reduction="sum"),
        example(
            op_type="SoftmaxCrossEntropyLoss",
            scores=("n", 5),
            labels=tensor("n", dtype="int64", high=5),
            ignore_index=2,
            _fires=2,
        ),
    ],
)
class LossToDefinition:
    """NegativeLogLikelihoodLoss -> GatherElements Where ReduceMean: the operator's definition.

    Source: the function bodies in the ONNX specification, opsets 12 and 13; onnx-tensorrt's list of operators.
    """

    def rewrite(op, node):
        return expand(op, node)
