"""From what the user gave to the graphs whose layers are compared."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import onnx

import rewrites
from bridge import torch_private as tp
from bridge.backends.weights import detach_weights
from bridge.compare.inputs import InputSet
from bridge.compare.layers import Comparable
from bridge.compare.outputs import as_numpy, feed_of
from bridge.compare.runners import Contender
from bridge.compare.sides import Key, OnnxSide, TorchSide
from bridge.errors import BridgeError, ExportError
from bridge.export.export import ExporterCrash
from bridge.export.whole import whole_function
from bridge.frontend.alias import Memory
from bridge.frontend.load import Loaded, _on, load
from bridge.frontend.provenance import METADATA, Origin, Provenance
from bridge.spec import CompileSpec
from bridge.translate import Translation, Translator

NOISE = {"float16": 1e-2, "bfloat16": 5e-2}
_FP32_NOISE = 1e-5
_UNKNOWN = 64


def comparable_of(
    reference: Contender, compiled: Contender, inputs: InputSet, spec: Any, settings: dict[str, Any]
) -> Comparable:
    """The graphs to run, each with its inputs.

    Raises:
        BridgeError: there is no way to match the two.
    """
    if reference.model is not None:
        if compiled.model is None:
            told = "layers: an ONNX model is compared with ONNX models only"
            raise BridgeError(told, hint="give the PyTorch module as the reference")
        return _of_models(reference, compiled, inputs)
    wanted = _with_inputs(CompileSpec.of(spec, settings), inputs)
    loaded = load(reference.source, wanted)
    torch_side = TorchSide(loaded.program, _arguments(loaded, inputs))
    exported, before = _translated(loaded, torch_side, rewrite=False)
    if compiled.model is not None:
        last = _given(compiled, loaded, torch_side, before)
    else:
        last, _ = _translated(loaded, torch_side, rewrite=True)
    table = loaded.program.provenance
    noise = NOISE.get(str(wanted.precision).removeprefix("torch."), _FP32_NOISE)
    known = _rule_names(wanted.rules)
    return Comparable(torch_side, last, exported, lambda key: table[int(key)], noise, known, torch_side.size)


def _with_inputs(spec: CompileSpec, inputs: InputSet) -> CompileSpec:
    if spec.inputs is not None or spec.kwarg_inputs:
        return spec
    made = copy.copy(spec)
    made.inputs, made.kwarg_inputs = list(inputs.args), dict(inputs.kwargs)
    return made


def _arguments(loaded: Loaded, inputs: InputSet) -> tuple[Any, ...]:
    """The method's arguments in order; a traced module has names of its own for what was given by keyword."""
    arguments = tp.schema_of(loaded.program.module, loaded.program.method).arguments[1:]
    values, given = list(inputs.args), dict(inputs.kwargs)
    for argument in arguments[len(values) :]:
        known = argument.name in given
        if known or (given and not argument.has_default_value()):
            values.append(given.pop(argument.name if known else next(iter(given))))
        else:
            values.append(argument.default_value)
    return tuple(_on(values, loaded.program.device))


def _translated(loaded: Loaded, reference: TorchSide, *, rewrite: bool) -> tuple[OnnxSide, dict[str, str]]:
    """The whole method as ONNX with its inputs, and which value of the reference each input is."""
    memory = Memory(loaded.program.graph)
    translator = Translator(loaded.program, loaded.spec, loaded.leaves, None, memory.paths)
    function, results = whole_function(loaded.program, memory.paths, translator.leaf_of)
    try:
        translation = translator.translate_whole(function, results, rewrite=rewrite)
    except ExporterCrash as crash:
        where = str(loaded.program.provenance[crash.identity]) if crash.identity is not None else None
        raise ExportError("layers: torch.onnx failed on this graph", where=where, why=str(crash)) from crash
    side = OnnxSide("the rewritten ONNX" if rewrite else "the exported ONNX", *_detached(translation))
    sources = {name: value.debugName() for name, value in zip(translation.input_names, function.inputs, strict=True)}
    _feed(side, reference, sources)
    return side, sources


def _detached(translation: Translation) -> tuple[onnx.ModelProto, dict[str, Any]]:
    assert translation.graph is not None
    model, weights = detach_weights(translation.graph)
    declared = {entry.domain for entry in model.opset_import}
    for domain in sorted({node.domain for node in model.graph.node} - declared):
        model.opset_import.add(domain=domain, version=1)
    return model, weights


def _feed(side: OnnxSide, reference: TorchSide, sources: dict[str, str]) -> None:
    """Gives an ONNX graph the very values that the reference has."""
    made = {step.key: step.outputs for step in reference.steps}
    sources = {name: sources[name] for name in side.inputs}
    sources |= {name: made[key][position] for name, (key, position) in side.fed.items()}
    values = reference.kept(list(sources.values()))
    missing = [name for name, source in sources.items() if source not in values]
    if missing:
        told = f"layers: {missing[0]!r} has no value to feed"
        raise BridgeError(told, why="it is made inside a branch or a loop that stays in PyTorch")
    side.feeds = {name: values[source] for name, source in sources.items()}


def _given(compiled: Contender, loaded: Loaded, reference: TorchSide, sources: dict[str, str]) -> OnnxSide:
    """A model that `bridge.to_onnx` made of this module."""
    assert compiled.model is not None
    if _provenance(compiled.model) != loaded.program.provenance.origins:
        raise BridgeError(
            "layers: the ONNX model was not made from this module with this spec: its layers cannot be matched",
            hint="give the spec that bridge.to_onnx was given: compare(..., spec=spec)",
        )
    side = OnnxSide(compiled.label, compiled.model, {})
    _feed(side, reference, sources)
    return side


def _provenance(model: onnx.ModelProto) -> list[Origin]:
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), None)
    return Provenance.from_json(text).origins if text else []


def _of_models(reference: Contender, compiled: Contender, inputs: InputSet) -> Comparable:
    """Two ONNX models: matched by provenance when they have the same, else by the names of their tensors."""
    assert reference.model is not None and compiled.model is not None
    sides = [OnnxSide(one.label, one.model, {}) for one in (reference, compiled)]  # type: ignore[arg-type]
    feed = {name: as_numpy(tensor) for name, tensor in feed_of(reference, compiled, inputs).items()}
    table = _provenance(reference.model)
    shared = bool(table) and table == _provenance(compiled.model)
    operators = {node.output[0]: node for node in reference.model.graph.node if node.output}
    for side in sides:
        side.feeds = {name: feed[name] for name in side.inputs}
        if not shared:
            side.by_tensor_name()

    def origin_of(key: Key) -> Origin:
        return table[key] if isinstance(key, int) else Origin(operators[key].op_type, operators[key].name)

    return Comparable(sides[0], sides[1], None, origin_of, _FP32_NOISE, _rule_names(()), _sizes(reference.model).get)  # type: ignore[arg-type]


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


def _rule_names(own: Sequence[Any] | None) -> dict[str, str]:
    rules: Any = rewrites.default_rules()
    return {rule.short_name: rule.name for rule in (rules + list(own) if own else rules)}
