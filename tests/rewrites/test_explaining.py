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
