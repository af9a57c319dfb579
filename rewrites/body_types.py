"""Types and shapes on both sides of the bodies of If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewrites.graph import Value
from rewrites.infer import Dims, Typed, numpy_type


def body_inputs(op_type: str, attributes: dict[str, Any], values: Sequence[Value | None]) -> list[Typed]:
    """The types of the inputs of an If's, a Loop's or a Scan's body from those of the node's."""
    if op_type == "If":
        return []
    typed: list[Typed] = [(v.known_dtype, v.dims) if v is not None else (None, None) for v in values]
    if op_type == "Loop":
        return [(np.dtype(np.int64), ()), (np.dtype(bool), ()), *typed[2:]]
    scanned = int(attributes["num_scan_inputs"])
    axes = attributes.get("scan_input_axes") or [0] * scanned
    return typed[: len(typed) - scanned] + [
        _without(t, a) for t, a in zip(typed[len(typed) - scanned :], axes, strict=False)
    ]


def _without(typed: Typed, axis: int) -> Typed:
    dims: Dims | None = typed[1]
    if dims is None:
        return typed
    axis %= len(dims)
    return typed[0], dims[:axis] + dims[axis + 1 :]


def body_outputs(
    op_type: str, attributes: dict[str, Any], outputs: list[Value], inputs: Sequence[Value | None]
) -> list[Typed]:
    """The types of a control flow node's outputs from those of its body."""
    typed: list[Typed] = [(numpy_type(v.tensor.dtype), v.dims) for v in outputs]
    if op_type == "If":
        return typed
    if op_type == "Loop":
        carried = len(inputs) - 2
        return typed[1 : 1 + carried] + [_with_axis(t, 0, None) for t in typed[1 + carried :]]
    carried = len(inputs) - int(attributes["num_scan_inputs"])
    first, axes = inputs[carried], attributes.get("scan_input_axes") or [0]
    length = first.dims[axes[0]] if first is not None and first.dims is not None else None
    places = attributes.get("scan_output_axes") or [0] * (len(typed) - carried)
    return typed[:carried] + [_with_axis(t, a, length) for t, a in zip(typed[carried:], places, strict=True)]


def _with_axis(typed: Typed, axis: int, size: int | str | None) -> Typed:
    dims: Dims | None = typed[1]
    if dims is None:
        return typed
    axis %= len(dims) + 1
    return typed[0], (*dims[:axis], size, *dims[axis:])
