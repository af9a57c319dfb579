"""Control flow and optional values, where what happens is known when the engine is built."""

from __future__ import annotations

import numpy as np

from rewrites import example, rule


@rule(
    name="onnx/loop-with-condition",
    matches="Loop",
    opsets=(11, 10**6),
    examples=[
        example(
            text="g (float[2] x) => (float[2] y) { n = Constant<value_int=3>() y = Loop(n, , x) <body = b"
            " (int64 i, bool c, float[2] s)"
            " => (bool d, float[2] t) { d = Identity(c) t = Add(s, s) }> }"
        ),
        example(
            text="g (float[n] x) => (float[n] y) { m = Constant<value_int=2>() y = Loop(m, , x) <body = b"
            " (int64 i, bool c, float[n] s)"
            " => (bool d, float[n] t) { d = Identity(c) t = Exp(s) }> }"
        ),
    ],
)
class LoopWithCondition:
    """Loop without a condition -> Loop with the condition true.

    Source: the parser's "Node input was not registered".
    """

    def applies(node):
        return len(node.inputs) < 2 or node.inputs[1] is None

    def rewrite(op, node):
        count, _, *carried = [*node.inputs, None][: max(len(node.inputs), 2)]
        types = [(v.known_dtype, v.dims) for v in node.outputs if v]
        return op.Loop(count, True, *carried, _outputs=len(node.outputs), _types=types, **node.given)


@rule(
    name="onnx/optional-of-a-tensor",
    matches=["OptionalHasElement", "OptionalGetElement"],
    opsets=(18, 10**6),
    examples=[
        example(input=(2, 3), op_type="OptionalGetElement"),
        example(input=("n",), op_type="OptionalHasElement"),
        example(op_type="OptionalHasElement"),
    ],
)
class OptionalOfATensor:
    """OptionalHasElement -> constant, OptionalGetElement -> its input: a tensor is always there, and nothing never is.

    Source: ONNX operator specification, opset 18; TensorRT knows no optional values.
    """

    def applies(node):
        value = node.inputs[0] if node.inputs else None
        made = value.producer if value is not None else None
        return value is None or value.known_dtype is not None or (made is not None and made.op == "Optional")

    def rewrite(op, node):
        value = node.inputs[0] if node.inputs else None
        if value is not None and value.producer is not None and value.producer.op == "Optional":
            value = next(iter(value.producer.inputs), None)
        return value if node.op == "OptionalGetElement" else op.Identity(np.array(value is not None))
