"""What is measured: each a module with random weights, in evaluation mode, and its inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

Made = tuple[torch.nn.Module, list[torch.Tensor]]


def _vision(name: str, batch: int) -> Callable[[], Made]:
    def make() -> Made:
        import torchvision

        return getattr(torchvision.models, name)(), [torch.rand(batch, 3, 224, 224)]

    return make


class _LastHidden(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x, return_dict=False)[0]


def _bert() -> Made:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(attn_implementation="sdpa"), add_pooling_layer=False)
    return _LastHidden(model), [torch.randint(0, 30000, (8, 128))]


def _gpt2() -> Made:
    from transformers import GPT2Config, GPT2LMHeadModel

    return _LastHidden(GPT2LMHeadModel(GPT2Config(use_cache=False))), [torch.randint(0, 50000, (1, 512))]


def _whisper() -> Made:
    """The encoder of Whisper small: 12 layers of 768, 30 seconds of audio."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=768, encoder_layers=12, encoder_attention_heads=12, encoder_ffn_dim=3072, num_mel_bins=80
    )
    return _LastHidden(WhisperEncoder(config)), [torch.rand(1, 80, 3000)]


class _Double(torch.nn.Sequential):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        for _ in range(2):
            self.append(torch.nn.Conv2d(inside, outside, 3, padding=1, bias=False))
            self.append(torch.nn.BatchNorm2d(outside))
            self.append(torch.nn.ReLU(inplace=True))
            inside = outside


class _UNet(torch.nn.Module):
    """U-Net of https://arxiv.org/abs/1505.04597 with padded convolutions and batch norm."""

    def __init__(self, classes: int = 2, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = torch.nn.ModuleList(_Double(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = torch.nn.ModuleList(torch.nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[-2::-1])
        self.join = torch.nn.ModuleList(_Double(2 * w, w) for w in widths[-2::-1])
        self.head = torch.nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else torch.nn.functional.max_pool2d(x, 2))
            kept.append(x)
        for level, (up, join) in enumerate(zip(self.up, self.join, strict=True)):
            x = join(torch.cat([kept[-2 - level], up(x)], dim=1))
        return self.head(x)


def _unet() -> Made:
    return _UNet(), [torch.rand(4, 3, 256, 256)]


def _mlp() -> Made:
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)), [torch.rand(8, 64)]


MODELS: dict[str, Callable[[], Made]] = {
    "mlp": _mlp,
    "resnet50-b1": _vision("resnet50", 1),
    "resnet50-b32": _vision("resnet50", 32),
    "vit_b_16-b8": _vision("vit_b_16", 8),
    "bert-base-b8-s128": _bert,
    "efficientnet_b0-b32": _vision("efficientnet_b0", 32),
    "convnext_tiny-b16": _vision("convnext_tiny", 16),
    "swin_t-b8": _vision("swin_t", 8),
    "gpt2-b1-s512": _gpt2,
    "unet-b4": _unet,
    "whisper-small-encoder-b1": _whisper,
}


def make(name: str) -> tuple[torch.nn.Module, list[Any]]:
    """The model of this name with its inputs; the same weights and values every time."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():  # a head of zeros would hide every error
            torch.nn.init.normal_(module.weight, std=0.02)
    return model.eval(), inputs


def half_of(model: torch.nn.Module, inputs: list[torch.Tensor]) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """The module and its inputs in half precision, as Torch-TensorRT's users give them."""
    return copy.deepcopy(model).half(), [x.half() if x.is_floating_point() else x for x in inputs]
