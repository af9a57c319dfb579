"""Scalars and vectors where TensorRT asks for more axes."""

from __future__ import annotations

from rewrites import example, rule


@rule(
    name="onnx/softmax-of-a-vector",
    matches=["Softmax", "LogSoftmax"],
    examples=[example(input=(5,)), example(input=("n",))],
)
class SoftmaxOfVector:
    """Softmax -> Reshape Softmax Reshape: over the last axis of one row.

    Source: TensorRT's ISoftMaxLayer: at least 2 dimensions are required for input.
    """

    def applies(input):
        return input.rank == 1

    def rewrite(op, node, input):
        return op.Reshape(op.call(node.op, op.Reshape(input, [1, -1]), axis=-1), [-1])


_OF_ONE = {
    "ReduceL1": ["Abs"],
    "ReduceL2": ["Abs"],
    "ReduceLogSum": ["Log"],
    "ReduceSumSquare": ["Identity", "square"],
    "ReduceLogSumExp": ["Identity"],
    "ReduceMax": ["Identity"],
    "ReduceMean": ["Identity"],
    "ReduceMin": ["Identity"],
    "ReduceProd": ["Identity"],
    "ReduceSum": ["Identity"],
}


@rule(
    name="onnx/reduce-of-a-scalar",
    matches=list(_OF_ONE),
    examples=[
        example(op_type="ReduceMean", data=()),
        example(op_type="ReduceL2", data=()),
        example(op_type="ReduceSumSquare", data=()),
    ],
    priority=-1,
)
class ReduceOfScalar:
    """ReduceSum -> Identity, ReduceL2 -> Abs, ...: there is one element.

    Source: TensorRT's IReduceLayer: at least 1 dimension is required for input.
    """

    def applies(data):
        return data.rank == 0

    def rewrite(op, node, data):
        first, *square = _OF_ONE[node.op]
        made = op.call(first, data)
        return op.Mul(made, made) if square else made
