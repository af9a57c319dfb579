"""What follows from constants alone is computed at export."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bridge.export.folding import fold_constants


def _folded(nodes: list[onnx.NodeProto], outputs: list[str], **constants: np.ndarray) -> onnx.GraphProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    fold_constants(graph, 18)
    return graph


def _value(graph: onnx.GraphProto, name: str) -> list[int]:
    (found,) = [tensor for tensor in graph.initializer if tensor.name == name]
    return numpy_helper.to_array(found).tolist()


def test_chains_are_computed_and_what_reads_an_input_is_left() -> None:
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("Add", ["c", "a"], ["d"]),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    graph = _folded(nodes, ["y"], a=np.array([2, 3]), b=np.array([4]))
    assert [node.op_type for node in graph.node] == ["Add"]
    assert _value(graph, "d") == [10, 15]


def test_results_of_the_graph_are_made_by_nodes() -> None:
    nodes = [helper.make_node("Mul", ["a", "a"], ["c"]), helper.make_node("Neg", ["c"], ["y"])]
    graph = _folded(nodes, ["y"], a=np.array([2, 3]))
    assert [node.op_type for node in graph.node] == ["Neg"]
    assert _value(graph, "c") == [4, 9]


def test_what_would_be_large_or_may_differ_or_varies_is_left() -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["large"]),
        helper.make_node("Div", ["negative", "two"], ["quotient"]),
        helper.make_node("RandomNormalLike", ["two"], ["random"]),
        helper.make_node("Add", ["two", "two"], ["other"], domain="elsewhere"),
        helper.make_node("Expand", ["two", "sizes"], ["wide"]),
        helper.make_node("Sum", ["x", "large", "quotient", "random", "other", "wide"], ["y"]),
    ]
    graph = _folded(nodes, ["y"], sizes=np.array([300, 300]), negative=np.array([-7]), two=np.array([2]))
    assert [node.op_type for node in graph.node] == [node.op_type for node in nodes]


def test_negative_zero_and_nan_stay_what_they_are() -> None:
    nodes = [helper.make_node("Mul", ["a", "b"], ["c"]), helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)]
    graph = _folded(nodes, ["y"], a=np.array([-0.0, np.nan, np.inf], np.float32), b=np.array([1.0], np.float32))
    found = np.array(_value(graph, "c"), np.float32)
    assert np.signbit(found[0])
    assert np.isnan(found[1])
    assert np.isposinf(found[2])
