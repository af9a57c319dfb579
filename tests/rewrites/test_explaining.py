"""Explanations of what a target still refuses, with a parser and without."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from rewrites import example, explaining, require, rule

TEXT = "g (float[2,3] x) => (float[2,3] y) { a = my.domain.Strange(x) y = Relu(a) }"


@rule(name="t/strange", matches="my.domain::Strange", examples=[example()])
class Shy:
    """Strange -> Relu."""

    def check():
        require(False, "not on a Saturday")

    def rewrite(op, node):
        return op.Relu(node.inputs[0])


def strange() -> onnx.ModelProto:
    imports = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("my.domain", 1)]
    return onnx.helper.make_model(onnx.parser.parse_graph(TEXT), opset_imports=imports, ir_version=10)


@pytest.mark.parametrize("installed", [True, False])
def test_the_refusal_is_told(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    if not installed:
        monkeypatch.setattr(explaining, "unsupported", lambda model: None)
    (found,), report = explaining.explain(strange(), rules=[Shy])
    assert not report.fired and (found.node, found.operator) == ("a", "my.domain::Strange")
    assert found.refused == [("t/strange", "not on a Saturday")] and found.silent == []
    assert "t/strange refused: not on a Saturday" in str(found)


def test_an_operator_without_rules_says_how_to_start_one() -> None:
    pytest.importorskip("tensorrt_rtx")
    (found,), _ = explaining.explain(strange(), rules=[])
    assert "bridge rules new" in str(found) and found.reason


REFUSED = {
    "an input's type": ("g (uint16[n] x) => (float[n] y) { y = Cast<to = 1>(x) }", "input x", "no tensors of UINT16"),
    "an input that is no tensor": (
        "g (optional(float[2]) x) => (float[2] y) { a = OptionalGetElement(x) y = Relu(a) }",
        "input x",
        "inputs are tensors, not optionals",
    ),
    "an operator": ("g (float[n] x) => (float[m] y) { y = Unique(x) }", "Unique y", "has no importer of Unique"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_parser_refuses_without_a_name_or_a_reason_is_told(name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    text, what, reason = REFUSED[name]
    imports = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=imports, ir_version=8)
    found, _ = explaining.explain(model)
    assert str(found[0]).startswith(what) and reason in str(found[0])


def test_an_input_of_unknown_rank_is_told() -> None:
    pytest.importorskip("tensorrt_rtx")
    imports = [onnx.helper.make_opsetid("", 18)]
    graph = onnx.parser.parse_graph(
        """g (float[n] x) => (float[m] y) { s = Shape(x) o = Constant<value_ints = [0]>() n = Gather(s, o)
        l = Constant<value_ints = [-1]>() t = Concat<axis = 0>(n, l) y = Reshape(x, t) }"""
    )
    graph.input[0].type.tensor_type.ClearField("shape")
    found, _ = explaining.explain(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8))
    assert str(found[0]).startswith("input x") and "its rank is not known" in str(found[0])
