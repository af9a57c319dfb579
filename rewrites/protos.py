"""Between graphsurgeon and protobuf, where graphsurgeon loses something: empty lists, types of no tensors, packing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues

from rewrites.schemas import schema_of

_PACKED = frozenset(["int4", "uint4", "int2", "uint2", "float4_e2m1fn"])
_Hidden = dict[int, dict[str, onnx.AttributeProto]]


def node_proto(node: gs.Node, opset: int) -> onnx.NodeProto:
    """The node as protobuf, its empty lists and those in its bodies included."""
    hidden = _hide([node], opset)
    try:
        proto: onnx.NodeProto = OnnxExporter.export_node(node)
        _show([node], [proto], hidden)
    finally:
        _restore([node], hidden)
    return proto


def model_proto(graph: gs.Graph) -> onnx.ModelProto:
    """The graph as a model, empty lists included; untyped values stay untyped."""
    _pack(graph)
    hidden = _hide(graph.nodes, graph.opset)
    try:
        with uncollected():
            model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
        _show(graph.nodes, model.graph.node, hidden)
    finally:
        _restore(graph.nodes, hidden)
    return model


def _pack(graph: gs.Graph) -> None:
    """Keep constants of less than a byte as protobuf packs them: graphsurgeon writes a byte an element."""
    for node in graph.nodes:
        for tensor in node.inputs:
            values = tensor._values if isinstance(tensor, gs.Constant) else None
            if isinstance(values, np.ndarray) and values.dtype.name in _PACKED:
                tensor._values = LazyValues(numpy_helper.from_array(values, tensor.name))
        for body in _bodies(node):
            _pack(body)


def _bodies(node: gs.Node) -> list[gs.Graph]:
    return [a for a in node.attrs.values() if isinstance(a, gs.Graph)] if node.attrs else []


def _hide(nodes: list[gs.Node], opset: int) -> _Hidden:
    """Take empty lists off the nodes: graphsurgeon raises on them, as their type is not to be seen."""
    hidden: _Hidden = {}
    for node in nodes:
        for name in [n for n, v in (node.attrs or {}).items() if isinstance(v, (list, tuple)) and not v]:
            del node.attrs[name]
            hidden.setdefault(id(node), {})[name] = _empty(node, name, opset)
        for body in _bodies(node):
            hidden |= _hide(body.nodes, opset)
    return hidden


def _empty(node: gs.Node, name: str, opset: int) -> onnx.AttributeProto:
    schema = schema_of(node.op, node.domain or "", opset)
    declared = schema.attributes.get(name) if schema else None
    kind: Any = onnx.AttributeProto.INTS if declared is None else declared.type
    return onnx.AttributeProto(name=name, type=kind)


def _show(nodes: list[gs.Node], protos: list[onnx.NodeProto], hidden: _Hidden) -> None:
    if not hidden:
        return
    for node, proto in zip(nodes, protos, strict=True):
        proto.attribute.extend(hidden.get(id(node), {}).values())
        for body, found in zip(_bodies(node), _graphs(proto), strict=True):
            _show(body.nodes, found.node, hidden)


def _graphs(proto: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in proto.attribute if a.type == onnx.AttributeProto.GRAPH]


def _restore(nodes: list[gs.Node], hidden: _Hidden) -> None:
    if not hidden:
        return
    for node in nodes:
        for name in hidden.get(id(node), {}):
            node.attrs[name] = []
        for body in _bodies(node):
            _restore(body.nodes, hidden)


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the garbage collector, whose work on ever more live objects makes reading large graphs quadratic."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def forget_strange_types(graph: onnx.GraphProto) -> None:
    """Clear the types that graphsurgeon cannot hold (optional, map, sparse, nested sequences), in place."""
    for info in _infos(graph):
        if not _held(info.type):
            info.ClearField("type")
    for node in graph.node:
        for body in _graphs(node):
            forget_strange_types(body)


def recall_strange_types(graph: onnx.GraphProto, original: onnx.GraphProto) -> None:
    """Give the graph's inputs and outputs the types that were forgotten, by name, in place."""
    typed = (i for i in (*original.input, *original.output) if i.type.WhichOneof("value") not in (None, "tensor_type"))
    known = {i.name: i.type for i in typed}
    for info in (*graph.input, *graph.output):
        if info.name in known:
            info.type.CopyFrom(known[info.name])


def _held(kind: onnx.TypeProto) -> bool:
    """Whether graphsurgeon can hold the type: tensors, and sequences of tensors."""
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return bool(kind.sequence_type.elem_type.WhichOneof("value") == "tensor_type")
    return which in (None, "tensor_type")


def _infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.output
    yield from graph.value_info
