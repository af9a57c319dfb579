"""Heads of modules that are in half precision themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bridge

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")
HALVES = (torch.float16, torch.bfloat16)


class Net(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(32, 512), nn.Linear(512, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu())


def types_of(module: nn.Module, *shapes: tuple[int, ...], **settings: object) -> list[int]:
    """The element type in which each Gemm or MatMul reads, in order."""
    given = [bridge.Input(shape, dtype=next(module.parameters()).dtype) for shape in shapes]
    traced = torch.jit.trace(
        module, [torch.zeros(shape, dtype=next(module.parameters()).dtype) for shape in shapes], check_trace=False
    )
    model = bridge.to_onnx(traced, given, **settings)
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    kinds |= {
        n.output[0]: kinds[n.input[0]] for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in kinds
    }
    return [kinds[n.input[1]] for n in model.graph.node if n.op_type in ("Gemm", "MatMul")]


@pytest.mark.parametrize("dtype", HALVES)
def test_the_head_of_a_half_module_adds_up_in_fp32(dtype: torch.dtype) -> None:
    half = {torch.float16: 10, torch.bfloat16: 16}[dtype]
    module = Net().eval().to(dtype)
    assert types_of(module, (4, 32)) == [half, 1]
    assert types_of(module, (4, 32), precision=dtype) == [half, 1]


def test_what_is_no_head_stays() -> None:
    assert types_of(Net(9000).eval().half(), (4, 32)) == [10, 10]  # a large vocabulary
    assert types_of(Net().eval().half(), (2, 4, 32)) == [10, 10]  # a sequence
    assert types_of(Net().eval(), (4, 32)) == [1, 1]


@pytest.mark.parametrize("dtype", HALVES)
def test_numbers_types_and_engines(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Net().eval()
    low = copy.deepcopy(module).to(dtype)
    x = torch.randn(4, 32)
    spec = [bridge.Input(min_shape=(1, 32), opt_shape=(4, 32), max_shape=(8, 32), dtype=dtype)]
    compiled = bridge.compile(torch.jit.script(low), spec, backend="onnxruntime")
    with torch.no_grad():
        exact, eager = module(x), low(x.to(dtype))
        for rows in (1, 4):
            found = compiled(x[:rows].to(dtype))
            assert found.dtype == dtype
            error = (found.float() - exact[:rows]).abs().max()
            assert error <= 2 * (eager.float() - exact).abs().max()
    bridge.convert_method_to_trt_engine(torch.jit.script(low), "forward", spec, backend="tensorrt_rtx")
