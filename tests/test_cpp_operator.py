"""Operators that a C++ extension registers: what PyTorch can take apart enters engines, the rest stays in PyTorch."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.utils.cpp_extension import load_inline

import bridge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("c++") and shutil.which("ninja")), reason="needs a C++ compiler and ninja"),
]

SOURCE = """
#include <torch/torch.h>
#include <torch/library.h>
torch::Tensor twice(const torch::Tensor& x, double by) { return x * by + 1; }
torch::Tensor picked(const torch::Tensor& x) { return x.masked_select(x > 0); }
TORCH_LIBRARY(bridge_tests_cpp, m) {
    m.def("twice(Tensor x, float by) -> Tensor", twice);
    m.def("picked", picked);
}
"""


class Extended(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        doubled = torch.ops.bridge_tests_cpp.twice(torch.relu(self.first(x)), 2.0)
        return self.last(doubled), torch.ops.bridge_tests_cpp.picked(doubled).sum()


@pytest.fixture(scope="module")
def module() -> Extended:
    load_inline("bridge_tests_cpp", [SOURCE], is_python_module=False)
    return Extended().eval()


@pytest.mark.parametrize("form", ["scripted", "traced", "plain"])
def test_modules_with_operators_of_a_cpp_extension(module: Extended, form: str) -> None:
    given = {
        "scripted": lambda: torch.jit.script(module),
        "traced": lambda: torch.jit.trace(module, torch.rand(2, 4), check_trace=False),
        "plain": lambda: module,
    }[form]()
    x = bridge.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    compiled = bridge.compile(given, inputs=[x], backend="onnxruntime")
    for count in (1, 2, 5):
        value = torch.randn(count, 4)
        torch.testing.assert_close(compiled(value), module(value), rtol=1e-4, atol=1e-4)
    kinds = [node.kind() for node in compiled.graph.nodes()]
    assert kinds.count("bridge::execute_engine") == 1
    assert "bridge_tests_cpp::picked" in kinds
