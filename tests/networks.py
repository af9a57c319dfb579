"""The networks that every backend is tried with: how they are made, what they are called with, in which forms."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import nn
from torch.utils import _pytree as pytree

import bridge


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 3), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(
            nn.Linear(16 * 6 * 6, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.features(x), 1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 8), _block(8, 16), _block(16, 32)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.merge = nn.ModuleList([_block(32, 16), _block(16, 8)])
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.down[0](x)
        middle = self.down[1](nn.functional.max_pool2d(fine, 2))
        coarse = self.down[2](nn.functional.max_pool2d(middle, 2))
        middle = self.merge[0](torch.cat([self.up[0](coarse), middle], 1))
        return self.head(self.merge[1](torch.cat([self.up[1](middle), fine], 1)))


def _block(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU())


class Tagger(nn.Module):
    """Words in, a score for each tag and word out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.lstm = nn.LSTM(16, 24, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(48, 7)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        found, _ = self.lstm(self.embedding(words))
        return torch.log_softmax(self.head(found), -1)


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        self.model = transformers.BertModel(
            transformers.BertConfig(
                vocab_size=100,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                max_position_embeddings=64,
            )
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model(ids, attention_mask=mask, return_dict=False)[:2]


class Gpt2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        self.model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=100, n_positions=64, n_embd=32, n_layer=2, n_head=4, use_cache=False)
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids, return_dict=False)[0]


def _vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)
    nn.init.normal_(model.heads[0].weight)  # zero to begin with, so that any two results would agree
    return model


def _vgg16() -> nn.Module:
    """Its classifier narrower than its 4,096: those weights, half a gigabyte, would be most of the tests' time."""
    model = torchvision.models.vgg16(init_weights=False)
    model.classifier = torchvision.ops.MLP(512 * 7 * 7, [128, 128, 10], dropout=0.5)
    return model


Sizes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Network:
    """A network, two shapes for each input (small, large), and the largest integer of each (None: floating point)."""

    make: Callable[[], nn.Module]
    shapes: tuple[Sizes, ...]
    largest: tuple[int | None, ...] = (None,)
    scripts: bool = True


def _images(make: Callable[[], nn.Module], side: int, other: int | None = None, channels: int = 3) -> Network:
    return Network(make, (((1, channels, side, side), (2, channels, other or side, other or side)),))


NETWORKS = {
    "lenet": _images(LeNet, 32, channels=1),
    "resnet18": _images(torchvision.models.resnet18, 64, 96),
    "resnet50": _images(torchvision.models.resnet50, 64, 96),
    "mobilenet_v3": _images(torchvision.models.mobilenet_v3_small, 64, 96),
    "efficientnet_b0": _images(torchvision.models.efficientnet_b0, 64, 96),
    "inception_v3": _images(lambda: torchvision.models.inception_v3(aux_logits=False, init_weights=False), 75, 96),
    "vgg16": _images(_vgg16, 32),
    "vit": _images(_vit, 32),
    "unet": _images(UNet, 32, 64),
    "tagger": Network(Tagger, (((1, 5), (3, 9)),), (99,)),
    "bert": Network(Bert, (((1, 6), (3, 11)), ((1, 6), (3, 11))), (99, 1), scripts=False),
    "gpt2": Network(Gpt2, (((1, 6), (3, 11)),), (99,), scripts=False),
}
FORMS = ("traced", "scripted", "exported", "module")


def inputs_of(network: Network, size: int) -> tuple[torch.Tensor, ...]:
    """Random inputs of the small (0) or the large (1) shapes."""
    torch.manual_seed(size)
    return tuple(
        torch.randn(shapes[size]) if largest is None else torch.randint(0, largest + 1, shapes[size])
        for shapes, largest in zip(network.shapes, network.largest, strict=True)
    )


def made(name: str) -> nn.Module:
    """The network in evaluation mode, its batch norms with statistics of their own.

    With the statistics of no data, deep networks give zero for any input; with those of few, rounding grows.
    """
    torch.manual_seed(0)
    model = NETWORKS[name].make()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum, norm.eps = None, 0.1
        with torch.no_grad():
            model.train()(torch.randn(8, *NETWORKS[name].shapes[0][1][1:]))
    return model.eval()


def in_form(model: nn.Module, form: str, inputs: tuple[torch.Tensor, ...], dynamic: bool) -> object:
    """The model as one of ``FORMS``."""
    with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        if form == "traced":
            return torch.jit.trace(model, inputs, check_trace=False)
        if form == "scripted":
            return torch.jit.script(model)
        if form == "exported":
            dims = _export_dims(inputs) if dynamic else None
            return torch.export.export(model, inputs, dynamic_shapes=dims, strict=False)
        return model


def _export_dims(inputs: tuple[torch.Tensor, ...]) -> list[dict[int, object]]:
    return [{axis: torch.export.Dim.AUTO for axis in range(x.ndim) if x.ndim == 2 or axis != 1} for x in inputs]


def spec_of(network: Network, dynamic: bool) -> list[bridge.Input]:
    """Its inputs, of the large shapes, or of all from the small ones on."""
    found = []
    for (small, large), largest in zip(network.shapes, network.largest, strict=True):
        dtype, high = (torch.float32, None) if largest is None else (torch.int64, largest + 1)
        extra = {"dtype": dtype} if high is None else {"dtype": dtype, "value_range": (0, high)}
        found.append(
            bridge.Input(min_shape=small, opt_shape=large, max_shape=large, **extra)
            if dynamic
            else bridge.Input(large, **extra)
        )
    return found


def tensors(results: object) -> list[torch.Tensor]:
    """Scripted, Inception returns a named tuple with no auxiliary output in it; as it is, the one tensor."""
    return [v for v in pytree.tree_leaves(results) if isinstance(v, torch.Tensor)]
