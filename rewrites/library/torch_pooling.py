"""Pooling to a given size at any size, and averages with a divisor of their own."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.library.torch_extremes import greatest


def _axis_windows(size: Any, count: Any) -> tuple[Any, Any]:
    """First place of each of `count` windows over an axis, and the place after its last; [count] both."""
    import torch

    number = torch.arange(count)
    return number * size // count, ((number + 1) * size + count - 1) // count


def _gather_windows(x: Any, axis: int, count: Any) -> tuple[Any, Any, Any]:
    """x [..., size, ...] -> [..., count, longest, ...]; first places [count]; places after the last [count].

    A window shorter than the longest repeats its last element.
    """
    import torch

    size = x.shape[axis]
    first, end = _axis_windows(size, count)
    longest = (size + count - 1) // count + 1
    places = torch.minimum(first.unsqueeze(1) + torch.arange(longest), end.unsqueeze(1) - 1)
    shape = [*x.shape[:axis], count, longest, *x.shape[axis + 1 :]]
    return x.index_select(axis, places.reshape(-1)).reshape(shape), first, end


def _average(x: Any, output_size: Any) -> Any:
    """The mean over a box is the mean over one axis of the means over the others."""
    import torch

    for axis, count in enumerate(output_size, x.dim() - len(output_size)):
        if count is None:
            continue
        windows, first, end = _gather_windows(x, axis, count)
        lengths = end - first
        shape = [-1, 1] + [1] * (x.dim() - axis - 1)
        valid = torch.arange(windows.shape[axis + 1]) < lengths.unsqueeze(1)
        kept = torch.where(valid.reshape(*valid.shape, *shape[2:]), windows, torch.zeros_like(windows))
        x = kept.sum(axis + 1) / lengths.to(x.dtype).reshape(shape[:1] + shape[2:])
    return x


def _maximum(x: Any, output_size: Any) -> tuple[Any, Any]:
    """The greatest element of each box, and its place in the flattened pooled axes: the first at a tie.

    NaN is above all numbers, and the last one is taken.
    """
    import torch

    rank, start = len(output_size), x.dim() - len(output_size)
    sizes, ends, boxes = list(x.shape[start:]), [], x
    for i, count in enumerate(output_size):
        boxes, first, end = _gather_windows(boxes, start + 2 * i, sizes[i] if count is None else count)
        ends.append((first, end))
    order = [*range(start), *range(start, boxes.dim(), 2), *range(start + 1, boxes.dim(), 2)]
    boxes = boxes.permute(order)
    lengths = boxes.shape[start + rank :]
    flat = boxes.flatten(start + rank)
    nan = torch.where(torch.isnan(flat), torch.arange(flat.shape[-1], dtype=torch.int32), -1).amax(-1)
    where = torch.where(nan >= 0, nan.to(torch.int64), flat.argmax(-1))
    place = torch.zeros_like(where)
    for i, (first, end) in enumerate(ends):
        spread, step = [-1] + [1] * (rank - i - 1), math.prod(lengths[i + 1 :])
        along = torch.minimum(first.reshape(spread) + where // step % lengths[i], end.reshape(spread) - 1)
        place = place * sizes[i] + along
    return greatest(flat, -1), place


def _adaptive_average(x, output_size):
    """adaptive average pooling -> Gather ReduceSum Div an axis: windows from floor(i n / m) to ceil((i + 1) n / m).

    Source: torch.nn.AdaptiveAvgPool2d; TensorRT's pooling has one kernel for all windows.
    """
    require(x.is_floating_point(), "floating-point numbers only")
    return _average(x, output_size)


def _adaptive_maximum(x, output_size):
    """adaptive max pooling -> Gather ReduceMax ArgMax over the windows from floor(i n / m) to ceil((i + 1) n / m).

    Source: torch.nn.AdaptiveMaxPool2d; TensorRT's pooling has one kernel for all windows, and tells no places.
    """
    return _maximum(x, output_size)


_NAN = float("nan")
_SOME_NAN = {
    1: tensor(1, 1, 7, values=[[[1.0, 2.0, _NAN, _NAN, 0.0, -1.0, _NAN]]]),
    2: tensor(1, 1, 4, 3, values=[[[[1.0, _NAN, 3.0], [0.5, 2.0, 9.0], [_NAN, _NAN, -1.0], [4.0, 2.0, _NAN]]]]),
    3: tensor(1, 1, 2, 2, 3, values=[[[[[1.0, _NAN, 3.0], [0.5, 2.0, 9.0]], [[_NAN, _NAN, -1.0], [4.0, 2.0, _NAN]]]]]),
}


def _examples(rank: int) -> list[Any]:
    sizes = [7, 9, 8][:rank]
    return [
        example(self=(2, 3, *sizes), output_size=[3, 4, 2][:rank]),
        example(self=_SOME_NAN[rank], output_size=[3, 2, 3][:rank]),
        example(self=(3, *sizes), output_size=[9, 9, 9][:rank]),
        example(self=("n", 2, "d", "h", "w")[: 2 + rank], output_size=[2] * rank),
    ]


adaptive_averages = [
    lowering(f"aten::adaptive_avg_pool{rank}d", examples=_examples(rank))(_adaptive_average) for rank in (1, 2, 3)
]
adaptive_maxima = [
    lowering(f"aten::adaptive_max_pool{rank}d", examples=_examples(rank))(_adaptive_maximum) for rank in (1, 2, 3)
]


def _divided(rank: int, x: Any, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, divisor: Any) -> Any:
    """Average pooling of explicitly padded axes [..., sizes], each sum divided by `divisor`."""
    import torch

    require(divisor is not None, "without a divisor it is AveragePool")
    kernel, stride, padding = (_each_axis(rank, v) for v in (kernel, stride or kernel, padding))
    pads: list[Any] = []
    for size, k, s, p in zip(x.shape[x.dim() - rank :], kernel, stride, padding, strict=True):
        pads = [p, _end_pad(int(size), k, s, p) if ceil_mode else p, *pads]
    pool = torch.nn.functional.avg_pool2d if rank == 2 else torch.nn.functional.avg_pool3d
    padded = torch.nn.functional.pad(x, pads)
    batched = padded if x.dim() == rank + 2 else padded.unsqueeze(0)  # what AveragePool takes
    made = pool(batched, kernel, stride) * (math.prod(kernel) / divisor)
    return made if x.dim() == rank + 2 else made.squeeze(0)


def _each_axis(rank: int, given: Any) -> list[int]:
    return [given] * rank if isinstance(given, int) else [*given] * (rank // len(given))


def _end_pad(size: int, kernel: int, stride: int, pad: int) -> int:
    """The padding at the end with which as many windows fit as ceil mode has; none begins in the padding at the end."""
    count = -(-(size + 2 * pad - kernel) // stride) + 1
    count -= (count - 1) * stride >= size + pad
    return (count - 1) * stride + kernel - size - pad


@lowering(
    "aten::avg_pool2d",
    examples=[
        example(self=("n", 2, "h", "w"), kernel_size=[2, 3], padding=[1, 1], divisor_override=5),
        example(self=(2, 9, 8), kernel_size=[3], stride=[2], ceil_mode=True, divisor_override=-2),
    ],
    refuses=[example(self=(1, 2, 9, 8), kernel_size=[3], ceil_mode=True, because="AveragePool")],
)
def avg_pool2d(x, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """avg_pool2d with a divisor -> Pad AveragePool Mul."""
    del count_include_pad  # the divisor decides
    return _divided(2, x, kernel_size, stride, padding, ceil_mode, divisor_override)


@lowering(
    "aten::avg_pool3d",
    examples=[
        example(self=("n", 2, "d", "h", "w"), kernel_size=[2, 3, 2], padding=[1, 1, 1], divisor_override=5),
        example(self=(2, 9, 8, 7), kernel_size=[3], stride=[2], ceil_mode=True, divisor_override=-2),
    ],
    refuses=[example(self=(1, 2, 9, 8, 7), kernel_size=[3], ceil_mode=True, because="AveragePool")],
)
def avg_pool3d(x, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """avg_pool3d with a divisor -> Pad AveragePool Mul."""
    del count_include_pad  # the divisor decides
    return _divided(3, x, kernel_size, stride, padding, ceil_mode, divisor_override)
