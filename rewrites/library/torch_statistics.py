"""Covariance and correlation: PyTorch composes them of what depends on the data."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, tensor


def _covariance(x: Any, correction: int, fweights: Any, aweights: Any) -> Any:
    import torch

    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    x = x.reshape(1, -1) if x.dim() < 2 else x
    weights = torch.ones_like(x[0])
    weights = weights if fweights is None else weights * fweights
    weights = weights if aweights is None else weights * aweights
    total = weights.sum(0, keepdim=True)
    centred = x - (x * weights).sum(1, keepdim=True) / total
    lost = correction if aweights is None else correction * (weights * aweights).sum(0, keepdim=True) / total
    return (centred * weights) @ centred.transpose(0, 1) / (total - lost).clamp(min=0)


@lowering(
    "aten::cov",
    examples=[
        example(self=(3, 5)),
        example(self=(1, 5)),
        example(self=("n", 6), correction=0, fweights=tensor(6, dtype="int64", low=1, high=4)),
        example(self=(3, "m"), aweights=tensor("m", low=0.1, high=1.0), _sizes={"m": 7}),
    ],
)
def cov(x, *, correction=1, fweights=None, aweights=None):
    """cov -> ReduceSum Sub MatMul Div: products of what is left without the weighted mean.

    Source: PyTorch's documentation of torch.cov.
    """
    made = _covariance(x, correction, fweights, aweights)
    return made.squeeze()


@lowering(
    "aten::corrcoef",
    examples=[
        example(self=(3, 5)),
        example(self=(1, 5)),
        example(self=(5,)),
        example(self=("n", 6)),
        example(self=(3, "m"), _sizes={"m": 7}),
    ],
)
def corrcoef(x):
    """corrcoef -> ReduceSum Sub MatMul Div: the covariance, divided by both deviations, within -1..1.

    Source: PyTorch's documentation of torch.corrcoef.
    """
    import torch

    made = _covariance(x, 1, None, None)
    places = torch.arange(made.shape[0])
    own = (places.unsqueeze(1) == places).to(made.dtype)
    deviation = torch.sqrt((made * own).sum(1))
    return (made / deviation.unsqueeze(1) / deviation.unsqueeze(0)).clamp(-1.0, 1.0).squeeze()


@lowering(
    "aten::histc",
    examples=[
        example(self=("n", 5), bins=4, min=-1, max=2),
        example(self=tensor(6, values=[0.0, 0.25, 0.5, 1.0, 2.0, -1.0]), bins=4, min=0, max=1),
        example(self=("n",), bins=3),
        example(self=tensor(2, values=[1.5, 1.5]), bins=5),
    ],
)
def histc(x, bins=100, min=0, max=0):
    """histc -> Floor Equal ReduceSum: how many elements are in each of the equal bins; the last one has both its ends.

    Source: PyTorch's documentation of torch.histc.
    """
    import torch

    x = x.reshape(-1)
    low, high = x.new_full((1,), min), x.new_full((1,), max)
    if min == max:
        low, high = x.amin().reshape(1), x.amax().reshape(1)
        low, high = torch.where(low == high, low - 1, low), torch.where(low == high, high + 1, high)
    place = torch.floor((x - low) * bins / (high - low)).clamp(max=bins - 1)
    inside = (x >= low) & (x <= high)
    return ((torch.arange(bins).unsqueeze(1) == place) & inside).to(x.dtype).sum(1)
