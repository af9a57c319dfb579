"""Export of one segment: TorchScript function to ONNX to an editable graph over the module's own weights."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch

from bridge import torch_private as tp
from bridge.export.folding import fold_constants
from bridge.export.function import Function
from bridge.export.numbers import keep_conversions
from bridge.export.symbolics import TYPES, Symbolics
from bridge.export.wrong import is_wrong
from bridge.frontend.program import Program
from bridge.frontend.provenance import METADATA, TAG, onnx_name
from bridge.runtime.dtypes import ONNX_NUMBERS
from rewrites.mending import mend_casts

_LOG = logging.getLogger("bridge.export")
OPSET = 18


@dataclass
class Exported:
    """An ONNX graph with what is known of its nodes.

    Attributes:
        graph: weights are constants over the module's own memory; every node's name ends in its identity.
        reasons: why the exporter did not translate a node that stands for its operator, by identity.
    """

    graph: gs.Graph
    reasons: dict[int, str] = field(default_factory=dict)


class ExporterCrash(Exception):
    """The exporter gave up on a whole segment.

    Attributes:
        identity: the last node that it looked at, if any.
    """

    def __init__(self, message: str, identity: int | None) -> None:
        super().__init__(message)
        self.identity = identity


def export(
    function: Function,
    program: Program,
    input_names: list[str],
    output_names: list[str],
    symbols: dict[str, dict[int, str]],
    as_themselves: Collection[int] = (),
) -> Exported:
    """Exports a function.

    Args:
        input_names: of the tensors among the function's inputs; weights follow under their own names.
        symbols: names of dynamic dimensions: input name -> axis -> name.
        as_themselves: nodes, by identity, at which the exporter breaks: exported as the operators that they are.

    Raises:
        ExporterCrash: the exporter failed outside any one operator.
    """
    symbolics = Symbolics(
        function.nodes, program.facts, OPSET, lambda node: node.i(TAG) in as_themselves or is_wrong(node, program.facts)
    )
    names = [*input_names, *(f"weight_{i}" for i in range(len(function.weights)))]
    keep_conversions(function.graph)
    try:
        proto = tp.export_graph(function.graph, names, output_names, symbols, OPSET, symbolics)
    except Exception as error:
        raise ExporterCrash(str(error).strip() or type(error).__name__, symbolics.last) from error
    graph = _import(proto, program)
    _attach_weights(graph, dict(zip(names[len(input_names) :], function.weights.items(), strict=True)))
    return Exported(graph, symbolics.reasons)


def _import(proto: bytes, program: Program) -> gs.Graph:
    model = onnx.ModelProto.FromString(proto)
    mend_casts(model.graph)
    _name_nodes(model.graph, program)  # first: with the attributes still there, shape inference goes wrong at Slice
    for body in _bodies(model.graph):
        fold_constants(body, OPSET)
        _tell_types(body)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, program.provenance.to_json()
    return gs.import_onnx(model)


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _bodies(attribute.g)


def _tell_types(graph: onnx.GraphProto) -> None:
    """Writes what PyTorch says of the values around operators that ONNX does not know, for its shape inference.

    Of what other nodes make it tells sizes only: their dtypes ONNX knows.
    """
    told = {value.name for value in (*graph.value_info, *graph.output) if value.type.tensor_type.elem_type}
    untold = {name for node in graph.node for name in node.output} - told
    for node in graph.node:
        for name, dtype, dims in _take_types(node):
            if name in untold:
                untold.remove(name)
                graph.value_info.append(onnx.helper.make_tensor_value_info(name, dtype, dims))


def _take_types(node: onnx.NodeProto) -> Iterator[tuple[str, int, Sequence[int | None]]]:
    for position, attribute in enumerate(node.attribute):
        if attribute.name == TYPES:
            known = json.loads(attribute.s)
            del node.attribute[position]
            for name, kind in zip(node.input, known["inputs"], strict=False):
                if kind is not None:
                    yield name, onnx.TensorProto.UNDEFINED, kind[1]
            for name, kind in zip(node.output, known["outputs"], strict=False):
                if kind is not None and kind[0] in ONNX_NUMBERS:
                    yield name, ONNX_NUMBERS[kind[0]], kind[1]
            return


def _name_nodes(graph: onnx.GraphProto, program: Program, counts: dict[str, int] | None = None) -> None:
    """Moves identities from attributes into names; a node without one takes that of the node it feeds."""
    identities = [_take_identity(node) for node in graph.node]
    wanted: dict[str, int] = {}
    for node, identity in reversed(list(zip(graph.node, identities, strict=True))):
        if identity is None:
            identity = next((wanted[output] for output in node.output if output in wanted), None)
        if identity is not None:
            for name in _reads(node):
                wanted[name] = identity
    made: dict[str, int] = {}
    counts = {} if counts is None else counts
    for node, identity in zip(graph.node, identities, strict=True):
        if identity is None:
            identity = next(
                (wanted[o] for o in node.output if o in wanted), next((made[i] for i in node.input if i in made), None)
            )
        if identity is not None:
            made.update(dict.fromkeys(node.output, identity))
        node.name = _unique(_name(node, identity, program), counts)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _name_nodes(attribute.g, program, counts)


def _reads(node: onnx.NodeProto) -> list[str]:
    inner = [
        name
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.GRAPH
        for n in attribute.g.node
        for name in _reads(n)
    ]
    return [*node.input, *inner]


def _take_identity(node: onnx.NodeProto) -> int | None:
    for position, attribute in enumerate(node.attribute):
        if attribute.name == TAG:
            identity = attribute.i
            del node.attribute[position]
            return int(identity)
    return None


def _name(node: onnx.NodeProto, identity: int | None, program: Program) -> str:
    origin = f"{onnx_name(program.provenance[identity], identity)}" if identity is not None else "main"
    return f"{origin}/{node.op_type}"


def _unique(name: str, counts: dict[str, int]) -> str:
    counts[name] = counts.get(name, -1) + 1
    return f"{name}_{counts[name]}" if counts[name] else name


def _attach_weights(graph: gs.Graph, weights: dict[str, tuple[str, torch.Tensor]]) -> None:
    """Makes inputs that stand for weights constants under the weights' names, where no other value has that name."""
    taken, kept = _value_names(graph), []
    for tensor in graph.inputs:
        if tensor.name not in weights:
            kept.append(tensor)
            continue
        name, value = weights[tensor.name]
        tensor.to_constant(as_array(value))
        tensor.name = next(free for i in count() if (free := f"{name}.{i}" if i else name) not in taken)
        taken.add(tensor.name)
    graph.inputs = kept


def _value_names(graph: gs.Graph) -> set[str]:
    """The names of all values, also in the bodies of control flow, which would hide an outer value of that name."""
    return {
        tensor.name
        for body in [graph, *graph.subgraphs(recursive=True)]
        for tensor in [*body.inputs, *body.outputs, *(t for node in body.nodes for t in (*node.inputs, *node.outputs))]
    }


def as_array(tensor: torch.Tensor) -> Any:
    """A tensor's memory as a numpy array; copied only from another device or when not contiguous."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    array: np.ndarray[Any, Any] = tensor.numpy()
    return array


def onnx_identifier(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z_.]", "_", name)
