"""Reductions of runs of rows: bags of embeddings, segments."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.library.torch_extremes import greatest, smallest

_INDICES = tensor(6, dtype="int64", values=[3, 0, 2, 2, 1, 3])
_OFFSETS = tensor(3, dtype="int64", values=[0, 2, 2])
_BOUNDS = tensor(4, dtype="int64", values=[0, 2, 2, 6])
_MODES = ("sum", "mean", "max")


def _members(starts: Any, ends: Any, count: Any) -> Any:
    """[runs] first places and places after the last -> [runs, count] whether a place is in a run."""
    import torch

    places = torch.arange(count)
    return (places >= starts.unsqueeze(-1)) & (places < ends.unsqueeze(-1))


def _embedding_bag(
    weight: Any, indices: Any, offsets: Any, mode: int, weights: Any, include_last: bool, padding: int | None
) -> Any:
    import torch

    offsets = offsets.to(indices.dtype)
    total = torch.zeros_like(offsets[:1]) + indices.shape[0]
    starts, ends = (offsets[:-1], offsets[1:]) if include_last else (offsets, torch.cat([offsets[1:], total]))
    member = _members(starts, ends, indices.shape[0])
    if padding is not None and padding != -1:
        member = member & (indices != padding % int(weight.shape[0]))
    rows = weight.index_select(0, indices)
    if _MODES[mode] == "max":
        spread = torch.where(member.unsqueeze(-1), rows, torch.full_like(rows, -math.inf))
        empty = member.to(torch.int32).amax(-1, keepdim=True) == 0
        return torch.where(empty, torch.zeros_like(spread[:, 0]), spread.amax(1))
    share = member.to(weight.dtype)
    if _MODES[mode] == "mean":
        share = share / share.sum(-1, keepdim=True).clamp(min=1)
    return (share if weights is None else share * weights) @ rows


_BAGS = [
    example(weight=(4, 3), indices=_INDICES, offsets=_OFFSETS, mode=0, per_sample_weights=(6,), _outputs=1),
    example(
        weight=(4, "d"),
        indices=tensor("n", dtype="int64", high=4),
        offsets=_OFFSETS,
        mode=1,
        _sizes={"n": 6},
        _outputs=1,
    ),
    example(weight=(4, 3), indices=_INDICES, offsets=_BOUNDS, mode=2, include_last_offset=True, _outputs=1),
]


@lowering(
    "aten::embedding_bag",
    static={"weight": (0,)},
    examples=[
        *_BAGS,
        example(
            op_type="aten::embedding_bag.padding_idx", weight=(4, 3), indices=_INDICES, offsets=_OFFSETS, mode=1,
            scale_grad_by_freq=False, sparse=False, per_sample_weights=None, include_last_offset=False, padding_idx=2,
            _outputs=1,
        ),
        example(
            op_type="aten::embedding_bag.padding_idx", weight=(4, 3), indices=_INDICES, offsets=_OFFSETS, mode=0,
            scale_grad_by_freq=False, sparse=False, per_sample_weights=None, include_last_offset=False, padding_idx=-1,
            _outputs=1,
        ),
    ],
)  # fmt: skip
def embedding_bag(
    weight, indices, offsets, scale_grad_by_freq=False, mode=0, sparse=False,
    per_sample_weights=None, include_last_offset=False, padding_idx=None,
):  # fmt: skip
    """embedding_bag -> Gather MatMul, or Gather Where ReduceMax: only the bags, not what training needs of them.

    Source: PyTorch's documentation of torch.nn.functional.embedding_bag.
    """
    del scale_grad_by_freq, sparse  # of the gradient
    padding = None if padding_idx is None else padding_idx % int(weight.shape[0])  # -1 is the last row here
    return _embedding_bag(weight, indices, offsets, mode, per_sample_weights, include_last_offset, padding)


@lowering(
    "aten::segment_reduce",
    examples=[
        example(data=(6, 3), reduce="mean", lengths=tensor(3, dtype="int64", values=[2, 0, 4]), unsafe=True),
        example(data=("n", 3), reduce="max", offsets=tensor(3, dtype="int64", values=[0, 2, 6]), _sizes={"n": 6}),
        example(data=(6,), reduce="prod", lengths=tensor(2, dtype="int64", values=[1, 5]), initial=2.0),
        example(data=(6, 2), reduce="min", lengths=tensor(2, dtype="int64", values=[1, 5])),
        example(data=(6, 2), reduce="sum", lengths=tensor(2, dtype="int64", values=[1, 5])),
    ],
    refuses=[
        example(
            data=(2, 3),
            reduce="sum",
            axis=1,
            because="axis",
            lengths=tensor(2, 2, dtype="int64", values=[[1, 2], [3, 0]]),
        )
    ],
)
def segment_reduce(data, reduce, *, lengths=None, indices=None, offsets=None, axis=0, unsafe=False, initial=None):
    """segment_reduce -> Where ReduceSum, ReduceMax, ReduceMin or ReduceProd over the rows of each segment."""
    import torch

    del unsafe  # without checks
    require(axis == 0 and indices is None, "only segments along the first axis, by lengths or offsets")
    ends = offsets[1:] if lengths is None else torch.cumsum(lengths, 0)
    starts = offsets[:-1] if lengths is None else ends - lengths
    member = _members(starts, ends, data.shape[0])
    count = member.to(data.dtype).sum(-1)
    neutral = {"max": -math.inf, "min": math.inf, "prod": 1.0}.get(reduce, 0.0)
    first = neutral if initial is None else initial
    shape = [-1, data.shape[0]] + [1] * (data.dim() - 1)
    spread = torch.where(member.reshape(shape), data, torch.full_like(data, neutral))
    count = count.reshape([-1] + [1] * (data.dim() - 1))
    if reduce == "max":
        made = greatest(spread, 1)
        return torch.maximum(made, torch.tensor(first, dtype=made.dtype))
    if reduce == "min":
        made = smallest(spread, 1)
        return torch.minimum(made, torch.tensor(first, dtype=made.dtype))
    if reduce == "prod":
        return spread.prod(1) * first
    made = spread.sum(1) + first
    if reduce == "sum":
        return made
    return torch.where(count > 0, made / count, torch.full_like(made, math.nan if initial is None else initial))
