"""Sampling grids, and sampling of volumes."""

from __future__ import annotations

import itertools

import numpy as np

from rewrites import example, require, rule, tensor


@rule(
    name="onnx/affine-grid-to-matmul",
    matches="AffineGrid",
    needed_by={"tensorrt": "all versions"},
    opsets=(20, 10**6),
    examples=[
        example(theta=(2, 2, 3), size=np.array([2, 3, 5, 6])),
        example(theta=("n", 3, 4), size=np.array([2, 3, 4, 5, 6]), align_corners=1),
    ],
    refuses=[example(theta=(2, 2, 3), size=tensor(4, dtype="int64", low=2), because="static")],
)
class AffineGridToMatMul:
    """AffineGrid -> MatMul: the homogeneous coordinates of the output's points, a constant, times theta.

    Source: the function body in the ONNX specification, opset 20; onnx-tensorrt's list of operators.
    """

    def check(node, size):
        require(spatial_sizes(node, size) is not None, "the spatial sizes must be static")

    def rewrite(op, node, theta, size, align_corners):
        spatial = spatial_sizes(node, size)
        points = homogeneous_points(spatial, align_corners).astype(theta.dtype)
        flat = op.MatMul(points, op.Transpose(theta, perm=[0, 2, 1]))
        return op.Reshape(flat, [0, *spatial, len(spatial)])


def spatial_sizes(node, size):
    """The sizes of the grid's spatial axes, outermost first, or None."""
    if size.constant is not None:
        return [int(s) for s in size.constant[2:]]
    dims = node.outputs[0].dims
    return list(dims[1:-1]) if dims is not None and dims[1:-1].is_static() else None


def homogeneous_points(spatial, align_corners):
    """Every output point as (x, y, 1) or (x, y, z, 1) in -1..1, shape [points, axes + 1]."""
    axes = [np.linspace(-1, 1, n) if align_corners else (2 * np.arange(n) + 1) / n - 1 for n in spatial]
    grids = np.meshgrid(*axes, indexing="ij")[::-1]
    return np.stack([*(g.ravel() for g in grids), np.ones(grids[0].size)], -1)


@rule(
    name="onnx/grid-sample-volume",
    matches="GridSample",
    needed_by={"tensorrt": "< 10.14"},
    opsets=(20, 10**6),
    examples=[
        example(X=(2, 3, 4, 5, 6), grid=tensor(2, 3, 2, 4, 3, low=-1.3, high=1.3)),
        example(
            X=("n", 2, 4, 3, 5), grid=tensor("n", "d", 2, 3, 3, low=-1.2, high=1.2), align_corners=1, mode="nearest"
        ),
        example(X=(1, 2, 4, 3, 5), grid=tensor(1, 2, 2, 3, 3, low=-1.5, high=1.5), padding_mode="border"),
    ],
    refuses=[
        example(X=(1, 2, 4, 3, 5), grid=(1, 2, 2, 3, 3), padding_mode="reflection", because="reflection"),
        example(X=(1, 2, "d", 3, 5), grid=(1, 2, 2, 3, 3), because="static"),
    ],
)
class GridSampleVolume:
    """GridSample of volumes -> Floor GatherElements Mul Add: the eight corners around each point, weighed.

    Source: the ONNX specification of GridSample, opset 20; NVIDIA/TensorRT#3890 (TensorRT-RTX 1.7 has it).
    """

    def applies(X):
        return X.dims is not None and len(X.dims) == 5

    def check(X, mode, padding_mode):
        require(mode in ("linear", "nearest"), "cubic interpolation of volumes is not defined")
        require(padding_mode != "reflection", "padding by reflection is not handled")
        require(X.shape[1:].is_static(), "channels and sizes of the volume must be static")

    def rewrite(op, X, grid, mode, padding_mode, align_corners):
        channels, sizes = X.shape[1], X.shape[2:]
        axes = [coordinates(op, grid, 2 - i, n, padding_mode, align_corners) for i, n in enumerate(sizes)]
        flat = op.Reshape(X, [0, channels, sizes.size])
        total = None
        for corner in itertools.product((0, 1), repeat=3) if mode == "linear" else [None]:
            found = [
                corner_of(op, x, n, corner and corner[i]) for i, (x, n) in enumerate(zip(axes, sizes, strict=True))
            ]
            (z, wz), (y, wy), (x, wx) = found
            place = op.Add(op.Mul(op.Add(op.Mul(z, sizes[1]), y), sizes[2]), x)
            every = op.Expand(op.Unsqueeze(place, [1]), [1, channels, 1])
            weight = op.Unsqueeze(op.Mul(op.Mul(wz, wy), wx), [1])
            part = op.Mul(op.GatherElements(flat, every, axis=2), weight)
            total = part if total is None else op.Add(total, part)
        return op.Reshape(total, op.Concat(op.Shape(X, start=0, end=2), op.Shape(grid, start=1, end=4), axis=0))


def coordinates(op, grid, position, size, padding_mode, align_corners):
    """One coordinate of every point in elements of its axis, shape [batch, points]."""
    unit = op.Reshape(op.Gather(grid, np.array(position), axis=-1), [0, -1])
    scale, shift = ((size - 1) / 2, (size - 1) / 2) if align_corners else (size / 2, (size - 1) / 2)
    x = op.Add(op.Mul(unit, scale), shift)
    return op.Clip(x, 0.0, size - 1.0) if padding_mode == "border" else x


def corner_of(op, x, size, upper):
    """The element below (0), above (1) or nearest (None) a coordinate, and its weight; outside the weight is 0."""
    place = op.Round(x) if upper is None else op.Add(op.Floor(x), float(upper))
    inside = op.And(op.GreaterOrEqual(place, 0.0), op.LessOrEqual(place, size - 1.0))
    share = 1.0 if upper is None else op.Sub(1.0, op.Abs(op.Sub(x, place)))
    weight = op.Where(inside, share, np.zeros((), x.dtype))
    place = op.Where(inside, place, np.zeros((), x.dtype))
    return op.Cast(place, to=np.int64), weight
