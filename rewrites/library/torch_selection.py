"""Choosing and placing elements by masks, diagonals and combinations."""

from __future__ import annotations

import math
from itertools import combinations as choices
from itertools import combinations_with_replacement as repeated_choices
from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.lowering import Lowering

_MASK = tensor(3, 2, dtype="bool", values=[[1, 0], [0, 1], [1, 1]])
_ENDLESS = 2**62
_INDEX = tensor(3, dtype="int64", values=[2, 7, -1])


@lowering(
    "aten::masked_scatter",
    examples=[
        example(self=(3, 2), mask=_MASK, source=(2, 3)),
        example(self=("n", 2), mask=tensor(2, dtype="bool", values=[1, 0]), source=("n", 4)),
        example(self=(2,), mask=_MASK, source=(9,)),
        example(self=(3, 2), mask=tensor(3, 1, dtype="bool", values=[[1], [0], [1]]), source=(9,)),
    ],
)
def masked_scatter(x, mask, source):
    """masked_scatter -> CumSum Gather Where: each place takes the element whose number is how many are before it."""
    import torch

    x, mask = torch.broadcast_tensors(x, mask)
    chosen = mask.reshape(-1)
    number = torch.cumsum(chosen.to(torch.int64), 0) - 1
    taken = source.reshape(-1).index_select(
        0, number.clamp(min=0).minimum(torch.zeros_like(number) + source.numel() - 1)
    )
    return torch.where(chosen, taken, x.reshape(-1)).reshape(x.shape)


_INFINITE = tensor(2, 3, values=[[1.0, float("-inf"), float("nan")], [0.5, 2.0, float("inf")]])


def _of_diagonal(x: Any, offset: int, dim1: int, dim2: int) -> Any:
    import torch

    moved = x.movedim((dim1, dim2), (-2, -1))[..., max(-offset, 0) :, max(offset, 0) :]
    rows = moved[..., : moved.shape[-1], :]
    places = torch.arange(rows.shape[-2]).unsqueeze(-1)
    return rows.gather(-1, places.expand(*rows.shape[:-1], 1)).squeeze(-1)


def _diagonal(operator: str, name: str) -> Lowering:
    examples = [
        example(**{name: _INFINITE}),
        example(**{name: ("n", "m"), "offset": -1}, _sizes={"n": 5, "m": 3}),
        example(**{name: (2, "n", 4), "offset": 1, "dim1": 2, "dim2": 1}),
        example(**{name: tensor(3, 3, dtype="int64"), "dim1": 0, "dim2": 1}),
    ]

    @lowering(operator, examples=examples)
    def diagonal(x, offset=0, dim1=0, dim2=1):
        """diagonal -> Slice GatherElements: the exporter multiplies by a mask, and infinity times zero is NaN."""
        return _of_diagonal(x, offset, dim1, dim2)

    return diagonal


diagonals = [
    _diagonal("aten::diagonal", "self"),
    _diagonal("aten::diagonal_copy", "self"),
    _diagonal("aten::linalg_diagonal", "A"),
]


@lowering(
    "aten::diag",
    examples=[
        example(self=_INFINITE, diagonal=1),
        example(self=("n", 3), diagonal=-1),
        example(self=tensor(3, values=[1.0, float("inf"), float("nan")])),
        example(self=("n",), diagonal=-2),
    ],
)
def diag(x, diagonal=0):
    """diag -> Slice GatherElements of a matrix; of a vector Equal Where: it is on the diagonal of zeros."""
    import torch

    if x.dim() == 2:
        return _of_diagonal(x, diagonal, 0, 1)
    padded = torch.nn.functional.pad(x, (max(diagonal, 0), max(-diagonal, 0)))
    places = torch.arange(padded.shape[0])
    on = places == places.unsqueeze(-1) + diagonal
    return torch.where(on, padded, torch.zeros_like(padded))


@lowering(
    "aten::trace", examples=[example(self=_INFINITE), example(self=("n", 3)), example(self=tensor(2, 2, dtype="int32"))]
)
def trace(x):
    """trace -> GatherElements ReduceSum: the sum of the diagonal, which masks would make NaN beside infinity."""
    return _of_diagonal(x, 0, 0, 1).sum()


@lowering(
    "aten::diagonal_scatter",
    static={"x": None},
    examples=[
        example(self=(3, 3), src=(3,)),
        example(self=(2, 3, 4), src=(2, 3), offset=1, dim1=1, dim2=2),
        example(self=(3, 2, 4), src=(2, 2), offset=-1, dim1=0, dim2=-1),
    ],
    refuses=[example(self=("n", 3), src=(3,), because="static", _sizes={"n": 3})],
)
def diagonal_scatter(x, src, offset=0, dim1=0, dim2=1):
    """diagonal_scatter -> ScatterElements of the flattened tensor: the places of a diagonal are known."""
    import torch

    sizes = [int(size) for size in x.shape]
    places = torch.arange(math.prod(sizes)).reshape(sizes).diagonal(offset, dim1, dim2).reshape(-1)
    return x.reshape(-1).scatter(0, places, src.reshape(-1)).reshape(sizes)


@lowering(
    "aten::combinations",
    static={"x": (0,)},
    examples=[
        example(self=(4,)),
        example(self=(3,), r=3, with_replacement=True),
        example(self=tensor(5, dtype="int64"), r=1),
    ],
    refuses=[example(self=("n",), because="static"), example(self=(3,), r=4, because="empty")],
)
def combinations(x, r=2, with_replacement=False):
    """combinations -> Gather: which elements belong together is known."""
    import torch

    size = int(x.shape[0])
    rows = list((repeated_choices if with_replacement else choices)(range(size), r))
    require(rows and r, "the result is empty")
    return x.index_select(0, torch.tensor(rows).reshape(-1)).reshape(len(rows), r)


