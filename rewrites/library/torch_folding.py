"""Columns back to images whose sizes are known only when the model runs."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, require


def _added(planes: Any, kernel: list[int], stride: list[int], dilation: list[int]) -> Any:
    """[n, kernel, h, w] -> [n, 1, H, W]: each block added where it came from, by a kernel that is the identity."""
    import torch

    identity = torch.eye(math.prod(kernel), dtype=planes.dtype).reshape(-1, 1, *kernel)
    return torch.conv_transpose2d(planes, identity, stride=stride, dilation=dilation)


@lowering(
    "aten::col2im",
    static={"x": (1,)},
    examples=[
        example(
            self=("n", 12, 12), output_size=[6, 8], kernel_size=[2, 2], dilation=[1, 1], padding=[0, 0], stride=[2, 2]
        ),
        example(
            self=(2, 12, 20), output_size=[5, 6], kernel_size=[3, 2], dilation=[1, 2], padding=[1, 0], stride=[1, 1]
        ),
        example(
            self=(1, 8, 6), output_size=[5, 8], kernel_size=[2, 2], dilation=[1, 1], padding=[0, 0], stride=[2, 3]
        ),
    ],
    refuses=[
        example(
            self=(12, 12), output_size=[6, 8], kernel_size=[2, 2], dilation=[1, 1], padding=[0, 0], stride=[2, 2],
            because="a batch",
        ),
    ],
)  # fmt: skip
def col2im(x, output_size, kernel_size, dilation, padding, stride):
    """col2im -> Reshape ConvTranspose Pad Slice, as onnx/col2im-to-conv-transpose, by sizes that may vary.

    Source: PyTorch's documentation of torch.nn.Fold: how many blocks there are along an axis.
    """
    import torch

    require(x.dim() == 3, "columns without a batch are not handled")
    axes = list(zip(output_size, kernel_size, dilation, padding, stride, strict=True))
    counts = [torch.div(_tensor(n) + 2 * p - d * (k - 1) - 1, s, rounding_mode="trunc") + 1 for n, k, d, p, s in axes]
    channels = int(x.shape[1]) // math.prod(kernel_size)
    planes = x.reshape(-1, math.prod(kernel_size), *counts)
    made = _added(planes, kernel_size, stride, dilation)
    missing = [s - 1 for s in reversed(stride)]  # at most: what no block reaches
    made = torch.nn.functional.pad(made, [0, missing[0], 0, missing[1]])
    (height, _, _, top, _), (width, _, _, left, _) = axes
    cut = made[:, :, top : height + top, left : width + left]
    return cut.reshape(-1, channels, height, width)


def _tensor(size: Any) -> Any:
    import torch

    return torch.as_tensor(size)
