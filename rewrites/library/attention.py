"""Attention: parsers read the plain form at best; the specification defines it by MatMul and Softmax."""

from __future__ import annotations

from rewrites import example, rule, tensor
from rewrites.definitions import expand

_Q, _K = ("batch", 2, 4, 8), ("batch", 2, 6, 8)


@rule(
    name="onnx/attention-to-definition",
    matches="Attention",
    needed_by={"tensorrt": "all versions"},
    opsets=(23, 10**6),
    examples=[
        example(Q=(2, 4, 3, 8), K=(2, 2, 5, 8), V=(2, 2, 5, 6), is_causal=1, _opset=23),
        example(Q=_Q, K=_K, V=_K, attn_mask=tensor(4, 6, dtype="bool"), softcap=2.0, _opset=23),
        example(
            Q=(2, 2, 4, 8),
            K=(2, 2, 6, 8),
            V=(2, 2, 6, 8),
            past_key=(2, 2, 3, 8),
            past_value=(2, 2, 3, 8),
            _outputs=3,
            _opset=23,
        ),
        example(Q=(2, 4, 24), K=(2, 6, 24), V=(2, 6, 24), q_num_heads=3, kv_num_heads=3, _opset=23),
    ],
)
class AttentionToDefinition:
    """Attention -> MatMul Softmax MatMul: the operator's definition, which TensorRT fuses again by itself.

    Source: the function body in the ONNX specification, opset 23. TensorRT's parser takes one output, no softcap, no
    mask beside is_causal and equal head counts only.
    """

    def rewrite(op, node):
        return expand(op, node)


@rule(
    name="onnx/flex-attention-to-definition",
    matches="ai.onnx.preview::FlexAttention",
    needed_by={"any": "all versions"},
    examples=[
        example(Q=(2, 4, 3, 8), K=(2, 2, 5, 8), V=(2, 2, 5, 6)),
        example(Q=("batch", 2, 4, 8), K=("batch", 2, 6, 8), V=("batch", 2, 6, 8), scale=0.5),
    ],
)
class FlexAttentionToDefinition:
    """FlexAttention -> MatMul score_mod Softmax prob_mod MatMul: the operator's definition, its bodies inlined.

    Source: the function body in the ONNX specification, domain ai.onnx.preview, version 1; no compiler has it.
    """

    def rewrite(op, node):
        return expand(op, node)
