"""torch.nn's own modules, traced and scripted, beside eager PyTorch: what once was wrong or in error.

`scripts/coverage_operators --modules` measures all of them.
"""

import pytest
import torch
from torch import nn

import bridge

CASES = {
    "groups of channels, nothing else": (nn.GroupNorm(3, 12), (4, 12)),
    "a loss of two numbers": (nn.SmoothL1Loss(), (), ()),
    "padding that goes round, without a batch": (nn.CircularPad2d((1, 2, 2, 1)), (3, 4, 5)),
    "an encoder with a decoder": (nn.Transformer(4, 2, 1, 1, 8, 0.0, batch_first=True), (2, 3, 4), (2, 5, 4)),
}


@pytest.mark.parametrize("form", ["traced", "scripted"])
@pytest.mark.parametrize("name", CASES)
def test_a_module_gives_what_it_gives_in_pytorch(name, form):
    torch.manual_seed(0)
    module, *shapes = CASES[name]
    inputs = [torch.randn(shape) for shape in shapes]
    expected = module.eval()(*inputs)
    scripted = form == "scripted"
    made = torch.jit.script(module) if scripted else torch.jit.trace(module, tuple(inputs), check_trace=False)
    compiled = bridge.compile(made, inputs, backend="onnxruntime")
    torch.testing.assert_close(compiled(*inputs), expected, rtol=1e-4, atol=1e-5)
