"""In-place operators made functional: what is written keeps its type, whatever the operator alone would give."""

from __future__ import annotations

from collections.abc import Sequence

from bridge import torch_private as tp

_TRUTHS = {
    "eq", "ne", "lt", "le", "gt", "ge", "not_equal", "less", "less_equal", "greater", "greater_equal",
    "logical_and", "logical_or", "logical_xor", "logical_not",
}  # fmt: skip
_PROMOTING = {
    "add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide", "floor_divide", "remainder", "fmod",
    "pow", "addcmul", "addcdiv", "atan2", "arctan2", "hypot", "copysign", "xlogy", "clamp", "clamp_min", "clamp_max",
    "bitwise_and", "bitwise_or", "bitwise_xor", "gcd", "lcm", "cumsum", "cumprod",
}  # fmt: skip
_RUNNING = {"cumsum", "cumprod"}  # of narrower whole numbers are int64
OF_OTHER_TYPE = _TRUTHS | _RUNNING
"""Operators of one tensor, or of several, whose result may have another type than all of them."""
OTHERWISE_ORDERED = {"polygamma"}
"""Operators that take the tensor last, which is first where it is written to."""
_COPIES = ("aten::copy", "aten::copy_")  # the first is also a list's, of one argument
_OURS = "bridge_in_place"


def make_functional(graph: tp.Graph) -> None:
    """Replaces in-place operators by functional ones wherever that cannot be observed.

    ``x.add_(y)`` with a ``y`` of a wider type is ``x.add(y)`` in the type of ``x``.
    """
    for node in [node for node in tp.walk(graph) if _differs_from_twin(node)]:
        _write_apart(graph, node)
    tp.remove_mutation(graph)
    for node in [node for node in tp.walk(graph) if node.kind() in _COPIES and node.inputsSize() > 1]:
        _settle_copy(graph, node)


def _differs_from_twin(node: tp.Node) -> bool:
    """Whether the operator without the underscore may give another type, or takes its arguments in another order."""
    kind = node.kind().removeprefix("aten::")
    if not kind.endswith("_") or node.outputsSize() != 1:
        return False
    if kind[:-1] in _TRUTHS | OTHERWISE_ORDERED:
        return True
    types = [value.type() for value in node.inputs() if value.type().kind() == "TensorType"]
    if kind[:-1] not in _PROMOTING or (len(types) < 2 and kind[:-1] not in _RUNNING):
        return False
    dtypes = {kind.dtype() for kind in types}
    return None in dtypes or len(dtypes) > 1 or kind[:-1] in _RUNNING


def _write_apart(graph: tp.Graph, node: tp.Node) -> None:
    """``x.gt_(y)`` -> ``x.copy_(x.gt(y))``."""
    target, *_ = inputs = list(node.inputs())
    kind = node.kind()[:-1]
    is_last = kind.removeprefix("aten::") in OTHERWISE_ORDERED
    made = _insert(graph, node, kind, inputs[::-1] if is_last else inputs)
    written = _insert(graph, node, "aten::copy_", [target, made.output(), tp.constant(graph, False, node)])
    written.i_(_OURS, 1)
    written.output().setType(node.output().type())
    node.output().replaceAllUsesWith(written.output())
    node.destroy()


def _settle_copy(graph: tp.Graph, node: tp.Node) -> None:
    """``x.copy(x.gt(y))`` -> ``x.gt(y).type_as(x)``; what is still written in place is one operator again."""
    target, source, *_ = node.inputs()
    made = source.node()
    name = made.kind().removeprefix("aten::")
    if name not in _TRUTHS | _PROMOTING or not made.inputsSize() or made.inputsAt(0).debugName() != target.debugName():
        return
    if node.kind() == "aten::copy":
        new = _insert(graph, node, "aten::type_as", [source, target])
    elif node.hasAttribute(_OURS) and len(source.uses()) == 1:
        new = _insert(graph, node, f"aten::{name}_", list(made.inputs()))
    else:
        return
    new.output().setType(node.output().type())
    node.output().replaceAllUsesWith(new.output())
    node.destroy()
    if not source.uses():
        made.destroy()


def _insert(graph: tp.Graph, node: tp.Node, kind: str, inputs: Sequence[tp.Value]) -> tp.Node:
    """A node of the kind before another, with its attributes: where it came from."""
    made = tp.insert(graph, kind, inputs, node).node()
    made.copyAttributes(node)
    return made
