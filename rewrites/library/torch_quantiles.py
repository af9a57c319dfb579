"""Quantiles: sorted elements, and what lies between two of them."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.library.torch_sorting import sorted_along

_NAN, _INF = float("nan"), float("inf")
_ROWS = tensor(3, 4, values=[[1.0, _NAN, 3.0, -2.0], [4.0, 0.5, _INF, 1.0], [_NAN, 2.0, _NAN, _NAN]])
_FRACTIONS = tensor(3, values=[0.0, 0.3, 1.0])
_EXAMPLES = [
    {"self": _ROWS, "q": _FRACTIONS, "dim": 1},
    {"self": _ROWS, "q": 0.4, "dim": 0, "keepdim": True, "interpolation": "nearest"},
    {"self": (3, 4), "q": 0.5, "interpolation": "midpoint"},
    {"self": ("n", 5), "q": _FRACTIONS, "dim": -1, "interpolation": "lower"},
    {"self": ("n", 5), "q": 0.75, "dim": 1, "interpolation": "higher"},
]


def _examples(operator: str) -> list[Any]:
    overloads = ("scalar" if isinstance(e["q"], float) else "" for e in _EXAMPLES)
    return [
        example(op_type=f"{operator}.{overload}" if overload else operator, **e)
        for overload, e in zip(overloads, _EXAMPLES, strict=True)
    ]


def _quantile(x: Any, q: Any, dim: int | None, keepdim: bool, interpolation: str, ignore_nan: bool) -> Any:
    """As in PyTorch: of rows with NaN the last sorted element, which is NaN, or of the numbers alone."""
    import torch

    require(x.dim() > 0, "a scalar")
    rank, q = x.dim(), torch.as_tensor(q, dtype=x.dtype)
    rows = x.reshape(1, -1) if dim is None else x.movedim(dim, -1)
    made = sorted_along(rows, -1, descending=False, stable=False)[0]
    count = (~torch.isnan(made)).to(torch.int64).sum(-1, keepdim=True)
    size = torch.zeros_like(count) + made.shape[-1]
    last = (size - 1).to(x.dtype)
    ranks = q * (count - 1).clamp(min=0).to(x.dtype) if ignore_nan else torch.where(count < size, last, q * last)
    ranks = ranks.round() if interpolation == "nearest" else ranks
    low = torch.ceil(ranks) if interpolation == "higher" else torch.floor(ranks)
    found = made.gather(-1, low.to(torch.int64))
    if interpolation in ("linear", "midpoint"):
        above = made.gather(-1, torch.ceil(ranks).to(torch.int64))
        found = torch.lerp(found, above, torch.full_like(ranks, 0.5) if interpolation == "midpoint" else ranks - low)
    found = found.movedim(-1, 0)
    if dim is None:
        found = found.reshape([-1] + [1] * (rank * keepdim))
    elif keepdim:
        found = found.unsqueeze(dim % rank + 1)
    return found if q.dim() else found.squeeze(0)


@lowering("aten::quantile", examples=_examples("aten::quantile"))
def quantile(x, q, dim=None, keepdim=False, *, interpolation="linear"):
    """quantile -> TopK GatherElements Sub Mul Add: NaN where there is one."""
    return _quantile(x, q, dim, keepdim, interpolation, ignore_nan=False)


@lowering("aten::nanquantile", examples=_examples("aten::nanquantile")[:2])
def nanquantile(x, q, dim=None, keepdim=False, *, interpolation="linear"):
    """nanquantile -> TopK GatherElements Sub Mul Add: of the numbers; NaN where there are none."""
    return _quantile(x, q, dim, keepdim, interpolation, ignore_nan=True)
