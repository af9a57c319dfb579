"""What torch.onnx translates wrongly, or into what TensorRT refuses, is lowered another way and runs in an engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import bridge

X = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
Function = Callable[[torch.Tensor], torch.Tensor]


class Calling(nn.Module):
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "x"),
    [
        pytest.param(lambda x: torch.var(x, None, correction=0, keepdim=True), X, id="a reduction loses its axes"),
        pytest.param(lambda x: torch.std(x, [1], correction=1.3), X, id="a correction is rounded"),
        pytest.param(lambda x: nn.functional.adaptive_max_pool2d(x, (2, 3)), X, id="channels are taken for a batch"),
        pytest.param(lambda x: torch.all(x.masked_fill(x > 0, 0.5)), X, id="numbers as booleans"),
        pytest.param(lambda x: torch.column_stack([x[:, 0], x]), VECTORS.t(), id="sequences"),
        pytest.param(lambda x: x.index_put([x.amax(2) > 1], x.amax((0, 1))), X, id="rows for values"),
        pytest.param(lambda x: x.sum().index_select(0, torch.tensor([0])), X, id="an index into a scalar"),
    ],
)
def test_right_and_whole_in_an_engine(function: Function, x: torch.Tensor) -> None:
    traced = torch.jit.trace(Calling(function), (x,), check_trace=False)
    compiled = bridge.compile(traced, [x], backend="onnxruntime", require_full_compilation=True)
    torch.testing.assert_close(compiled(x), function(x), rtol=1e-4, atol=1e-5)


class PaddedToWindows(torch.nn.Module):
    """Padded by widths that PyTorch computes from the sizes, and cut at bounds that are tensors in a trace."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = x.shape[1:3]
        padded = torch.nn.functional.pad(x, (0, 0, 0, (4 - columns % 4) % 4, 0, (4 - rows % 4) % 4))
        return padded[:, 1 : rows + 1, :columns].contiguous() * 2


def test_the_arithmetic_of_paddings_and_bounds_is_not_in_the_graph() -> None:
    x = torch.randn(2, 7, 9, 3, generator=torch.Generator().manual_seed(0))
    traced = torch.jit.trace(PaddedToWindows(), x, check_trace=False)
    graph = bridge.to_onnx(traced, [x]).graph
    assert {node.op_type for node in graph.node} <= {"Pad", "Slice", "Mul", "Constant"}
    compiled = bridge.compile(traced, [x], backend="onnxruntime", require_full_compilation=True)
    torch.testing.assert_close(compiled(x), PaddedToWindows()(x))


class SharedAxis(nn.Module):
    """Operators that share the number -1: the exporter's repeat_interleave makes 2 of it, for all of them."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y = x.exp().repeat_interleave(2, dim=-1)
        return y.view(x.shape[0], x.shape[1], -1, 4).transpose(1, 2), torch.softmax(y[:, None], -1), y.view(-1, 4).sin()


def test_the_exporter_leaves_shared_numbers_alone() -> None:
    module = torch.jit.script(SharedAxis().eval())
    spec = [bridge.Input(min_shape=(1, 3, 6), opt_shape=(2, 5, 6), max_shape=(2, 7, 6))]
    compiled = bridge.compile(module, spec, backend="onnxruntime", require_full_compilation=True)
    for shape in ((1, 3, 6), (2, 7, 6)):
        x = torch.randn(shape)
        for found, expected in zip(compiled(x), module(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class Quantized(nn.Module):
    """Weights that lie between two steps, of all channels' and of one step."""

    def __init__(self, zero_point: int) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(0)
        self.bounds = (0, 255) if zero_point else (-128, 127)
        self.zero_point = zero_point
        self.register_buffer("step", torch.rand(6, generator=drawn) / 10 + 0.01)
        self.register_buffer("zero", torch.full((6,), zero_point, dtype=torch.int32))
        between = torch.randint(-140, 140, (6, 2, 3, 3), generator=drawn) + 0.5
        self.weight = nn.Parameter(between * self.step.view(-1, 1, 1, 1), requires_grad=False)
        self.other = nn.Parameter(between[:2, :1].repeat(1, 6, 1, 1) * 0.1234, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.fake_quantize_per_channel_affine(self.weight, self.step, self.zero, 0, *self.bounds)
        other = torch.fake_quantize_per_tensor_affine(self.other, 0.1234, self.zero_point, *self.bounds)
        return nn.functional.conv2d(nn.functional.conv2d(x, weight), other)


@pytest.mark.parametrize("zero_point", [0, 131])
def test_weights_between_two_steps_are_rounded_as_in_pytorch(zero_point: int) -> None:
    module, x = Quantized(zero_point).eval(), torch.randn(1, 2, 7, 7, generator=torch.Generator().manual_seed(1))
    traced = torch.jit.trace(module, x, check_trace=False)
    compiled = bridge.compile(traced, [x], backend="onnxruntime", require_full_compilation=True)
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-4)
    operators = [node.op_type for node in bridge.to_onnx(traced, [x], rewrite=False).graph.node]
    assert zero_point or (operators.count("QuantizeLinear"), operators.count("DequantizeLinear")) == (2, 2)
