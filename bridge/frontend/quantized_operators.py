"""What is known of PyTorch's operators on quantized tensors: the float operators, and the steps of what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

BOUNDS = {12: (-128, 127), 13: (0, 255)}
"""Smallest and largest step of qint8 and quint8, by the numbers that graphs have for dtypes."""
QUINT8 = 13
DYNAMIC = {
    "linear_dynamic": False, "linear_relu_dynamic": True, "linear_dynamic_fp16": False, "linear_relu_dynamic_fp16": True
}  # fmt: skip
"""Linear layers of floats, and whether the negative results are zero."""
PRODUCTS = {"linear", *(f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3))}
OF_TWO = {"add": (1,), "mul": (), "matmul": ()}
"""Operators of two quantized tensors, and what the float operator is given beside them."""
OF_ONE: dict[str, tuple[str, Callable[[Sequence[Any]], list[Any]]]] = {
    "hardswish": ("hardswish", list),
    "sigmoid": ("sigmoid", list),
    "softmax": ("softmax", lambda given: [*given, None]),
    "leaky_relu": ("leaky_relu", lambda given: [*given[:2]]),
    "prelu": ("prelu", list),
    "elu": ("elu", list),
    "celu": ("celu", list),
    "layer_norm": ("layer_norm", lambda given: [*given, False]),
    "group_norm": ("group_norm", lambda given: [*given, False]),
    "instance_norm": ("instance_norm", lambda given: [*given[:3], None, None, True, 0.0, given[3], False]),
    **{
        f"batch_norm{rank}": ("batch_norm", lambda given: [*given[:5], False, 0.0, given[5], False])
        for rank in ("", "1d", "2d", "3d")
    },
}
"""The float operator, and its arguments from those of the quantized one without scale and zero point."""
STEPS_FIRST = ("elu", "celu")
"""Operators whose scale and zero point come right after the tensor."""
MOVING = {f"aten::{name}" for name in (
    "relu", "relu_", "max_pool1d", "max_pool2d", "max_pool3d", "flatten", "reshape", "view", "permute", "transpose",
    "t", "slice", "select", "unsqueeze", "squeeze", "contiguous", "clone", "detach", "alias", "expand", "repeat",
    "dropout", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "narrow", "flip",
)} | {"quantized::max_pool1d", "quantized::max_pool2d"}  # fmt: skip
"""Give some of their argument's numbers, in the same steps."""
DIVIDING = ("aten::chunk", "aten::split", "aten::split_with_sizes")
ROUNDING = {f"aten::{name}" for name in (
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "mean", "upsample_bilinear2d", "hardtanh", "hardtanh_", "clamp", "leaky_relu", "leaky_relu_", "elu",
)} | {"quantized::clamp"}  # fmt: skip
"""Give numbers that are rounded to their argument's steps."""
OWN_STEPS = {"aten::sigmoid": (1 / 256, 0), "aten::hardsigmoid": (1 / 256, 0), "aten::tanh": (2 / 256, 128)}
"""Give quint8 of a scale and zero point of their own."""
OF_SHAPE = ("aten::size", "aten::dim", "aten::len", "aten::numel")
"""Read no numbers, only the shape."""
