"""Writing to places given by indices, duplicates included: TensorRT scatters without reducing."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.library.torch_extremes import greatest, smallest
from rewrites.library.torch_selection import masked_scatter

_INDEX = tensor(3, values=[2, 0, 2], dtype="int64")
_MASK = tensor(3, values=[1, 0, 1], dtype="bool")


def _one_hot(index: Any, size: Any, dtype: Any) -> Any:
    """[..., sources] places -> [..., places, sources] of ones and zeros; negative places count from the end."""
    import torch

    index = torch.where(index < 0, index + size, index)
    return (torch.arange(size).unsqueeze(-1) == index.unsqueeze(-2)).to(dtype)


_DIGIT = 2048


def _add_rows(rows: Any, index: Any, added: Any) -> Any:
    """rows [n, m] + added [k, m] at places [k].

    Whole numbers are multiplied digit by digit, each of 11 bits, as TensorFloat-32 holds them: exact for up to 8192
    of them at one place.
    """
    import torch

    if rows.is_floating_point():
        return rows + _one_hot(index, rows.shape[0], rows.dtype) @ added.to(rows.dtype)
    digits, left = [], added.to(rows.dtype).abs()
    for _ in range(-(-8 * rows.dtype.itemsize // 11)):
        digits.append((left % _DIGIT) * added.sign())
        left = torch.div(left, _DIGIT, rounding_mode="trunc")
    made = _one_hot(index, rows.shape[0], torch.float32) @ torch.stack(digits).to(torch.float32)
    for place in range(len(digits)):
        rows = rows + made[place].to(rows.dtype) * _DIGIT**place
    return rows


@lowering(
    "aten::index_add",
    examples=[
        example(self=(4, 3), dim=0, index=_INDEX, source=(3, 3)),
        example(self=("n", 4, 2), dim=-2, index=_INDEX, source=("n", 3, 2), alpha=2.5),
        example(self=tensor(4, 3, dtype="int64"), dim=1, index=_INDEX, source=tensor(4, 3, dtype="int64")),
        example(
            self=tensor(3, dtype="int64", low=-(2**60), high=2**60),
            dim=0,
            index=_INDEX,
            source=tensor(3, dtype="int64", low=-(2**60), high=2**60),
        ),
    ],
)
def index_add(x, dim, index, source, *, alpha=1):
    """index_add -> Equal MatMul Add: a matrix of ones and zeros adds up what goes to the same place.

    Source: TensorRT's ScatterND has no reduction.
    """
    if x.dim() == 0:
        return x + alpha * source.reshape(-1).sum()
    dim = dim % x.dim()
    moved, added = x.movedim(dim, 0), source.movedim(dim, 0)
    made = _add_rows(
        moved.flatten(1) if x.dim() > 1 else moved.unsqueeze(-1),
        index.reshape(-1),
        (alpha * added).reshape(index.numel(), -1),
    )
    return made.reshape(moved.shape).movedim(0, dim)


def _whole_places(x: Any, indices: Any) -> Any:
    """Places in the flattened `x` of what a tensor for each leading axis points to, broadcast."""
    import torch

    given = torch.broadcast_tensors(*indices)
    place = torch.zeros_like(given[0])
    for axis, index in enumerate(given):
        size = x.shape[axis]
        place = place * size + torch.where(index < 0, index + size, index)
    return place.reshape(-1)


def _put_by_mask(x: Any, mask: Any, values: Any, accumulate: bool) -> Any:
    """One value for all places of the mask, or one for each of them in turn."""
    import torch

    chosen = mask.reshape([*mask.shape] + [1] * (x.dim() - mask.dim())).expand_as(x)
    base = torch.zeros_like(x) if accumulate else x
    if values.dim() <= x.dim() - mask.dim() or (type(values.shape[0]) is int and values.shape[0] == 1):
        made = torch.where(chosen, values, base)
    else:
        made = masked_scatter.function(base, chosen, values)
    return x + made if accumulate else made


@lowering(
    "aten::index_put",
    examples=[
        example(self=(4, 3), indices=[_INDEX], values=(3, 3), accumulate=True),
        example(self=(3, 2), indices=[_MASK], values=(2, 2)),
        example(self=("n", 2), indices=[tensor("n", 2, dtype="bool")], values=()),
        example(self=(3, 2), indices=[_MASK], values=(2,), accumulate=True),
        example(
            self=("n", 4), indices=[tensor(3, values=[1, 0, 1], dtype="int64"), _INDEX], values=(3,), accumulate=True
        ),
    ],
    refuses=[example(self=(4, 3), indices=[_INDEX], values=(3, 3), because="accumulate")],
)
def index_put(x, indices, values, accumulate=False):
    """index_put -> Equal MatMul Add: what goes to the same place is added up. By a mask -> CumSum Gather Where."""
    if len(indices) == 1 and indices[0] is not None and str(indices[0].dtype) == "torch.bool":
        return _put_by_mask(x, indices[0], values, accumulate)
    require(accumulate, "only with accumulate=True; the others are for ScatterND")
    require(
        all(i is not None and str(i.dtype) in ("torch.int64", "torch.int32") for i in indices),
        "a tensor of places for each leading axis",
    )
    count, places = len(indices), _whole_places(x, indices)
    rest = x.shape[count:]
    rows = x.reshape(-1, *rest).flatten(1) if rest else x.reshape(-1, 1)
    import torch

    shape = [*torch.broadcast_tensors(*indices)[0].shape, *rest]
    added = values.expand(shape).reshape(rows.shape[0] * 0 + places.shape[0], -1)
    return _add_rows(rows, places, added).reshape(x.shape)


@lowering(
    "aten::put",
    examples=[
        example(self=(4, 3), index=tensor(3, values=[2, 11, -5], dtype="int64"), source=(3,)),
        example(self=("n", 3), index=_INDEX, source=(3,), accumulate=True),
    ],
)
def put(x, index, source, accumulate=False):
    """put -> ScatterElements of the flattened tensor, or Equal MatMul Add."""
    flat, places = x.reshape(-1), index.reshape(-1)
    if accumulate:
        return _add_rows(flat.unsqueeze(-1), places, source.reshape(-1, 1)).reshape(x.shape)
    import torch

    places = torch.where(places < 0, places + flat.shape[0], places)
    return flat.scatter(0, places, source.reshape(-1)).reshape(x.shape)


def _reduce_rows(rows: Any, hit: Any, added: Any, how: str, include: bool) -> Any:
    """rows [n, m], hit [n, k, 1 or m] booleans, added [k, m]: reduce what goes to the same place."""
    import torch

    start = {"prod": 1.0, "amax": -math.inf, "amin": math.inf}.get(how, 0.0)
    spread = torch.where(hit, added.unsqueeze(0), torch.full_like(added, start).unsqueeze(0))
    kept = rows if include else torch.full_like(rows, start)
    if how == "prod":
        made = kept * spread.prod(1)
    elif how == "amax":
        made = torch.maximum(kept, greatest(spread, 1))
    elif how == "amin":
        made = torch.minimum(kept, smallest(spread, 1))
    else:
        made = kept + spread.sum(1)
    count = hit.to(rows.dtype).sum(1)
    if how == "mean":
        made = made / (count + (1 if include else 0)).clamp(min=1)
    return torch.where(count > 0, made, rows)


def _reduction(name: str) -> str:
    require(name in ("sum", "prod", "mean", "amax", "amin"), f"the reduction {name} is not known")
    return name


@lowering(
    "aten::index_reduce",
    examples=[
        example(self=(4, 3), dim=0, index=_INDEX, source=(3, 3), reduce="prod"),
        example(self=("n", 4), dim=1, index=_INDEX, source=("n", 3), reduce="amax", include_self=False),
        example(self=("n", 4, 2), dim=-2, index=_INDEX, source=("n", 3, 2), reduce="mean"),
    ],
    refuses=[
        example(
            self=tensor(4, 3, dtype="int64"),
            dim=0,
            index=_INDEX,
            source=tensor(3, 3, dtype="int64"),
            reduce="amin",
            because="floating",
        )
    ],
)
def index_reduce(x, dim, index, source, reduce, *, include_self=True):
    """index_reduce -> Equal Where ReduceProd, ReduceMax, ReduceMin or ReduceSum."""
    require(x.is_floating_point(), "floating-point numbers only")
    if x.dim() == 0:
        index, source = index.reshape(-1), source.reshape(-1)
        return _index_reduce(x.reshape(1), 0, index, source, reduce, include_self).reshape(())
    return _index_reduce(x, dim, index, source, reduce, include_self)


def _index_reduce(x: Any, dim: int, index: Any, source: Any, reduce: str, include_self: bool) -> Any:
    dim = dim % x.dim()
    moved, added = x.movedim(dim, 0), source.movedim(dim, 0)
    rows = moved.flatten(1) if x.dim() > 1 else moved.unsqueeze(-1)
    hit = _one_hot(index.reshape(-1), rows.shape[0], x.dtype).unsqueeze(-1) > 0
    made = _reduce_rows(rows, hit, added.reshape(index.numel(), -1), _reduction(reduce), include_self)
    return made.reshape(moved.shape).movedim(0, dim)


@lowering(
    "aten::scatter_reduce",
    examples=[
        example(self=(3, 4), dim=1, index=tensor(3, 5, dtype="int64", high=4), src=(3, 5), reduce="sum"),
        example(
            self=("n", 4),
            dim=1,
            index=tensor("n", 5, dtype="int64", high=4),
            src=("n", 5),
            reduce="amax",
            include_self=False,
        ),
        example(
            self=(3, 4), dim=0, index=tensor(2, 4, dtype="int64", high=3), src=(2, 4), reduce="mean", include_self=False
        ),
        example(self=(3, 4, 2), dim=1, index=tensor(2, 3, 1, dtype="int64", high=4), src=(3, 4, 2), reduce="prod"),
        example(self=(), dim=0, index=tensor(values=0, dtype="int64"), src=(), reduce="sum"),
    ],
)
def scatter_reduce(x, dim, index, src, reduce, *, include_self=True):
    """scatter_reduce -> Equal Where ReduceProd, ReduceMax, ReduceMin or ReduceSum.

    Source: TensorRT's ScatterElements has no reduction.
    """
    return _reduced(x, dim, index, src, reduce, include_self)


def _reduced(x: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool) -> Any:
    require(x.is_floating_point(), "floating-point numbers only")
    if x.dim() == 0:
        index, src = index.reshape(1), src.reshape(1)
        return _scatter_reduce(x.reshape(1), 0, index, src, _reduction(reduce), include_self).reshape(())
    return _scatter_reduce(x, dim % x.dim(), index, src, _reduction(reduce), include_self)


def _scatter_reduce(x: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool) -> Any:
    """What the index does not cover along the other axes gets nothing: its places are -1."""
    import torch

    rows, places = x.movedim(dim, 0), index.movedim(dim, 0)
    added = src[tuple(slice(size) for size in index.shape)].movedim(dim, 0)
    missing = [pad for axis in range(x.dim() - 1, 0, -1) for pad in (0, rows.shape[axis] - places.shape[axis])]
    places = torch.nn.functional.pad(places, missing, value=-1)
    added = torch.nn.functional.pad(added, missing)
    hit = torch.arange(rows.shape[0]).reshape([-1] + [1] * places.dim()) == places.unsqueeze(0)
    return _reduce_rows(rows, hit, added, reduce, include_self).movedim(0, dim)


@lowering(
    "aten::scatter.src",
    examples=[
        example(self=(3, 4), dim=1, index=tensor(2, 2, values=[[0, 3], [2, 1]], dtype="int64"), src=(3, 5)),
        example(
            self=("n", 4), dim=-1, index=tensor("n", 2, values=[[0, 3], [2, 1]], dtype="int64"), src=("n", 3),
            _sizes={"n": 2},
        ),
    ],
)  # fmt: skip
def scatter(x, dim, index, src):
    """scatter -> Slice ScatterElements: what the source has beyond the index is not read."""
    for axis in range(index.dim()):
        src = src.narrow(axis, 0, index.shape[axis])
    return x.scatter(dim, index, src)


@lowering(
    "aten::scatter.reduce",
    examples=[
        example(self=(3, 4), dim=1, index=tensor(3, 5, dtype="int64", high=4), src=(3, 5), reduce="add"),
        example(self=("n", 4), dim=-1, index=tensor("n", 2, dtype="int64", high=4), src=("n", 2), reduce="multiply"),
    ],
)
def scatter_with_reduction(x, dim, index, src, *, reduce):
    """scatter with a reduction -> Equal Where ReduceSum or ReduceProd."""
    return _scatter_reduced(x, dim, index, src, reduce)


@lowering(
    "aten::scatter.value_reduce",
    examples=[
        example(self=(3, 4), dim=1, index=tensor(3, 5, dtype="int64", high=4), value=2.5, reduce="add"),
        example(self=(), dim=0, index=tensor(values=0, dtype="int64"), value=-1.5, reduce="multiply"),
    ],
)
def scatter_value_with_reduction(x, dim, index, value, *, reduce):
    """scatter of one number with a reduction -> Equal Where ReduceSum or ReduceProd."""
    import torch

    return _scatter_reduced(x, dim, index, torch.zeros_like(index, dtype=x.dtype) + value, reduce)


def _scatter_reduced(x: Any, dim: int, index: Any, src: Any, reduce: str) -> Any:
    reduction = {"add": "sum", "multiply": "prod"}.get(reduce)
    require(reduction is not None, f"the reduction {reduce} is not known")
    return _reduced(x, dim, index, src, reduction, include_self=True)
