"""Searching in sorted values: neither ONNX exporter has it."""

from __future__ import annotations

from rewrites import example, lowering, tensor


@lowering(
    "aten::searchsorted",
    examples=[
        example(sorted_sequence=tensor(2, 3, values=[[-1, 0, 1], [-0.5, 0, 2]]), self=(2, "m")),
        example(sorted_sequence=tensor("n", values=[-1.0, 0.0, 0.5]), self=("m",), right=True),
        example(sorted_sequence=tensor(2, values=[0.0, 1.0]), self=tensor(3, values=[0.0, float("nan"), 2.0])),
        example(sorted_sequence=tensor(4, values=[-1.0, 0.0, 0.5, 2.0]), self=0.25, out_int32=True),
        example(
            sorted_sequence=tensor(3, values=[0.5, -1.0, 0.0]),
            self=("m",),
            side="right",
            sorter=tensor(3, values=[1, 2, 0], dtype="int64"),
        ),
    ],
)
def searchsorted(sorted_sequence, values, *, out_int32=False, right=False, side=None, sorter=None):
    """searchsorted -> Less Not ReduceSum: count the boundaries that are not above each value; none is above NaN.

    Source: PyTorch's documentation of torch.searchsorted.
    """
    import torch

    sorted_sequence = sorted_sequence if sorter is None else sorted_sequence.gather(-1, sorter)
    values = torch.as_tensor(values, dtype=sorted_sequence.dtype)
    boundaries, values = sorted_sequence.unsqueeze(-2), values.unsqueeze(-1)
    below = ~(boundaries > values) if right or side == "right" else ~(boundaries >= values)
    if values.dim() == 1:
        below = below.reshape(-1)
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


@lowering(
    "aten::isin",
    examples=[
        example(elements=("n", 3), test_elements=tensor(2, 2, values=[[0.5, 1.0], [-2.0, 0.0]])),
        example(
            elements=tensor(2, "n", dtype="int64", high=4),
            test_elements=tensor("m", dtype="int64", high=4),
            invert=True,
        ),
        example(op_type="aten::isin.Tensor_Scalar", elements=tensor(2, 3, dtype="int64", high=3), test_element=1),
        example(op_type="aten::isin.Scalar_Tensor", element=1, test_elements=tensor("n", dtype="int64", high=3)),
    ],
)
def isin(elements, test_elements, *, assume_unique=False, invert=False):
    """isin -> Equal ReduceMax: every element is compared with every one of the others."""
    import torch

    del assume_unique  # a promise, that changes no result
    elements, tests = torch.as_tensor(elements), torch.as_tensor(test_elements).reshape(-1)
    found = (elements.unsqueeze(-1) == tests).to(torch.int32).amax(-1) > 0
    return ~found if invert else found
