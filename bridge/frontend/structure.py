"""Tuples that are built and taken apart again, and shapes that are read as a whole and then by dimension."""

from __future__ import annotations

from bridge import torch_private as tp
from bridge.frontend import carried


def lower(graph: tp.Graph) -> None:
    """Makes parts of tuples and single dimensions visible where they are used.

    Branches and loops pass the parts of tuples, not tuples. TupleUnpack(TupleConstruct) and
    TupleIndex(TupleConstruct) become the parts; ListUnpack(tensor_split) becomes slices; ListUnpack(size) and
    getitem(size), or of a slice of it, become size of one dimension; comparing the shape of one tensor with
    itself is decided.
    """
    carried.take_apart(graph)
    for node in list(tp.walk(graph)):
        lowering = _LOWERINGS.get(node.kind())
        if lowering is not None:
            lowering(graph, node)
    tp.remove_dead_code(graph)


def _tuple_unpack(graph: tp.Graph, node: tp.Node) -> None:
    made = node.input().node()
    if made.kind() == "prim::TupleConstruct":
        for value, part in zip(node.outputs(), made.inputs(), strict=True):
            value.replaceAllUsesWith(part)


def _tuple_index(graph: tp.Graph, node: tp.Node) -> None:
    made, index = next(iter(node.inputs())).node(), list(node.inputs())[1]
    if made.kind() == "prim::TupleConstruct" and tp.is_constant(index):
        node.output().replaceAllUsesWith(list(made.inputs())[tp.constant_value(index)])


def _list_unpack(graph: tp.Graph, node: tp.Node) -> None:
    if _is_split_at_places(node.input().node()):
        _slice(graph, node)
        return
    for position, value in enumerate(node.outputs()):
        _read(graph, node, value, position)


def _is_split_at_places(node: tp.Node) -> bool:
    if node.kind() != "aten::tensor_split":
        return False
    places = tp.constant_value(node.inputsAt(1)) if tp.is_constant(node.inputsAt(1)) else None
    return isinstance(places, list) and len(node.output().uses()) == 1


def _slice(graph: tp.Graph, node: tp.Node) -> None:
    """The parts of ``tensor_split`` at constant places as slices, which they are: torch.onnx may crash at them."""
    split = node.input().node()
    tensor, places, axis = split.inputs()
    bounds = [0, *tp.constant_value(places), None]
    for value, first, last in zip(node.outputs(), bounds, bounds[1:], strict=False):
        settings = [axis, *(tp.constant(graph, bound, node) for bound in (first, last, 1))]
        value.replaceAllUsesWith(tp.insert(graph, "aten::slice", [tensor, *settings], node, split))


def _get_item(graph: tp.Graph, node: tp.Node) -> None:
    index = list(node.inputs())[1]
    if tp.is_constant(index):
        _read(graph, node, node.output(), tp.constant_value(index))


def _read(graph: tp.Graph, node: tp.Node, value: tp.Value, position: int) -> None:
    """Makes one number of a shape, or of a part of it, the size of one dimension."""
    made = next(iter(node.inputs())).node()
    if made.kind() == "aten::slice" and _is_only_read(made):
        shape, *bounds = made.inputs()
        position_ = _in_whole(bounds, position)
        if position_ is None:
            return
        made, position = shape.node(), position_
    if _is_shape(made):
        value.replaceAllUsesWith(_size(graph, made, position, node))


def _in_whole(bounds: list[tp.Value], position: int) -> int | None:
    """The place in a list of what is at a place of its slice; counted from the end where the slice begins there."""
    if not all(map(tp.is_constant, bounds)):
        return None
    start, end, step = map(tp.constant_value, bounds)
    if step not in (None, 1):
        return None
    if position < 0:
        return position if end is None else None
    return (start or 0) + position if (start or 0) >= 0 or start + position < 0 else None


def _is_shape(node: tp.Node) -> bool:
    """A shape as a list that nobody changes: every use only reads it."""
    return node.kind() == "aten::size" and len(list(node.inputs())) == 1 and _is_only_read(node)


def _is_only_read(node: tp.Node) -> bool:
    return all(use.user.kind() in _READERS for use in node.output().uses())


def _size(graph: tp.Graph, shape: tp.Node, dimension: int, before: tp.Node) -> tp.Value:
    tensor = shape.input()
    size = graph.create("aten::size", [tensor, tp.constant(graph, dimension, before)], 1)
    size.insertBefore(before)
    size.copyMetadata(shape)
    size.output().setType(tp.int_type())
    return size.output()


def _compare(graph: tp.Graph, node: tp.Node) -> None:
    first, second = (_source(value) for value in list(node.inputs())[:2])
    if first == second and all(value.type().kind() in ("IntType", "ListType") for value in node.inputs()):
        node.output().replaceAllUsesWith(tp.constant(graph, node.kind() == "aten::eq", node))


def _source(value: tp.Value) -> tuple[object, ...]:
    """What an integer or a list of them was read from: equal for two reads of the same thing."""
    node = value.node()
    if node.kind() == "aten::size":
        tensor, *dimension = node.inputs()
        return (tensor.debugName(), *(tp.constant_value(d) if tp.is_constant(d) else d.debugName() for d in dimension))
    return (value.debugName(),)


_READERS = {
    "prim::ListUnpack", "aten::__getitem__", "aten::len", "aten::eq", "aten::ne", "aten::format", "aten::view",
    "aten::reshape", "aten::expand", "aten::slice", "aten::list", "prim::TupleConstruct",
}  # fmt: skip
_LOWERINGS = {
    "prim::TupleUnpack": _tuple_unpack, "prim::TupleIndex": _tuple_index, "prim::ListUnpack": _list_unpack,
    "aten::__getitem__": _get_item, "aten::eq": _compare, "aten::ne": _compare,
}  # fmt: skip
