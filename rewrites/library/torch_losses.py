"""Cross entropy in all its forms: ONNX's takes no probabilities and no single vectors."""

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


def _reduced(loss: Any, reduction: int, share: Any) -> Any:
    if reduction == _NONE:
        return loss
    loss, share = loss.reshape(-1), share.reshape(-1)
    return loss.sum() / share.sum() if reduction == _MEAN else loss.sum()
