"""Rounding to INT8 put into a module, by the ranges that batches of its inputs have."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.errors import SpecError
from bridge.frontend.load import capture
from bridge.frontend.packed import Attributes
from bridge.frontend.program import frozen_copy
from bridge.frontend.provenance import TAG, Provenance
from bridge.quantization.calls import arguments_of, most_arguments
from bridge.quantization.layers import Layer, layers_of
from bridge.quantization.ranges import Magnitudes, noted
from bridge.spec import CompileSpec

_LOG = logging.getLogger("bridge.quantization")
_MOST = 127
_SMALLEST = 1e-30

Call = tuple[tuple[Any, ...], dict[str, Any]]


def quantize(
    module: Any, batches: Iterable[Any], spec: Any = None, *, percentile: float = 100.0, skip: Sequence[str] = ()
) -> torch.nn.Module:
    """Quantizes a module to INT8 after training: its convolutions, linear layers and products by weights.

    What they are given is rounded to 255 steps around zero, by one scale that calibration finds, and their weights by
    a scale for each output channel, as ``torch.fake_quantize_per_tensor_affine`` and its like do: the result runs in
    PyTorch with the numbers of INT8, and `bridge.compile` makes INT8 kernels' QuantizeLinear and DequantizeLinear of
    it, in any precision of the rest.

    Args:
        module: as `bridge.compile` takes it, in float32. It is left as it is.
        batches: calls to calibrate by, some hundred examples in all: a tensor, a tuple of arguments (of which more than
            the module takes, such as labels, are left out) or a dict of them by name.
        spec: inputs as `bridge.compile` takes them, for plain modules of which the batches do not show all shapes.
        percentile: how many percent of a tensor's numbers its range holds: 100, all, to 99.9, where few are far out.
        skip: what stays in float: module paths, as patterns (``"head"``, ``"encoder.layer.0.*"``).

    Returns:
        A ScriptModule; what its method ``forward`` returns is what the module's does.

    Raises:
        SpecError: there is no batch, nothing to quantize, or the module does not run on a batch.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html.
    """
    if not 0 < percentile <= 100:
        raise SpecError(f"percentile: expected a number above 0 and up to 100, got {percentile!r}")
    calls = list(batches)
    if not calls:
        raise SpecError("batches: there is none", hint="give some hundred examples of what the module is for")
    most = most_arguments(module)
    arguments, named = arguments_of(calls[0], most)
    given = CompileSpec(inputs=list(arguments), kwarg_inputs=named) if spec is None else CompileSpec.of(spec)
    scripted, adapt = capture(module, given)
    frozen, table = frozen_copy(scripted, "forward")
    graph = tp.graph_of(frozen)
    attributes = Attributes(graph, frozen)
    layers = [layer for layer in layers_of(graph, attributes) if not _is_skipped(layer, table, skip)]
    if not layers:
        raise SpecError(
            "nothing of the module is quantized",
            why="it has no convolution and no product by at least 16 x 16 weights of float32, but what is skipped",
        )
    magnitudes = _calibrated(frozen, graph, layers, [arguments_of(call, most) for call in calls])
    _round(graph, layers, [item.limit(percentile) for item in magnitudes], table)
    for node in tp.walk(graph):
        tp.remove_attributes([node], TAG)
    return adapt(tp.clone(frozen))


def _is_skipped(layer: Layer, table: Provenance, skip: Sequence[str]) -> bool:
    path = table[layer.node.i(TAG)].module_path if layer.node.hasAttribute(TAG) else ""
    return any(fnmatch.fnmatchcase(path, pattern) or path.startswith(f"{pattern}.") for pattern in skip)


def _calibrated(
    module: torch.jit.ScriptModule, graph: tp.Graph, layers: Sequence[Layer], calls: Sequence[Call]
) -> list[Magnitudes]:
    """What each layer is given, over all calls of the module, with operators in it that look at that."""
    notes = [tp.insert_note(graph, layer.node.inputsAt(layer.given), i, layer.node) for i, layer in enumerate(layers)]
    with noted(len(layers)) as found, torch.no_grad():
        for position, (arguments, named) in enumerate(calls):
            try:
                module(*arguments, **named)
            except Exception as error:
                told = str(error).strip().splitlines()[-1]
                raise SpecError(f"batches[{position}]: the module does not run on it", why=told) from error
    for note in notes:
        note.destroy()
    return found


def _round(graph: tp.Graph, layers: Sequence[Layer], limits: Sequence[float], table: Provenance) -> None:
    made: dict[tuple[str, str], tp.Value] = {}
    for layer, limit in zip(layers, limits, strict=True):
        if not limit:
            _LOG.warning("not quantized, since no batch gives it anything but zeros: %s", table[layer.node.i(TAG)])
            continue
        given, weight = layer.node.inputsAt(layer.given), layer.node.inputsAt(layer.weight)
        key = given.debugName(), str(layer.node.owningBlock())
        if key not in made:
            numbers = [limit / _MOST, 0, -_MOST - 1, _MOST]
            made[key] = _insert(graph, layer, "aten::fake_quantize_per_tensor_affine", given, numbers)
        layer.node.replaceInput(layer.given, made[key])
        layer.node.replaceInput(layer.weight, _rounded_weight(graph, layer, weight))
    _LOG.info("%d layers quantized", len(layers))


def _rounded_weight(graph: tp.Graph, layer: Layer, weight: tp.Value) -> tp.Value:
    if layer.axis is None:
        numbers = [max(float(layer.tensor.abs().max()), _SMALLEST) / _MOST, 0, -_MOST, _MOST]
        return _insert(graph, layer, "aten::fake_quantize_per_tensor_affine", weight, numbers)
    others = [axis for axis in range(layer.tensor.dim()) if axis != layer.axis]
    scale = layer.tensor.detach().abs().amax(others).clamp(min=_SMALLEST) / _MOST
    given = [scale, torch.zeros_like(scale, dtype=torch.int32), layer.axis, -_MOST, _MOST]
    return _insert(graph, layer, "aten::fake_quantize_per_channel_affine", weight, given)


def _insert(graph: tp.Graph, layer: Layer, kind: str, given: tp.Value, parameters: Sequence[Any]) -> tp.Value:
    constants = [tp.constant(graph, item, layer.node) for item in parameters]
    return tp.insert(graph, kind, [given, *constants], layer.node)
