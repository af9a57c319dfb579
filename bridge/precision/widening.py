"""Single operators in FP32 between tensors of sixteen bits."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bridge.precision.operators import REFUSED_BY_TENSORRT
from bridge.precision.types import FLOAT, HALVES, NUMPY_TYPES, UNKNOWN, infer


def widen_refused(graph: gs.Graph) -> list[str]:
    """What TensorRT does not take in BF16 -> the same in FP32 between casts, in the graph and its bodies.

    Args:
        graph: typed already; changed in place.

    Returns:
        The names of the nodes.
    """
    types, done = infer(graph), list[str]()
    for holder in (graph, *graph.subgraphs(recursive=True)):
        made: list[gs.Node] = []
        for node in holder.nodes:
            kinds = {types.get(id(tensor), UNKNOWN) for tensor in node.inputs if tensor.name}
            if not node.domain and any(node.op in REFUSED_BY_TENSORRT.get(kind, ()) for kind in kinds):
                made += widened(node, types)
                done.append(node.name)
            else:
                made.append(node)
        holder.nodes[:] = made
    return done


def widened(node: gs.Node, types: dict[int, int]) -> list[gs.Node]:
    """The node in FP32, behind the casts of what it reads and before the casts of what it gives.

    Args:
        node: changed in place; its constants become others, of FP32.
        types: element types by ``id`` of a tensor, as `infer` finds them.
    """
    before, behind = [], []
    for index, tensor in enumerate(node.inputs):
        if not tensor.name or types.get(id(tensor)) not in HALVES:
            continue
        name = f"{tensor.name}_float32_{node.name}"
        if isinstance(tensor, gs.Constant):
            node.inputs[index] = gs.Constant(name, tensor.values.astype(np.float32))
        else:
            node.inputs[index] = gs.Variable(name, NUMPY_TYPES[FLOAT], tensor.shape)
            before.append(gs.Node("Cast", f"{name}/Cast", {"to": FLOAT}, [tensor], [node.inputs[index]]))
    for index, result in enumerate(list(node.outputs)):
        kind = types.get(id(result), UNKNOWN)
        if result.name and kind in HALVES:
            wide = gs.Variable(f"{result.name}_float32", NUMPY_TYPES[FLOAT], result.shape)
            node.outputs[index] = wide
            behind.append(gs.Node("Cast", f"{wide.name}/Cast", {"to": kind}, [wide], [result]))
    return [*before, node, *behind]
