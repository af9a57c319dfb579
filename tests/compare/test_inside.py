"""What is inside the thing that is compared: another module, engines of another module, engines as the reference."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bridge
from tests.compare.encoders import Encoder, encoder
from tests.compare.planted import IDS

VALUE = "layers.1.value"


@pytest.fixture(scope="module")
def model() -> Encoder:
    return encoder()


@pytest.fixture(scope="module")
def other(model: Encoder) -> Encoder:
    """The same with another bias in one place."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        made.layers[1].value.bias += 0.3
    return made


def place(report: bridge.ComparisonReport) -> tuple[str, str, str]:
    row = report.first_divergence
    assert row is not None and row.guilty_stage is not None, report.verdict
    return row.origin.module_path, row.origin.operator, row.guilty_stage


def test_a_module_with_another_weight(model: Encoder, other: Encoder) -> None:
    for compiled in (other, torch.jit.script(other)):
        report = bridge.compare(model, compiled, (IDS,), layers=True)
        assert not report.passed and place(report) == (VALUE, "prim::GetAttr[bias]", "compiled")
        assert report.stages == ["exported", "rewritten", "compiled"] and not report.notes
    program = torch.export.export(other, (IDS,))
    assert place(bridge.compare(model, program, (IDS,), layers=True)) == (VALUE, "aten::linear", "compiled")


def test_engines_of_another_module(model: Encoder, other: Encoder, tmp_path: Path) -> None:
    """The module was compiled before its weights changed, in half precision, which nobody says."""
    compiled = bridge.compile(other, [IDS], backend="onnxruntime", precision=torch.float16)
    report = bridge.compare(model, compiled, (IDS,), bisect=tmp_path)
    assert not report.passed and place(report) == (VALUE, "aten::linear", "compiled")
    assert "it agrees in the rewritten" in report.verdict and "in what is compared itself" in report.verdict
    ended = subprocess.run([sys.executable, tmp_path / "reproduce.py"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    right = bridge.compile(model, [IDS], backend="onnxruntime", precision=torch.float16)
    again = bridge.compare(model, right, (IDS,), layers=True)
    assert again.passed and again.first_divergence is None and "compiled" in again.stages


def test_engines_with_pytorch_between(model: Encoder, other: Encoder) -> None:
    settings = {"backend": "onnxruntime", "torch_executed_ops": ["aten::softmax"], "min_block_size": 1}
    compiled = bridge.compile(other, [IDS], **settings)
    assert len(bridge.inspect(compiled).engines) > 3
    assert place(bridge.compare(model, compiled, (IDS,), layers=True)) == (VALUE, "aten::linear", "compiled")


def test_compiled_modules_as_both_sides(model: Encoder, other: Encoder) -> None:
    left, right = (bridge.compile(one, [IDS], backend="onnxruntime") for one in (model, other))
    assert place(bridge.compare(left, right, (IDS,), layers=True)) == (VALUE, "aten::linear", "compiled")
    assert place(bridge.compare(left, other, (IDS,), layers=True)) == (VALUE, "aten::linear", "compiled")
    same = bridge.compare(left, model, (IDS,), layers=True)
    assert same.passed and same.first_divergence is None and len(same.layers) > 40


def test_an_onnx_model_of_a_module_that_is_alike(model: Encoder, other: Encoder) -> None:
    report = bridge.compare(model, bridge.to_onnx(other, [IDS]), (IDS,), layers=True)
    assert place(report) == (VALUE, "aten::linear", "rewritten")


def test_two_onnx_models_are_cut(model: Encoder, other: Encoder, tmp_path: Path) -> None:
    left, right = (bridge.to_onnx(one, [IDS]) for one in (model, other))
    report = bridge.compare(left, right, (IDS,), bisect=tmp_path)
    assert place(report) == (VALUE, "aten::linear", "rewritten")
    ended = subprocess.run([sys.executable, tmp_path / "reproduce.py"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr


def test_what_cannot_be_looked_into_is_told(model: Encoder) -> None:
    class Other(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": ids.cumsum(-1)[..., None].expand(2, 7, 4).float(), "best": ids}

    report = bridge.compare(model, Other(), (IDS,), layers=True)
    assert not report.passed and "compiled" not in report.stages
    assert "was not looked into" in report.verdict and "no operator that the reference has" in report.notes[0]


class Loop(torch.nn.Module):
    """Has an operator in the body of a loop that ONNX cannot express, and gives its result as it is."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        while bool(torch.linalg.eigvalsh(x @ x.mT).max() > 1.0):
            x = x * 0.5
        return x.relu(), torch.linalg.eigvalsh(x)


def test_what_onnx_cannot_express_is_fed_in_loops_and_at_the_end() -> None:
    module, x = torch.jit.script(Loop()), torch.eye(3) * 5
    report = bridge.compare(module, module, x, layers=("exported",))
    assert report.passed and report.first_divergence is None
    assert {"aten::relu"} <= {row.origin.operator for row in report.layers}


class Steps(torch.nn.Module):
    """Runs its layer in the branches of a loop."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.linear, self.factor = torch.nn.Linear(8, 8), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = torch.tanh(self.linear(x))
            if bool(x.abs().max() > 0):
                x = x * self.factor
        return x


def test_scripted_control_flow() -> None:
    torch.manual_seed(0)
    one, two = Steps(2.0).eval(), Steps(2.1).eval()
    two.load_state_dict(one.state_dict())
    left, right, x = torch.jit.script(one), torch.jit.script(two), torch.rand(2, 8)
    for compiled in (right, bridge.compile(right, [x], backend="onnxruntime")):
        assert place(bridge.compare(left, compiled, x, layers=True)) == ("", "aten::mul", "compiled")


class Masked(torch.nn.Module):
    def __init__(self, masks: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Linear(8, 8) for _ in range(3))
        self.masks = masks

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2)
        if self.masks:
            scores = scores.masked_fill(mask, float("-inf"))
        return torch.softmax(scores, -1) @ self.value(x)


def test_a_lost_mask_shows_where_it_is_missing() -> None:
    torch.manual_seed(0)
    one, two = Masked(True).eval(), Masked(False).eval()
    two.load_state_dict(one.state_dict())
    x, mask = torch.randn(2, 5, 8), torch.arange(5).expand(2, 5, 5) > 2
    compiled = bridge.compile(two, [x, mask], backend="onnxruntime")
    assert place(bridge.compare(one, compiled, (x, mask), layers=True)) == ("", "aten::softmax", "compiled")
    whole = torch.ones_like(mask)  # all is NaN on both sides
    right = bridge.compile(one, [x, mask], backend="onnxruntime")
    assert bridge.compare(one, right, (x, whole), layers=True).first_divergence is None


def test_a_frozen_batch_shows_at_another() -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x).sum(0) / float(x.shape[0])

    frozen = torch.jit.trace(Mean(), torch.rand(2, 3), check_trace=False)
    sets = [(torch.rand(2, 3),), (torch.rand(4, 3),)]
    report = bridge.compare(Mean(), frozen, sets, layers=True)
    assert [row.passed for row in report.outputs] == [True, False] and place(report) == ("", "aten::div", "compiled")


def test_modules_without_operators() -> None:
    class Turned(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.transpose(0, 1)

    report = bridge.compare(torch.nn.Identity(), Turned(), torch.rand(2, 3), layers=True)
    assert [row.reason for row in report.outputs] == ["its shape is (3, 2)"] and not report.layers
