"""Classification heads of graphs that are in half precision already."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bridge.precision.policy import final_layers
from bridge.precision.types import HALVES, declared, infer
from bridge.precision.widening import widened

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
    is_final, types = final_layers(graph), infer(graph)
    made: list[gs.Node] = []
    names = []
    for node in graph.nodes:
        if _is_head(node) and is_final(node):
            made += widened(node, types)
            names.append(node.name)
        else:
            made.append(node)
    graph.nodes[:] = made
    return names


def _is_head(node: gs.Node) -> bool:
    """Whether it multiplies a matrix by a small constant one in sixteen bits; what it gives has its weight's type."""
    if node.op not in ("Gemm", "MatMul") or node.domain or not isinstance(node.inputs[1], gs.Constant):
        return False
    given, weight = node.inputs[:2]
    is_matrix = node.op == "Gemm" or (given.shape is not None and len(given.shape) == 2)
    return is_matrix and len(weight.shape) == 2 and np.prod(weight.shape) <= _LARGEST and declared(weight) in HALVES
