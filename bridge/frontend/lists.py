"""Lists of tensors that an operator makes, taken apart where their length never varies."""

from __future__ import annotations

from collections.abc import Callable

from bridge import torch_private as tp
from bridge.frontend.facts import Facts


def take_apart(graph: tp.Graph, facts: Facts) -> bool:
    """Puts lists of known parts in the place of ``chunk``, ``split`` and ``unbind``; tells whether there were any.

    As such they can be copied, filled and asked for elements before any call. What is unpacked by the program itself
    is left as it is.
    """
    changed = False
    for node in [node for node in tp.walk(graph) if node.kind() in _LENGTHS and node.outputsSize() == 1]:
        others = [use.user for use in node.output().uses() if use.user.kind() != "prim::ListUnpack"]
        length = _length(node, facts) if others else None
        if length:
            _unpack(graph, node, length, facts)
            changed = True
    return changed


def _unpack(graph: tp.Graph, node: tp.Node, length: int, facts: Facts) -> None:
    unpack = graph.create("prim::ListUnpack", [node.output()], length)
    unpack.insertAfter(node)
    unpack.copyMetadata(node)
    made = graph.create("prim::ListConstruct", list(unpack.outputs()), 1)
    made.insertAfter(unpack)
    made.copyMetadata(node)
    made.output().setType(node.output().type())
    for value in (*unpack.outputs(), made.output()):
        facts.varies[value.debugName()] = facts.of(node.output())
    node.output().replaceAllUsesWith(made.output())
    unpack.replaceInput(0, node.output())


def _length(node: tp.Node, facts: Facts) -> int | None:
    """How many parts an operator makes in every call, None where that is not known."""
    schema = tp.schema(node)
    assert schema is not None
    given = dict(zip((argument.name for argument in schema.arguments), node.inputs(), strict=False))
    sizes, axis = facts.sizes(given["self"]), given["dim"]
    if sizes is None or not tp.is_constant(axis):
        return None
    size = sizes[tp.constant_value(axis)] if sizes else None
    parts = [value for name, value in given.items() if name not in ("self", "dim")]
    if parts and parts[0].node().kind() == "prim::ListConstruct":
        return parts[0].node().inputsSize()
    return _LENGTHS[node.kind()](size, *map(tp.constant_value, parts)) if all(map(tp.is_constant, parts)) else None


def _parts(size: int | None, count: int) -> int | None:
    """Of ``chunk``, whose last part may be smaller, and which may make fewer than are asked for."""
    return None if not size else -(-size // -(-size // count))


def _pieces(size: int | None, each: int | list[int]) -> int | None:
    if isinstance(each, list):
        return len(each)
    return None if not size or each < 1 else -(-size // each)


def _rows(size: int | None) -> int | None:
    return size


_LENGTHS: dict[str, Callable[..., int | None]] = {
    "aten::chunk": _parts, "aten::split": _pieces, "aten::split_with_sizes": _pieces, "aten::unbind": _rows,
}  # fmt: skip
