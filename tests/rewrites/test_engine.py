"""What the engine promises: bodies, loops, failures, order, names, kinds of models, and the report."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

import rewrites
from rewrites import RewriteError, RuleSet, example, require, rule
from rewrites.testing import run


def model(text: str, opset: int = 20) -> onnx.ModelProto:
    imports = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=imports, ir_version=10)


def one(name: str, pattern, rewrite, check=None, **options):
    body = {"pattern": pattern, "rewrite": rewrite, "__module__": __name__}
    return rule(name=name, examples=[example()], **options)(type(name, (), body | ({"check": check} if check else {})))


RELU_TO_MAX = one("t/relu", lambda op, x: op.Relu(x), lambda op, x: op.Max(x, 0.0))
MAX_TO_RELU = one("t/max", lambda op, x: op.Max(x, 0.0), lambda op, x: op.Relu(x))


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


def test_a_loop_between_rules_is_named() -> None:
    with pytest.raises(RewriteError, match="t/max, t/relu") as caught:
        rewrites.rewrite(model("g (float[2] x) => (float[2] y) { y = Relu(x) }"), rules=[RELU_TO_MAX, MAX_TO_RELU])
    onnx.checker.check_model(caught.value.model, full_check=True)


def test_a_rule_that_raises_is_named_and_the_graph_before_it_kept() -> None:
    def explode(op, x):
        op.Neg(x)
        raise ZeroDivisionError("by hand")

    bad = one("t/bad", lambda op, x: op.Exp(x), explode)
    with pytest.raises(RewriteError, match="ZeroDivisionError: by hand") as caught:
        rewrites.rewrite(model("g (float[2] x) => (float[2] y) { a = Relu(x) y = Exp(a) }"), rules=[RELU_TO_MAX, bad])
    assert "t/bad" in str(caught.value) and ops(caught.value.model) == ["Max", "Exp"]


@pytest.mark.parametrize(
    "wrong, said",
    [(lambda op, x: op.Cast(x, to=np.int32), "int32"), (lambda op, x: op.ReduceSum(x, keepdims=0), "rank")],
)
def test_a_rule_that_changes_type_or_rank_is_an_error(wrong, said) -> None:
    bad = one("t/bad", lambda op, x: op.Exp(x), wrong)
    with pytest.raises(RewriteError, match=said):
        rewrites.rewrite(model("g (float[2] x) => (float[2] y) { y = Exp(x) }"), rules=[bad])


BRANCHES = """g (bool c, float[2] x) => (float[2] y) {
    z = Neg(x)
    y = If(c) <then_branch = a () => (float[2] t) { t = Relu(z) }, else_branch = b () => (float[2] e) { e = Neg(z) }>
}"""


def test_bodies_are_rewritten_with_captured_values() -> None:
    proto = model(BRANCHES)
    result = rewrites.rewrite(
        proto, rules=[one("t/negrelu", lambda op, x: op.Relu(op.Neg(x)), lambda op, x: op.Max(op.Neg(x), 0.0))]
    )
    assert len(result.report.fired) == 1
    onnx.checker.check_model(result.model, full_check=True)
    for flag in (True, False):
        inputs = {"c": np.array(flag), "x": np.array([1.0, -2.0], np.float32)}
        np.testing.assert_array_equal(run(result.model, inputs)[0], run(proto, inputs)[0])


def test_a_body_captures_an_outer_value_in_a_new_node() -> None:
    branch = one(
        "t/branch",
        lambda op, x: op.Abs(x),
        lambda op, x: op.If(
            op.Greater(op.ReduceSum(x, keepdims=0), 0.0),
            then_branch=lambda op: op.Max(x, op.Neg(x)),
            else_branch=lambda op: op.Max(op.Neg(x), x),
        ),
    )
    proto = model("g (float[2] x) => (float[2] y) { a = Exp(x) y = Abs(a) }")
    result = rewrites.rewrite(proto, rules=[branch])
    onnx.checker.check_model(result.model, full_check=True)
    inputs = {"x": np.array([1.0, -2.0], np.float32)}
    np.testing.assert_allclose(run(result.model, inputs)[0], run(proto, inputs)[0])


def test_a_graphsurgeon_graph_comes_back_as_one() -> None:
    graph = gs.import_onnx(model("g (float[2] x) => (float[2] y) { a = Relu(x) y = Exp(a) }"))
    result = rewrites.rewrite(graph, rules=[RELU_TO_MAX])
    assert result.model is graph and [n.op for n in graph.nodes] == ["Max", "Exp"]
    assert graph.nodes[0].outputs[0].outputs[0] is graph.nodes[1]


def test_names_carry_the_root_and_outputs_keep_theirs() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.graph.node[0].name = "encoder/aten::relu#41"
    proto.metadata_props.add(key="bridge.provenance", value="{}")
    result = rewrites.rewrite(proto, rules=[RELU_TO_MAX]).model
    assert result.graph.node[0].name == "encoder/aten::relu#41/relu/Max"
    assert result.graph.output[0].name == "y" and result.metadata_props[0].key == "bridge.provenance"


def test_replacing_an_output_by_an_input_keeps_the_output() -> None:
    drop = one("t/drop", lambda op, x: op.Neg(op.Neg(x)), lambda op, x: x)
    result = rewrites.rewrite(model("g (float[2] x) => (float[2] y) { a = Neg(x) y = Neg(a) }"), rules=[drop]).model
    assert ops(result) == ["Identity"] and result.graph.output[0].name == "y"


def test_values_used_elsewhere_stay() -> None:
    proto = model("g (float[2] x) => (float[2] y, float[2] a) { a = Neg(x) y = Relu(a) }")
    fused = one("t/fused", lambda op, x: op.Relu(op.Neg(x)), lambda op, x: op.Max(op.Sub(0.0, x), 0.0))
    result = rewrites.rewrite(proto, rules=[fused]).model
    assert sorted(ops(result)) == ["Max", "Neg", "Sub"]
    onnx.checker.check_model(result, full_check=True)


def test_priority_and_order_decide_between_rules() -> None:
    to_abs = one("t/abs", lambda op, x: op.Relu(x), lambda op, x: op.Abs(x), priority=-1)
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert ops(rewrites.rewrite(proto, rules=[RELU_TO_MAX, to_abs]).model) == ["Abs"]


def test_two_rules_with_one_name_name_both_owners() -> None:
    twin = one("t/relu", lambda op, x: op.Exp(x), lambda op, x: x)
    with pytest.raises(RewriteError, match="two rules are named 't/relu'"):
        RuleSet([RELU_TO_MAX, twin])


def test_targets_that_do_not_need_a_rule_leave_it_out() -> None:
    old = one("t/old", lambda op, x: op.Relu(x), lambda op, x: op.Max(x, 0.0), needed_by={"tensorrt": "< 10.8"})
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    fired = {
        t: len(rewrites.rewrite(proto, target=t, rules=[old]).report.fired)
        for t in ("tensorrt==10.6", "tensorrt==10.8", "onnxruntime")
    }
    assert fired == {"tensorrt==10.6": 1, "tensorrt==10.8": 0, "onnxruntime": 0}


def test_the_opset_follows_the_target() -> None:
    result = rewrites.rewrite(
        model("g (float[2] x) => (float[2] y) { y = Relu(x) }", 22), target="tensorrt==10.6", rules=[]
    )
    assert result.model.opset_import[0].version == 20 and "22 -> 20" in result.report.notes[0]


def test_the_report_says_what_fired_and_why_others_refused() -> None:
    shy = one("t/shy", lambda op, x: op.Exp(x), lambda op, x: x, check=lambda x: require(False, "not today"))
    report = rewrites.rewrite(
        model("g (float[2] x) => (float[2] y) { a = Relu(x) y = Exp(a) }"), rules=[RELU_TO_MAX, shy]
    ).report
    assert report.counts == {"t/relu": 1} and report.refused[0].reason == "not today"
    assert json.loads(report.json())["fired"][0]["rule"] == "t/relu"
    assert "t/relu x1" in report.line() and "not today" in str(report)


def test_large_weights_are_shared_not_copied() -> None:
    weight = np.ones((64, 64), np.float32)
    graph = gs.Graph(opset=20)
    x, y = gs.Variable("x", np.float32, (2, 64)), gs.Variable("y", np.float32, (2, 64))
    hidden = gs.Variable("h")
    held = gs.Constant("w", weight)
    graph.nodes = [gs.Node("MatMul", inputs=[x, held], outputs=[hidden]), gs.Node("Relu", inputs=[hidden], outputs=[y])]
    graph.inputs, graph.outputs = [x], [y]
    rewrites.rewrite(graph, rules=[RELU_TO_MAX])
    assert held.values is weight and list(hidden.shape) == [2, 64]


def test_functions_are_inlined() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20, "f": 1]>
        g (float[2] x) => (float[2] y) { y = f.act(x) }
        <domain: "f", opset_import: ["": 20]> act (a) => (b) { b = Relu(a) }""")
    assert ops(rewrites.rewrite(proto, rules=[RELU_TO_MAX]).model) == ["Max"]


