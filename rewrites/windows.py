"""Sliding windows of pooling and convolution nodes: their sizes, and their elements as shifted slices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewrites.builder import Builder
from rewrites.graph import Node, Value

_GEOMETRY = ("pads", "ceil_mode", "auto_pad")
_LAST = 2**31 - 1


def kept_attributes(node: Node, without: Sequence[str] = ()) -> dict[str, Any]:
    """The node's attributes but those that say how it is padded, and those named."""
    return {k: v for k, v in node.given.items() if k not in (*_GEOMETRY, *without)}


@dataclass(frozen=True)
class Windows:
    """The windows over the spatial axes (those after batch and channels) of one node.

    Attributes:
        sizes: of the input's spatial axes; None where dynamic.
        kernel, strides, dilations: one entry an axis.
        pads: begins, then ends.
        ceil: whether a last window may reach past the end.
    """

    sizes: list[int | None]
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    ceil: bool

    @classmethod
    def of(cls, node: Node) -> Windows:
        """Read a pooling node with explicit padding."""
        value, given = node.inputs[0], node.given
        assert value is not None
        kernel = list(given["kernel_shape"])
        ones, zeros = [1] * len(kernel), [0] * (2 * len(kernel))
        sizes = [d if isinstance(d, int) else None for d in value.shape[2:]]
        strides, dilations = list(given.get("strides", ones)), list(given.get("dilations", ones))
        return cls(sizes, kernel, strides, dilations, list(given.get("pads", zeros)), bool(given.get("ceil_mode")))

    def reach(self, axis: int) -> int:
        """How many elements a window spans."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def count(self, axis: int) -> int:
        """How many windows a static axis has; one that would begin past the end of the input is none."""
        size, stride = self.sizes[axis], self.strides[axis]
        assert size is not None
        begin, end = self.pads[axis], self.pads[axis + len(self.kernel)]
        room = size + begin + end - self.reach(axis)
        count = (-(-room // stride) if self.ceil else room // stride) + 1
        return count - 1 if self.ceil and (count - 1) * stride >= size + begin else count

    def covering_pads(self) -> list[int]:
        """Pads that give the same number of windows without ceil mode."""
        if not self.ceil:
            return self.pads
        begins, ends = self.pads[: len(self.kernel)], []
        for axis, begin in enumerate(begins):
            size = self.sizes[axis]
            assert size is not None
            ends.append(max(0, (self.count(axis) - 1) * self.strides[axis] + self.reach(axis) - size - begin))
        return [*begins, *ends]

    def pad(self, op: Builder, x: Value, fill: float) -> Value:
        """The input with its padding."""
        pads, n = self.covering_pads(), len(self.kernel)
        if not any(pads):
            return x
        return op.Pad(x, [0, 0, *pads[:n], 0, 0, *pads[n:]], np.array(fill, x.dtype))  # type: ignore[no-any-return]

    def slices(self, op: Builder, padded: Value, axis: int) -> list[Value]:
        """For each place in the window, that element of every window along one axis."""
        found = []
        for place in range(self.kernel[axis]):
            start = place * self.dilations[axis]
            end = start - self.reach(axis) + 1 or _LAST
            found.append(op.Slice(padded, [start], [end], [axis + 2], [self.strides[axis]]))
        return found

    def reduce(self, op: Builder, padded: Value, operator: str) -> Value:
        """Combine all elements of every window by a binary operator, one axis after the other."""
        for axis in range(len(self.kernel)):
            total, *rest = self.slices(op, padded, axis)
            for value in rest:
                total = op.call(operator, total, value)
            padded = total
        return padded

    def stack(self, op: Builder, padded: Value) -> Value:
        """All elements of every window, row-major, on a new axis 2."""
        values = [padded]
        for axis in range(len(self.kernel)):
            values = [v for value in values for v in self.slices(op, value, axis)]
        return op.Concat(*(op.Unsqueeze(v, [2]) for v in values), axis=2)  # type: ignore[no-any-return]

    def places(self, storage_order: int) -> np.ndarray[Any, Any]:
        """The index within a channel of every element of every window, as `stack` orders them; 2**31 - 1 in pads."""
        axes = [self._positions(axis) for axis in range(len(self.kernel))]
        sizes = np.array([s or 0 for s in self.sizes])
        strides = [int(np.prod(sizes[:i] if storage_order else sizes[i + 1 :])) for i in range(len(sizes))]
        rows = []
        for place in itertools.product(*(range(k) for k in self.kernel)):
            grids = np.meshgrid(*(a[p] for a, p in zip(axes, place, strict=True)), indexing="ij")
            inside = np.all([(g >= 0) & (g < n) for g, n in zip(grids, sizes, strict=True)], axis=0)
            flat = np.sum([g * s for g, s in zip(grids, strides, strict=True)], axis=0)
            rows.append(np.where(inside, flat, _LAST))
        return np.stack(rows).astype(np.int64)

    def counts(self, include_pads: bool) -> np.ndarray[Any, Any]:
        """How many elements of the input (or of it and its given padding) every window holds."""
        if None in self.sizes:
            return np.array(float(np.prod(self.kernel)))
        total = np.ones(())
        for axis, size in enumerate(self.sizes):
            assert size is not None
            begin, end = self.pads[axis], self.pads[axis + len(self.kernel)]
            first, last = (-begin, size + end) if include_pads else (0, size)
            positions = self._positions(axis)
            total = np.multiply.outer(total, ((positions >= first) & (positions < last)).sum(0))
        return total

    def _positions(self, axis: int) -> np.ndarray[Any, Any]:
        """Where in the input the elements of the windows of a static axis stand, shape [kernel, windows]."""
        starts = np.arange(self.count(axis)) * self.strides[axis] - self.pads[axis]
        return starts + np.arange(self.kernel[axis])[:, None] * self.dilations[axis]
