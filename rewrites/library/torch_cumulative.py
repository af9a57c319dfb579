"""Running products, maxima and minima: TensorRT has the running sum only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rewrites import example, lowering, tensor


def _scan(x: Any, dim: int, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine each element with all before it, in as many steps as the size has binary digits.

    Args:
        x: what is combined; its first axis tells apart what belongs together (values and indices).
        dim: the scanned axis, of a size known when exported.
        combine: (earlier, later) -> combined; associative.
    """
    import torch

    size, step = int(x.shape[dim]), 1
    while step < size:
        later = combine(x.narrow(dim, 0, size - step), x.narrow(dim, step, size - step))
        x = torch.cat([x.narrow(dim, 0, step), later], dim)
        step *= 2
    return x


@lowering(
    "aten::cumprod",
    static={"x": ("dim",)},
    examples=[
        example(self=(2, 5), dim=1),
        example(self=("n", 7, 2), dim=-2),
        example(self=tensor(3, 4, dtype="int32", low=-3, high=4), dim=0),
    ],
    refuses=[example(self=(2, "n"), dim=1, because="static")],
)
def cumprod(x, dim, *, dtype=None):
    """cumprod -> Slice Mul Concat: products of 2, 4, 8, ... elements in turn.

    Source: Hillis and Steele, "Data parallel algorithms", 1986.
    """
    import torch

    x = x.to(dtype or (x.dtype if x.is_floating_point() else torch.int64))
    return x if x.dim() == 0 else _scan(x, dim, lambda earlier, later: earlier * later)


def _extreme(x: Any, dim: int, better: Callable[[Any, Any], Any]) -> Any:
    """Running extremes and where the last of each is; NaN wins."""
    import torch

    if x.dim() == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    dim = dim % x.dim()
    size, step = int(x.shape[dim]), 1
    shape = [1] * x.dim()
    shape[dim] = -1
    where = torch.arange(size).reshape(shape).expand_as(x)
    while step < size:
        before, after = (x.narrow(dim, i, size - step) for i in (0, step))
        take = better(after, before)
        if x.is_floating_point():
            take = torch.isnan(after) | (take & ~torch.isnan(before))
        found = torch.where(take, after, before)
        places = torch.where(take, where.narrow(dim, step, size - step), where.narrow(dim, 0, size - step))
        x, where = (torch.cat([old.narrow(dim, 0, step), new], dim) for old, new in ((x, found), (where, places)))
        step *= 2
    return x, where


@lowering(
    "aten::cummax",
    static={"x": ("dim",)},
    examples=[
        example(self=(2, 5), dim=1),
        example(self=("n", 7, 2), dim=-2),
        example(self=tensor(6, values=[1.0, 3.0, 3.0, float("nan"), 2.0, 9.0]), dim=0),
        example(self=tensor(4, 6, dtype="int64"), dim=1),
    ],
    refuses=[example(self=(2, "n"), dim=1, because="static")],
)
def cummax(x, dim):
    """cummax -> Slice Where Concat: the greater of 2, 4, 8, ... elements in turn, and its place.

    Source: Hillis and Steele, "Data parallel algorithms", 1986.
    """
    return _extreme(x, dim, lambda later, earlier: later >= earlier)


@lowering(
    "aten::cummin",
    static={"x": ("dim",)},
    examples=[
        example(self=(2, 5), dim=1),
        example(self=("n", 7, 2), dim=-2),
        example(self=tensor(6, values=[1.0, 0.0, 0.0, float("nan"), 2.0, 9.0]), dim=0),
    ],
    refuses=[example(self=(2, "n"), dim=1, because="static")],
)
def cummin(x, dim):
    """cummin -> Slice Where Concat: the smaller of 2, 4, 8, ... elements in turn, and its place.

    Source: Hillis and Steele, "Data parallel algorithms", 1986.
    """
    return _extreme(x, dim, lambda later, earlier: later <= earlier)


@lowering(
    "aten::logcumsumexp",
    static={"x": ("dim",)},
    examples=[example(self=(2, 5), dim=1), example(self=("n", 7, 2), dim=-2)],
    refuses=[example(self=(2, "n"), dim=1, because="static")],
)
def logcumsumexp(x, dim):
    """logcumsumexp -> Slice Max Exp Log Concat: the sums of 2, 4, 8, ... elements in turn, never leaving logarithms.

    Source: Hillis and Steele, "Data parallel algorithms", 1986.
    """
    import torch

    def add(earlier: Any, later: Any) -> Any:
        top, low = torch.maximum(earlier, later), torch.minimum(earlier, later)
        return torch.where(low == top, top + 0.6931471805599453, top + torch.log(1 + torch.exp(low - top)))

    return x if x.dim() == 0 else _scan(x, dim, add)
