"""What follows from constants alone, computed once: exporters leave the arithmetic of paddings and bounds in graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from rewrites.folding import FOLDABLE, evaluate

Array = npt.NDArray[np.generic]
_LARGEST = 1 << 16


def fold_constants(graph: onnx.GraphProto, opset: int) -> None:
    """Replaces tensors that follow from small constants by their values; shape inference knows them then.

    Weights, which are inputs at this time, are left as they are; so are results of the graph, which nodes must make,
    and all of more than 65,536 elements.

    Args:
        graph: topologically sorted; changed in place.
        opset: of ONNX's own operators in it.
    """
    known = {made.name: numpy_helper.to_array(made) for made in graph.initializer if _count(made.dims) <= _LARGEST}
    results = {value.name for value in graph.output}
    kept, made = [], []
    for node in graph.node:
        if node.op_type == "Constant":
            known |= _written(node)
        elif not results.intersection(node.output) and (result := _computed(node, known, opset)) is not None:
            known[node.output[0]] = result
            made.append(numpy_helper.from_array(result, node.output[0]))
            continue
        kept.append(node)
    if made:
        del graph.node[:]
        graph.node.extend(kept)
        graph.initializer.extend(made)


def _written(constant: onnx.NodeProto) -> dict[str, Array]:
    """The small tensor that a Constant holds, by its name."""
    for item in constant.attribute:
        if item.name == "value" and _count(item.t.dims) <= _LARGEST:
            return {constant.output[0]: numpy_helper.to_array(item.t)}
    return {}


def _computed(node: onnx.NodeProto, known: Mapping[str, Array], opset: int) -> Array | None:
    """What a node gives; None where that is not known, or large."""
    names = [name for name in node.input if name]
    if node.domain or node.op_type not in FOLDABLE or len(node.output) != 1 or any(name not in known for name in names):
        return None
    if _size(node.op_type, [known[name] for name in names]) > _LARGEST:
        return None
    result = evaluate(node, {name: known[name] for name in names}, opset)
    return result if result is not None and result.size <= _LARGEST else None


def _size(op: str, values: list[Array]) -> int:
    """At most how many elements an operator gives that may give more than it takes."""
    if op == "ConstantOfShape":
        return _count(values[0].ravel())
    if op in ("Expand", "Tile"):
        return values[0].size * _count(values[1].ravel())
    return 0


def _count(sizes: Iterable[int]) -> int:
    return prod(int(size) for size in sizes)
