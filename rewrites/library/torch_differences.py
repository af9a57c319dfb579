"""Differences of neighbours, and the running sums that are their inverse."""

from __future__ import annotations

from rewrites import example, lowering, tensor

_TO_THE_END = 2**63 - 1


@lowering(
    "aten::diff",
    examples=[
        example(self=(2, 5)),
        example(self=("n", "m"), n=2, dim=0),
        example(self=("n", 3), dim=0, prepend=(1, 3), append=(2, 3)),
        example(self=tensor(2, "n", dtype="int64"), prepend=tensor(2, 1, dtype="int64")),
        example(self=tensor(3, 4, dtype="bool"), dim=0),
        example(self=(2, "n"), n=0, prepend=(2, 1)),
    ],
    refuses=[example(self=(2, 3), n=3, because="empty")],
)
def diff(x, n=1, dim=-1, *, prepend=None, append=None):
    """diff -> Concat Slice Sub: what follows less what precedes, n times; of booleans, whether the two differ."""
    import torch

    from rewrites import require

    if n == 0:
        return x.clone()  # alone
    x = torch.cat([part for part in (prepend, x, append) if part is not None], dim)
    require(not isinstance(x.shape[dim], int) or n < x.shape[dim], "nothing is left: the result is empty")
    for _ in range(n):
        later, earlier = torch.ops.aten.slice(x, dim, 1, _TO_THE_END), torch.ops.aten.slice(x, dim, 0, -1)
        x = torch.logical_xor(later, earlier) if x.dtype is torch.bool else later - earlier
    return x


@lowering(
    "aten::cumsum",
    examples=[
        example(self=tensor("n", 5, dtype="bool"), dim=1),
        example(self=tensor(2, 5, dtype="int32"), dim=0),
        example(self=("n", 3), dim=-2),
    ],
)
def cumsum(x, dim, *, dtype=None):
    """cumsum -> Cast CumSum: integers and booleans are added up as int64, which the exporter forgets."""
    import torch

    return torch.cumsum(x.to(dtype or (x.dtype if x.is_floating_point() else torch.int64)), dim)
