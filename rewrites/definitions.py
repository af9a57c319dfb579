"""What ONNX's specification defines operators as, in terms of others: `expand` puts that in an operator's place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import defs, helper, inliner, version_converter
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from rewrites.builder import Builder
from rewrites.errors import RewriteError, require
from rewrites.graph import Node, Value
from rewrites.infer import elem_type
from rewrites.schemas import attribute_defaults, schema_of

DOMAIN = "rewrites.definitions"


def has_definition(op: str, domain: str, opset: int) -> bool:
    """Whether the specification defines the operator in terms of others."""
    schema: Any = schema_of(op, domain, opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def function_of(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], opset: int) -> onnx.FunctionProto | None:
    """The definition of one node as a function of its inputs, in the newest opset up to `opset` that has one.

    Args:
        node: the node.
        types: the type of each of its inputs, with the rank where it is known.
        opset: version of the node's domain.
    """
    schema: Any = schema_of(node.op_type, node.domain, opset)
    found = b""
    if schema is not None and schema.has_context_dependent_function:
        version = _version(schema.context_dependent_function_opset_versions, opset)
        given = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        found = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), given)
    elif schema is not None and schema.has_function:
        found = schema.get_function_with_opset_version(_version(schema.function_opset_versions, opset))
    return onnx.FunctionProto.FromString(found) if found else None


def _version(versions: list[int], opset: int) -> int:
    return max((v for v in versions if v <= opset), default=min(versions))


def as_call(node: onnx.NodeProto, function: onnx.FunctionProto, name: str, opset: int) -> onnx.NodeProto:
    """A call of the function, renamed to be local to a model, in the node's place; defaults are spelled out."""
    function.domain, function.name = DOMAIN, name
    call = onnx.NodeProto()
    call.CopyFrom(node)
    given, defaults = {a.name for a in node.attribute}, attribute_defaults(node.op_type, node.domain, opset)
    for key, value in defaults.items():
        if key not in given and value is not None:
            call.attribute.append(helper.make_attribute(key, value))
    call.domain, call.op_type = DOMAIN, name
    return call


def expand(op: Builder, node: Node) -> tuple[Value, ...]:
    """Add what the specification defines the node as; a value for each of the outputs that it has.

    Raises:
        Refusal: when there is no definition, or the type of an input is not known.
    """
    proto = OnnxExporter.export_node(node.raw)
    given = {v.name: v for v in node.inputs if v is not None}
    types = {name: _type(v) for name, v in given.items()}
    opset = op.opset if not node.domain else defs.get_schema(node.op, node.domain).since_version
    function = function_of(proto, types, opset)
    require(function is not None, f"{node.op} has no definition in other operators")
    assert function is not None
    model = _model(proto, function, types, op.opset)
    _hoist_constants(model.graph)
    return op.splice(model, list(given.values()))


def _type(value: Value) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(elem_type(value.dtype), value.dims)


def _model(
    node: onnx.NodeProto, function: onnx.FunctionProto, types: Mapping[str, onnx.TypeProto], opset: int
) -> onnx.ModelProto:
    """The definition alone, at the graph's opset, its inputs and outputs named as the node's."""
    call = as_call(node, function, node.op_type, opset)
    inputs = [onnx.ValueInfoProto(name=name, type=t) for name, t in types.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.GraphProto(name="definition", node=[call], input=inputs, output=outputs)
    version = next((o.version for o in function.opset_import if o.domain in ("", "ai.onnx")), opset)
    imports = [helper.make_opsetid("", version), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10)
    model = inliner.inline_local_functions(model)
    del model.opset_import[1:]
    if version == opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        raise RewriteError(f"the definition of {node.op_type} cannot be converted to opset {opset}: {error}") from error


def _hoist_constants(graph: onnx.GraphProto) -> None:
    """Make Constant nodes initializers, which builders read as numbers."""
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        attribute = node.attribute[0]
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
        else:
            kind = onnx.TensorProto.FLOAT if attribute.name.startswith("value_float") else onnx.TensorProto.INT64
            several = isinstance(value, (list, tuple))
            tensor = helper.make_tensor("", kind, [len(value)] if several else [], value if several else [value])
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)
