"""Modules trained for quantization (``prepare_qat``, ModelOpt): what rounds to steps, and what watches ranges.

PyTorch's fused operator does both, by switches that are tensors, and writes the ranges even in ``eval()``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from bridge import torch_private as tp
from bridge.frontend.packed import Attributes

_LOG = logging.getLogger("bridge.frontend")
_FUSED = "aten::fused_moving_avg_obs_fake_quant"
_BY_TENSOR, _BY_CHANNEL = "aten::fake_quantize_per_tensor_affine", "aten::fake_quantize_per_channel_affine"
_INT8 = (-128, 127)


def settle(graph: tp.Graph, module: torch.jit.ScriptModule, others: Sequence[tp.Graph] = ()) -> None:
    """Brings what rounds to steps in a method to what ONNX says with QuantizeLinear and DequantizeLinear.

    Of the fused operator remains what it does while its observer is off. Where one is on, each call changes the scale
    of the next: that stays in PyTorch, and is told.

    Weights are rounded here, by PyTorch, which multiplies by the inverse of the scale where ONNX divides: numbers
    between two steps would fall to either. Rounded once, they are on the steps of both, also of a range that is
    narrower than INT8's.

    Args:
        others: graphs of the module's other methods, which may write to its attributes.
    """
    fused = [node for node in tp.walk(graph) if node.kind() == _FUSED]
    if fused:
        attributes = Attributes(graph, module, others)
        watching = sum(not _take_apart(graph, node, attributes) for node in fused)
        if watching:
            told = "%d observers are on, so that every call changes the ranges: they stay in PyTorch; "
            _LOG.warning(told + "module.apply(torch.ao.quantization.disable_observer) turns them off", watching)
    rounding = [node for node in tp.walk(graph) if node.kind() in (_BY_TENSOR, _BY_CHANNEL)]
    if rounding:
        attributes = Attributes(graph, module, others)
        for node in rounding:
            _round_weight(graph, _with_numbers(graph, node, attributes), attributes)


def _take_apart(graph: tp.Graph, node: tp.Node, attributes: Attributes) -> bool:
    """Replaces a fused operator; False where it is not known to observe nothing."""
    given, observes, rounds, _, _, scale, zero_point, _, low, high, axis, by_channel, _ = tp.inputs_of(node)
    switches = [attributes.value(observes), attributes.value(rounds)]
    if any(switch is None for switch in switches) or bool(switches[0]):
        return False
    if not switches[1]:
        _replace(graph, node, "aten::alias", [given])
    elif attributes.value(by_channel):
        _replace(graph, node, _BY_CHANNEL, [given, scale, zero_point, axis, low, high])
    else:
        _replace(graph, node, _BY_TENSOR, [given, scale, zero_point, low, high])
    return True


def _replace(graph: tp.Graph, node: tp.Node, kind: str, inputs: list[tp.Value]) -> tp.Node:
    made = tp.insert(graph, kind, inputs, node)
    made.node().copyAttributes(node)
    node.output().replaceAllUsesWith(made)
    node.destroy()
    return made.node()


def _with_numbers(graph: tp.Graph, node: tp.Node, attributes: Attributes) -> tp.Node:
    """The operator with a scale and zero point that are numbers, where they are known tensors of one."""
    given, scale, zero_point, *bounds = tp.inputs_of(node)
    held = [attributes.value(scale), attributes.value(zero_point)]
    is_one = all(isinstance(item, torch.Tensor) and item.numel() == 1 for item in held)
    if node.kind() != _BY_TENSOR or not is_one or held[1].is_floating_point():
        return node
    numbers = [tp.constant(graph, kind(item), node) for kind, item in zip((float, int), held, strict=True)]
    return _replace(graph, node, _BY_TENSOR, [given, *numbers, *bounds])


def _round_weight(graph: tp.Graph, node: tp.Node, attributes: Attributes) -> None:
    """Puts a rounded weight, in float32, in the place of one that is rounded in every call."""
    given = [attributes.tensor(value) for value in node.inputs()]
    rounded = None if any(item is None for item in given) else attributes.run(node, given)
    if rounded is None:
        return
    node.replaceInput(0, attributes.add(rounded.float()))
    if rounded.dtype is not torch.float32:
        _cast_back(graph, node, rounded.dtype)
    zero_point, (low, high) = given[2], given[-2:]
    if not torch.as_tensor(zero_point).any() and _INT8[0] <= low <= high <= _INT8[1]:
        for place, bound in zip((-2, -1), _INT8, strict=True):
            node.replaceInput(node.inputsSize() + place, tp.constant(graph, bound, node))


def _cast_back(graph: tp.Graph, node: tp.Node, dtype: torch.dtype) -> None:
    """Lets all that reads a node's result read it in this type."""
    users = [(use.user, use.offset) for use in node.output().uses()]
    constants = [tp.constant(graph, value, node) for value in (dtype, False, False, None)]
    cast = tp.insert(graph, "aten::to", [node.output(), *constants], node)
    cast.node().copyAttributes(node)
    cast.node().moveAfter(node)
    for user, offset in users:
        user.replaceInput(offset, cast)
