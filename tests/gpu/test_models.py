"""Whole models on TensorRT: FP32 against eager, and FP16 against what eager's own half precision gives."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
pytest.importorskip("tensorrt")
torchvision = pytest.importorskip("torchvision")

import bridge  # noqa: E402


class Tagger(nn.Module):
    """Embedding, bidirectional LSTM and a linear layer: (N, L) int64 token ids to (N, L, 9) scores."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.lstm = nn.LSTM(32, 32, bidirectional=True, batch_first=True)
        self.score = nn.Linear(64, 9)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.score(self.lstm(self.embedding(tokens))[0])


def _images(size: int) -> torch.Tensor:
    return torch.rand(2, 3, size, size)


def _bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        vocab_size=200,
        attn_implementation="sdpa",
    )
    return transformers.BertModel(config)


CASES = {
    "resnet18": (lambda: torchvision.models.resnet18(), lambda: [_images(64)]),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(), lambda: [_images(64)]),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(), lambda: [_images(64)]),
    "vit": (
        lambda: torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
        ),
        lambda: [_images(32)],
    ),
    "tagger": (Tagger, lambda: [torch.randint(0, 100, (2, 7))]),
    "bert": (_bert, lambda: [torch.randint(0, 200, (2, 16))]),
}


def _model(name: str) -> tuple[nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, inputs = CASES[name][0]().eval().cuda(), [x.cuda() for x in CASES[name][1]()]
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model, inputs


def _tensors(result: object) -> list[torch.Tensor]:
    return [v for v in torch.utils._pytree.tree_flatten(result)[0] if isinstance(v, torch.Tensor)]


def _engines(compiled: nn.Module) -> int:
    scripted = next(m for m in compiled.modules() if isinstance(m, torch.jit.ScriptModule))
    return len(scripted.graph.findAllNodes("bridge::execute_engine", True))


@pytest.mark.parametrize("name", CASES)
def test_fp32_agrees_with_eager(name: str) -> None:
    model, inputs = _model(name)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        compiled = bridge.compile(model, inputs, backend="tensorrt", disable_tf32=True, optimization_level=1)
        for a, b in zip(_tensors(compiled(*inputs)), _tensors(model(*inputs)), strict=True):
            assert a.dtype == b.dtype and a.device == b.device
            assert ((a - b).abs() <= 1e-3 * (1 + b.abs())).all(), (a - b).abs().max()
    assert _engines(compiled) == 1


@pytest.mark.parametrize("name", CASES)
def test_fp16_errs_at_most_twice_as_much_as_eager_half(name: str) -> None:
    model, inputs = _model(name)
    half = copy.deepcopy(model).half()
    cast = [x.half() if x.is_floating_point() else x for x in inputs]
    with torch.no_grad():
        compiled = bridge.compile(model, inputs, backend="tensorrt", precision=torch.half, optimization_level=1)
        exact, rough, ours = _tensors(model(*inputs)), _tensors(half(*cast)), _tensors(compiled(*cast))
    for e, r, o in zip(exact, rough, ours, strict=True):
        assert o.dtype == e.dtype
        assert (o - e).abs().max() <= 2 * (r.float() - e).abs().max() + 1e-4
