"""What sorting answers: the k-th value, the median, the most frequent value."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, require, tensor


def _first(found: Any, dim: int) -> Any:
    """The first place along `dim` where `found` is true; 0 where it never is. TensorRT's ArgMax takes no vectors."""
    import torch

    size = found.shape[dim]
    shape = [1] * found.dim()
    shape[dim] = -1
    places = torch.arange(size).reshape(shape).expand_as(found)
    return torch.where(found, places, torch.full_like(places, size)).amin(dim) % size


def _key(x: Any) -> Any:
    """What TopK may compare instead: infinity for NaN, which PyTorch puts above all numbers; the largest for infinity.

    Numbers give way to infinity: those of sixteen bits by a wider type, others by half their size, in which only
    neighbours without leading digits (below 2e-38 in single precision) are one.
    """
    import torch

    if not x.is_floating_point():
        return x
    key = x.to(torch.float32) if x.dtype.itemsize == 2 else x * 0.5
    infinite, largest = (torch.tensor(value, dtype=key.dtype) for value in (float("inf"), torch.finfo(key.dtype).max))
    return torch.where(torch.isnan(x), infinite, torch.minimum(key, largest))


def _smallest(x: Any, k: int, dim: int, keepdim: bool) -> tuple[Any, Any]:
    """The k-th smallest value, and the first place where it is."""
    import torch

    require(k <= 3840, "TensorRT's TopK takes 3,840 elements at most")
    key = _key(x)
    order = torch.topk(key, k, dim, largest=False, sorted=True)[1].narrow(dim, k - 1, 1)
    place = _first(key == key.gather(dim, order), dim).unsqueeze(dim)
    value = x.gather(dim, place)
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))


def _ranks(x: Any, descending: bool) -> Any:
    """The place of each element along the last axis when sorted, equal ones in their order, NaN as the greatest."""
    import torch

    one, other = x.unsqueeze(-1), x.unsqueeze(-2)
    before = other > one if descending else other < one
    equal = other == one
    if x.is_floating_point():
        nan, other_nan = torch.isnan(one), torch.isnan(other)
        before = before | (other_nan & ~nan if descending else nan & ~other_nan)
        equal = equal | (nan & other_nan)
    places = torch.arange(x.shape[-1])
    earlier = places < places.unsqueeze(-1)
    return (before | (equal & earlier)).to(torch.int64).sum(-1)


def sorted_along(x: Any, dim: int, descending: bool, stable: bool) -> tuple[Any, Any]:
    """The sorted elements and where they were."""
    import torch

    if x.dim() == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    if not stable:
        order = torch.topk(_key(x), x.shape[dim], dim, largest=descending)[1]
        return x.gather(dim, order), order
    last = x.movedim(dim, -1)
    places = torch.arange(last.shape[-1])
    at = _ranks(last, descending).unsqueeze(-2) == places.unsqueeze(-1)
    order = torch.where(at, places, torch.zeros_like(places)).sum(-1)
    return last.gather(-1, order).movedim(-1, dim), order.movedim(-1, dim)


_EQUALS = tensor(6, 2, values=[[1, 2], [0, 2], [1, 0], [float("nan"), 1], [0, 1], [float("nan"), 2]])
_LARGEST = 3.4028234663852886e38
_ROWS = tensor(
    2,
    5,
    values=[[float("nan"), float("inf"), _LARGEST, 0.0, 1e-37], [2.0, float("-inf"), -_LARGEST, float("nan"), 3.0]],
)
_HALVES = tensor(2, 4, dtype="float16", values=[[float("nan"), float("inf"), 65504.0, 0.0], [3e-5, 3.01e-5, -2.0, 1.0]])


def _stable(operator: str) -> list[Any]:
    return [
        example(op_type=operator, self=_EQUALS, stable=True, dim=0),
        example(op_type=operator, self=_EQUALS, stable=True, dim=0, descending=True),
        example(op_type=operator, self=tensor("n", 5, dtype="int64", high=3), stable=True, dim=-1),
        example(op_type=operator, self=("n", 5), stable=False, dim=0, descending=True),
    ]


_PLAIN = [
    example(self=_ROWS, dim=1),
    example(self=_ROWS, dim=0, descending=True),
    example(self=_HALVES, dim=1),
    example(self=("n", 5)),
    example(self=()),
]


@lowering("aten::sort", examples=[*_PLAIN, *_stable("aten::sort.stable")])
def sort(x, *, stable=False, dim=-1, descending=False):
    """sort -> TopK; if stable Less Equal ReduceSum GatherElements: each element's place is how many come before it.

    Source: TensorRT's ITopKLayer, which says nothing of the order of equal elements.
    """
    return sorted_along(x, dim, descending, bool(stable))


@lowering("aten::argsort", examples=[*_PLAIN, *_stable("aten::argsort.stable")])
def argsort(x, *, stable=False, dim=-1, descending=False):
    """argsort -> TopK; if stable Less Equal ReduceSum: each element's place is how many come before it."""
    return sorted_along(x, dim, descending, bool(stable))[1]


@lowering("aten::msort", examples=[example(self=_ROWS), example(self=("n", 5))])
def msort(x):
    """msort -> TopK GatherElements along the first axis."""
    return sorted_along(x, 0, descending=False, stable=False)[0]


@lowering(
    "aten::topk",
    examples=[
        example(self=_ROWS, k=3, dim=1),
        example(self=_ROWS, k=3, dim=1, largest=False),
        example(self=_HALVES, k=3, dim=1),
        example(self=("n", 7, "m"), k=2, dim=1),
        example(self=(), k=1),
    ],
)
def topk(x, k, dim=-1, largest=True, sorted=True):
    """topk -> IsNaN Mul Min Where TopK GatherElements: NaN is above all numbers."""
    import torch

    del sorted  # any order is right where none is asked for
    if x.dim() == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    order = torch.topk(_key(x), k, dim, largest=largest)[1]
    return x.gather(dim, order), order