@lowering(
    "aten::linalg_vander",
    static={"x": (-1,)},
    examples=[
        example(x=(4,)),
        example(x=("n", 3), N=5),
        example(x=(), N=2),
        example(x=tensor(2, "n", 3, dtype="int64", low=-2), N=3),
    ],
    refuses=[example(x=("n",), because="static")],
)
def linalg_vander(x, *, N=None):
    """linalg_vander -> Mul Concat: each power is the one before it times the numbers."""
    import torch

    count = N or (int(x.shape[-1]) if x.dim() else 1)
    x = x.reshape(1) if x.dim() == 0 else x
    powers = [torch.ones_like(x)]
    for _ in range(count - 1):
        powers.append(powers[-1] * x)
    return torch.stack(powers[:count], -1)


@lowering(
    "aten::_unsafe_masked_index",
    examples=[
        example(self=(4, 2), mask=tensor(3, 1, dtype="bool", values=[[1], [0], [1]]), indices=[_INDEX, None], fill=0),
        example(
            self=tensor(2, "n", 3, dtype="int64"), mask=tensor(3, dtype="bool", values=[1, 1, 0]),
            indices=[None, _INDEX, tensor(3, dtype="int64", high=3)], fill=7, _sizes={"n": 5},
        ),
    ],
)  # fmt: skip
def unsafe_masked_index(x, mask, indices, fill):
    """_unsafe_masked_index -> Gather Where: places beyond an end are read at the end; what the mask leaves is filled.

    Source: PyTorch's inductor, which makes it for padding and shifted reads.
    """
    import torch

    def within(index: Any, size: Any) -> Any:
        return torch.maximum(torch.minimum(index, torch.zeros_like(index) + size - 1), torch.zeros_like(index) - size)

    taken = x[tuple(slice(None) if i is None else within(i, x.shape[axis]) for axis, i in enumerate(indices))]
    return torch.where(mask, taken, torch.full_like(taken, fill))


@lowering(
    "aten::repeat_interleave.self_int",
    examples=[
        example(self=("n", 3), repeats=2, dim=1),
        example(self=(2, "n"), repeats=3),
        example(self=(), repeats=2),
        example(self=(2, 3), repeats=1, dim=-2),
    ],
    refuses=[example(self=(2, 3), repeats=0, because="empty")],
)
def repeat_interleave(x, repeats, dim=None, *, output_size=None):
    """repeat_interleave -> Unsqueeze Expand Reshape; how often may be known only when the model runs."""
    del output_size
    require(not isinstance(repeats, int) or repeats > 0, "the result is empty")
    x, dim = (x.reshape(-1), 0) if dim is None else (x, dim % x.dim())
    before, after = x.shape[:dim], x.shape[dim + 1 :]
    spread = x.unsqueeze(dim + 1).expand(*before, x.shape[dim], repeats, *after)
    return spread.reshape(*before, x.shape[dim] * repeats, *after)


@lowering(
    "aten::repeat_interleave.self_Tensor",
    examples=[
        example(self=("n", 3), repeats=tensor(dtype="int64", values=2), dim=1),
        example(self=(2, "n"), repeats=tensor(1, dtype="int64", values=[3]), dim=-2),
    ],
    refuses=[example(self=(2, 3), repeats=tensor(3, dtype="int64", low=1), dim=1, because="each element")],
)
def repeat_interleave_by_tensor(x, repeats, dim=None, *, output_size=None):
    """repeat_interleave by a tensor of one number, as a trace holds what sizes give -> Unsqueeze Expand Reshape."""
    require(repeats.dim() == 0 or repeats.shape[0] == 1, "each element is repeated as often as its own number says")
    return repeat_interleave.function(x, repeats.reshape(()), dim, output_size=output_size)


@lowering(
    "aten::slice_scatter",
    examples=[
        example(self=("n", 6), src=("n", 2), dim=1, start=1, end=3),
        example(self=(7, 3), src=(3, 3), start=-6, step=2),
        example(self=tensor("n", 6, dtype="int64"), src=tensor("n", 4, dtype="int64"), dim=-1, end=-2),
        example(self=("n", 3), src=(2, 3), start=1, end=3, _sizes={"n": 3}),
        example(self=("n", 1, 3), src=("n", 1, 3), dim=1, start=0, end=2**63 - 1),
    ],
)
def slice_scatter(x, src, dim=0, start=None, end=None, step=1):
    """slice_scatter -> Range Gather Where: each place in the slice takes its element, whatever the sizes are."""
    import torch

    end = None if isinstance(end, int) and end >= _ENDLESS else end
    places = torch.arange(x.shape[dim])
    size = torch.zeros_like(places[:1]) + x.shape[dim]
    first, last = (None if bound is None else size * 0 + bound for bound in (start, end))
    first, last = (b if b is None else torch.where(b < 0, b + size, b).clamp(min=0) for b in (first, last))
    offset = places if first is None else places - first
    inside = offset >= 0
    if last is not None:
        inside = inside & (places < last)
    if step != 1:
        inside = inside & (offset % step == 0)
        offset = torch.div(offset, step, rounding_mode="floor")
    some = torch.cat([src, x.narrow(dim, 0, 1)], dim)  # a slice may be empty
    taken = some.index_select(dim, torch.minimum(offset.clamp(min=0), torch.zeros_like(size) + src.shape[dim]))
    return torch.where(inside.reshape([-1] + [1] * (x.dim() - 1 - dim % x.dim())), taken, x)
