"""Rows that are multiplied by the matrix of their group: mixtures of experts."""

from __future__ import annotations

from rewrites import example, lowering, require, tensor

BLOCK = 128


@lowering(
    "aten::_grouped_mm",
    also=["transformers::grouped_mm_fallback"],
    examples=[
        example(self=(7, 16), mat2=(3, 16, 8), offs=tensor(3, dtype="int32", values=[2, 2, 7])),
        example(self=(300, 16), mat2=(2, 16, 8), offs=tensor(2, dtype="int32", values=[130, 300])),
        example(self=("n", 16), mat2=(4, 16, 8), offs=tensor(4, dtype="int32", values=[0, 1, 2, 5]), _sizes={"n": 5}),
    ],
    refuses=[example(self=(16, 32), mat2=(32, 16), offs=tensor(2, dtype="int32", values=[16, 32]), because="groups")],
)
def grouped_mm(self, mat2, offs=None, bias=None, out_dtype=None):
    """_grouped_mm -> Gather MatMul Gather: rows in blocks of one group each, each with a copy of its group's matrix.

    There are as many blocks as `rows // 128 + groups`, or as rows where these are fewer: no group ends in the middle
    of a block, whatever their sizes are. Rows beyond the last group are zero.

    Source: the grouped products of megablocks (arXiv:2211.15841), whose blocks belong to one expert each.
    """
    import torch

    require(self.dim() == 2 and mat2.dim() == 3 and offs is not None, "only groups of rows are lowered")
    require(bias is None and out_dtype in (None, self.dtype), "a bias and a wider result are not handled")
    rows, groups = self.shape[0], mat2.shape[0]
    row, ends, group = torch.arange(rows), offs.long(), torch.arange(groups)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
    blocks = torch.div(ends - starts + (BLOCK - 1), BLOCK, rounding_mode="floor")
    passed = torch.where(group.unsqueeze(1) >= group, blocks, torch.zeros_like(blocks)).sum(1)
    first = passed - blocks

    block = row[: rows // BLOCK + groups]
    owner = (block.unsqueeze(1) >= passed).sum(1).clamp(max=groups - 1)
    inside = (block - first[owner]).unsqueeze(1) * BLOCK + torch.arange(BLOCK)
    given = (starts[owner].unsqueeze(1) + inside).clamp(min=0).minimum(row[-1:])
    made = (self[given] @ mat2[owner]).reshape(-1, mat2.shape[2])

    passed_ends = (row.unsqueeze(1) >= ends).sum(1)
    owner = passed_ends.clamp(max=groups - 1)
    place = (first[owner] * BLOCK + row - starts[owner]).clamp(min=0).minimum(block[-1:] * BLOCK + (BLOCK - 1))
    return torch.where((passed_ends < groups).unsqueeze(1), made[place], torch.zeros_like(made[:1]))
