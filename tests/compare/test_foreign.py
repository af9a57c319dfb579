"""ONNX models of other exporters, and modules of which no whole ONNX model can be made."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import bridge
from bridge.compare import compare
from bridge.compare.by_values import _aligned, _sketch


def exported(module: torch.nn.Module, inputs: tuple[Any, ...], dynamo: bool) -> onnx.ModelProto:
    with torch.no_grad():
        if dynamo:
            return torch.onnx.export(module, inputs, dynamo=True, verbose=False).model_proto
        buffer = io.BytesIO()
        torch.onnx.export(module, inputs, buffer, dynamo=False)
    return onnx.load_from_string(buffer.getvalue())


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.first, self.second = torch.nn.LayerNorm(16), torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, y, y, need_weights=False)[0]
        return self.norm(x + self.second(torch.nn.functional.gelu(self.first(x))))


@pytest.fixture(scope="module")
def block() -> Block:
    torch.manual_seed(0)
    return Block().eval()


INPUTS = (torch.randn(2, 5, 16), torch.randn(2, 7, 16))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False])
def test_plain_exports_are_matched_by_values(block: Block, dynamo: bool) -> None:
    plain = exported(block, INPUTS, dynamo)
    report = compare(block, plain, INPUTS, layers=True)
    assert report.passed and report.first_divergence is None
    matched = [row for row in report.layers if "rewritten" in row.stages]
    assert len(matched) >= len(report.layers) - 1 > 10
    assert "results are matched by their values" in str(report)
    other = copy.deepcopy(block)
    with torch.no_grad():
        other.second.bias.add_(0.01)
    first = compare(other, plain, INPUTS, layers=True).first_divergence
    assert first is not None and (first.origin.operator, first.origin.module_path) == ("aten::linear", "second")
    assert first.guilty_stage == "rewritten"


@pytest.mark.filterwarnings("ignore")
def test_models_of_two_exporters_are_matched_by_values(block: Block) -> None:
    other = copy.deepcopy(block)
    with torch.no_grad():
        other.first.weight.mul_(1.01)
    feed = dict(zip(("x", "y"), INPUTS, strict=True))
    models = [exported(one, INPUTS, dynamo) for one, dynamo in ((block, True), (other, False))]
    for model in models:
        for value, name in zip(model.graph.input, feed, strict=True):
            for node in model.graph.node:
                node.input[:] = [name if given == value.name else given for given in node.input]
            value.name = name
    report = compare(*models, feed, layers=True)
    first = report.first_divergence
    assert first is not None and first.figures.relative == pytest.approx(0.01, rel=1e-3)
    assert str(first.origin).startswith("MatMul of aten.linear.default in first (") and first.shape == (2, 5, 32)
    assert "results are matched by their values" in str(report)


@pytest.mark.filterwarnings("ignore")
def test_models_of_something_else_are_not_matched(block: Block) -> None:
    torch.manual_seed(1)
    other = exported(Block().eval(), INPUTS, dynamo=False)
    report = compare(block, other, INPUTS, layers=True)
    assert not report.passed
    first = torch.nn.Sequential(torch.nn.Linear(16, 4)).eval()
    with pytest.raises(bridge.BridgeError, match=r"no operator's result of the reference's is among"):
        compare(first, exported(torch.nn.Linear(16, 4), INPUTS[:1], False), INPUTS[:1], layers=True, rtol=1e9)


def test_distances_of_sketches_are_those_of_the_arrays() -> None:
    rng = np.random.default_rng(0)
    for size in (5, 64, 1000, 40000):
        one = rng.standard_normal(size, np.float32)
        for error in (1e-6, 1e-2, 0.3):
            other = one + error * rng.standard_normal(size, np.float32)
            left, right = _sketch(one), _sketch(other)
            estimate = np.linalg.norm(left.projected - right.projected) / left.norm
            assert estimate == pytest.approx(np.linalg.norm(one - other) / np.linalg.norm(one), rel=0.5)


def test_pairs_ascend_and_the_nearest_win() -> None:
    scores = np.array([[9, 0, 0, 0], [0, 1, 9, 0], [9, 0, 0, 0], [0, 0, 0, 4]], np.float32)
    assert _aligned(scores) == [(0, 0), (1, 2), (3, 3)]


class Masked(torch.nn.Module):
    """What decides is a mask's content: no whole ONNX model is made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = torch.relu(self.first(x))
        if mask is not None and bool((mask == torch.zeros_like(mask)).all()):
            x = torch.stack([row * 2 for row in x])
        return torch.relu(self.second(x))


