"""Symbolic shapes: the dimensions that a tensor of sizes holds, when it is computed from shapes of other values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from rewrites.infer import Dims, Typed

if TYPE_CHECKING:
    from rewrites.graph import Editor

_DEEPEST = 20
_PASSED_ON = frozenset(["Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape"])
_TARGETS = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}


def sizes_in(tensor: gs.Tensor, editor: Editor, depth: int = 0) -> Dims | None:
    """The sizes that an integer tensor of at most one axis holds: ints, names of axes, None; None when not known.

    Looks through Shape, Gather, Slice, Concat and what only changes rank or type.
    """
    value = editor.constant(tensor)
    if value is not None:
        return tuple(int(v) for v in value.ravel()) if value.dtype.kind in "iu" and value.ndim < 2 else None
    node = editor.producer(tensor)
    if node is None or depth > _DEEPEST or node.domain not in (None, "", "ai.onnx") or not node.inputs:
        return None
    source = node.inputs[0]
    if node.op == "Shape":
        dims = None if source.shape is None else tuple(_named(d) for d in source.shape)
        return dims if dims is None else dims[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))]
    if node.op == "Concat":
        parts = [sizes_in(t, editor, depth + 1) for t in node.inputs]
        return None if any(p is None for p in parts) else tuple(d for p in parts if p for d in p)
    if node.op in _PASSED_ON:
        return sizes_in(source, editor, depth + 1)
    return _chosen(node, sizes_in(source, editor, depth + 1), editor) if node.op in ("Gather", "Slice") else None


def _named(dim: Any) -> int | str | None:
    return int(dim) if isinstance(dim, (int, np.integer)) else dim or None


def _chosen(node: gs.Node, sizes: Dims | None, editor: Editor) -> Dims | None:
    """What Gather or Slice takes of the sizes."""
    numbers = [editor.constant(t) for t in node.inputs[1:]]
    if sizes is None or any(n is None for n in numbers):
        return None
    found = [np.ravel(n).tolist() for n in numbers if n is not None]
    if node.op == "Gather":
        return tuple(sizes[i] for i in found[0])
    if any(len(n) != 1 for n in found):
        return None
    return sizes[found[0][0] : found[1][0] : found[3][0] if len(found) > 3 else 1]


def refine(node: gs.Node, typed: list[Typed], editor: Editor) -> list[Typed]:
    """The output types of a node, with the dimensions that only its shape input's symbols tell."""
    position = _TARGETS.get(node.op)
    if position is None or node.domain not in (None, "", "ai.onnx") or position >= len(node.inputs):
        return typed
    dtype, known = typed[0]
    if known is not None and all(d is not None for d in known):
        return typed
    wanted = sizes_in(node.inputs[position], editor)
    if wanted is None or (known is not None and len(known) != len(wanted)):
        return typed
    dims = [_wanted(node, i, d) for i, d in enumerate(wanted)]
    return [(dtype, tuple(k if k is not None else d for k, d in zip(known or dims, dims, strict=True))), *typed[1:]]


def _wanted(node: gs.Node, axis: int, dim: int | str | None) -> int | str | None:
    """One dimension of the result: Reshape copies where it is told 0, and finds out where told -1."""
    if not isinstance(dim, int):
        return None if node.op == "Expand" else dim  # a symbol may be 1, and then the input's size counts
    if node.op == "Reshape" and dim == 0 and not node.attrs.get("allowzero", 0):
        source = node.inputs[0].shape
        return None if source is None or axis >= len(source) else _named(source[axis])
    return dim if dim >= 0 else None
