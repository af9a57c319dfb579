"""Normalizations of sixteen bits by weights of 32, as autocast leaves them."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, tensor

_HALF = {"dtype": "float16"}


def _wide(parameter: Any) -> Any:
    return None if parameter is None else parameter.float()


@lowering(
    "aten::layer_norm",
    examples=[
        example(input=tensor("n", 8, **_HALF), normalized_shape=[8], weight=(8,), bias=(8,), eps=1e-5, _atol=2e-3),
        example(input=tensor(2, 3, 4, **_HALF), normalized_shape=[3, 4], weight=(3, 4), eps=1e-3, _atol=2e-3),
    ],
)
def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    """layer_norm -> Cast LayerNormalization Cast: rounded once, as PyTorch does.

    Source: the builder's "INormalizationLayer `input` and `scale` must have identical types".
    """
    import torch

    wide = torch.nn.functional.layer_norm(x.float(), normalized_shape, _wide(weight), _wide(bias), eps)
    return wide.to(x.dtype)


@lowering(
    "aten::instance_norm",
    examples=[
        example(
            input=tensor("n", 3, 4, 5, **_HALF), weight=(3,), bias=(3,), running_mean=None, running_var=None,
            use_input_stats=True, momentum=0.1, eps=1e-5, cudnn_enabled=False, _atol=5e-3,
        ),
        example(
            input=tensor(2, 3, "n", **_HALF), weight=None, bias=None,
            running_mean=(3,), running_var=tensor(3, low=0.5, high=2.0),
            use_input_stats=False, momentum=0.1, eps=1e-5, cudnn_enabled=False, _atol=5e-3,
        ),
    ],
)  # fmt: skip
def instance_norm(
    x,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
    cudnn_enabled=False,
):
    """instance_norm -> Cast InstanceNormalization Cast: rounded once, as PyTorch does.

    Source: the builder's "input and scale must have identical types".
    """
    import torch

    mean, variance, weight, bias = (_wide(parameter) for parameter in (running_mean, running_var, weight, bias))
    wide = torch.nn.functional.instance_norm(x.float(), mean, variance, weight, bias, use_input_stats, momentum, eps)
    return wide.to(x.dtype)