def test_what_can_be_looked_into_is_where_no_whole_model_is_made() -> None:
    torch.manual_seed(0)
    module, inputs = torch.jit.script(Masked().eval()), (torch.randn(3, 8), torch.ones(3))
    compiled = bridge.compile(module, list(inputs), backend="onnxruntime", min_block_size=1)
    report = compare(module, compiled, inputs, layers=True)
    assert report.passed and report.layers
    assert all(set(row.stages) <= {"exported", "rewritten", "compiled"} for row in report.layers)


class Filtered(torch.nn.Module):
    """A weight that only an operator reads which ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.linear = torch.nn.Parameter(torch.randn(64, 64)), torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.nextafter(x, self.weight)).relu()


def test_weights_that_only_pytorch_reads() -> None:
    torch.manual_seed(0)
    module, x = Filtered().eval(), torch.randn(64, 64)
    report = compare(module, bridge.compile(module, [x], backend="onnxruntime"), (x,), layers=True)
    assert report.passed and "aten::linear" in {row.origin.operator for row in report.layers}


class Integers(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return x.clamp(min=2**40), x.max(), x.sum(0), torch.fmod(x, 7)


def test_integers_beyond_what_doubles_hold() -> None:
    """ONNX Runtime's own kernels get them wrong; a difference of 1 is seen beside 2^60."""
    torch.manual_seed(0)
    x = torch.randint(-(2**60), 2**60, (5, 7))
    x[0], x[1] = 2**40 + 1, 2**40 + 2**33
    module = Integers().eval()
    compiled = bridge.compile(module, [x], backend="onnxruntime")
    report = compare(module, compiled, (x,), layers=True)
    assert report.passed and report.first_divergence is None and len(report.layers) == 4
    assert compare(module, bridge.to_onnx(module, [x]), (x,)).passed

    class Off(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            first, *rest = Integers()(x)
            return (first + 1, *rest)

    found = compare(module, Off(), (x,))
    assert [row.passed for row in found.outputs] == [False, True, True, True]
    assert found.outputs[0].reason.startswith("35 of 35 elements")


class Optional(torch.nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x if mask is None else torch.where(mask == 0, x, x.sin())


def test_an_optional_tensor_that_is_given_is_a_tensor() -> None:
    inputs = (torch.randn(3, 4), torch.tensor([0.0, 1.0, 0.0, 2.0]))
    model = bridge.to_onnx(torch.jit.script(Optional().eval()), list(inputs))
    assert [value.name for value in model.graph.input] == ["x", "mask"]
    assert compare(Optional().eval(), model, inputs).passed


def test_what_cannot_be_halved_is_told(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the outputs and the layers show is not lost with it."""
    from bridge.compare import bisecting

    def fails(*_: Any) -> None:
        raise bridge.ExportError("torch.onnx failed on this graph", where="prim::If in decoder")

    monkeypatch.setattr(bisecting, "bisect", fails)
    torch.manual_seed(0)
    module, other, x = torch.nn.Linear(8, 4).eval(), torch.nn.Linear(8, 4).eval(), torch.randn(2, 8)
    report = compare(module, other, (x,), bisect=tmp_path / "found")
    assert not report.passed and report.first_divergence is not None
    assert report.notes[-1] == "nothing can be halved: torch.onnx failed on this graph (prim::If in decoder)"
