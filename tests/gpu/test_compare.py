"""Comparing on TensorRT engines, layer by layer: right ones agree, planted errors are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
pytest.importorskip("tensorrt")

import bridge  # noqa: E402
from tests.compare.encoders import encoder  # noqa: E402
from tests.compare.planted import IDS, SoftmaxTooLarge  # noqa: E402

QUICK = {"optimization_level": 1}


def compared(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], **settings: object) -> bridge.ComparisonReport:
    compiled = bridge.compile(model, list(inputs), backend="tensorrt", **QUICK, **settings)
    report = bridge.compare(model, compiled, inputs, layers=True, backend="tensorrt", **QUICK, **settings)
    print(report)
    return report


def test_resnet18_agrees() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    report = compared(torchvision.models.resnet18().eval(), (torch.rand(2, 3, 64, 64),), precision=torch.float16)
    assert report.first_divergence is None and not report.notes
    assert report.stages == ["exported", "rewritten", "engine"]
    assert sum("engine" in row.stages for row in report.layers) > 40


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_an_encoder_agrees(precision: torch.dtype) -> None:
    report = compared(encoder(), (IDS,), precision=precision)
    assert report.passed and report.first_divergence is None and not report.notes
    assert sum("engine" in row.stages for row in report.layers) > 30


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_wrong_rule_is_named(precision: torch.dtype) -> None:
    report = compared(encoder(), (IDS,), precision=precision, rules=[SoftmaxTooLarge])
    row = report.first_divergence
    assert row is not None and row.guilty_stage == "rewritten" and "test/softmax-too-large" in report.verdict
    assert (row.origin.module_path, row.origin.operator) == ("layers.1", "aten::softmax")
    assert row.stages["engine"].figures.relative == pytest.approx(1e-2, rel=0.2)


def test_engines_of_two_precisions(tmp_path: Path) -> None:
    model = encoder()
    engines = [
        bridge.convert_method_to_trt_engine(model, "forward", [IDS], precision=precision, **QUICK)
        for precision in (torch.float32, torch.float16)
    ]
    (tmp_path / "half.engine").write_bytes(engines[1])
    report = bridge.compare(engines[0], tmp_path / "half.engine", {"ids": IDS}, rtol={"logits": 2e-2})
    assert report.passed and [row.name for row in report.outputs] == ["logits", "best"]
    assert 1e-5 < report.outputs[0].figures.relative < 1e-2
    assert bridge.compare(model, engines[1], (IDS,), rtol={"logits": 2e-2}).passed
    apart = bridge.compare(engines[0], tmp_path / "half.engine", {"ids": IDS}, python=sys.executable)
    assert apart.outputs[0].figures == report.outputs[0].figures


def test_a_part_of_an_engine_is_cut_out(tmp_path: Path) -> None:
    """What TensorRT rounds differently than ONNX Runtime is an error when nothing else is allowed."""
    model = encoder(depth=1)
    settings = {"precision": torch.float16, "backend": "tensorrt", **QUICK}
    compiled = bridge.compile(model, [IDS], **settings)
    report = bridge.compare(model, compiled, (IDS,), rtol=1e-5, atol=0, bisect=tmp_path, **settings)
    culprit = report.bisection.culprit if report.bisection else None
    assert culprit is not None and culprit.kind == "engine" and culprit.after > 1e-5
    ended = subprocess.run([sys.executable, tmp_path / "reproduce.py"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "relative error" in ended.stdout, ended.stderr


def test_an_overflow_is_named() -> None:
    model = encoder()
    with torch.no_grad():
        for linear in (model.layers[1].query, model.layers[1].key):
            linear.weight *= 600
    report = compared(model, (IDS,), precision=torch.float16)
    first = report.first_divergence
    assert first is not None and first.origin.module_path == "layers.1"
    assert "engine" in first.stages and not np.isfinite(first.stages["engine"].figures.max_absolute)
