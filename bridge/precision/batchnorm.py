"""Batch normalization into the convolution before it, while the weights still have all their bits."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bridge.precision.types import walk
from bridge.precision.weights import Array

_OUTPUT_CHANNELS = {"Conv": 0, "ConvTranspose": 1}


def fold_batch_norms(graph: gs.Graph) -> list[str]:
    """Conv BatchNormalization -> Conv, in FP32, in the graph and its bodies; names of the folded nodes.

    In sixteen bits a running variance loses more than the folded weights do, and TensorRT then need not fuse the two.
    Only where the convolution's result is used nowhere else and both have constant parameters. The convolution that
    stands for both has both names, with a ``+`` between.
    """
    pinned = {id(tensor) for holder in _graphs(graph) for tensor in holder.outputs}
    producers = {id(tensor): node for _, node in walk(graph) for tensor in node.outputs}
    folded: set[int] = set()
    names: list[str] = []
    for _, node in walk(graph):
        convolution = producers.get(id(node.inputs[0])) if node.op == "BatchNormalization" else None
        if convolution is None or id(node.inputs[0]) in pinned or not _foldable(convolution, node):
            continue
        _fold(convolution, node)
        folded.add(id(node))
        names.append(node.name)
    if folded:
        for holder in _graphs(graph):
            holder.nodes[:] = [node for node in holder.nodes if id(node) not in folded]
    return names


def _graphs(graph: gs.Graph) -> list[gs.Graph]:
    return [graph, *graph.subgraphs(recursive=True)]


def _foldable(convolution: gs.Node, norm: gs.Node) -> bool:
    if convolution.op not in _OUTPUT_CHANNELS or convolution.domain or len(norm.inputs[0].outputs) != 1:
        return False
    grouped = convolution.op == "ConvTranspose" and convolution.attrs.get("group", 1) != 1
    if norm.attrs.get("training_mode", 0) or grouped:
        return False
    parameters = (*convolution.inputs[1:], *norm.inputs[1:])
    return all(isinstance(tensor, gs.Constant) and tensor.dtype == np.float32 for tensor in parameters)


def _fold(convolution: gs.Node, norm: gs.Node) -> None:
    scale, shift, mean, variance = (tensor.values.astype(np.float64) for tensor in norm.inputs[1:])
    scale = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    weight = convolution.inputs[1]
    broadcast = [1] * len(weight.shape)
    broadcast[_OUTPUT_CHANNELS[convolution.op]] = -1
    folded: Array = weight.values * scale.astype(np.float32).reshape(broadcast)
    bias = convolution.inputs[2].values if len(convolution.inputs) > 2 else 0.0
    shift = ((bias - mean) * scale + shift).astype(np.float32)
    name = norm.inputs[0].name
    convolution.inputs = [
        convolution.inputs[0],
        gs.Constant(weight.name if len(weight.outputs) == 1 else f"{name}_weight", folded),
        gs.Constant(f"{name}_bias", shift),
    ]
    convolution.name = f"{convolution.name}+{norm.name}"
    output = norm.outputs[0]
    norm.outputs.clear()
    norm.inputs.clear()
    convolution.outputs = [output]
