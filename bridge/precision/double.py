"""Computing float64 as float32, for compilers that have no float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from bridge.precision.types import bodies

_DOUBLE, _FLOAT = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


def truncate(graph: gs.Graph) -> int:
    """Makes every float64 tensor of a graph and its bodies float32, in place: inputs, outputs, weights, casts.

    Returns:
        How many tensors changed.
    """
    changed = sum(_truncate_tensor(tensor) for tensor in (*graph.tensors().values(), *graph.inputs, *graph.outputs))
    for node in graph.nodes:
        for name, value in node.attrs.items():
            if name in _TYPE_ATTRIBUTES and value in (_DOUBLE, np.float64):
                node.attrs[name] = _FLOAT if isinstance(value, int) else np.float32
            elif isinstance(value, gs.Tensor):
                changed += _truncate_tensor(value)
        changed += sum(truncate(body) for body in bodies(node))
    return changed


def _truncate_tensor(tensor: gs.Tensor) -> int:
    if tensor.dtype is None or np.dtype(tensor.dtype) != np.float64:
        return 0
    if isinstance(tensor, gs.Constant):
        tensor.values = tensor.values.astype(np.float32)
    else:
        tensor.dtype = np.dtype(np.float32)
    return 1
