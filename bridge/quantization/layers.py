"""Which operators of a graph multiply by weights, and how those are quantized."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bridge import torch_private as tp
from bridge.frontend.packed import Attributes

_PLACES = {
    **{f"aten::{name}": (0, 1) for name in ("linear", "matmul", "mm", "_convolution")},
    **{f"aten::conv{kind}{rank}d": (0, 1) for kind in ("", "_transpose") for rank in (1, 2, 3)},
    "aten::addmm": (1, 2),
}
"""Where an operator's arguments have the tensor and its weight."""
_SMALLEST = 16


@dataclass(frozen=True)
class Layer:
    """An operator that multiplies a tensor by a weight.

    Attributes:
        node: the operator; ``given`` and ``weight``: places among its arguments.
        tensor: what the weight holds.
        axis: of the weight's output channels; None where one scale is for all of it.
    """

    node: tp.Node
    given: int
    weight: int
    tensor: torch.Tensor
    axis: int | None


def layers_of(graph: tp.Graph, attributes: Attributes) -> list[Layer]:
    """The operators by weights of float32; products of matrices only where INT8 kernels gain anything.

    Source: ModelOpt leaves products alone that have fewer than 16 rows or columns
    (https://nvidia.github.io/Model-Optimizer/guides/_onnx_quantization.html).
    """
    found = []
    for node in tp.walk(graph):
        if node.kind() not in _PLACES:
            continue
        given, place = _PLACES[node.kind()]
        weight = attributes.tensor(node.inputsAt(place))
        if not isinstance(weight, torch.Tensor) or weight.dtype is not torch.float32 or weight.dim() < 2:
            continue
        if "conv" in node.kind():
            found.append(Layer(node, given, place, weight, _channels(node, attributes)))
        elif weight.dim() == 2 and min(weight.shape) >= _SMALLEST:
            found.append(Layer(node, given, place, weight, 0 if node.kind() == "aten::linear" else 1))
    return found


def _channels(node: tp.Node, attributes: Attributes) -> int | None:
    if node.kind() == "aten::_convolution":
        transposed, groups = (attributes.value(node.inputsAt(place)) for place in (6, 8))
    else:
        transposed = "transpose" in node.kind()
        groups = attributes.value(node.inputsAt(6)) if transposed else 1
    if not transposed:
        return 0
    return 1 if groups == 1 else None
