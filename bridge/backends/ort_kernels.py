"""Which nodes ONNX Runtime's CPU provider has a kernel for, asked without making a session."""

from __future__ import annotations

from functools import cache

import onnx
from onnxruntime.capi import _pybind_state as ort_state

from bridge.backends.element_types import TYPE_STRINGS, constraint_types, opset, schema_of

BFLOAT16 = int(onnx.TensorProto.BFLOAT16)
FLOAT16 = int(onnx.TensorProto.FLOAT16)
FLOAT = int(onnx.TensorProto.FLOAT)

_Kernel = tuple[int, int, dict[str, list[str]]]


@cache
def _kernels() -> dict[tuple[str, str], list[_Kernel]]:
    table: dict[tuple[str, str], list[_Kernel]] = {}
    for kernel in ort_state.get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            first, last = kernel.version_range
            table.setdefault((kernel.domain, kernel.op_name), []).append((first, last, kernel.type_constraints))
    return table


def missing(node: onnx.NodeProto, model: onnx.ModelProto, types: dict[str, int]) -> str | None:
    """Why ONNX Runtime cannot run this node on the CPU.

    None when it has a kernel, or makes one: from the operator's definition as a function, or by casting FP16 to FP32.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    schema = schema_of(node, model)
    kernels = _kernels().get((domain, node.op_type), [])
    if schema is None and not kernels:
        version = opset(model, node.domain)
        return f"ONNX Runtime knows no operator {node.op_type} of domain {domain or 'ai.onnx'!r} at version {version}"
    if schema is None or has_kernel(node, model, types):
        return None
    bound = constraint_types(node, schema, types)
    if _is_function(schema) and _standard_allows(schema, bound):
        return None
    text = ", ".join(f"{name}={TYPE_STRINGS.get(number, number)}" for name, number in bound.items())
    return (
        f"ONNX Runtime has no CPU kernel for {node.op_type} version {schema.since_version} with {text or 'these types'}"
    )


def has_kernel(node: onnx.NodeProto, model: onnx.ModelProto, types: dict[str, int]) -> bool:
    """Whether there is a kernel for the node's types; FP16 counts as FP32, since ONNX Runtime casts it by itself."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    schema = schema_of(node, model)
    since = schema.since_version if schema is not None else opset(model, node.domain) or 1
    bound = constraint_types(node, schema, types) if schema is not None else {}
    for first, last, constraints in _kernels().get((domain, node.op_type), []):
        if first <= since <= last and all(_allows(constraints.get(name), number) for name, number in bound.items()):
            return True
    return False


def _allows(allowed: list[str] | None, number: int) -> bool:
    if not allowed:
        return True
    choices = {number, FLOAT} if number == FLOAT16 else {number}
    return any(TYPE_STRINGS.get(choice) in allowed for choice in choices)


def _standard_allows(schema: onnx.defs.OpSchema, bound: dict[str, int]) -> bool:
    return all(
        TYPE_STRINGS.get(bound[item.type_param_str], "") in item.allowed_type_strs
        for item in schema.type_constraints
        if item.type_param_str in bound
    )


def _is_function(schema: onnx.defs.OpSchema) -> bool:
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
