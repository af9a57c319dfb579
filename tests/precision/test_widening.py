"""Modules whose types no engine takes as they are: BF16 that TensorRT lacks, norms of sixteen bits by weights of 32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bridge


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return torch.relu(y[0] if isinstance(y, tuple) else y) * 2


def whole(module: nn.Module, x: torch.Tensor, **settings: object) -> nn.Module:
    traced = torch.jit.trace(module, x, check_trace=False)
    return bridge.compile(traced, [x], require_full_compilation=True, min_block_size=1, **settings)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Hardswish(), (2, 8)),
        (nn.ConvTranspose2d(8, 4, 3, stride=2), (2, 8, 5, 5)),
        (nn.GRU(8, 4, bidirectional=True), (3, 2, 8)),
    ],
    ids=["hardswish", "transposed convolution", "GRU"],
)
def test_what_tensorrt_lacks_in_bfloat16_is_in_float32(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, x = Twice(layer).eval().bfloat16(), torch.randn(shape).bfloat16()
    found, expected = whole(module, x, backend="onnxruntime")(x), module(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.03)


def test_it_is_built() -> None:
    pytest.importorskip("tensorrt_rtx")
    module = nn.Sequential(nn.Hardswish(), nn.ConvTranspose1d(4, 4, 3)).eval().bfloat16()
    whole(module, torch.randn(2, 4, 5).bfloat16(), backend="tensorrt_rtx")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("norm", "shape"),
    [(nn.LayerNorm(8), (3, 8)), (nn.InstanceNorm1d(8, affine=True), (2, 8, 5)), (nn.GroupNorm(2, 8), (2, 8, 5))],
    ids=["layer norm", "instance norm", "group norm"],
)
def test_norms_by_weights_of_float32(norm: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    module, x = Twice(norm).eval(), torch.randn(shape).to(dtype)
    found, expected = whole(module, x, backend="onnxruntime")(x), module(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
