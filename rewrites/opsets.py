"""Raising and lowering a model's opset to one that the target reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import onnx
from onnx import helper, inliner, shape_inference, version_converter

from rewrites.definitions import DOMAIN, as_call, function_of, has_definition
from rewrites.errors import RewriteError
from rewrites.schemas import attribute_defaults, schema_of
from rewrites.targets import Target
from rewrites.tidying import called

_OLDEST_RELABELLED, _BATCHLESS_SCAN = 20, 9
_NAMED = 3  # nodes in an error
_REDEFINED = frozenset(["GroupNormalization"])  # 21: scale and bias of each channel, no longer of each group


def to_opset(model: onnx.ModelProto, target: Target, notes: list[str], least: int = 0) -> onnx.ModelProto:
    """The model at an opset the target reads; unchanged when it is at one already.

    Lowered to 20 or more, operators newer than the target are replaced by what the ONNX specification defines them as,
    and those of which the older version says the same stay as they are: ONNX's own converter refuses most of both.

    Args:
        model: left as it is.
        target: says which opsets it reads.
        notes: gets a sentence when something was done.
        least: the oldest opset that it may be at, where the target reads that.

    Raises:
        RewriteError: when the model cannot be converted.
    """
    current = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    oldest, newest = target.opsets()
    if current is None:
        return _with_default_domain(model, min(newest, _OLDEST_RELABELLED))
    wanted = min(max(current, oldest, least), newest)
    if wanted == current:
        return model
    notes.append(f"opset {current} -> {wanted}, which {target} reads")
    if _OLDEST_RELABELLED <= wanted < current:
        model = _inlined(model, current, wanted)
        changed = list(_changed(model.graph, current, wanted))
        if all(schema_of(n.op_type, "", wanted) is None for n in changed):
            notes.extend(f"{n.op_type} is newer than opset {wanted}: a rule must replace it" for n in changed)
            return _relabelled(model, wanted)
    if current < _BATCHLESS_SCAN <= wanted and any(n.op_type == "Scan" for n in model.graph.node):
        raise RewriteError(
            "Scan of opset 8 has a batch axis that later ones lack, and ONNX's converter drops it silently",
            hint=f"export the model at opset {wanted}",
        )
    try:
        made = version_converter.convert_version(model, wanted)
        if wanted > current and _is_valid(model):
            onnx.checker.check_model(made, full_check=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        said = str(error).rpartition("` failed: ")[2].strip()
        raise RewriteError(
            f"the model is at opset {current}, {target} reads {oldest} to {newest}; converting it failed: {said}",
            node=", ".join(called(n) for n in islice(_changed(model.graph, current, wanted), _NAMED)) or None,
            hint=f"export the model at opset {wanted}",
        ) from error
    return made


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError):
        return False
    return True


def _with_default_domain(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """A model of other domains only, with room for replacements from ONNX's own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.opset_import.append(helper.make_opsetid("", version))
    return copy


def _inlined(model: onnx.ModelProto, current: int, wanted: int) -> onnx.ModelProto:
    """The model with the operators that the wanted opset lacks as what they are defined as."""
    for _ in range(4):
        if not any(has_definition(n.op_type, "", current) for n in _changed(model.graph, current, wanted)):
            break
        copy = shape_inference.infer_shapes(model)
        graph = copy.graph
        known = {v.name: v.type for v in (*graph.input, *graph.value_info)}
        known |= {t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in graph.initializer}
        _call_definitions(copy, graph, known, (current, wanted))
        copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        model = inliner.inline_local_functions(copy)
    return model


def _call_definitions(
    model: onnx.ModelProto, graph: onnx.GraphProto, types: dict[str, onnx.TypeProto], versions: tuple[int, int]
) -> None:
    """Make every node of the graph, bodies too, that the older opset lacks a call of its definition."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _call_definitions(model, attribute.g, types, versions)
        if node.domain not in ("", "ai.onnx") or _same(node, *versions):
            continue
        function = function_of(node, types, versions[0])
        if function is not None:
            node.CopyFrom(as_call(node, function, f"{node.op_type}_{len(model.functions)}", versions[0]))
            model.functions.append(function)


def _changed(graph: onnx.GraphProto, current: int, wanted: int) -> Iterator[onnx.NodeProto]:
    """The nodes, in bodies too, that mean something else or nothing in the wanted opset."""
    for node in graph.node:
        if node.domain in ("", "ai.onnx") and not _same(node, current, wanted):
            yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _changed(attribute.g, current, wanted)


def _same(node: onnx.NodeProto, current: int, wanted: int) -> bool:
    """Whether the older version has the node's inputs, outputs and attributes, with the same defaults."""
    new, old = schema_of(node.op_type, "", current), schema_of(node.op_type, "", wanted)
    if new is None or old is None:
        return False
    if new.since_version == old.since_version:
        return True
    if node.op_type in _REDEFINED:
        return False
    given = {a.name for a in node.attribute}
    before = attribute_defaults(node.op_type, "", wanted)
    after = attribute_defaults(node.op_type, "", current)
    unread = {name for name in after if name not in before and _says_nothing(node, name, after)}
    agreed = all(after.get(name) == before[name] for name in before if name not in given)
    fits = len(node.input) <= old.max_input and len(node.output) <= old.max_output
    return given - unread <= before.keys() and after.keys() - unread <= before.keys() and agreed and fits


def _says_nothing(node: onnx.NodeProto, name: str, defaults: dict[str, object]) -> bool:
    """Whether an attribute that the older version lacks has its default."""
    given = [helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    value = given[0].decode() if given and isinstance(given[0], bytes) else given[0] if given else defaults[name]
    return value == defaults[name]


def _relabelled(model: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for opset in copy.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = wanted
    _drop_unknown(copy.graph, wanted)
    return copy


def _drop_unknown(graph: onnx.GraphProto, wanted: int) -> None:
    """Remove attributes, all at their defaults, that the opset does not have."""
    for node in graph.node:
        known = attribute_defaults(node.op_type, "", wanted)
        if node.domain in ("", "ai.onnx"):
            for attribute in [a for a in node.attribute if a.name not in known]:
                node.attribute.remove(attribute)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _drop_unknown(attribute.g, wanted)
