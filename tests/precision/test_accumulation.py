"""Products of matrices in sixteen bits, added up in FP32."""

from __future__ import annotations

import copy

import onnx
import pytest
import torch
from torch import nn

import bridge

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")
HALVES = (torch.float16, torch.bfloat16)


class Net(nn.Module):
    """A Gemm, a product with a weight, one of two activations, one without a bias, and a weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.tied = nn.Linear(256, 256), nn.Linear(256, 256, bias=False)
        self.table = nn.Parameter(torch.randn(256, 2048) / 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.first(x.reshape(-1, 256))
        rows = self.tied(self.tied(flat)).reshape(x.shape)
        scores = (rows @ x.transpose(1, 2)).softmax(-1)
        return torch.addmm(x[0, 0], (scores @ rows).reshape(-1, 256), self.tied.weight, alpha=0.5) @ self.table


def _model(settings: dict[str, object], dtype: torch.dtype = torch.half) -> onnx.ModelProto:
    module, x = Net().eval().to(dtype), torch.zeros(2, 5, 256, dtype=dtype)
    return bridge.to_onnx(torch.jit.trace(module, x, check_trace=False), [x], **settings)


def _read(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """The operator of each product, and the type that it reads."""
    known = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*known.value_info, *known.input, *known.output)}
    return [(n.op_type, types[n.input[0]]) for n in known.node if n.op_type in ("Gemm", "MatMul")]


@pytest.mark.parametrize("dtype", HALVES)
def test_products_read_fp32_between_casts(dtype: torch.dtype) -> None:
    for name in ("fp32_accumulation", "use_fp32_acc"):
        found = _read(_model({name: True}, dtype))
        assert len(found) == 7
        assert {kind for op, kind in found if op == "MatMul"} == {onnx.TensorProto.FLOAT}
    assert [kind for _, kind in _read(_model({}, dtype))].count(onnx.TensorProto.FLOAT) == 1  # the head


def test_in_fp32_it_changes_nothing() -> None:
    plain, asked = _model({}, torch.float32), _model({"fp32_accumulation": True}, torch.float32)
    assert [node.op_type for node in plain.graph.node] == [node.op_type for node in asked.graph.node]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("given", ["half module", "half precision"])
def test_numbers(dtype: torch.dtype, given: str) -> None:
    torch.manual_seed(0)
    module = Net().eval()
    low = copy.deepcopy(module).to(dtype)
    taken = low if given == "half module" else module
    reads = dtype if given == "half module" else torch.float32
    spec = [bridge.Input(min_shape=(1, 5, 256), opt_shape=(2, 5, 256), max_shape=(4, 5, 256), dtype=reads)]
    compiled = bridge.compile(
        torch.jit.script(taken), spec, backend="onnxruntime", precision=dtype, fp32_accumulation=True
    )
    for rows in (1, 3):
        x = torch.randn(rows, 5, 256)
        with torch.no_grad():
            exact, eager = module(x), low(x.to(dtype)).float()
        found = compiled(x.to(reads)).float()
        assert (found - exact).abs().max() <= 2 * (eager - exact).abs().max()


def test_tensorrt_takes_them() -> None:
    spec = [bridge.Input((2, 5, 256), dtype=torch.half)]
    engine = bridge.convert_method_to_trt_engine(
        torch.jit.script(Net().eval().half()), "forward", spec, backend="tensorrt_rtx", fp32_accumulation=True
    )
    assert len(engine) > 1000
