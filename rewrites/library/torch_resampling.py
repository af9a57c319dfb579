"""Grids to sample at, sampling of volumes, and resizing of images that looks at all pixels that a new one covers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rewrites import example, lowering, require, tensor
from rewrites.lowering import in_single_precision

_CUBIC = -0.5
_GRID = tensor("n", 2, 4, 3, 3, low=-1.3, high=1.3)
_AXES = (-2, -1)


def _triangle(t: Any) -> Any:
    return np.where(t < 1, 1 - t, 0.0)


def _cubic(t: Any) -> Any:
    """Keys' kernel of two pixels to each side."""
    near = ((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1
    return np.where(t < 1, near, np.where(t < 2, (((t - 5) * t + 8) * t - 4) * _CUBIC, 0.0))


def _weights(before: int, after: int, scale: float, kernel: Callable[[Any], Any], reach: int) -> Any:
    """[after, before]: the share of each old pixel in each new one; rows add up to 1.

    Args:
        scale: old pixels a new one.
        kernel: weight by the distance in old pixels, or in new ones where these are larger.
        reach: the distance up to which it is not zero.
    """
    wide = max(scale, 1.0)
    made = np.zeros((after, before))
    for i in range(after):
        centre = scale * (i + 0.5)
        first = max(int(centre - reach * wide + 0.5), 0)
        end = min(int(centre + reach * wide + 0.5), before)
        row = kernel(np.abs(np.arange(first, end) - centre + 0.5) / wide)
        made[i, first:end] = row / row.sum() if row.sum() else row
    return made


def _resized(x: Any, sizes: Any, align: bool, factors: Any, kernel: Callable[[Any], Any], reach: int) -> Any:
    """[..., h, w] by one matrix an axis."""
    import torch

    require(x.is_floating_point(), "floating-point numbers only")
    before = [int(x.shape[axis]) for axis in _AXES]
    factors = factors or (None, None)
    after = sizes if sizes is not None else [int(b * f) for b, f in zip(before, factors, strict=True)]
    matrices = []
    for old, new, factor in zip(before, after, factors, strict=True):
        ends = (old - 1) / (new - 1) if new > 1 else 0.0
        scale = ends if align else 1 / factor if factor else old / new
        matrices.append(torch.tensor(_weights(old, new, scale, kernel, reach), dtype=x.dtype))
    return matrices[0] @ x @ matrices[1].transpose(0, 1)


_RESIZED = [
    example(self=("n", 2, 10, 7), output_size=[3, 9], align_corners=False),
    example(self=(1, 2, 10, 7), output_size=[3, 9], align_corners=True),
    example(self=(1, 2, 10, 7), output_size=[5, 4], align_corners=False, scales_h=0.55, scales_w=0.6),
]
_BY_FACTORS = [
    example(input=("n", 2, 6, 8), output_size=None, align_corners=False, scale_factors=[1.7, 0.9]),
    example(input=(1, 2, 6, 8), output_size=[4, 8], align_corners=True, scale_factors=None),
]
_DYNAMIC = [example(self=(1, 2, "h", 7), output_size=[3, 9], align_corners=False, because="static")]


def _antialiased(name: str, kernel: Callable[[Any], Any], reach: int) -> list[Any]:
    def by_size(x, output_size, align_corners, scales_h=None, scales_w=None):
        """an antialiased resize -> MatMul: the weights of one axis are a constant matrix.

        Source: the kernels of Pillow, which PyTorch takes; checked against PyTorch.
        """
        return _resized(x, output_size, align_corners, (scales_h, scales_w), kernel, reach)

    def by_factors(x, output_size, align_corners, scale_factors):
        """an antialiased resize -> MatMul: the weights of one axis are a constant matrix.

        Source: the kernels of Pillow, which PyTorch takes; checked against PyTorch.
        """
        return _resized(x, output_size, align_corners, scale_factors, kernel, reach)

    return [
        lowering(f"aten::{name}", static={"x": _AXES}, examples=_RESIZED, refuses=_DYNAMIC)(by_size),
        lowering(f"aten::{name}.vec", static={"x": _AXES}, examples=_BY_FACTORS, priority=-1)(by_factors),
    ]


antialiased = [
    *_antialiased("_upsample_bilinear2d_aa", _triangle, 1),
    *_antialiased("_upsample_bicubic2d_aa", _cubic, 2),
]


@lowering(
    "aten::grid_sampler_3d",
    static={"grid": (-1,)},
    examples=[
        example(input=("n", 2, 4, 5, 3), grid=_GRID, interpolation_mode=0, padding_mode=0, align_corners=False),
        example(input=("n", 2, 4, 5, 3), grid=_GRID, interpolation_mode=0, padding_mode=1, align_corners=True),
        example(input=(1, 2, 4, 5, 3), grid=(1, 2, 4, 3, 3), interpolation_mode=1, padding_mode=0, align_corners=True),
    ],
)
def grid_sampler_3d(x, grid, interpolation_mode, padding_mode, align_corners):
    """grid_sampler_3d -> GridSample of volumes."""
    import torch

    return torch.grid_sampler(x, grid, interpolation_mode, padding_mode, align_corners)


def _points(count: Any, align: bool) -> Any:
    """Where the pixels of one axis are, in -1..1: their centres, or, aligned, from end to end; one alone is at 0."""
    import torch

    place = 2 * torch.arange(count) - (count - 1)
    return place / torch.as_tensor(count - 1 if align else count).clamp(min=1)


@lowering(
    "aten::affine_grid_generator",
    examples=[
        example(theta=(2, 2, 3), size=[2, 3, 5, 6], align_corners=False),
        example(theta=("n", 2, 3), size=[2, 3, 1, 6], align_corners=True),
        example(theta=("n", 3, 4), size=[2, 3, 4, 1, 6], align_corners=True),
    ],
)
@in_single_precision
def affine_grid_generator(theta, size, align_corners):
    """affine_grid_generator -> Range Mul Add: each axis times a column of theta; batch and sizes may vary.

    Source: PyTorch's AffineGridGenerator.cpp.
    """
    axes = [_points(count, align_corners).to(theta.dtype) for count in size[2:]]
    rank = len(axes)
    grid = theta[..., -1].reshape(-1, *[1] * rank, rank)
    for axis, points in enumerate(axes):
        column = theta[..., rank - 1 - axis].reshape(-1, *[1] * rank, rank)
        grid = grid + column * points.reshape(-1, *[1] * (rank - axis))
    return grid
