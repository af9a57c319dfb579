"""ONNX models beside others: where their nodes came from, or what stands for what where they do not tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import onnx

from bridge.compare.arrays import as_numpy
from bridge.compare.by_values import keys_by_values
from bridge.compare.inputs import InputSet
from bridge.compare.layers import NOISE, Comparable, Stage
from bridge.compare.outputs import feed_of
from bridge.compare.runners import Contender
from bridge.compare.sides import OnnxSide
from bridge.compare.steps import Key
from bridge.compare.torch_side import TorchSide
from bridge.errors import BridgeError
from bridge.frontend.provenance import METADATA, Origin, Provenance

_UNKNOWN = 64
_SCOPES, _CLASSES, _TRACE = (f"pkg.torch.onnx.{name}" for name in ("name_scopes", "class_hierarchy", "stack_trace"))
_NAMED = 0.5  # of the reference's results: with fewer names in common, names are not trusted


def match_by_values(reference: TorchSide | OnnxSide, side: OnnxSide, size: Callable[[str], int]) -> str:
    """Matches a model's nodes with the reference's by what they compute; gives back what is to be told of that.

    Args:
        size: bytes of one of the reference's values.

    Raises:
        BridgeError: there are none.
    """
    sizes = _sizes(side.model)
    keys = keys_by_values(reference, side, (size, lambda name: sizes.get(name, 0)))
    if not keys:
        told = f"layers: no operator's result of the reference's is among what {side.label} computes"
        raise BridgeError(told, hint="compare a model with what it was made from, on inputs that it is meant for")
    side.by_values(keys)
    return f"{side.label} does not say where its nodes came from: {len(keys)} results are matched by their values"


def provenance_of(model: onnx.ModelProto) -> list[Origin]:
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), None)
    return Provenance.from_json(text).origins if text else []


def of_models(reference: Contender, compiled: Contender, inputs: InputSet, known: Mapping[str, str]) -> Comparable:
    """Two ONNX models: matched by provenance when they have the same, else by the names of their tensors, or by values.

    Args:
        known: full names of rewrite rules by their short names.
    """
    assert reference.model is not None and compiled.model is not None
    sides = [OnnxSide(one.label, one.model, {}) for one in (reference, compiled)]  # type: ignore[arg-type]
    feed = {name: as_numpy(tensor) for name, tensor in feed_of(reference, compiled, inputs).items()}
    table = provenance_of(reference.model)
    shared = bool(table) and table == provenance_of(compiled.model)
    operators = {name: node for node in reference.model.graph.node for name in node.output}
    size = _sizes(reference.model)
    for side in sides:
        side.feeds = {name: feed[name] for name in side.inputs}
        if not shared:
            side.by_tensor_name()
    notes = []
    if not shared and _common(*sides) < _NAMED * len(sides[0].steps):
        notes.append(match_by_values(sides[0], sides[1], lambda name: size.get(name, 0)))

    def origin_of(key: Key) -> Origin:
        return table[key] if isinstance(key, int) else _told(operators[key])

    stage = Stage("rewritten", sides[1], NOISE["float32"])
    return Comparable(sides[0], [stage], origin_of, known, lambda name: size.get(name, 0), notes=notes)


def _told(node: onnx.NodeProto) -> Origin:
    """Where a node came from, as torch.onnx's exporter of exported programs keeps it; else its name."""
    kept = {entry.key: entry.value for entry in node.metadata_props}
    scopes = re.findall(r"'([^']*)'", kept.get(_SCOPES, ""))
    types = re.findall(r"'([^']*)'", kept.get(_CLASSES, ""))
    lines = re.findall(r'File "[^"]*?([^"/]+)", line (\d+), in (\w+)', kept.get(_TRACE, ""))
    if len(scopes) < 2 or len(scopes) != len(types):
        return Origin(node.op_type, node.name)
    source = "{}:{} in {}".format(*lines[-1]) if lines else ""
    return Origin(f"{node.op_type} of {types[-1]}", scopes[-2], types[-2].rpartition(".")[2], source)


def _common(a: OnnxSide, b: OnnxSide) -> int:
    """How many operators' results go by one name in both."""
    return len({step.key for step in a.steps} & {step.key for step in b.steps} - {None})


def _sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of each value, as far as shape inference tells; unknown dimensions count as 64."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {name: 0 for node in model.graph.node for name in node.output}
    for value in inferred.value_info:
        count = 4
        for dim in value.type.tensor_type.shape.dim:
            count *= dim.dim_value or _UNKNOWN
        sizes[value.name] = count
    return sizes
