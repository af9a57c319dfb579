"""Attention that PyTorch runs as one operator: the fast paths of nn.TransformerEncoder and of MultiheadAttention."""

from __future__ import annotations

from typing import Any

import numpy as np

from rewrites import example, lowering, require, tensor


def _softmax(scores: Any) -> Any:
    """Softmax over the last axis; a row of which nothing may be seen gives zeros, as in PyTorch."""
    import torch

    weights = torch.softmax(scores, -1)
    return torch.where(scores.amax(-1, keepdim=True) == float("-inf"), torch.zeros_like(weights), weights)


def _scores(query: Any, key: Any, mask: Any, is_causal: bool, scale: Any) -> Any:
    import torch

    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    if is_causal:
        rows, columns = torch.arange(query.shape[-2]), torch.arange(key.shape[-2])
        scores = scores.masked_fill(rows.unsqueeze(-1) < columns, float("-inf"))
    if mask is None:
        return scores
    return torch.where(mask, scores, float("-inf")) if mask.dtype == torch.bool else scores + mask


def _repeat_heads(x: Any, like: Any) -> Any:
    """Grouped queries: each of the heads of `x` serves `like`'s heads divided by its own."""
    batch, heads, length, size = x.shape[:4]
    times = like.shape[1] // heads
    return x.unsqueeze(2).expand(batch, heads, times, length, size).reshape(batch, heads * times, length, size)


def _every_row_sees(mask: Any) -> bool:
    """Whether a mask leaves something to be seen in each row."""
    return bool((mask if mask.dtype == bool else mask > -np.inf).any(-1).all())


def _seen(mask: Any) -> Any:
    """Rows of a mask in which something may be seen."""
    import torch

    return mask.any(-1, keepdim=True) if mask.dtype == torch.bool else mask.amax(-1, keepdim=True) > float("-inf")


@lowering(
    "aten::scaled_dot_product_attention",
    examples=[
        example(query=(2, 4, 5, 8), key=(2, 2, 6, 8), value=(2, 2, 6, 8), enable_gqa=True),
        example(query=("b", 2, "l", 8), key=("b", 2, "s", 8), value=("b", 2, "s", 8), is_causal=True, scale=0.5),
        example(query=("b", 2, "l", 8), key=("b", 2, "s", 8), value=("b", 2, "s", 8), attn_mask=("l", "s")),
        example(query=(2, 3, 8), key=(2, 5, 8), value=(2, 5, 8), attn_mask=tensor(2, 3, 5, dtype="bool")),
        example(query=(2, 3, 8), key=(2, 5, 8), value=(2, 5, 8), attn_mask=np.tri(3, 5, dtype=bool)),
        example(
            query=(2, 3, 8),
            key=(2, 2, 8),
            value=(2, 2, 8),
            attn_mask=np.where(np.eye(3, 2, dtype=bool), np.float32(0.5), np.float32(-np.inf)),
        ),
    ],
    refuses=[example(query=(2, 3, 8), key=(2, 5, 8), value=(2, 5, 8), dropout_p=0.5, because="dropout")],
    known={"every_row_sees": ("attn_mask", _every_row_sees)},
)
def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False,
    every_row_sees=None,
):  # fmt: skip
    """scaled_dot_product_attention -> MatMul Softmax MatMul: grouped heads are repeated.

    A row that may see nothing gives zeros, as in PyTorch: put in behind the products, so that these can be fused.

    Source: PyTorch's documentation of torch.nn.functional.scaled_dot_product_attention.
    """
    import torch

    require(dropout_p == 0.0, "dropout is random")
    if enable_gqa:
        require(query.dim() == 4, "grouped queries have a batch and a head axis")
        key, value = _repeat_heads(key, query), _repeat_heads(value, query)
    result = _scores(query, key, attn_mask, is_causal, scale).softmax(-1) @ value
    return result if attn_mask is None or every_row_sees else torch.where(_seen(attn_mask), result, 0.0)


@lowering(
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    examples=[
        example(query=(2, 4, 5, 8), key=(2, 4, 6, 8), value=(2, 4, 6, 8)),
        example(query=("b", 2, "l", 8), key=("b", 2, "s", 8), value=("b", 2, "s", 8), attn_mask=("l", "s")),
        example(
            **{name: tensor(1, 2, 5, 8, dtype="float16") for name in ("query", "key", "value")}, _rtol=1e-2, _atol=1e-2
        ),
    ],
)
def flash_attention_for_cpu(query, key, value, dropout_p=0.0, is_causal=False, *, attn_mask=None, scale=None):
    """_scaled_dot_product_flash_attention_for_cpu -> MatMul Softmax MatMul, and the logarithm of the sum in FP32.

    Source: PyTorch's FlashAttentionKernel.cpp.
    """
    require(dropout_p == 0.0, "dropout is random")
    scores = _scores(query, key, attn_mask, is_causal, scale)
    return _softmax(scores) @ value, scores.float().logsumexp(-1)


def _blocked(mask: Any, mask_type: Any) -> Any:
    """The mask as booleans, True where nothing may be seen, broadcast over batch and heads."""
    import torch

    require(mask_type in (0, 1, 2), "a mask needs a type")
    blocked = mask.to(torch.bool)
    return blocked.unsqueeze(1).unsqueeze(1) if mask_type == 1 else blocked


