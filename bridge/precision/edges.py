"""Inputs in half precision where the caller has them so."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs
import torch

from bridge.precision.types import ELEMENT_TYPES, FLOAT, NUMPY_TYPES, element_type


def narrow_inputs(graph: gs.Graph, dtypes: Mapping[str, torch.dtype]) -> None:
    """FP32 input -> input of half precision, cast to FP32 for what computes in it.

    The casts that typing put behind an input fall away where they lead to the type that it now has.

    Args:
        graph: typed already.
        dtypes: ``torch.float16`` or ``torch.bfloat16`` by the name of an input; only FP32 ones change.
    """
    for index, tensor in enumerate(graph.inputs):
        if tensor.name in dtypes and tensor.dtype == NUMPY_TYPES[FLOAT]:
            graph.inputs[index] = _narrowed(graph, tensor, ELEMENT_TYPES[dtypes[tensor.name]])


def _narrowed(graph: gs.Graph, tensor: gs.Variable, kind: int) -> gs.Variable:
    given = gs.Variable(tensor.name, NUMPY_TYPES[kind], tensor.shape)
    tensor.name = _new_name(graph, f"{tensor.name}_float32")
    pinned = {id(output) for holder in (graph, *graph.subgraphs(recursive=True)) for output in holder.outputs}
    for node in list(tensor.outputs):
        if node.op == "Cast" and element_type(node.attrs["to"]) == kind:
            _bypass(graph, node, given, pinned)
    if tensor.outputs or id(tensor) in pinned:
        graph.nodes.insert(0, gs.Node("Cast", f"{given.name}/cast/Cast", {"to": FLOAT}, [given], [tensor]))
    return given


def _bypass(graph: gs.Graph, cast: gs.Node, given: gs.Variable, pinned: set[int]) -> None:
    """Lets everything read ``given`` in the place of what the cast makes of it."""
    made = cast.outputs[0]
    for node in list(made.outputs):
        for index, tensor in enumerate(node.inputs):
            if tensor is made:
                node.inputs[index] = given
    if id(made) in pinned:
        cast.op, cast.attrs, cast.inputs[0] = "Identity", {}, given
    else:
        cast.inputs.clear()
        graph.nodes[:] = [node for node in graph.nodes if node is not cast]


def _new_name(graph: gs.Graph, wanted: str) -> str:
    taken = graph.tensors()
    name, count = wanted, 1
    while name in taken:
        name, count = f"{wanted}_{count}", count + 1
    return name
