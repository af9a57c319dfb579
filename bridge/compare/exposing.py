"""Values inside the bodies of If and Loop, made results of the whole graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from bridge.backends.element_types import element_types
from rewrites.tidying import bodies

OUTSIDE = "/outside"


def expose(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A model in which those of the names that are made inside bodies leave them, and the new names by the old ones.

    A branch that is not taken gives an empty tensor in its place; the turns of a loop give theirs on a new first axis.
    The model itself comes back where nothing is inside a body.
    """
    made = {output for node in model.graph.node for output in node.output}
    inside = {output for node in model.graph.node for body in bodies(node) for output in _made(body)} - made
    wanted = [name for name in dict.fromkeys(names) if name in inside]
    if not wanted:
        return model, {}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    types = element_types(model)
    found: dict[str, str] = {}
    for name in wanted:
        if types.get(name):
            outside = _lifted(changed.graph, name, types[name])
            found.update({name: outside} if outside is not None and outside != name else {})
    return changed, found


def _made(graph: onnx.GraphProto) -> set[str]:
    own = {output for node in graph.node for output in node.output}
    return own.union(*(_made(body) for node in graph.node for body in bodies(node)))


def _lifted(graph: onnx.GraphProto, name: str, kind: int) -> str | None:
    """The value's name in this graph, of which it is made a value; None where that cannot be.

    The turns of a loop inside a branch, or of a loop in a loop, may differ in number: those are left out.
    """
    for node in graph.node:
        if name in node.output:
            return name
        for position, body in enumerate(bodies(node)):
            if name in {output for inner in body.node for output in inner.output}:
                return _through(node, position, name, kind)
            if name in _made(body):
                inner = _lifted(body, name, kind) if node.op_type == "If" else None
                return None if inner is None else _through(node, position, inner, kind)
    return None


def _through(node: onnx.NodeProto, position: int, name: str, kind: int) -> str | None:
    """Adds an output to a node for a value of the body in that position."""
    if node.op_type not in ("If", "Loop"):
        return None
    outside = name + OUTSIDE
    node.output.append(outside)
    for place, body in enumerate(bodies(node)):
        if place == position:
            made = onnx.helper.make_node("Identity", [name], [f"{outside}/given"])
        else:
            empty = onnx.TensorProto(data_type=kind, dims=[0], name=f"{outside}/given")
            made = onnx.helper.make_node("Constant", [], [f"{outside}/given"], value=empty)
        body.node.append(made)
        body.output.add(name=f"{outside}/given").type.tensor_type.elem_type = kind
    return outside
