"""BF16 at the edges of an ONNX graph: ONNX Runtime takes and gives it only in tensors that NumPy has no word for."""

from __future__ import annotations

import onnx

from bridge.backends.element_types import element_types

WIDE = "/float32"


def widen_edges(model: onnx.ModelProto) -> None:
    """Makes BF16 inputs and outputs FP32, in place: they get a cast, and `WIDE` behind their names."""
    types = element_types(model)
    before = [_widened(value, types, incoming=True) for value in model.graph.input]
    after = [_widened(value, types, incoming=False) for value in model.graph.output]
    nodes = [*filter(None, before), *model.graph.node, *filter(None, after)]
    if len(nodes) > len(model.graph.node):
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _widened(value: onnx.ValueInfoProto, types: dict[str, int], *, incoming: bool) -> onnx.NodeProto | None:
    name = value.name
    if types.get(name) != onnx.TensorProto.BFLOAT16:
        return None
    value.name = name + WIDE
    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    source, target = (value.name, name) if incoming else (name, value.name)
    kind = onnx.TensorProto.BFLOAT16 if incoming else onnx.TensorProto.FLOAT
    return onnx.helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=kind)