@lowering(
    "aten::kthvalue",
    examples=[
        example(self=(2, 5), k=2),
        example(self=("n", 7, "m"), k=3, dim=1, keepdim=True),
        example(self=("n",), k=2, _sizes={"n": 6}),
    ],
    refuses=[example(self=(2, 5000), k=4000, because="3,840")],
)
def kthvalue(x, k, dim=-1, keepdim=False):
    """kthvalue -> TopK Slice: the last of the k smallest.

    Source: TensorRT's TopK takes 3,840 elements at most.
    """
    import torch

    return (x.clone(), torch.zeros_like(x, dtype=torch.int64)) if x.dim() == 0 else _smallest(x, k, dim, keepdim)


def _median(x: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
    """The lower median, or NaN and its place where there is one."""
    import torch

    values, indices = _smallest(x, (int(x.shape[dim]) + 1) // 2, dim, keepdim)
    if not x.is_floating_point():
        return values, indices
    nan = torch.isnan(x).to(torch.int32)
    has, first = nan.amax(dim, keepdim), _first(nan > 0, dim)
    first = first.unsqueeze(dim) if keepdim else first
    return torch.where(has > 0, torch.full_like(values, float("nan")), values), torch.where(has > 0, first, indices)


@lowering(
    "aten::median",
    static={"x": None},
    examples=[
        example(self=(5,)),
        example(self=(3, 4)),
        example(self=tensor(2, 2, values=[[1.0, float("nan")], [2.0, 0.0]])),
    ],
    refuses=[example(self=("n",), because="static")],
)
def median(x):
    """median -> TopK Slice: the last of the lower half, of all elements."""
    return _median(x.reshape(-1), 0, False)[0]


@lowering(
    "aten::median.dim",
    static={"x": ("dim",)},
    examples=[
        example(self=(2, 5), dim=1),
        example(self=("n", 4, 3), dim=-2, keepdim=True),
        example(self=tensor(2, 2, values=[[1.0, float("nan")], [2.0, 0.0]]), dim=0),
        example(self=tensor(5, values=[4, 1, 3, 0, 2], dtype="int64"), dim=0),
    ],
    refuses=[example(self=(2, "n"), dim=1, because="static")],
)
def median_dim(x, dim, keepdim=False):
    """median.dim -> TopK Slice: the last of the lower half."""
    import torch

    return (x.clone(), torch.zeros_like(x, dtype=torch.int64)) if x.dim() == 0 else _median(x, dim, keepdim)


def _nanmedian(x: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
    import torch

    require(int(x.shape[dim]) <= 3840, "TensorRT's TopK takes 3,840 elements at most")
    nan = torch.isnan(x)
    values = torch.topk(x.masked_fill(nan, float("inf")), int(x.shape[dim]), dim, largest=False, sorted=True)[0]
    known = (~nan).to(torch.int64).sum(dim, keepdim=True)
    rank = torch.div(known - 1, 2, rounding_mode="trunc").clamp(min=0)
    values = values.gather(dim, rank)
    indices = _first((x == values) & ~nan, dim).unsqueeze(dim)
    values = torch.where(known > 0, values, torch.full_like(values, float("nan")))
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


_WITH_NAN = tensor(2, 3, values=[[1.0, float("nan"), 0.5], [2.0, 0.0, 4.0]])


@lowering(
    "aten::nanmedian",
    static={"x": None},
    examples=[example(self=_WITH_NAN), example(self=(3, 4))],
    refuses=[example(self=("n",), because="static")],
)
def nanmedian(x):
    """nanmedian -> TopK GatherElements: the middle of what is a number, of all elements."""
    return _nanmedian(x.reshape(-1), 0, False)[0]


@lowering(
    "aten::nanmedian.dim",
    static={"x": ("dim",)},
    examples=[example(self=_WITH_NAN, dim=1), example(self=("n", 4, 3), dim=-2, keepdim=True)],
    refuses=[example(self=(2, "n"), dim=1, because="static")],
)
def nanmedian_dim(x, dim, keepdim=False):
    """nanmedian.dim -> TopK GatherElements: the middle of what is a number."""
    import torch

    return (x.clone(), torch.zeros_like(x, dtype=torch.int64)) if x.dim() == 0 else _nanmedian(x, dim, keepdim)


@lowering(
    "aten::mode",
    examples=[
        example(self=tensor(6, values=[3.0, 1.0, 2.0, 1.0, 3.0, 0.0])),
        example(self=tensor("n", 4, dtype="int64", high=3), dim=-1, keepdim=True, _sizes={"n": 5}),
        example(self=("n", 4, 3), dim=-2),
    ],
)
def mode(x, dim=-1, keepdim=False):
    """mode -> Equal ReduceSum: the smallest of the values that equal most others, and where it is last."""
    import torch

    if x.dim() == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    dim = dim % x.dim()
    last = x.movedim(dim, x.dim() - 1)
    count = (last.unsqueeze(-1) == last.unsqueeze(-2)).to(torch.int64).sum(-1)
    most = count == count.amax(-1, keepdim=True)
    high = last.amax(-1, keepdim=True)
    values = torch.where(most, last, high).amin(-1, keepdim=True)
    places = torch.arange(last.shape[-1]).expand_as(last)
    indices = torch.where(last == values, places, torch.zeros_like(places)).amax(-1, keepdim=True)
    return (
        (values.movedim(x.dim() - 1, dim), indices.movedim(x.dim() - 1, dim))
        if keepdim
        else (values.squeeze(-1), indices.squeeze(-1))
    )
