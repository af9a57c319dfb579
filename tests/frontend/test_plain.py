"""Exported programs that leave casts to run time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bridge


class Casting(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=self.dtype):
            y = self.linear(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
            with torch.autocast("cpu", enabled=False):
                return y.float().softmax(-1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_in_an_exported_program(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module, x = Casting(dtype).eval(), torch.randn(2, 3, 6, 6)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=5)},))
    shapes = {"min": (1, 3, 6, 6), "opt": (2, 3, 6, 6), "max": (5, 3, 6, 6)}
    compiled = bridge.compile(program, [shapes], backend="onnxruntime", require_full_compilation=True)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 6, 6)
        torch.testing.assert_close(compiled(x), module(x), rtol=0.02, atol=0.005)


def test_batch_norms_of_decomposed_programs() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), torch.randn(2, 3, 6, 6)
    nn.init.uniform_(module[1].running_var, 0.5, 2)
    program = torch.export.export(module, (x,)).run_decompositions()
    compiled = bridge.compile(program, [x], backend="onnxruntime", require_full_compilation=True)
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
