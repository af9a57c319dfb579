"""Weights that are rounded to steps: PyTorch multiplies by the inverse of a step, where ONNX divides by the step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

Array = npt.NDArray[np.float32]


def put_on_steps(graph: gs.Graph) -> None:
    """Puts weights that QuantizeLinear would round to other steps than PyTorch on PyTorch's, where both leave them.

    A weight between two steps is rounded to one or to the other; the largest of a channel is such a weight where the
    step is the largest weight by 127.5, as PyTorch's observers have it. Other weights keep their memory.

    Args:
        graph: weights are constants in it.

    Source: PyTorch's `fake_quantize_core.cpp`.
    """
    for scope in (graph, *graph.subgraphs(recursive=True)):
        for node in scope.nodes:
            if node.op == "QuantizeLinear" and all(_is_float(tensor) for tensor in node.inputs[:2]):
                weight, scale = node.inputs[:2]
                rounded = _rounded(weight.values, scale.values, node.attrs.get("axis", 1))
                if rounded is not None:
                    node.inputs[0] = gs.Constant(f"{node.name}/{weight.name}", rounded)


def _is_float(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and tensor.dtype == np.float32


def _rounded(weight: Array, scale: Array, axis: int) -> Array | None:
    """The weights on PyTorch's steps; None where ONNX has the same."""
    shape = [-1 if i == axis % weight.ndim else 1 for i in range(weight.ndim)]
    step = scale.reshape(shape if scale.size > 1 else [])
    with np.errstate(all="ignore"):
        count = np.rint(weight * (np.float32(1) / step))
        return None if np.array_equal(count, np.rint(weight / step)) else count * step
