"""Programs around and with compiled parts: text generation, beam search, detection."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bridge
from bridge.runtime.calls import engine_calls

pytestmark = pytest.mark.filterwarnings("ignore")


class CachedDecoder(nn.Module):
    """A decoder of two layers with a cache of keys and values in its buffers, and the greedy loop around it."""

    def __init__(self, words: int = 17, width: int = 16, most: int = 24) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(most, width)
        self.inner = nn.ModuleList([nn.Linear(width, 3 * width) for _ in range(2)])
        self.outer = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.head = nn.Linear(width, words)
        self.register_buffer("keys", torch.zeros(2, most, width))
        self.register_buffer("values", torch.zeros(2, most, width))

    def step(self, word: Tensor, place: Tensor) -> Tensor:
        x = self.words(word) + self.places(place)
        for layer, (inner, outer) in enumerate(zip(self.inner, self.outer)):  # noqa: B905
            query, key, value = inner(x).chunk(3, -1)
            self.keys[layer].index_copy_(0, place, key)
            self.values[layer].index_copy_(0, place, value)
            later = torch.arange(self.keys.size(1)) > place
            scores = (query @ self.keys[layer].t()).masked_fill(later, float("-inf"))
            x = x + torch.tanh(outer(torch.softmax(scores, -1) @ self.values[layer]))
        return self.head(x)

    def forward(self, prompt: Tensor, most: int) -> tuple[Tensor, int]:
        words, steps = prompt, 0
        for i in range(most - 1):
            scores = self.step(words[i].view(1), torch.full([1], i))
            steps += 1
            if i + 1 >= prompt.size(0):
                best = scores.argmax(-1)
                words = torch.cat([words, best])
                if bool(best == 0):
                    break
        return words, steps


def test_a_scripted_greedy_loop_with_a_cache() -> None:
    torch.manual_seed(5)
    module = torch.jit.script(CachedDecoder().eval())
    prompt = bridge.Input(("length",), min_shape=(1,), opt_shape=(3,), max_shape=(6,), example=torch.tensor([3, 1, 4]))
    compiled = bridge.compile(module, [prompt, 20], backend="onnxruntime")
    assert engine_calls(compiled)
    file = io.BytesIO()
    torch.jit.save(compiled, file)
    file.seek(0)
    for one in (compiled, torch.jit.load(file)):
        for given in ([3, 1, 4], [1], [5, 9, 2, 6, 5]):
            words, steps = module(torch.tensor(given), 20)
            found, count = one(torch.tensor(given), 20)
            assert count == steps
            assert found.tolist() == words.tolist()


class Gate(nn.Module):
    """One image brought to the size of another, as decoders and attention gates do it."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.coarse, self.fine, self.mode = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1), mode

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        raised = nn.functional.interpolate(self.coarse(coarse), size=fine.shape[2:], mode=self.mode)
        return torch.relu(raised + self.fine(fine))


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_a_scripted_image_takes_the_size_of_another(mode: str) -> None:
    module = torch.jit.script(Gate(mode).eval())
    sides = [bridge.Input(min_shape=(1, 4, n, n), opt_shape=(2, 4, n, n), max_shape=(2, 4, 16, 24)) for n in (5, 9)]
    compiled = bridge.compile(module, sides, backend="onnxruntime", require_full_compilation=True)
    for coarse, fine in ((5, 9), (8, 16)):
        given = torch.randn(2, 4, coarse, coarse + 1), torch.randn(2, 4, fine, fine + 3)
        torch.testing.assert_close(compiled(*given), module(*given), rtol=1e-4, atol=1e-5)


