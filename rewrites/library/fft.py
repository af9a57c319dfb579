"""Fourier transforms: TensorRT has none."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule


@rule(
    name="onnx/dft-to-matmul",
    needed_by={"tensorrt": "all versions"},
    opsets=(17, 10**6),
    examples=[
        example(x=(2, 16, 1), axis=1),
        example(x=("batch", 8, 12, 2), axis=2),
        example(x=("batch", 9, 1), axis=-2, onesided=1),
        example(x=(3, 10, 2), axis=1, inverse=1),
        example(x=(2, 16, 1), axis=1, _opset=17, _pattern="pattern_axis_attribute"),
    ],
    refuses=[
        example(x=(2, "length", 1), axis=1, because="the transformed axis must be static"),
        example(x=(2, 5000, 1), axis=1, because="4,096"),
    ],
)
class DftToMatMul:
    """DFT -> MatMul: multiply by the constant cosine and sine matrix of the axis.

    Source: definition of the DFT in the ONNX operator specification, opsets 17 and 20; NVIDIA/TensorRT#4480.
    """

    def pattern(op, x, axis=None, inverse=0, onesided=0):
        return op.DFT(x, None, axis, inverse=inverse, onesided=onesided)

    def pattern_axis_attribute(op, x, axis, inverse=0, onesided=0):
        return op.DFT(x, None, axis=axis, inverse=inverse, onesided=onesided)

    def check(x, axis, inverse, onesided):
        axis = -2 if axis is None else axis
        require(x.shape.is_static(axis), "the transformed axis must be static")
        require(x.shape[axis] <= 4096, "a dense transform of more than 4,096 points is slower than PyTorch's")
        require(x.shape.is_static(-1), "the last axis must be 1 (real) or 2 (complex)")
        require(not (inverse and onesided), "a one-sided inverse transform is not defined here")

    def rewrite(op, x, axis, inverse, onesided):
        axis = (-2 if axis is None else int(axis)) % x.rank
        points, parts = x.shape[axis], x.shape[-1]
        order = [*(i for i in range(x.rank) if i not in (axis, x.rank - 1)), axis, x.rank - 1]
        kept = points // 2 + 1 if onesided else points
        lead = [0] * (x.rank - 2)
        flat = op.Reshape(op.Transpose(x, perm=order), [*lead, points * parts])
        spectrum = op.MatMul(flat, fourier_matrix(points, kept, parts, inverse).astype(x.dtype))
        return op.Transpose(op.Reshape(spectrum, [*lead, kept, 2]), perm=np.argsort(order).tolist())


def fourier_matrix(points, kept, parts, inverse):
    """The transform of interleaved (real, imaginary) points as one matrix, shape [points * parts, kept * 2]."""
    angle = 2 * np.pi * np.outer(np.arange(points), np.arange(kept)) / points * (1 if inverse else -1)
    scale = 1 / points if inverse else 1
    real_in = np.stack([np.cos(angle), np.sin(angle)], -1)
    imaginary_in = np.stack([-np.sin(angle), np.cos(angle)], -1)
    rows = np.stack([real_in, imaginary_in][:parts], 1)
    return (rows * scale).reshape(points * parts, kept * 2)
