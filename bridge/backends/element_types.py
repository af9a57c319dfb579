"""Element types of every value of an ONNX model, found from the operators' own type constraints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from bridge.runtime.dtypes import ONNX_NUMBERS
from rewrites.tidying import bodies

_BY_ATTRIBUTE = {
    "Cast": "to",
    **dict.fromkeys(("HannWindow", "HammingWindow", "BlackmanWindow"), "output_datatype"),
    **dict.fromkeys(("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"), "dtype"),
    **dict.fromkeys(("EyeLike", "Bernoulli", "Multinomial"), "dtype"),
}

_ONNX_SPELLING = {"float32": "float", "float64": "double", "float8_e4m3fn": "float8e4m3fn", "float8_e5m2": "float8e5m2"}
_NUMBERS = {f"tensor({_ONNX_SPELLING.get(name, name)})": number for name, number in ONNX_NUMBERS.items()}
TYPE_STRINGS = {number: text for text, number in _NUMBERS.items()}


def opset(model: onnx.ModelProto, domain: str) -> int | None:
    """The version of this domain that the model imports; None when it imports none."""
    return next(
        (item.version for item in model.opset_import if (item.domain or "ai.onnx") == (domain or "ai.onnx")), None
    )


def schema_of(node: onnx.NodeProto, model: onnx.ModelProto) -> onnx.defs.OpSchema | None:
    """The node's operator in the standard; None when the standard has none of that name, domain and version."""
    version = opset(model, node.domain)
    domain = "" if node.domain == "ai.onnx" else node.domain
    if version is None or not onnx.defs.has(node.op_type, domain):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Value name -> number in onnx.TensorProto.DataType, bodies included; values of unknown type are left out."""
    types: dict[str, int] = {}
    _scope(model.graph, model, types)
    return types


def _scope(graph: onnx.GraphProto, model: onnx.ModelProto, types: dict[str, int]) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    for node in graph.node:
        if node.op_type in ("Loop", "Scan"):
            _carry(node, types)
        for body in bodies(node):
            _scope(body, model, types)
        for name, found in _outputs(node, model, types):
            types.setdefault(name, found)


def _carry(node: onnx.NodeProto, types: dict[str, int]) -> None:
    """A loop's carried values keep their types: its body's inputs have those of its own inputs."""
    for body in bodies(node):
        first = len(node.input) - len(body.input)  # Loop: both begin with the count and the condition; Scan: they match
        for name, inner in zip(node.input[max(first, 0) :], body.input, strict=False):
            if name in types and not inner.type.tensor_type.elem_type:
                types.setdefault(inner.name, types[name])


def _outputs(node: onnx.NodeProto, model: onnx.ModelProto, types: dict[str, int]) -> Iterator[tuple[str, int]]:
    attributes = {item.name: item for item in node.attribute}
    chosen = attributes.get(_BY_ATTRIBUTE.get(node.op_type, ""))
    if chosen is not None:
        yield node.output[0], chosen.i
    elif node.op_type in ("Constant", "ConstantOfShape"):
        yield node.output[0], _constant_type(attributes)
    elif node.op_type in ("If", "Loop", "Scan"):
        yield from _from_bodies(node, types)
    elif (schema := schema_of(node, model)) is not None:
        yield from _from_schema(node, schema, types)


def _constant_type(attributes: dict[str, onnx.AttributeProto]) -> int:
    if "value" in attributes:
        return attributes["value"].t.data_type
    integers = "value_int" in attributes or "value_ints" in attributes
    return int(onnx.TensorProto.INT64 if integers else onnx.TensorProto.FLOAT)


def _from_bodies(node: onnx.NodeProto, types: dict[str, int]) -> Iterator[tuple[str, int]]:
    for body in bodies(node):
        inner = body.output[1:] if node.op_type == "Loop" else body.output
        for name, value in zip(node.output, inner, strict=False):
            if value.name in types:
                yield name, types[value.name]


def _from_schema(node: onnx.NodeProto, schema: onnx.defs.OpSchema, types: dict[str, int]) -> Iterator[tuple[str, int]]:
    bound = constraint_types(node, schema, types)
    for name, formal in zip(node.output, formals(schema.outputs, len(node.output)), strict=False):
        found = bound.get(formal.type_str) or _NUMBERS.get(formal.type_str)
        if name and found:
            yield name, found


def formals(
    parameters: Sequence[onnx.defs.OpSchema.FormalParameter], count: int
) -> list[onnx.defs.OpSchema.FormalParameter]:
    """The formal parameter of each of ``count`` actual ones: a variadic last one stands for all that follow."""
    return [parameters[min(index, len(parameters) - 1)] for index in range(count)] if parameters else []


def constraint_types(node: onnx.NodeProto, schema: onnx.defs.OpSchema, types: dict[str, int]) -> dict[str, int]:
    """Type constraint (``"T"``) -> the element type that the node's inputs, and outputs already known, bind it to."""
    bound: dict[str, int] = {}
    for names, parameters in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for name, formal in zip(names, formals(parameters, len(names)), strict=False):
            if name in types:
                bound.setdefault(formal.type_str, types[name])
    return bound