class Coordinates(nn.Module):
    """A picture computed from the places of its pixels, as many as its input has."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = torch.linspace(-1, 1, height), torch.linspace(0.5, width - 0.5, width)
        places = torch.stack(torch.meshgrid([rows, columns], indexing="ij"), -1)
        return self.outer(torch.sin(self.inner(places) + x.unsqueeze(-1)))


@pytest.mark.parametrize("make", [torch.jit.script, None], ids=["scripted", "traced"])
def test_places_of_pixels_of_any_size(make: Any) -> None:
    model, x = Coordinates().eval(), torch.randn(2, 5, 7)
    module = torch.jit.script(model) if make else torch.jit.trace(model, x, check_trace=False)
    spec = [bridge.Input(min_shape=(1, 1, 6), opt_shape=(2, 5, 7), max_shape=(2, 6, 9))]
    compiled = bridge.compile(module, spec, backend="onnxruntime", require_full_compilation=not make)
    for shape in ((1, 1, 6), (2, 5, 7), (2, 6, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


class Outlook(nn.Module):
    """Attention over the places in all patches, put back into an image: as MobileViT v2 does it."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        patches = nn.functional.unfold(x, 2, stride=2).reshape(b, c, 4, -1)
        mixed = torch.softmax(patches, -1).reshape(b, c * 4, patches.shape[-1])
        return nn.functional.fold(mixed, (h, w), 2, stride=2)


@pytest.mark.parametrize("make", [torch.jit.script, None], ids=["scripted", "traced"])
def test_patches_are_put_back_into_images_of_any_size(make: Any) -> None:
    x = torch.randn(2, 3, 8, 10)
    module = torch.jit.script(Outlook()) if make else torch.jit.trace(Outlook(), x, check_trace=False)
    spec = [bridge.Input(min_shape=(1, 3, 4, 8), opt_shape=(2, 3, 8, 10), max_shape=(3, 3, 8, 12))]
    compiled = bridge.compile(module, spec, backend="onnxruntime", require_full_compilation=True)
    for shape in ((1, 3, 4, 8), (3, 3, 8, 12)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), Outlook()(x), rtol=1e-4, atol=1e-5)


