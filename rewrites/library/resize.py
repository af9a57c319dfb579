"""Resizing in the ways that parsers refuse: one matrix for each axis."""

from __future__ import annotations

import functools

import numpy as np

from rewrites import example, require, rule, tensor
from rewrites.evaluating import evaluate
from rewrites.resampling import Axis, apply_along, matrix, outside

_OURS = ("tf_crop_and_resize", "half_pixel_symmetric")
_STATIC = "the sizes of the resized axes must be static, before and after"
_SCALES = np.array([1, 1, 0.6, 1.5], np.float32)


@rule(
    name="onnx/resize-to-matmul",
    matches="Resize",
    needed_by={"tensorrt": "all versions"},
    opsets=(13, 10**6),
    examples=[
        example(X=(1, 2, 4, 5), scales=_SCALES, mode="linear", antialias=1),
        example(X=("n", 2, 8, 8), sizes=np.array([3, 5]), axes=[2, 3], mode="cubic", antialias=1),
        example(X=("n", 2, 4, 4), sizes=np.array([9, 6]), axes=[3, 2], keep_aspect_ratio_policy="not_larger"),
        example(X=(1, 1, 4, 5), scales=_SCALES, mode="linear", coordinate_transformation_mode="half_pixel_symmetric"),
        example(
            X=(1, 1, 4, 5), roi=np.array([0, 0, 0.4, 0.6, 1, 1, 1.2, 0.8], np.float32), sizes=np.array([1, 1, 3, 4]),
            mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=7.0,
        ),
        example(X=tensor(1, 1, 4, 4, dtype="int32"), sizes=np.array([1, 1, 7, 3]), mode="nearest"),
        example(
            text='g (float[1,1,2,3] x, float[4] s) => (float[1,1,4,9] y) { y = Resize<mode = "cubic">(x, , s) }',
            s=tensor(4, values=[1, 1, 2, 3]),
        ),
    ],
    refuses=[
        example(X=(1, 1, "h", 4), scales=_SCALES, mode="linear", antialias=1, because=_STATIC),
        example(X=tensor(1, 1, 4, 4, dtype="int32"), sizes=np.array([1, 1, 7, 3]), mode="linear", because="nearest"),
    ],
)  # fmt: skip
class ResizeToMatMul:
    """Resize -> MatMul: each output element is a weighted sum of input elements along each axis in turn.

    Source: the ONNX specification of Resize, opset 19, and its reference; NVIDIA/TensorRT#3560: antialias ignored.
    """

    def applies(node, X, scales, keep_aspect_ratio_policy, axes, coordinate_transformation_mode, antialias):
        odd = antialias or keep_aspect_ratio_policy not in (None, "stretch") or coordinate_transformation_mode in _OURS
        unknown = scales is not None and (scales.constant is None or axes is not None) and scales.dims != (0,)
        return odd or unknown or (X.known_dtype is not None and X.known_dtype.kind in "iu")

    def check(node, X, mode, coordinate_transformation_mode):
        require(X.dtype.kind == "f" or mode == "nearest", "integers are resized by nearest only")
        for axis in resized(node):
            require(X.shape.is_static(axis) and node.outputs[0].shape.is_static(axis), _STATIC)
            require(X.shape[axis] * node.outputs[0].shape[axis] <= 2**24, "the matrix would be too large")

    def rewrite(op, node, X):
        y = X if X.dtype.kind == "f" else op.Cast(X, to=np.float32)
        for axis in resized(node):
            given = Axis.of(node, axis)
            weights = functools.partial(matrix, axis=given)
            bounds = roi_of(op, node, axis) if given.crops else ()
            made = evaluate(op, weights, scale_of(op, node, axis), *bounds)
            made = op.Cast(made, to=y.dtype) if made.constant is None else made.constant.astype(y.dtype)
            y = apply_along(op, made, y, axis)
            if given.crops:
                mask = op.Cast(evaluate(op, functools.partial(outside, axis=given), *bounds), to=bool)
                fill = np.array(node.attributes["extrapolation_value"], y.dtype)
                y = op.Where(op.Reshape(mask, [-1] + [1] * (X.rank - 1 - axis)), fill, y)
        return y if y.dtype == X.dtype else op.Cast(y, to=X.dtype)


def axes_of(node):
    """The axes that scales, sizes and roi speak of, in their order."""
    rank = node.inputs[0].rank
    return [a % rank for a in node.given.get("axes") or range(rank)]


def resized(node):
    """The axes that may change."""
    known = given_of(node, 2)
    scales = None if known is None else known.constant
    before, after = node.inputs[0].shape, node.outputs[0].shape
    found = []
    for position, axis in enumerate(axes_of(node)):
        same = before[axis] is not None and before[axis] == after[axis]
        ones = scales is not None and scales[position] == 1
        crops = node.attributes["coordinate_transformation_mode"] == "tf_crop_and_resize" and before[axis] != 1
        if not (ones or (same and (known is None or before[axis] == 1))) or (crops and axis > 1):
            found.append(axis)
    return found


def given_of(node, position):
    """An input that is there and not empty."""
    value = node.inputs[position] if len(node.inputs) > position else None
    return None if value is None or value.dims == (0,) else value


def scale_of(op, node, axis):
    """The factor of one axis: a number where it is known, otherwise a value of one element."""
    axes, before, after = axes_of(node), node.inputs[0].shape, node.outputs[0].shape
    scales, sizes, policy = given_of(node, 2), given_of(node, 3), node.attributes.get("keep_aspect_ratio_policy")
    if scales is not None:
        at = axes.index(axis)
        return float(scales.constant[at]) if scales.constant is not None else op.Gather(scales, np.array([at]))
    if policy in (None, "stretch"):
        return after[axis] / before[axis]
    choose = min if policy == "not_larger" else max
    if sizes.constant is not None:
        return float(choose(int(s) / before[a] for s, a in zip(sizes.constant, axes, strict=True)))
    ratios = op.Div(op.Cast(sizes, to=np.float32), np.array([before[a] for a in axes], np.float32))
    return op.call("ReduceMin" if choose is min else "ReduceMax", ratios, [0], keepdims=1)


def roi_of(op, node, axis):
    """Begin and end of the cropped region along one axis."""
    roi, axes = given_of(node, 1), axes_of(node)
    require(roi is not None, "tf_crop_and_resize needs a region")
    positions = (axes.index(axis), axes.index(axis) + len(axes))
    if roi.constant is not None:
        return [float(roi.constant[p]) for p in positions]
    return [op.Gather(roi, np.array([p])) for p in positions]
