"""Element types of every tensor of an ONNX graph, and what an operator's schema allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch

FLOAT, FLOAT16 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.FLOAT16)
BFLOAT16, UNKNOWN = int(onnx.TensorProto.BFLOAT16), int(onnx.TensorProto.UNDEFINED)
HALVES = (FLOAT16, BFLOAT16)
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")

ELEMENT_TYPES = {torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}
NUMPY_TYPES: dict[int, np.dtype[Any]] = {
    FLOAT: np.dtype(np.float32),
    FLOAT16: np.dtype(np.float16),
    BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
TYPE_NAMES = {FLOAT: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16"}


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and type constraints of one operator at one opset, in plain Python."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: dict[str, frozenset[str]]
    variadic_inputs: bool
    variadic_outputs: bool

    def input_type(self, index: int) -> str:
        """The type or type variable of input ``index``; "" where the schema has none."""
        return _formal(self.inputs, index, self.variadic_inputs)

    def output_type(self, index: int) -> str:
        """The type or type variable of output ``index``; "" where the schema has none."""
        return _formal(self.outputs, index, self.variadic_outputs)

    def allows(self, type_string: str, element_type: int) -> bool:
        """Whether a type variable (or a fixed type) can be a tensor of ``element_type``."""
        wanted = f"tensor({'float' if element_type == FLOAT else TYPE_NAMES[element_type]})"
        return wanted in self.allowed.get(type_string, frozenset([type_string]))


def _formal(formals: tuple[str, ...], index: int, variadic: bool) -> str:
    if index < len(formals):
        return formals[index]
    return formals[-1] if variadic and formals else ""


@cache
def signature(operator: str, domain: str, opset: int) -> Signature | None:
    """The schema of an operator, or None when ONNX has none (a custom domain)."""
    try:
        schema = onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return None
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    return Signature(
        tuple(p.type_str for p in schema.inputs),
        tuple(p.type_str for p in schema.outputs),
        {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints},
        bool(schema.inputs) and schema.inputs[-1].option == variadic,
        bool(schema.outputs) and schema.outputs[-1].option == variadic,
    )


def node_signature(node: gs.Node, opset: int) -> Signature | None:
    """``signature`` of a node."""
    domain = node.domain or ""
    return signature(node.op, "" if domain == "ai.onnx" else domain, opset)


def element_type(dtype: Any) -> int:
    """ONNX element type of what graphsurgeon keeps as a dtype: a numpy dtype, an ONNX enum or None."""
    if dtype is None:
        return UNKNOWN
    if isinstance(dtype, int):
        return dtype
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def declared(tensor: gs.Tensor) -> int:
    """Element type that a tensor says it has; ``UNKNOWN`` for a sequence, an optional, or nothing said."""
    return UNKNOWN if getattr(tensor, "type", "tensor_type") != "tensor_type" else element_type(tensor.dtype)


def bodies(node: gs.Node) -> list[gs.Graph]:
    """The graphs inside a control-flow node, in the order of its attributes."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def walk(graph: gs.Graph) -> Iterator[tuple[gs.Graph, gs.Node]]:
    """Every node with the graph that holds it: a control-flow node first, then its bodies."""
    for node in graph.nodes:
        yield graph, node
        for body in bodies(node):
            yield from walk(body)


def infer(graph: gs.Graph) -> dict[int, int]:
    """Element types by ``id`` of the tensor, for every tensor of the graph and of the bodies in it.

    What a schema does not say (a custom operator) is what the tensor declares, else ``UNKNOWN``.
    """
    types: dict[int, int] = {}
    _infer_graph(graph, graph.opset, types)
    return types


def _infer_graph(graph: gs.Graph, opset: int, types: dict[int, int]) -> None:
    for tensor in graph.inputs:
        if types.get(id(tensor), UNKNOWN) == UNKNOWN:
            types[id(tensor)] = declared(tensor)
    for node in graph.nodes:
        for tensor in node.inputs:
            if id(tensor) not in types:
                types[id(tensor)] = declared(tensor)
        for tensor, found in zip(node.outputs, _output_types(node, opset, types), strict=False):
            types[id(tensor)] = found or declared(tensor)
    for tensor in graph.outputs:
        types.setdefault(id(tensor), declared(tensor))


def _output_types(node: gs.Node, opset: int, types: dict[int, int]) -> list[int]:
    if inner := bodies(node):
        return _control_flow_types(node, inner, opset, types)
    if node.op in ("Cast", "Constant") and not node.domain:
        value = node.attrs["to"] if node.op == "Cast" else node.attrs.get("value")
        return [element_type(value.dtype if isinstance(value, gs.Constant) else value)]
    known = node_signature(node, opset)
    if known is None:
        return [UNKNOWN] * len(node.outputs)
    bound = {known.input_type(i): types[id(tensor)] for i, tensor in enumerate(node.inputs) if tensor.name}
    return [_bound_type(node, known.output_type(i), known, bound) for i in range(len(node.outputs))]


def _bound_type(node: gs.Node, type_string: str, known: Signature, bound: dict[str, int]) -> int:
    if type_string in bound:
        return bound[type_string]
    if type_string.startswith("tensor("):
        return _TYPES_BY_STRING.get(type_string, UNKNOWN)
    if node.op == "ConstantOfShape":
        value = node.attrs.get("value")
        return element_type(value.dtype) if value is not None else FLOAT
    if "dtype" in node.attrs:
        return element_type(node.attrs["dtype"])
    if type_string not in known.allowed or "seq(" in "".join(known.allowed[type_string]):
        return UNKNOWN
    first_input = next(iter(bound.values()), UNKNOWN)
    return first_input if node.op.endswith("Like") or node.op == "Bernoulli" else UNKNOWN


def _control_flow_types(node: gs.Node, inner: list[gs.Graph], opset: int, types: dict[int, int]) -> list[int]:
    given = [types[id(tensor)] for tensor in node.inputs]
    for body in inner:
        formals = given if node.op == "Scan" else [0, 0, *given[2:]] if node.op == "Loop" else []
        for tensor, found in zip(body.inputs, formals, strict=False):
            types[id(tensor)] = found or declared(tensor)
        _infer_graph(body, opset, types)
    first = [types[id(tensor)] for tensor in inner[0].outputs]
    return first[1:] if node.op == "Loop" else first


_TYPES_BY_STRING = {
    f"tensor({name.lower()})": int(value) for name, value in onnx.TensorProto.DataType.items() if name != "UNDEFINED"
}
