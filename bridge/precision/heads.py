"""Classification heads of graphs that are in half precision already."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bridge.precision.policy import final_layers
from bridge.precision.types import FLOAT, HALVES, NUMPY_TYPES, infer

_LARGEST = 4 << 20


def widen_heads(graph: gs.Graph) -> list[str]:
    """Gemm or MatMul of matrices in sixteen bits, the last one of its path -> the same in FP32 between casts.

    TensorRT adds the products of a matrix multiplication in sixteen bits up in sixteen bits, eager PyTorch in FP32: a
    ResNet-50's head, over 2,048 features, errs by six times as much as eager then. Layers whose results
    are added up again round anyhow; the last one's error is the model's. Only weights of up to 4 Mi elements: more take
    time.

    Args:
        graph: typed already; changed in place.

    Returns:
        The names of the nodes.
    """
    types, is_final = infer(graph), final_layers(graph)
    made: list[gs.Node] = []
    widened = []
    for node in graph.nodes:
        if node.op in ("Gemm", "MatMul") and not node.domain and is_final(node) and _is_head(node, types):
            made += _widened(node, types[id(node.outputs[0])])
            widened.append(node.name)
        else:
            made.append(node)
    graph.nodes[:] = made
    return widened


def _is_head(node: gs.Node, types: dict[int, int]) -> bool:
    given, weight = node.inputs[:2]
    shape = given.shape if node.op == "MatMul" else (0, 0)
    return (
        isinstance(weight, gs.Constant)
        and weight.values.ndim == 2
        and weight.values.size <= _LARGEST
        and shape is not None
        and len(shape) == 2
        and types[id(node.outputs[0])] in HALVES
    )


def _widened(node: gs.Node, kind: int) -> list[gs.Node]:
    """The node in FP32, behind the casts of what it reads and before the cast of what it gives."""
    casts = []
    for index, tensor in enumerate(node.inputs):
        if not tensor.name:
            continue
        name = f"{tensor.name}_float32_{node.name}"
        if isinstance(tensor, gs.Constant):
            node.inputs[index] = gs.Constant(name, tensor.values.astype(np.float32))
        else:
            node.inputs[index] = gs.Variable(name, NUMPY_TYPES[FLOAT], tensor.shape)
            casts.append(gs.Node("Cast", f"{name}/Cast", {"to": FLOAT}, [tensor], [node.inputs[index]]))
    result = node.outputs[0]
    wide = gs.Variable(f"{result.name}_float32", NUMPY_TYPES[FLOAT], result.shape)
    node.outputs[0] = wide
    return [*casts, node, gs.Node("Cast", f"{wide.name}/Cast", {"to": kind}, [wide], [result])]
