"""Sampling grids."""

from __future__ import annotations

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
