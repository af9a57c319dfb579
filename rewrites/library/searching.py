"""Searching in sorted values: neither ONNX exporter has it."""

from __future__ import annotations

from rewrites import example, lowering, require, tensor


@lowering(
    "aten::searchsorted",
    examples=[
        example(sorted_sequence=tensor(2, 3, values=[[-1, 0, 1], [-0.5, 0, 2]]), self=(2, "m")),
        example(sorted_sequence=tensor("n", values=[-1.0, 0.0, 0.5]), self=("m",), right=True),
        example(sorted_sequence=tensor(4, values=[-1.0, 0.0, 0.5, 2.0]), self=0.25, out_int32=True),
    ],
    refuses=[example(sorted_sequence=(3, 64), self=(3, 5), sorter=tensor(3, 64, dtype="int64"), because="sorter")],
)
def searchsorted(sorted_sequence, values, *, out_int32=False, right=False, side=None, sorter=None):
    """searchsorted -> Greater ReduceSum: count the boundaries below each value.

    Source: PyTorch's documentation of torch.searchsorted.
    """
    import torch

    require(sorter is None, "a sorter is not supported")
    values = torch.as_tensor(values, dtype=sorted_sequence.dtype)
    boundaries, values = sorted_sequence.unsqueeze(-2), values.unsqueeze(-1)
    below = boundaries <= values if right or side == "right" else boundaries < values
    if values.dim() == 1:
        below = below.reshape(-1)
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)