class SharedQueries(nn.Module):
    """Windows of images, each asked by the queries of its image: how often these are repeated follows from sizes."""

    def forward(self, windows: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        spread = queries.repeat_interleave(windows.shape[0] // queries.shape[0], dim=0)
        return (windows @ spread.transpose(1, 2)).softmax(-1), spread.repeat_interleave(windows.shape[1], 1).exp()


@pytest.mark.parametrize("make", [torch.jit.script, None], ids=["scripted", "traced"])
def test_queries_are_repeated_as_often_as_sizes_say(make: Any) -> None:
    given = torch.randn(6, 5, 8), torch.randn(2, 5, 8)
    module = torch.jit.script(SharedQueries()) if make else torch.jit.trace(SharedQueries(), given, check_trace=False)
    spec = [
        bridge.Input(min_shape=(low, 5, 8), opt_shape=(usual, 5, 8), max_shape=(high, 5, 8))
        for low, usual, high in ((2, 6, 8), (1, 2, 4))
    ]
    compiled = bridge.compile(module, spec, backend="onnxruntime", require_full_compilation=True)
    for windows, images in ((2, 1), (8, 2), (8, 4)):
        given = torch.randn(windows, 5, 8), torch.randn(images, 5, 8)
        for found, expected in zip(compiled(*given), SharedQueries()(*given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class Predictor(nn.Module):
    """Recurrent cells, whose gates PyTorch computes in place in pieces of a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.gated = nn.LSTMCell(6, 8), nn.GRUCell(8, 5)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor, gated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, cell = self.long(x, (hidden, cell))
        return hidden[:, None] * 2, cell, self.gated(hidden, gated)


@pytest.mark.parametrize("make", [torch.jit.script, None], ids=["scripted", "traced"])
def test_cells_are_whole_in_an_engine(make: Any) -> None:
    widths = (6, 8, 8, 5)
    model, given = Predictor().eval(), tuple(torch.randn(2, width) for width in widths)
    with torch.no_grad():
        module = torch.jit.script(model) if make else torch.jit.trace(model, given, check_trace=False)
    spec = [bridge.Input(min_shape=(1, w), opt_shape=(2, w), max_shape=(3, w)) for w in widths]
    compiled = bridge.compile(module, spec, backend="onnxruntime", require_full_compilation=True)
    for batch in (1, 3):
        given = tuple(torch.randn(batch, width) for width in widths)
        for found, expected in zip(compiled(*given), model(*given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class SpatialTransformer(nn.Module):
    """Turns and moves its images by what it finds in them."""

    def __init__(self) -> None:
        super().__init__()
        self.find = nn.Sequential(nn.Conv2d(1, 4, 5, 2), nn.ReLU(), nn.AdaptiveMaxPool2d(3), nn.Flatten())
        self.move = nn.Linear(36, 6)

    def forward(self, x: Tensor) -> Tensor:
        grid = nn.functional.affine_grid(self.move(self.find(x)).view(-1, 2, 3), x.shape, align_corners=False)
        return nn.functional.grid_sample(x, grid, align_corners=False)


@pytest.mark.parametrize("make", [torch.jit.script, None], ids=["scripted", "traced"])
def test_a_spatial_transformer_takes_any_size(make: Any) -> None:
    torch.manual_seed(0)
    model, x = SpatialTransformer().eval(), torch.randn(2, 1, 16, 20)
    module = torch.jit.script(model) if make else torch.jit.trace(model, x, check_trace=False)
    spec = [bridge.Input(min_shape=(1, 1, 16, 16), opt_shape=(2, 1, 16, 20), max_shape=(4, 1, 18, 30))]
    compiled = bridge.compile(module, spec, backend="onnxruntime", require_full_compilation=not make)
    for shape in ((1, 1, 16, 16), (4, 1, 18, 30)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def languages() -> tuple[Any, Any]:
    """A small GPT-2 with random weights, and the same with its forward compiled."""
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_outputs import CausalLMOutputWithPast

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=61, n_positions=32, n_embd=32, n_layer=2, n_head=2, use_cache=False)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    model = transformers.GPT2LMHeadModel(config).eval()

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor) -> Tensor:
            return self.model(ids, use_cache=False).logits

    ids = bridge.Input(
        ("batch", "length"),
        min_shape=(1, 2), opt_shape=(2, 6), max_shape=(8, 24), dtype=torch.int64, value_range=(1, 60),
    )  # fmt: skip
    step = bridge.compile(Logits(), [ids], backend="onnxruntime")
    assert len(engine_calls(step)) == 1

    class Compiled(transformers.GPT2LMHeadModel):
        def forward(self, input_ids: Tensor, **_: Any) -> Any:
            return CausalLMOutputWithPast(logits=step(input_ids))

    compiled = Compiled(config).eval()
    compiled.load_state_dict(model.state_dict())
    return model, compiled


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_generate_around_a_compiled_step(languages: tuple[Any, Any], search: dict[str, int]) -> None:
    model, compiled = languages
    for batch, length in ((1, 3), (2, 5)):
        ids = torch.randint(1, 60, (batch, length), generator=torch.Generator().manual_seed(length))
        settings = {"max_new_tokens": 7, "do_sample": False, "use_cache": False, **search}
        mask = torch.ones_like(ids)
        expected = model.generate(ids, attention_mask=mask, **settings)
        assert compiled.generate(ids, attention_mask=mask, **settings).tolist() == expected.tolist()


def test_mask_rcnn_finds_the_same() -> None:
    detection = pytest.importorskip("torchvision").models.detection
    torch.manual_seed(0)
    backbone = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    limits = {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 10, "box_score_thresh": 0.05}
    model = detection.MaskRCNN(backbone, 4, min_size=64, max_size=96, **limits).eval()
    module = torch.jit.script(model)
    images = [torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    compiled = bridge.compile(module, [[images[0]]], backend="onnxruntime")
    assert engine_calls(compiled)
    for image in images:
        with torch.no_grad():
            (expected,), (found,) = module([image])[1], compiled([image])[1]
        assert expected["boxes"].size(0) > 0
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)
