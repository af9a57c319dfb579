"""Distances between vectors, by any norm."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, tensor

_POINTS = tensor(3, 2, values=[[0.0, 1.0], [2.0, -1.0], [0.0, 1.0]])


def _norm(difference: Any, p: float) -> Any:
    """The p-norm over the last axis; exact at zero."""
    size = difference.abs()
    if p == 0:
        return (size != 0).to(size.dtype).sum(-1)
    if p == 1:
        return size.sum(-1)
    if p == 2:
        return (size * size).sum(-1).sqrt()
    if math.isinf(p):
        return size.amax(-1)
    return (size**p).sum(-1) ** (1 / p)


@lowering(
    "aten::cdist",
    examples=[
        example(x1=("b", 3, 4), x2=("b", "m", 4), p=2.0),
        example(x1=(2, 3, 4), x2=(5, 4), p=1.0),
        example(x1=_POINTS, x2=_POINTS, p=math.inf),
        example(x1=_POINTS, x2=_POINTS, p=0.0),
        example(x1=_POINTS, x2=_POINTS, p=2.5),
    ],
)
def cdist(x1, x2, p=2.0, compute_mode=None):
    """cdist -> Sub Abs ReduceSum: the norms of all differences.

    Exact also where PyTorch computes Euclidean distances by a matrix product and rounds.
    """
    del compute_mode
    return _norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


@lowering(
    "aten::pdist",
    static={"x": (0,)},
    examples=[example(self=(5, "m")), example(self=(3, 4), p=1.0)],
    refuses=[example(self=("n", 4), because="static")],
)
def pdist(x, p=2.0):
    """pdist -> Gather Sub Abs ReduceSum: the norms of the differences of each two rows."""
    import torch

    first, second = torch.triu_indices(int(x.shape[0]), int(x.shape[0]), 1)
    return _norm(x[first] - x[second], p)