def _project(x: Any, weight: Any, bias: Any, heads: int) -> Any:
    """[batch, length, embedding] -> [batch, heads, length, embedding / heads]."""
    import torch

    made = torch.nn.functional.linear(x, weight, bias)
    return made.reshape(x.shape[0], x.shape[1], heads, weight.shape[0] // heads).transpose(1, 2)


def _multi_head(inputs: Any, heads: int, qkv: Any, proj: Any, mask: Any, mask_type: Any) -> tuple[Any, Any]:
    import torch

    weights, biases = qkv[0].chunk(3), qkv[1].chunk(3)
    query, key, value = (_project(x, w, b, heads) for x, w, b in zip(inputs, weights, biases, strict=True))
    scores = _scores(query, key, None, False, None)
    if mask is not None:
        scores = scores.masked_fill(_blocked(mask, mask_type), float("-inf"))
    seen = scores.softmax(-1)
    mixed = (seen @ value).transpose(1, 2).reshape(inputs[0].shape[0], inputs[0].shape[1], qkv[0].shape[1])
    return torch.nn.functional.linear(mixed, *proj), seen


_MHA = {
    "embed_dim": 8,
    "num_head": 2,
    "qkv_weight": (24, 8),
    "qkv_bias": (24,),
    "proj_weight": (8, 8),
    "proj_bias": (8,),
}
_WEIGHTS = ("qkv_weight", "qkv_bias", "proj_weight", "proj_bias")
_SAME = {"query": ("b", "l", 8), "key": ("b", "l", 8), "value": ("b", "l", 8)}


@lowering(
    "aten::_native_multi_head_attention",
    examples=[
        example(query=(2, 3, 8), key=(2, 3, 8), value=(2, 3, 8), **_MHA),
        example(**_SAME, **_MHA, mask=tensor("b", "l", dtype="bool"), mask_type=1, average_attn_weights=False),
        example(**_SAME, **_MHA, mask=tensor("l", "l", dtype="bool"), mask_type=0),
    ],
    static={"query": [-1], "key": [-1], "value": [-1], **dict.fromkeys(_WEIGHTS)},
)
def native_multi_head_attention(
    query, key, value, embed_dim, num_head, qkv_weight, qkv_bias, proj_weight, proj_bias,
    mask=None, need_weights=True, average_attn_weights=True, mask_type=None,
):  # fmt: skip
    """_native_multi_head_attention -> Gemm MatMul Softmax MatMul Gemm.

    Source: PyTorch's native/transformers/attention.cpp.
    """
    qkv, proj = (qkv_weight, qkv_bias), (proj_weight, proj_bias)
    made, seen = _multi_head((query, key, value), num_head, qkv, proj, mask, mask_type)
    return made, seen.mean(1) if average_attn_weights else seen


_LAYER = {
    "embed_dim": 8, "num_heads": 2, "qkv_weight": (24, 8), "qkv_bias": (24,), "proj_weight": (8, 8), "proj_bias": (8,),
    "norm_weight_1": (8,), "norm_bias_1": (8,), "norm_weight_2": (8,), "norm_bias_2": (8,),
    "ffn_weight_1": (16, 8), "ffn_bias_1": (16,), "ffn_weight_2": (8, 16), "ffn_bias_2": (8,), "eps": 1e-5,
}  # fmt: skip


@lowering(
    "aten::_transformer_encoder_layer_fwd",
    examples=[
        example(src=(2, 3, 8), use_gelu=True, norm_first=False, **_LAYER),
        example(src=("b", "l", 8), use_gelu=False, norm_first=True, **_LAYER),
        example(
            src=("b", "l", 8),
            use_gelu=True,
            norm_first=True,
            mask=tensor("b", "l", dtype="bool"),
            mask_type=1,
            **_LAYER,
        ),
    ],
    static={"src": [-1], **{name: None for name in _LAYER if "weight" in name or "bias" in name}},
)
def transformer_encoder_layer(
    src, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias, use_gelu, norm_first, eps,
    norm_weight_1, norm_bias_1, norm_weight_2, norm_bias_2, ffn_weight_1, ffn_bias_1, ffn_weight_2, ffn_bias_2,
    mask=None, mask_type=None,
):  # fmt: skip
    """_transformer_encoder_layer_fwd -> LayerNormalization, attention and two Gemm.

    Source: PyTorch's native/transformers/transformer.cpp.
    """
    from torch.nn import functional as F

    def norm(x: Any, weight: Any, bias: Any) -> Any:
        return F.layer_norm(x, (embed_dim,), weight, bias, eps)

    x = norm(src, norm_weight_1, norm_bias_1) if norm_first else src
    attended, _ = _multi_head((x, x, x), num_heads, (qkv_weight, qkv_bias), (proj_weight, proj_bias), mask, mask_type)
    x = attended + src if norm_first else norm(attended + src, norm_weight_1, norm_bias_1)
    inner = F.linear(norm(x, norm_weight_2, norm_bias_2) if norm_first else x, ffn_weight_1, ffn_bias_1)
    x = x + F.linear(F.gelu(inner) if use_gelu else F.relu(inner), ffn_weight_2, ffn_bias_2)
    return x if norm_first else norm(x, norm_weight_2, norm_bias_2)
