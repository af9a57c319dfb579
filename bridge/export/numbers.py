"""Arithmetic on Python's numbers, which the exporter takes for tensors': quotients of sizes, and what int() leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bridge import torch_private as tp

_FLOAT, _INT64 = 1, 7
_COUNTS = {"aten::size", "aten::numel", "aten::len", "aten::dim"}
_GROWING = {"aten::add", "aten::mul", "aten::floordiv", "prim::max", "prim::min"}

Written = Callable[[Any, tp.Node, Sequence[Any]], Any]


def number_symbolic(node: tp.Node) -> Written | None:
    """What writes an operator on numbers as ONNX where the exporter's own translation is another; takes its builder."""
    found = _SYMBOLICS.get(node.kind())
    is_number = node.outputsSize() == 1 and node.output().type().kind() in ("IntType", "FloatType")
    return found if is_number else None


def _floor_divided(op: Any, node: tp.Node, inputs: Sequence[Any]) -> Any:
    """Rounds down, where Div of whole numbers drops the fraction."""
    if node.output().type().kind() == "FloatType":
        return op.op("Floor", op.op("Div", *(op.op("Cast", value, to_i=_FLOAT) for value in inputs)))
    given, divisor = inputs
    if all(map(_is_natural, tp.inputs_of(node))):
        return op.op("Div", given, divisor)
    return op.op("Div", op.op("Sub", given, op.op("Mod", given, divisor)), divisor)


def _rounded(op: Any, node: tp.Node, inputs: Sequence[Any]) -> Any:
    """A whole number, where Ceil and Floor give a fraction without its fraction."""
    made = op.op(node.kind().removeprefix("aten::").capitalize(), op.op("Cast", inputs[0], to_i=_FLOAT))
    return op.op("Cast", made, to_i=_INT64) if node.output().type().kind() == "IntType" else made


def keep_conversions(graph: tp.Graph) -> None:
    """Makes int() and float() conversions of tensors: the exporter erases those of numbers."""
    for node in [node for node in tp.walk(graph) if node.kind() in _CONVERSIONS]:
        kinds, same = _CONVERSIONS[node.kind()]
        given = next(iter(node.inputs()))
        is_tensor = given.type().kind() == "TensorType"
        if given.type().dtype() in kinds if is_tensor else given.type().kind() == same:
            continue
        source = given if is_tensor else tp.insert(graph, "prim::NumToTensor", [given], node)
        settings = [tp.constant(graph, value, node) for value in (kinds[0], False, False, None)]
        made = tp.insert(graph, "aten::to", [source, *settings], node)
        made.setType(tp.tensor_type(kinds[0], ()))
        node.replaceInput(0, made)


def _absolute(op: Any, node: tp.Node, inputs: Sequence[Any]) -> Any:
    return op.op("Abs", inputs[0])


def _is_natural(value: tp.Value) -> bool:
    """Whether a number is never negative: a size, or made of such."""
    if tp.is_constant(value):
        held = tp.constant_value(value)
        return isinstance(held, int) and held >= 0
    node = value.node()
    return node.kind() in _COUNTS or (node.kind() in _GROWING and all(map(_is_natural, tp.inputs_of(node))))


_SYMBOLICS: dict[str, Written] = {
    "aten::floordiv": _floor_divided, "aten::ceil": _rounded, "aten::floor": _rounded, "prim::abs": _absolute,
}  # fmt: skip
_CONVERSIONS = {
    "aten::Int": ((torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8), "IntType"),
    "aten::Float": ((torch.float32, torch.float16, torch.bfloat16, torch.float64), "FloatType"),
}
"""The dtypes that need no conversion, of which the first is converted to, and the type of number that needs none."""
