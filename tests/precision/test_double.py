"""Computing float64 as float32: through the public interface, against eager in float64."""

from __future__ import annotations

import torch
from torch import nn

import bridge


def test_truncated_doubles_run_in_one_engine_and_keep_the_callers_dtype() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)).eval().double()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    compiled = bridge.compile(torch.jit.trace(module, x), [x], backend="onnxruntime", truncate_double=True)
    assert len(compiled.graph.findAllNodes("bridge::execute_engine", True)) == 1
    result = compiled(x)
    assert result.dtype is torch.float64
    torch.testing.assert_close(result, module(x), rtol=1e-5, atol=1e-5)


def test_doubles_stay_in_pytorch_unless_asked() -> None:
    module = nn.Linear(3, 3).double().eval()
    x = torch.rand(2, 3, dtype=torch.float64)
    compiled = bridge.compile(torch.jit.trace(module, x), [x], backend="onnxruntime")
    assert not compiled.graph.findAllNodes("bridge::execute_engine", True)
    assert torch.equal(compiled(x), module(x))
