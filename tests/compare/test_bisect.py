"""Bisection: the rule, the cast or the part of an engine at fault is named, and a folder shows the error by itself."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch

import bridge
from bridge.backends.onnxruntime import OnnxRuntime
from bridge.compare import compare
from bridge.runtime.plan import Plan
from rewrites import example, rule
from tests.compare.encoders import Encoder, encoder
from tests.compare.planted import IDS, SoftmaxTooLarge


@pytest.fixture(scope="module")
def model() -> Encoder:
    return encoder()


def reproduces(folder: Path) -> bool:
    """Whether the script by itself, in a process of its own, sees the error."""
    ended = subprocess.run([sys.executable, folder / "reproduce.py"], capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1) and "relative error" in ended.stdout, ended.stderr
    return ended.returncode == 1


def test_the_application_of_a_rule_is_found(model: Encoder, tmp_path: Path) -> None:
    report = compare(model, model, (IDS,), layers=True, rules=[SoftmaxTooLarge], bisect=tmp_path)
    culprit = report.bisection.culprit if report.bisection else None
    assert culprit is not None and (culprit.kind, culprit.name) == ("rule", "test/softmax-too-large")
    assert culprit.node.startswith("layers.1/aten::softmax#")
    assert culprit.before < 1e-5 and culprit.after == pytest.approx(1e-2, rel=1e-2)
    assert "test/softmax-too-large" in report.verdict and "reproduce.py shows it" in report.verdict
    assert [node.op_type for node in onnx.load(tmp_path / "smallest.onnx").graph.node] == [
        "Exp", "ReduceSum", "Div", "Mul",
    ]  # fmt: skip
    assert reproduces(tmp_path)


def test_the_first_cast_that_overflows_is_found(tmp_path: Path) -> None:
    model = encoder()
    with torch.no_grad():
        for linear in (model.layers[1].query, model.layers[1].key):
            linear.weight *= 600
    report = compare(model, model, (IDS,), layers=True, precision=torch.float16, bisect=tmp_path)
    found = report.bisection
    assert found is not None and found.culprit is not None
    # the product is computed in half precision only where what reads it, the division, may be too
    assert (found.culprit.kind, found.culprit.name) == ("cast", "Div")
    assert found.culprit.node.startswith("layers.1/aten::div#")
    assert report.first_divergence is not None and report.first_divergence.origin.operator == "aten::matmul"
    assert found.culprit.before < 1e-2 and not found.culprit.after < 1e6
    by_path = {share.module_path: share.relative for share in found.shares}
    assert not by_path["layers.1"] < 1e6 and by_path["layers.0"] < 1e-2
    assert reproduces(tmp_path)


def test_nothing_is_found_where_nothing_is_wrong(model: Encoder, tmp_path: Path) -> None:
    report = compare(model, model, (IDS,), bisect=tmp_path / "none")
    assert report.passed and report.bisection is not None and report.bisection.culprit is None
    assert report.verdict.endswith("No layer diverges.") and not (tmp_path / "none").exists()


@rule(name="test/gelu-doubled", matches="Erf", examples=[example(input=(2, 3))])
class TanhForErf:
    """Erf -> Tanh: something else."""

    def rewrite(op, input):
        return op.Mul(op.Tanh(input), np.float32(3))


def test_bfloat16_is_bisected_too(model: Encoder, tmp_path: Path) -> None:
    settings = {"precision": torch.bfloat16, "rules": [TanhForErf]}
    report = compare(model, model, (IDS,), layers=True, bisect=tmp_path, **settings)
    culprit = report.bisection.culprit if report.bisection else None
    assert culprit is not None and culprit.name == "test/gelu-doubled"
    assert culprit.node.startswith("layers.0/aten::gelu#") and reproduces(tmp_path)


class FusesWrongly(OnnxRuntime):
    """Computes a Softmax right behind a Div one percent too large, unless the Div's result is marked as an output."""

    builds = 0

    def build(self, graph: gs.Graph, profiles: Sequence[Any] = (), *settings: Any) -> Plan:
        self.builds += 1
        changed = graph.copy()
        marked = {tensor.name for tensor in changed.outputs}
        for node in list(changed.nodes):
            if node.op != "Softmax" or not node.name.startswith("layers.1/"):
                continue
            source = node.inputs[0]
            if source.inputs and source.inputs[0].op == "Div" and source.name not in marked:
                right = gs.Variable(f"{node.outputs[0].name}_right", node.outputs[0].dtype)
                grown = gs.Node("Mul", "fused", inputs=[right, gs.Constant("grown", _grown())], outputs=node.outputs[:])
                node.outputs = [right]
                changed.nodes.insert(changed.nodes.index(node) + 1, grown)
        return super().build(changed, profiles, *settings)


def _grown() -> Any:
    return torch.tensor(1.01).numpy()


def test_a_wrong_fusion_is_cut_out_of_an_engine(
    model: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FusesWrongly()
    monkeypatch.setattr("bridge.backends.onnxruntime.BACKEND", backend)
    compiled = bridge.compile(model, [IDS], backend="onnxruntime")
    stages = ("exported", "rewritten", "engine")
    settings = {"layers": stages, "backend": "onnxruntime", "rtol": 1e-5, "atol": 1e-6}
    report = compare(model, compiled, (IDS,), bisect=tmp_path, **settings)
    assert not report.passed and report.first_divergence is None  # marked, the two are not fused
    culprit = report.bisection.culprit if report.bisection else None
    assert culprit is not None and culprit.kind == "engine" and "layers.1/aten::softmax" in culprit.node
    assert culprit.after == pytest.approx(1e-2, rel=1e-2)
    smallest = onnx.load(tmp_path / "smallest.onnx")
    assert [node.op_type for node in smallest.graph.node] == ["Div", "Softmax"]
    assert culprit.tries < 20 and backend.builds < 25
    assert not reproduces(tmp_path)  # the script has the right ONNX Runtime
    data = json.loads(report.save(tmp_path / "report.json").read_text())
    assert data["bisection"]["culprit"]["kind"] == "engine" and len(data["bisection"]["files"]) == 3