def test_constants_are_known_after_folding() -> None:
    fold = one(
        "t/fold",
        lambda op, x, shape: op.Reshape(x, shape),
        lambda op, x, shape: op.Reshape(x, shape.constant),
        check=lambda shape: require(shape.constant is not None and shape.producer is not None, "no"),
    )
    proto = model(
        """g (float[2,3,"n"] x, float[2,3] s) => (float[3,"m"] y) {
        a = Shape(s) i = Constant<value_ints=[1]>() b = Gather(a, i) m = Constant<value_ints=[-1]>()
        c = Concat<axis=0>(b, m) y = Reshape(x, c) }""".replace('"', "")
    )
    result = rewrites.rewrite(proto, rules=[fold])
    assert ops(result.model) == ["Reshape"] and len(result.report.fired) == 1


def test_lowerings_refuse_arguments_they_do_not_have() -> None:
    @rewrites.lowering("aten::cumsum", examples=[])
    def cumsum(x, dim):
        return x.cumsum(dim)

    x, y = gs.Variable("x", np.float32, (2, 3)), gs.Variable("y", np.float64, (2, 3))
    schema = "aten::cumsum(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor"
    node = rewrites.torch_domain.encode(
        schema, {"self": x, "dim": 1, "dtype": {"dtype": "float64"}}, [y], name="cumsum#3"
    )
    report = rewrites.rewrite(gs.Graph([node], [x], [y], opset=20), rules=[cumsum]).report
    assert "dtype" in report.refused[0].reason


def test_one_value_may_replace_several_results() -> None:
    def half(op, x):
        y = op.Slice(x, [0], [2])
        return y, y

    same = one("t/same", lambda op, x: op.Split(x, num_outputs=2, _outputs=2), half)
    proto = model("g (float[4] x) => (float[2] y, float[2] z) { y, z = Split<num_outputs=2>(x) }")
    result = rewrites.rewrite(proto, rules=[same]).model
    onnx.checker.check_model(result, full_check=True)
    y, z = run(result, {"x": np.arange(4, dtype=np.float32)})
    assert y.tolist() == z.tolist() == [0.0, 1.0]
