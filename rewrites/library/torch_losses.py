"""Losses: ONNX's cross entropy takes no probabilities and no single vectors, the exporter's binary one overflows."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, tensor

_NONE, _MEAN = 0, 1
_CLASSES = tensor(4, dtype="int64", values=[0, 2, 1, 2])


@lowering(
    "aten::cross_entropy_loss",
    examples=[
        example(self=("n", 3), target=("n", 3), reduction=1),
        example(self=("n", 3, 2), target=("n", 3, 2), weight=(3,), reduction=0, label_smoothing=0.1),
        example(self=(3,), target=tensor(dtype="int64", values=2), weight=(3,), reduction=2),
        example(self=(4, 3), target=_CLASSES, reduction=1, label_smoothing=0.2, ignore_index=1),
        example(self=(4, 3), target=_CLASSES, weight=(3,), reduction=1, label_smoothing=0.2, ignore_index=0),
    ],
)
def cross_entropy_loss(x, target, weight=None, reduction=_MEAN, ignore_index=-100, label_smoothing=0.0):
    """cross_entropy_loss -> LogSoftmax Mul ReduceSum.

    Source: PyTorch's documentation of torch.nn.CrossEntropyLoss.
    """
    import torch

    axis = 0 if x.dim() == 1 else 1
    logs = torch.log_softmax(x.unsqueeze(0), 1).squeeze(0) if axis == 0 else torch.log_softmax(x, axis)
    shape = [-1] + [1] * (x.dim() - axis - 1)
    shares = torch.ones_like(logs) if weight is None else weight.reshape(shape) + torch.zeros_like(logs)
    if target.is_floating_point():
        target = target * (1 - label_smoothing) + label_smoothing / x.shape[axis]
        loss = -(logs * target * shares).sum(axis)
        return _reduced(loss, reduction, torch.ones_like(loss))
    kept = target != ignore_index
    places = torch.where(kept, target, torch.zeros_like(target)).unsqueeze(axis)
    counted = kept.to(x.dtype)
    share = shares.gather(axis, places).squeeze(axis) * counted
    loss = _reduced(-logs.gather(axis, places).squeeze(axis) * share, reduction, share)
    if not label_smoothing:
        return loss
    smooth = _reduced(-(logs * shares).sum(axis) * counted, reduction, share)
    return loss * (1 - label_smoothing) + smooth * (label_smoothing / x.shape[axis])


_LOGITS = tensor(5, values=[-200.0, 200.0, 0.5, -1.0, 90.0])
_CERTAIN = tensor(5, values=[0.0, 1.0, 1.0, 0.0, 0.3])


@lowering(
    "aten::binary_cross_entropy_with_logits",
    examples=[
        example(self=_LOGITS, target=_CERTAIN, reduction=0),
        example(self=("n", 3), target=tensor("n", 3, low=0.0, high=1.0), weight=(3,), pos_weight=(3,), reduction=1),
        example(self=("n", 3), target=tensor("n", 3, low=0.0, high=1.0), pos_weight=("n", 1), reduction=2),
    ],
)
def binary_cross_entropy_with_logits(x, target, weight=None, pos_weight=None, reduction=_MEAN):
    """binary_cross_entropy_with_logits -> Max Exp Log Mul: the logarithm of a sigmoid rounded to zero is infinite.

    Source: binary_cross_entropy_with_logits in PyTorch's aten/src/ATen/native/Loss.cpp.
    """
    import torch

    logs = torch.log1p(torch.exp(-x.abs())) + torch.relu(-x)
    loss = (1 - target) * x + (logs if pos_weight is None else ((pos_weight - 1) * target + 1) * logs)
    loss = loss if weight is None else loss * weight
    return _reduced(loss, reduction, torch.ones_like(loss))


@lowering(
    "aten::kl_div",
    examples=[
        example(self=(4,), target=tensor(4, values=[0.0, -1.0, 0.5, 1.0]), reduction=0),
        example(self=("n", 3), target=tensor("n", 3, low=0.1, high=1.0), reduction=1),
        example(self=("n", 3), target=("n", 3), reduction=2, log_target=True),
    ],
)
def kl_div(x, target, reduction=_MEAN, *, log_target=False):
    """kl_div -> Log Mul Where: nothing where the target is nothing, NaN where it is no probability."""
    import torch

    none = torch.zeros_like(target)
    log = target if log_target else torch.where(target == 0, none, torch.log(target))
    loss = (torch.exp(target) if log_target else target) * (log - x)
    loss = loss if log_target else torch.where(target == 0, loss * 0, loss)
    return _reduced(loss, reduction, torch.ones_like(loss))


def _reduced(loss: Any, reduction: int, share: Any) -> Any:
    if reduction == _NONE:
        return loss
    loss, share = loss.reshape(-1), share.reshape(-1)
    return loss.sum() / share.sum() if reduction == _MEAN else loss.sum()
