"""The matrices that resize one axis: a row of weights over the input's elements for each output element."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewrites.builder import Builder
from rewrites.graph import Node, Value

_ROUNDINGS = {
    "round_prefer_floor": ("Ceil", -0.5),
    "round_prefer_ceil": ("Floor", 0.5),
    "floor": ("Floor", 0.0),
    "ceil": ("Ceil", 0.0),
}


@dataclass(frozen=True)
class Axis:
    """How one axis is resized; the attributes are those of ONNX's Resize."""

    before: int
    after: int
    mode: str
    coordinates: str
    nearest: str
    cubic: float
    antialias: bool
    exclude_outside: bool

    @classmethod
    def of(cls, node: Node, axis: int) -> Axis:
        """Read a Resize node whose axis is static."""
        known = node.attributes
        source, target = node.inputs[0], node.outputs[0]
        assert source is not None and target is not None
        return cls(
            source.shape[axis],
            target.shape[axis],
            known["mode"],
            known["coordinate_transformation_mode"],
            known["nearest_mode"],
            float(known["cubic_coeff_a"]),
            bool(known.get("antialias")),
            bool(known["exclude_outside"]),
        )

    @property
    def crops(self) -> bool:
        return self.coordinates == "tf_crop_and_resize"

    @property
    def margin(self) -> int:
        """How many columns beyond either end the weights may reach."""
        support = 2 if self.mode == "cubic" else 1
        return 2 + math.ceil(support * (1 + (self.before / self.after if self.antialias else 1)))


def positions(op: Builder, scale: Value, begin: Value | None, end: Value | None, axis: Axis) -> Value:
    """Where in the input each output element is taken from, shape [after, 1]."""
    y = op.constant(np.arange(axis.after, dtype=np.float64)[:, None], scale.dtype)
    if axis.crops:
        assert begin is not None and end is not None
        span, steps = op.Sub(end, begin), max(axis.after - 1, 1)
        moved = op.Mul(op.Mul(y, span), (axis.before - 1) / steps)
        moved = moved if axis.after > 1 else op.Mul(span, (axis.before - 1) / 2)
        return op.Add(moved, op.Mul(begin, float(axis.before - 1)))  # type: ignore[no-any-return]
    if axis.after == 1 and axis.coordinates in ("align_corners", "pytorch_half_pixel"):
        return op.Mul(y, 0.0)  # type: ignore[no-any-return]
    if axis.coordinates == "align_corners":
        return op.Div(op.Mul(y, axis.before - 1.0), op.Sub(op.Mul(scale, float(axis.before)), 1.0))  # type: ignore[no-any-return]
    if axis.coordinates == "asymmetric":
        return op.Div(y, scale)  # type: ignore[no-any-return]
    x = op.Sub(op.Div(op.Add(y, 0.5), scale), 0.5)
    if axis.coordinates == "half_pixel_symmetric":
        adjustment = op.Div(float(axis.after), op.Mul(scale, float(axis.before)))
        return op.Add(op.Mul(op.Sub(1.0, adjustment), axis.before / 2), x)  # type: ignore[no-any-return]
    return x  # type: ignore[no-any-return]


def outside(op: Builder, begin: Value, end: Value, axis: Axis) -> Value:
    """1 where tf_crop_and_resize takes the extrapolation value, 0 elsewhere; shape [after, 1]."""
    x = positions(op, begin, begin, end, axis)
    found = op.Or(op.Less(x, 0.0), op.Greater(x, axis.before - 1.0))
    return op.Cast(found, to=begin.dtype)  # type: ignore[no-any-return]


def matrix(op: Builder, scale: Value, begin: Value | None = None, end: Value | None = None, *, axis: Axis) -> Value:
    """The weights, shape [after, before].

    Args:
        scale: the axis' factor, one element.
        begin, end: the region, for tf_crop_and_resize.
        axis: what is resized.
    """
    x = positions(op, scale, begin, end, axis)
    if axis.mode == "nearest":
        function, shift = _ROUNDINGS[axis.nearest]
        chosen = op.Clip(op.call(function, op.Add(x, shift)), 0.0, axis.before - 1.0)
        return op.Cast(op.Equal(chosen, op.constant(_columns(axis, 0)[None], scale.dtype)), to=scale.dtype)  # type: ignore[no-any-return]
    margin = 0 if axis.exclude_outside else axis.margin
    x = op.Clip(x, -2.0, axis.before + 1.0)
    distance = op.Abs(op.Sub(x, op.constant(_columns(axis, margin)[None], scale.dtype)))
    if axis.antialias:
        distance = op.Mul(distance, op.Min(scale, 1.0))
    weights = _cubic(op, distance, axis.cubic) if axis.mode == "cubic" else op.Max(op.Sub(1.0, distance), 0.0)
    if axis.antialias or axis.exclude_outside:
        weights = op.Div(weights, op.ReduceSum(weights, [1], keepdims=1))
    return op.MatMul(weights, op.constant(_folded(axis, margin), scale.dtype)) if margin else weights


def _columns(axis: Axis, margin: int) -> np.ndarray[Any, Any]:
    return np.arange(-margin, axis.before + margin, dtype=np.float64)


def _folded(axis: Axis, margin: int) -> np.ndarray[Any, Any]:
    """Adds the columns beyond the ends to those at the ends, shape [before + 2 * margin, before]."""
    clipped = np.clip(_columns(axis, margin), 0, axis.before - 1)
    return np.asarray(clipped[:, None] == np.arange(axis.before), np.float64)


def _cubic(op: Builder, d: Value, a: float) -> Value:
    """The cubic convolution kernel of a distance."""
    near = op.Add(op.Mul(op.Mul(op.Sub(op.Mul(d, a + 2), a + 3), d), d), 1.0)
    far = op.Sub(op.Mul(op.Add(op.Mul(op.Sub(op.Mul(d, a), 5 * a), d), 8 * a), d), 4 * a)
    return op.Where(op.LessOrEqual(d, 1.0), near, op.Where(op.Less(d, 2.0), far, op.Mul(d, 0.0)))  # type: ignore[no-any-return]


def apply_along(op: Builder, weights: Any, x: Value, axis: int) -> Value:
    """Multiply one axis by a matrix [after, before]."""
    if axis == x.rank - 2:
        return op.MatMul(weights, x)  # type: ignore[no-any-return]
    turned = weights.T if isinstance(weights, np.ndarray) else op.Transpose(weights, perm=[1, 0])
    if axis == x.rank - 1:
        return op.MatMul(x, turned)  # type: ignore[no-any-return]
    order = list(range(x.rank))
    order[axis], order[-1] = order[-1], order[axis]
    return op.Transpose(op.MatMul(op.Transpose(x, perm=order), turned), perm=order)  # type: ignore[no-any-return]
