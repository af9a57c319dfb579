"""Models in and out: what graphsurgeon would lose, weights beyond what protobuf holds, others' rules, opsets."""

from __future__ import annotations

import importlib.metadata
import sys
import types

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

import rewrites
from rewrites import example, rule
from rewrites.protos import model_proto, node_proto
from rewrites.targets import Target
from rewrites.testing import run


@rule(name="t/relu", matches="Relu", examples=[example(X=(2,))])
class ReluToMax:
    """Relu -> Max."""

    def rewrite(op, X):
        return op.Max(X, 0.0)


def parsed(text: str, opset: int = 20) -> onnx.ModelProto:
    imports = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=imports, ir_version=10)


def test_optional_and_nested_types_stay() -> None:
    proto = parsed(
        """g (optional(float[2]) o, seq(float[2]) s) => (float[2] y, seq(float[2]) t) {
        a = OptionalGetElement(o) y = Relu(a) i = Constant<value_int = 0>() e = SequenceAt(s, i)
        t = SequenceInsert(s, e) }"""
    )
    result = rewrites.rewrite(proto, rules=[ReluToMax])
    assert result.report.counts == {"t/relu": 1}
    assert [i.type.WhichOneof("value") for i in result.model.graph.input] == ["optional_type", "sequence_type"]
    assert [i.type for i in result.model.graph.input] == [i.type for i in proto.graph.input]
    assert [i.type for i in result.model.graph.output] == [i.type for i in proto.graph.output]
    onnx.checker.check_model(result.model, full_check=True)


def test_empty_lists_stay_also_in_bodies() -> None:
    proto = parsed(
        """g (bool c, float x) => (float y) {
        r = Relu(x)
        y = If(c) <then_branch = a () => (float t) { t = Transpose<perm = [0]>(r) },
                   else_branch = b () => (float e) { e = Neg(r) }> }"""
    )
    perm = proto.graph.node[1].attribute[0].g.node[0].attribute[0]
    del perm.ints[:]
    result = rewrites.rewrite(proto, rules=[ReluToMax]).model
    (branch,) = [n for n in result.graph.node if n.op_type == "If"]
    assert branch.attribute[0].g.node[0].attribute[0] == perm
    onnx.checker.check_model(result, full_check=True)


def test_a_node_is_left_as_it_was_by_its_export() -> None:
    node = gs.Node("Constant", "c", {"value_floats": []}, [], [gs.Variable("y")])
    proto = node_proto(node, 20)
    assert proto.attribute[0].type == onnx.AttributeProto.FLOATS and node.attrs == {"value_floats": []}


class _Untouchable(np.ndarray):
    """Weights that tell when anyone copies them."""

    def tobytes(self, order: str = "C") -> bytes:
        raise AssertionError("the weights were copied")


def test_weights_beyond_two_gigabytes_are_never_read() -> None:
    weight = np.empty((1 << 15, 1 << 14 | 1), np.float32).view(_Untouchable)  # 2 GiB, of which no page is touched
    x, h = gs.Variable("x", np.float32, ("n", 1 << 15)), gs.Variable("h")
    y = gs.Variable("y", np.float32, ("n", (1 << 14) | 1))
    held = gs.Constant("w", weight)
    nodes = [gs.Node("MatMul", "m", {}, [x, held], [h]), gs.Node("Relu", "r", {}, [h], [y])]
    graph = gs.Graph(nodes, [x], [y], opset=20)
    result = rewrites.rewrite(graph, rules=[ReluToMax]).model
    assert [n.op for n in result.nodes] == ["MatMul", "Max"]
    assert result.nodes[0].inputs[1].values is weight and list(h.shape) == ["n", (1 << 14) | 1]


def test_scans_are_built_with_types() -> None:
    @rule(name="t/scan", matches="CumSum", examples=[example(x=(2, 3), axis=0)])
    class CumSumToScan:
        """CumSum -> Scan."""

        def rewrite(op, x):
            start = op.constant(np.zeros(x.shape[1:], x.dtype))
            total, sums = op.Scan(start, x, num_scan_inputs=1, body=add_up, _outputs=2)
            assert total.shape == x.shape[1:] and sums.rank == x.rank
            return sums

    def add_up(op, total, row):
        total = op.Add(total, row)
        return total, op.Identity(total)

    proto = parsed("g (float[n,3] x) => (float[n,3] y) { a = Constant<value_int = 0>() y = CumSum(x, a) }")
    result = rewrites.rewrite(proto, rules=[CumSumToScan]).model
    onnx.checker.check_model(result, full_check=True)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(run(result, {"x": x})[0], x.cumsum(0))


@pytest.mark.parametrize("what", ["module", "rule", "list"])
def test_rules_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    module = types.ModuleType("t_package")
    ReluToMax_module = types.SimpleNamespace(module=[ReluToMax], rule=ReluToMax, list=[ReluToMax])
    module.found = getattr(ReluToMax_module, what)
    if what == "module":
        monkeypatch.setattr(ReluToMax, "module", "t_package")
        module.relu = ReluToMax
    monkeypatch.setitem(sys.modules, "t_package", module)
    value = "t_package" if what == "module" else "t_package:found"
    entry = importlib.metadata.EntryPoint("t", value, "rewrites.rules")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == "rewrites.rules" else [])
    assert rewrites.default_rules()["t/relu"] is ReluToMax


def test_a_package_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("broken", "no_such_package_here", "rewrites.rules")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    with pytest.raises(rewrites.RewriteError, match=r"broken.*no_such_package_here"):
        rewrites.default_rules()


@pytest.mark.parametrize("target, newest", [("tensorrt==8.6", 17), ("tensorrt==9.3", 19), ("tensorrt==10.6", 20)])
def test_opsets_that_targets_read(target: str, newest: int) -> None:
    assert Target.parse(target).opsets() == Target.parse(target.replace("==", ":")).opsets() == (9, newest)


def test_symbols_survive_in_new_nodes() -> None:
    seen = []

    @rule(name="t/rows", matches="Softplus", examples=[example(X=(2, 3))])
    class Rows:
        """Softplus -> Reshape Softplus Reshape."""

        def rewrite(op, X):
            sizes = op.Shape(X)
            rows = op.Reshape(X, op.Concat(op.Gather(sizes, [0]), [2, -1], axis=0))
            back = op.Reshape(op.Log(op.Add(op.Exp(rows), 1.0)), sizes)
            wide = op.Expand(op.constant(0.0), op.Concat(op.Slice(sizes, [0], [1]), [5], axis=0))
            seen.extend([rows.dims, back.dims, wide.rank])
            return back

    rewrites.rewrite(parsed("g (float[n,6] x) => (float[n,6] y) { y = Softplus(x) }"), rules=[Rows])
    assert seen == [("n", 2, None), ("n", 6), 2]


def test_symbols_survive_shape_arithmetic() -> None:
    proto = parsed(
        """g (float[n,4,6] x) => (float[n,4,2,3] y) {
        s = Shape(x) i = Constant<value_ints = [0, 1]>() a = Gather(s, i) t = Constant<value_ints = [2, 3]>()
        d = Concat<axis = 0>(a, t) v = Reshape(x, d) y = Relu(v) }"""
    )
    del proto.graph.output[0].type.tensor_type.shape.dim[0]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    result = rewrites.rewrite(proto, rules=[ReluToMax])
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(result.model, data_prop=True))
    assert list(graph.tensors()["v"].shape) == ["n", 4, 2, 3]
    assert model_proto(graph).graph.node[-1].op_type == "Max"
