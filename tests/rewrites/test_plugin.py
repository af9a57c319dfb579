"""A plugin rule puts the plugin in for TensorRT, and its plain meaning in everywhere else."""

from __future__ import annotations

import onnx
import onnx.parser

import rewrites
from rewrites import example, plugin


@plugin(
    name="t/gelu",
    plugin="CustomGelu",
    version="2",
    matches="Gelu",
    examples=[example(X=(2, 3)), example(X=("n",))],
)
class GeluPlugin:
    """Gelu -> CustomGelu."""

    def inputs(X):
        return X

    def fields(approximate):
        return {"mode": approximate}

    def rewrite(op, X):
        return op.Mul(op.Mul(X, 0.5), op.Add(op.Erf(op.Mul(X, 0.7071067811865476)), 1.0))


def test_the_target_decides() -> None:
    graph = onnx.parser.parse_graph("g (float[n] x) => (float[n] y) { y = Gelu(x) }")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    (node,) = rewrites.rewrite(model, target="tensorrt", rules=[GeluPlugin]).model.graph.node
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert node.op_type == "CustomGelu"
    assert given == {"plugin_version": b"2", "plugin_namespace": b"", "mode": b"none"}
    plain = rewrites.rewrite(model, target="onnxruntime", rules=[GeluPlugin]).model
    assert sorted(n.op_type for n in plain.graph.node) == ["Add", "Erf", "Mul", "Mul", "Mul"]
