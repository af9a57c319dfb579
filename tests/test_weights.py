"""Whose memory weights are in: while a module is compiled, and afterwards."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import bridge
from bridge import torch_private as tp

warnings.filterwarnings("ignore", message=".*deprecated.*")


class Network(nn.Module):
    """An engine, a product that is left to PyTorch, a batch norm left to PyTorch, and state."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.shift = nn.Parameter(torch.zeros(8))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = torch.mm(self.first(x).relu(), self.second.weight).exp() + self.shift
        return self.norm(x) + self.calls


@pytest.mark.parametrize("form", ["traced", "scripted"])
def test_what_a_compiled_module_holds_is_its_own(form: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    network = Network().eval()
    module = torch.jit.trace(network, x, check_trace=False) if form == "traced" else torch.jit.script(network)
    left = ["aten::mm", "aten::batch_norm"]
    compiled = bridge.compile(module, [x], backend="onnxruntime", min_block_size=1, torch_executed_ops=left)
    with torch.no_grad():
        module.calls.zero_()
        expected = [module(x) for _ in range(2)]
        calls = module.calls.clone()
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.mul_(3).add_(1)
        found = [compiled(x) for _ in range(2)]
    difference = found[1] - found[0]
    torch.testing.assert_close(difference, torch.ones_like(difference))
    torch.testing.assert_close(found[0] - found[0].mean(), expected[0] - expected[0].mean())
    assert torch.equal(module.calls, calls * 3 + 1)
    assert not compiled(x).requires_grad


def test_parameters_are_not_copied_to_be_compiled() -> None:
    module = torch.jit.script(Network())
    twin = tp.twin(module)
    of_module, of_twin = dict(module.named_parameters()), dict(twin.named_parameters())
    assert of_module.keys() == of_twin.keys()
    assert all(of_module[name].data_ptr() == of_twin[name].data_ptr() for name in of_module)
    assert module.calls.data_ptr() != twin.calls.data_ptr()
    assert all(parameter.requires_grad for parameter in module.parameters())
