"""Distances between vectors, by any norm, and the angle between them."""

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


@lowering(
    "aten::cosine_similarity",
    examples=[
        example(x1=("b", 3, 4), x2=("b", 3, 4), dim=-1),
        example(x1=("b", 1, 4), x2=(5, 4), dim=1),
        example(x1=tensor(2, 3, low=1e10, high=3e10), x2=tensor(2, 3, low=1e10, high=3e10)),
        example(x1=tensor(2, 3, low=1e-6, high=3e-6), x2=tensor(2, 3, low=-1e-6, high=1e-6), dim=0),
        example(x1=tensor("n", 3, dtype="float16"), x2=("n", 3), dim=1, _rtol=2e-3),
        example(
            x1=tensor(2, 2, dtype="float16", values=[[0.0, 0.0], [3e4, 3e4]]),
            x2=tensor(2, 2, dtype="float16"),
            _rtol=2e-3,
        ),
    ],
)
def cosine_similarity(x1, x2, dim=1, eps=1e-8):
    """cosine_similarity -> ReduceL2 Max Div Mul ReduceSum: each vector is divided by its own norm, or by eps.

    The norms' product leaves single precision where neither norm does, and sixteen bits sooner; eps is rounded to the
    vectors' type, in half precision to zero.
    """
    import torch

    kind = torch.promote_types(x1.dtype, x2.dtype)
    wide = torch.float32 if kind.itemsize == 2 else kind
    least = torch.tensor(eps, dtype=kind).item()
    if x1.dim() != x2.dim() or int(x1.shape[dim]) != int(x2.shape[dim]):
        x1, x2 = torch.broadcast_tensors(x1, x2)

    def unit(x: Any) -> Any:
        x = x if x.dtype is wide else x.to(wide)
        return x / torch.linalg.vector_norm(x, 2, dim, keepdim=True).clamp(least, math.inf)

    made = (unit(x1) * unit(x2)).sum(dim)
    return made if kind is wide else made.to(kind)


@lowering(
    "aten::pairwise_distance",
    examples=[
        example(x1=("b", 4), x2=("b", 4)),
        example(x1=_POINTS, x2=_POINTS, eps=0.5),
        example(x1=(4,), x2=("b", 4), p=1.0, keepdim=True),
        example(x1=(3, 4), x2=(4,), p=math.inf),
        example(x1=(3, 4), x2=(3, 4), p=2.5, keepdim=True),
    ],
)
def pairwise_distance(x1, x2, p=2.0, eps=1e-6, keepdim=False):
    """pairwise_distance -> Sub Add ReduceL2: the norm of a difference to each element of which eps is added."""
    import torch

    difference = x1 - x2 + eps
    if p in (1, 2):
        return torch.linalg.vector_norm(difference, p, -1, keepdim=keepdim)
    made = _norm(difference, p)
    return made.unsqueeze(-1) if keepdim else made
