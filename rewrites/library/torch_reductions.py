"""Whether any or all elements are true, where numbers are unless they are zero; softmax in a type of its own."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, tensor

_SOME = tensor(3, 2, values=[[0.0, 0.0], [1.0, 0.0], [float("nan"), -2.0]])


def _truth(x: Any, dim: Any, keepdim: bool, greatest: bool) -> Any:
    import torch

    true = (x != 0).to(torch.int32)
    if x.dim() > 0:
        axes = list(range(x.dim())) if dim is None else dim
        true = true.amax(axes, keepdim) if greatest else true.amin(axes, keepdim)
    return true.to(torch.uint8 if x.dtype is torch.uint8 else torch.bool)


@lowering(
    "aten::any",
    examples=[
        example(self=_SOME),
        example(op_type="aten::any.dim", self=_SOME, dim=1),
        example(op_type="aten::any.dims", self=tensor(2, 3, "n", dtype="int64", high=2), dim=[0, -1], keepdim=True),
    ],
)
def any_(x, dim=None, keepdim=False):
    """any -> Equal Not ReduceMax: whether an element is not zero; NaN is not."""
    return _truth(x, dim, keepdim, greatest=True)


@lowering(
    "aten::all",
    examples=[
        example(self=()),
        example(op_type="aten::all.dim", self=_SOME, dim=0),
        example(op_type="aten::all.dims", self=tensor(2, 3, "n", dtype="int64", high=2), dim=[0, -1], keepdim=True),
    ],
)
def all_(x, dim=None, keepdim=False):
    """all -> Equal Not ReduceMin: whether no element is zero; NaN is not."""
    return _truth(x, dim, keepdim, greatest=False)


_ALONG_AXES = [example(self=("n", 5), dim=0), example(self=(2, "n", 3), dim=-2)]


@lowering("aten::softmax", examples=_ALONG_AXES)
def softmax(x, dim, dtype=None):
    """softmax in a wider type -> Cast Softmax: the exporter rounds what it gives before it widens it."""
    return (x if dtype is None else x.to(dtype)).softmax(dim)


@lowering("aten::log_softmax", examples=_ALONG_AXES)
def log_softmax(x, dim, dtype=None):
    """log_softmax in a wider type -> Cast LogSoftmax: the exporter rounds what it gives before it widens it."""
    return (x if dtype is None else x.to(dtype)).log_softmax(dim)
