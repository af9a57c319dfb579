"""Modules that were exported to be quantized (``prepare_pt2e``, ``convert_pt2e``): integers between two operators.

Their weights are integers, and so is what crosses from ``quantized_decomposed::quantize_per_tensor`` to
``dequantize_per_tensor``: together they round to steps, which is what engines compute in INT8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.frontend.packed import Attributes, tensors_read

_SPACE = "quantized_decomposed::"
_STORED = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)
_FLOAT32 = 6
"""The number that graphs have for float32."""


def settle(graph: tp.Graph, module: torch.jit.ScriptModule, others: Sequence[tp.Graph] = ()) -> None:
    """quantize, dequantize -> fake_quantize; dequantize of a weight -> fake_quantize of the floats that it stands for.

    Weights that are only stored in eight bits (torchao's) become floats.

    Args:
        others: graphs of the module's other methods, which may write to its attributes.
    """
    _widen_stored(graph, module, others)
    found = [node for node in tp.walk(graph) if node.kind().startswith(f"{_SPACE}dequantize_per_")]
    if not found:
        return
    attributes = Attributes(graph, module, others)
    for node in found:
        *parameters, out = tp.inputs_of(node)[1:]
        held = [attributes.value(value) for value in parameters]
        if held[1] is None and node.kind().endswith("channel") and _is_none(parameters[1]) and held[0] is not None:
            held[1] = torch.zeros_like(held[0], dtype=torch.int32)
        if all(item is not None for item in held) and attributes.value(out) in (None, _FLOAT32):
            _settle(graph, node, held, attributes)
    for node in reversed(list(tp.walk(graph))):
        if node.kind().startswith(f"{_SPACE}quantize_per_") and not node.output().uses():
            node.destroy()


def _widen_stored(graph: tp.Graph, module: torch.jit.ScriptModule, others: Sequence[tp.Graph]) -> None:
    """Weights that are stored in eight bits and computed with as floats become floats."""
    casts = [node for node in tp.walk(graph) if node.kind() in ("aten::to", "aten::_to_copy")]
    if not casts or not any(tensor.dtype in _STORED for tensor in tensors_read(graph, module)):
        return
    attributes = Attributes(graph, module, others)
    for node in casts:
        given, made = attributes.tensor(node.inputsAt(0)), attributes.tensor(node.output())
        is_stored = isinstance(given, torch.Tensor) and given.dtype in _STORED
        if is_stored and isinstance(made, torch.Tensor) and made.dtype.is_floating_point:
            node.output().replaceAllUsesWith(attributes.add(made))
    tp.remove_dead_code(graph)


def _settle(graph: tp.Graph, node: tp.Node, held: list[Any], attributes: Attributes) -> None:
    given = node.inputsAt(0)
    source, weight = given.node(), attributes.value(given)
    if isinstance(weight, torch.Tensor):
        floats = attributes.run(node, [weight, *held, None])
        if floats is None:
            return
        value = attributes.add(floats)
    elif source.kind() == node.kind().replace("dequantize", "quantize") and _same(source, held, attributes):
        value = source.inputsAt(0)
    else:
        return
    scale, zero_point, *rest = held[:-1]
    if node.kind().endswith("tensor"):
        numbers = [float(scale), int(zero_point), *map(int, rest)]
        name = "per_tensor"
    else:
        numbers, name = [scale.float(), zero_point.to(torch.int32), *rest], "per_channel"
    constants = [tp.constant(graph, item, node) for item in numbers]
    made = tp.insert(graph, f"aten::fake_quantize_{name}_affine", [value, *constants], node)
    made.node().copyAttributes(node)
    node.output().replaceAllUsesWith(made)
    node.destroy()


def _same(source: tp.Node, held: list[Any], attributes: Attributes) -> bool:
    """Whether what quantizes does so by the very numbers, or tensors of them."""
    own = [attributes.value(value) for value in tp.inputs_of(source)[1:]]
    pairs = zip(own, held, strict=True)
    return all(a is not None and torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def _is_none(value: tp.Value) -> bool:
    return tp.is_constant(value) and tp.constant_value(value) is None
