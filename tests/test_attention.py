"""Attention with masks: PyTorch's numbers, in the module's own type, without nodes that keep it from being fused."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
import torch
from torch.nn import functional as F

import bridge

LENGTH = 6


class Attention(torch.nn.Module):
    def __init__(self, mask: torch.Tensor | None = None, is_causal: bool = False) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.is_causal = is_causal

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, is_causal=self.is_causal)


class Masked(torch.nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _states(dtype: torch.dtype, length: int = LENGTH) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, length, 8).to(dtype) for _ in range(3)]


def _blind(dtype: torch.dtype) -> torch.Tensor:
    """A mask of which the second row sees nothing, and the third one key."""
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    seen[1] = False
    seen[2, 1:] = False
    return seen if dtype == torch.bool else torch.zeros(LENGTH, LENGTH).masked_fill(~seen, float("-inf")).to(dtype)


CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["none", "causal", "constant causal", "constant blind", "constant blind float"])
def test_masks_that_are_part_of_the_module(dtype: torch.dtype, kind: str) -> None:
    mask = {"constant causal": CAUSAL, "constant blind": _blind(torch.bool), "constant blind float": _blind(dtype)}
    module, states = Attention(mask.get(kind), kind == "causal").eval(), _states(dtype)
    compiled = bridge.compile(module, states, backend="onnxruntime", require_full_compilation=True)
    expected, found = module(*states), compiled(*states)
    assert found.dtype == dtype and not found.isnan().any()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 if dtype == torch.float32 else 2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("of_mask", [torch.bool, None])
def test_masks_that_are_inputs(dtype: torch.dtype, of_mask: torch.dtype | None) -> None:
    mask, states = _blind(of_mask or dtype), _states(dtype)
    compiled = bridge.compile(Masked(), [*states, mask], backend="onnxruntime", require_full_compilation=True)
    for given in (mask, _blind(of_mask or dtype).roll(2, 0), mask.roll(1, 1)):
        expected, found = Masked()(*states, given), compiled(*states, given)
        assert found.dtype == dtype and not found.isnan().any()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 if dtype == torch.float32 else 2e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_half_attention_keeps_its_type_and_can_be_fused() -> None:
    states = _states(torch.half)
    model = bridge.to_onnx(torch.jit.trace(Attention(CAUSAL).eval(), states, check_trace=False), states)
    names = [node.op_type for node in model.graph.node]
    assert Counter(names) == {"Mul": 1, "Transpose": 1, "MatMul": 2, "Where": 1, "Softmax": 1}
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


class SelfAttention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(192, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_fast_path_of_wide_layers_is_one_engine(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module, x = SelfAttention().eval().to(dtype), torch.randn(2, 40, 192).to(dtype)
    with torch.no_grad():
        traced = torch.jit.trace(module, x, check_trace=False)
        compiled = bridge.compile(traced, [x], backend="onnxruntime", require_full_compilation=True)
        found, expected = compiled(x), module(x)
    assert any(node.kind() == "aten::_native_multi_head_attention" for node in traced.inlined_graph.nodes())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 if dtype == torch.float32 else 2e-3)


class Padded(torch.nn.Module):
    """An encoder that packs what its padding mask leaves: traced in evaluation, it holds nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, norm=torch.nn.LayerNorm(16))

    def forward(self, x: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
        return self.encoder(x * 2, src_key_padding_mask=blocked)


class Packed(torch.nn.Module):
    """Nested tensors of its own, padded to the longest row."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(16, 8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
        rows = torch._nested_tensor_from_mask(x, ~blocked, False)
        return self.outer(torch.nested.to_padded_tensor(self.inner(rows), 0.0)).softmax(-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["traced", "scripted", "module"])
@pytest.mark.parametrize("make", [Padded, Packed])
def test_nested_tensors(make: type[torch.nn.Module], form: str) -> None:
    torch.manual_seed(0)
    model = make().eval()
    x, blocked = torch.randn(2, 5, 16), torch.arange(5) >= torch.tensor([[5], [3]])
    spec = [
        bridge.Input(min_shape=(1, 3, 16), opt_shape=(2, 5, 16), max_shape=(4, 9, 16)),
        bridge.Input(min_shape=(1, 3), opt_shape=(2, 5), max_shape=(4, 9), example=blocked),
    ]
    with torch.no_grad():
        traced = torch.jit.trace(model, (x, blocked), check_trace=False)
        subject = {"traced": traced, "module": model}.get(form) or torch.jit.script(model)
    assert any("nested" in node.kind() for node in traced.inlined_graph.nodes())
    compiled = bridge.compile(subject, spec, backend="onnxruntime", require_full_compilation=make is Padded)
    for lengths in ([3], [5, 2], [1, 9, 4, 4], [4, 2, 3, 3]):
        longest = max(lengths)
        x = torch.randn(len(lengths), longest, 16)
        blocked = torch.arange(longest) >= torch.tensor(lengths)[:, None]
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, blocked), model(x, blocked), rtol=1e-4, atol=1e-5)
    if make is Padded:  # padding before the words: no nested tensors, and nothing is zero
        x, blocked = torch.randn(2, 6, 16), torch.arange(6) < torch.tensor([[0], [2]])
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, blocked), model(x, blocked), rtol=1e-4, atol=1e-5)
