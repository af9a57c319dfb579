"""Fourier transforms: TensorRT has none."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

_LARGEST = 4096


@rule(
    name="onnx/dft-to-matmul",
    matches="DFT",
    needed_by={"tensorrt": "all versions"},
    opsets=(17, 10**6),
    examples=[
        example(input=(2, 16, 1), axis=1),
        example(input=("batch", 8, 12, 2), axis=2, dft_length=9),
        example(input=("batch", 9, 1), axis=-2, onesided=1),
        example(input=(3, 10, 2), inverse=1),
        example(input=("batch", 7, 4, 1), _opset=17),
        example(
            text="g (float[1,5,5,1] x, int64 axis) => (float[1,5,5,2] y) { y = DFT(x, , axis) }",
            axis=tensor(values=2, dtype="int64"),
        ),
        example(text="g (float[n,6,2] x) => (float[n,10,1] y) { y = DFT<inverse = 1, onesided = 1>(x) }"),
    ],
    refuses=[
        example(input=(2, "length", 1), axis=1, because="the transformed axis must be static"),
        example(input=(2, 5000, 1), axis=1, because="4,096"),
    ],
)
class DftToMatMul:
    """DFT -> MatMul: multiply by the constant cosine and sine matrix of the axis.

    An axis known only at run time is chosen among the transforms of all axes that fit the output's shape.
    Source: definition of the DFT in the ONNX operator specification, opsets 17 and 20; NVIDIA/TensorRT#4480.
    """

    def check(node):
        x = node.inputs[0]
        require(x.shape.is_static(-1), "the last axis must be 1 (real) or 2 (complex)")
        axes = axes_of(node)
        require(axes, "the transformed axis is not known")
        for axis in axes:
            require(x.shape.is_static(axis), "the transformed axis must be static")
            size = x.shape[axis]
            require(size <= _LARGEST, "a dense transform of more than 4,096 points is slower than PyTorch's")
            require(length_of(node, axis) is not None, "the length of the transform must be known")

    def rewrite(op, node, inverse, onesided):
        x, axes = node.inputs[0], axes_of(node)
        made = None
        for axis in axes:
            matrix = fourier_matrix(x.shape[axis], length_of(node, axis), x.shape[-1], inverse, onesided)
            spectrum = transform(op, x, axis, matrix, 1 if inverse and onesided else 2)
            if made is None:
                made = spectrum
            else:
                chosen = op.Or(op.Equal(node.inputs[2], axis), op.Equal(node.inputs[2], axis - x.rank))
                made = op.Where(chosen, spectrum, made)
        return made


def axes_of(node):
    """The axes that the transform may be along: one when it is known, else those that the shapes allow."""
    x, y = node.inputs[0], node.outputs[0]
    if "axis" in node.attributes:
        return [node.attributes["axis"] % x.rank]
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is None or given.constant is not None:
        return [(-2 if given is None else int(given)) % x.rank]
    changed = [i for i in range(x.rank - 1) if x.shape[i] != y.shape[i]]
    return changed if changed else [i for i in range(x.rank - 1) if x.shape.is_static(i)]


def length_of(node, axis):
    """The number of points of the transform, or None."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None:
        return None if given.constant is None else int(given)
    size = node.inputs[0].shape[axis]
    return 2 * (size - 1) if node.given.get("inverse") and node.given.get("onesided") else size


def transform(op, x, axis, matrix, parts):
    """Multiply the axis, with the real and imaginary parts beside it, by a matrix; the result has `parts` parts."""
    order = [*(i for i in range(x.rank) if i not in (axis, x.rank - 1)), axis, x.rank - 1]
    lead = [0] * (x.rank - 2)
    flat = op.Reshape(op.Transpose(x, perm=order), [*lead, matrix.shape[0]])
    spectrum = op.Reshape(op.MatMul(flat, matrix.astype(x.dtype)), [*lead, matrix.shape[1] // parts, parts])
    return op.Transpose(spectrum, perm=np.argsort(order).tolist())


def fourier_matrix(points, length, parts, inverse, onesided):
    """The transform of interleaved parts as one matrix, shape [points * parts, kept * parts of the result].

    Args:
        points: of the input; those past what the transform reads are left out, missing ones are zeros.
        length: of the transform.
        parts: 1 for real input, 2 for complex.
        inverse, onesided: as in ONNX's DFT; both at once give real output from half a spectrum.
    """
    half = inverse and onesided
    read = length // 2 + 1 if half else length
    kept = length // 2 + 1 if onesided and not inverse else length
    angle = 2 * np.pi * np.outer(np.arange(points), np.arange(kept)) / length * (1 if inverse else -1)
    weight = np.where(np.arange(points) < read, 1 / length if inverse else 1.0, 0.0)[:, None]
    if half:
        alone = (np.arange(points) == 0) | (2 * np.arange(points) == length)
        weight = weight * np.where(alone, 1, 2)[:, None]
        return np.stack([np.cos(angle) * weight, -np.sin(angle) * weight][:parts], 1).reshape(points * parts, kept)
    real_in = np.stack([np.cos(angle), np.sin(angle)], -1)
    imaginary_in = np.stack([-np.sin(angle), np.cos(angle)], -1)
    rows = np.stack([real_in, imaginary_in][:parts], 1)
    return (rows * weight[:, None, :, None]).reshape(points * parts, kept * 2)
