"""What the ONNX operator schemas say: inputs by name, attribute defaults, and which operands commute."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper

COMMUTATIVE = frozenset(
    ["Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Max", "Min", "Sum", "Mean"]
)
_ONES, _ZEROS = frozenset(("strides", "dilations")), frozenset(("pads", "output_padding"))


@cache
def schema_of(op: str, domain: str, opset: int) -> defs.OpSchema | None:
    """The schema of an operator at an opset, or None for operators that ONNX does not define."""
    try:
        return defs.get_schema(op, opset, "" if domain == "ai.onnx" else domain)
    except defs.SchemaError:
        return None


@cache
def schema_of_newer(op: str, domain: str, opset: int) -> defs.OpSchema | None:
    """As `schema_of`; of operators that came later, which rules may still replace, the newest schema."""
    return schema_of(op, domain, opset) or schema_of(op, domain, defs.onnx_opset_version())


@cache
def attribute_defaults(op: str, domain: str, opset: int) -> dict[str, Any]:
    """Attribute name -> default for every attribute of the operator; None where the schema gives no default."""
    schema = schema_of_newer(op, domain, opset)
    return {name: _default(attribute) for name, attribute in schema.attributes.items()} if schema else {}


def _default(attribute: defs.OpSchema.Attribute) -> Any:
    if attribute.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = helper.get_attribute_value(attribute.default_value)
    return value.decode() if isinstance(value, bytes) else value


@cache
def added_later(op: str, domain: str, opset: int) -> dict[str, Any]:
    """What newer versions of the operator have beside this one's: attribute name -> default, input name -> None."""
    version = defs.onnx_opset_version()
    names = dict.fromkeys(name for name, _ in input_names(op, domain, version))
    known = attribute_defaults(op, domain, opset).keys() | {name for name, _ in input_names(op, domain, opset)}
    newest = {**names, **attribute_defaults(op, domain, version)}
    return {name: default for name, default in newest.items() if name not in known}


@cache
def formerly_attributes(op: str, domain: str, opset: int) -> tuple[tuple[int, str], ...]:
    """(position, name) of the inputs of the newest version that are attributes at this opset."""
    old, new = schema_of(op, domain, opset), schema_of(op, domain, defs.onnx_opset_version())
    if old is None or new is None or old.since_version == new.since_version:
        return ()
    moved = [(i, p.name) for i, p in enumerate(new.inputs) if i >= old.max_input and p.name in old.attributes]
    return tuple(moved)


@cache
def input_names(op: str, domain: str, opset: int) -> tuple[tuple[str, bool], ...]:
    """(name, is variadic) of every input in the schema."""
    schema = schema_of_newer(op, domain, opset)
    variadic = defs.OpSchema.FormalParameterOption.Variadic
    return tuple((p.name, p.option == variadic) for p in schema.inputs) if schema else ()


def same_attribute(actual: Any, wanted: Any, name: str) -> bool:
    """Whether two attribute values mean the same: floats at 32 bits, absent strides as ones, absent pads as zeros."""
    if wanted is None and isinstance(actual, (list, tuple)):
        return (name in _ONES and all(v == 1 for v in actual)) or (name in _ZEROS and not any(actual))
    if actual is None and isinstance(wanted, (list, tuple)):
        return same_attribute(list(wanted), None, name)
    if isinstance(actual, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(actual) == len(wanted) and all(
            same_attribute(a, w, "") for a, w in zip(actual, wanted, strict=False)
        )
    if isinstance(actual, float) or isinstance(wanted, float):
        return actual is not None and wanted is not None and bool(np.float32(actual) == np.float32(wanted))
    return bool(actual == wanted)


def output_count(op_type: str, domain: str, opset: int, attributes: dict[str, Any]) -> int:
    """How many outputs a node has at least."""
    schema = schema_of(op_type, domain, opset)
    if op_type == "Split" and "num_outputs" in attributes:
        return int(attributes["num_outputs"])
    return max(1, schema.min_output) if schema else 1
