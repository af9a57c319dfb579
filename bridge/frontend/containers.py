"""Lists and dictionaries that one block fills and reads: each read gets what is in them then; nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge import torch_private as tp

Items = dict[Any, tp.Value]
"""What is in a container, in order, by index or key."""


def settle(graph: tp.Graph) -> None:
    """Replaces containers that are filled step by step by one container for each state that is read.

    Only those whose every change is by a known operator, at a constant place, in the block that made them, and which
    nothing else may hold on to. Their elements are what they were: tensors, numbers, containers.
    """
    for node in [node for node in tp.walk(graph) if node.kind() == "aten::add_"]:
        if node.output().type().kind() == "ListType":
            _extend_by_name(graph, node)
    for node in [node for node in tp.walk(graph) if node.kind() == "aten::mul"]:
        if node.output().type().kind() == "ListType":
            _repeat(graph, node)
    for node in [node for node in tp.walk(graph) if node.kind() in _STARTS]:
        items = _STARTS[node.kind()](graph, node) if _is_changed(node) else None
        if items is not None and _is_private(node):
            _Container(graph, node, items).settle()
        elif items is not None:
            _read_early(node, items)
    for node in [node for node in tp.walk(graph) if node.kind() in ("aten::list", "aten::copy", "aten::add")]:
        if node.output().type().kind() == "ListType":  # aten::copy is also what is left of Tensor.copy_
            _join(graph, node) if node.kind() == "aten::add" else _share(node)
    for node in [node for node in tp.walk(graph) if node.kind() == "aten::__getitem__"]:
        _pick(node)


def _extend_by_name(graph: tp.Graph, node: tp.Node) -> None:
    """``parts += more`` gives the list that it extends."""
    made = graph.create("aten::extend", list(node.inputs()), 0)
    made.insertBefore(node)
    made.copyMetadata(node)
    node.output().replaceAllUsesWith(next(iter(node.inputs())))
    node.destroy()


def _repeat(graph: tp.Graph, node: tp.Node) -> None:
    """``[1] * 4``, of a list that nothing changes and a number that is known: all its elements in a list."""
    listed, times = sorted(node.inputs(), key=lambda value: value.type().kind() != "ListType")
    items = _from_list(graph, listed, node)
    if items is not None and tp.is_constant(times):
        made = tp.insert(graph, "prim::ListConstruct", items * tp.constant_value(times), node)
        made.setType(node.output().type())
        node.output().replaceAllUsesWith(made)
        node.destroy()


def _pick(node: tp.Node) -> None:
    """What is at a known place of a list that nothing changes."""
    listed, index = node.inputs()
    if listed.node().kind() == "prim::ListConstruct" and tp.is_constant(index) and _is_still(listed.node()):
        items, place = list(listed.node().inputs()), tp.constant_value(index)
        if -len(items) <= place < len(items):
            node.output().replaceAllUsesWith(items[place])


def _join(graph: tp.Graph, node: tp.Node) -> None:
    """One list after the other, where neither is changed: all their elements in one."""
    sources = [value.node() for value in node.inputs()]
    if all(source.kind() == "prim::ListConstruct" and _is_still(source) for source in sources) and _is_still(node):
        made = tp.insert(graph, "prim::ListConstruct", [v for source in sources for v in source.inputs()], node)
        made.setType(node.output().type())
        node.output().replaceAllUsesWith(made)
        node.destroy()


def _share(node: tp.Node) -> None:
    """A copy that is only read is the list itself, where that is not changed either."""
    source = node.input().node()
    if source.kind() == "prim::ListConstruct" and _is_still(source) and _is_still(node):
        node.output().replaceAllUsesWith(node.input())


def _is_private(node: tp.Node) -> bool:
    """Whether all changes are in the node's own block, and all that may keep the container comes after them."""
    order = {other: position for position, other in enumerate(node.owningBlock().nodes())}
    changes, kept = [-1], []
    for use in node.output().uses():
        user = use.user
        if user.kind() in _CHANGES and use.offset == 0:
            if user not in order or any(value.uses() for value in user.outputs()):
                return False
            changes.append(order[user])
        elif not _only_reads(user):
            place = _place(user, order)
            if place is None or not _leaves(user):
                return False
            kept.append(place)
    return not kept or max(changes) < min(kept)


def _read_early(node: tp.Node, items: Items) -> None:
    """Reads what is at a place before anything may change it there: it may decide the branch that does."""
    order = {other: position for position, other in enumerate(node.owningBlock().nodes())}
    users = [use.user for use in node.output().uses()]
    changed: dict[Any, int] = {}
    for use in node.output().uses():
        if use.user.kind() in _CHANGES and use.offset == 0:
            places = [_key(use.user, items)] if use.user.kind() == "aten::_set_item" else [None]
        elif _only_reads(use.user):
            continue
        else:
            places = [None]
        for key in items if None in places else places:
            changed[key] = min(_position(use.user, order), changed.get(key, len(order)))
    for user in users:
        key = _key(user, items) if user.kind() == "aten::__getitem__" else None
        if key in items and _position(user, order) < changed.get(key, len(order)):
            user.output().replaceAllUsesWith(items[key])


def _key(user: tp.Node, items: Items) -> Any:
    """The constant place that a node reads or writes, counted from the beginning of a list."""
    index = list(user.inputs())[1]
    if not tp.is_constant(index):
        return None
    key = tp.constant_value(index)
    return key + len(items) if isinstance(key, int) and key < 0 and key not in items else key


def _position(user: tp.Node, order: dict[tp.Node, int]) -> int:
    """Where a node, or what it is inside of, is in a block; behind its end where it is not in it."""
    while user not in order:
        owner = user.owningBlock().owningNode()
        if owner is None:
            return len(order)
        user = owner
    return order[user]


def _only_reads(user: tp.Node) -> bool:
    """Whether a node takes elements out, or computes from them, but keeps no container: it is an operator's."""
    schema = tp.schema(user)
    if schema is None or not user.kind().startswith("aten::"):
        return False
    if any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments):
        return False
    return user.kind() in _COPIES or all(value.type().kind() in _ELEMENTS for value in user.outputs())


def _leaves(user: tp.Node) -> bool:
    """Whether a node hands the container out of its block, for good: a result, or a structure that is one."""
    if user.kind() == "prim::Return":
        return True
    made = user.kind() in ("prim::TupleConstruct", "prim::ListConstruct", "prim::DictConstruct")
    return made and all(_leaves(use.user) for use in user.output().uses())


class _Container:
    """One container, followed through its block."""

    def __init__(self, graph: tp.Graph, node: tp.Node, items: Items) -> None:
        self.graph, self.node, self.items, self.value = graph, node, items, node.output()
        self.is_list = self.value.type().kind() == "ListType"
        self.made: tp.Value | None = None

    def settle(self) -> None:
        """Follows the changes in order; nothing is done where one of them is not understood."""
        following = _following(self.node)
        items: Items | None = self.items
        for node in following:
            if self._is_change(node):
                items = None if items is None else _CHANGES[node.kind()](items, list(node.inputs())[1:])
        if items is None:
            return
        for node in following:
            if self._is_change(node):
                self.items, self.made = _CHANGES[node.kind()](self.items, list(node.inputs())[1:]) or {}, None
                node.destroy()
            else:
                self._redirect(node)
        self.node.destroy()

    def _is_change(self, node: tp.Node) -> bool:
        return node.kind() in _CHANGES and next(iter(node.inputs())).debugName() == self.value.debugName()

    def _redirect(self, node: tp.Node) -> None:
        ends: list[Any] = [inner for block in node.blocks() for inner in tp.blocks(block)]
        for block in ends:
            _replace_in(block.returnNode(), self.value, lambda: self._construct(node))
        for reader in [*tp.inside(node), node]:
            read = self._read(reader) if self._is_read_by(reader) else None
            if read is None:
                _replace_in(reader, self.value, lambda: self._construct(node))
            else:
                reader.output().replaceAllUsesWith(read)
                reader.destroy()  # nobody else would: an element that is not there is an error

    def _is_read_by(self, reader: tp.Node) -> bool:
        return any(value.debugName() == self.value.debugName() for value in reader.inputs())

    def _read(self, reader: tp.Node) -> tp.Value | None:
        """One element, or the number of them, where that is what is read."""
        inputs = list(reader.inputs())
        if reader.kind() == "aten::len":
            return tp.constant(self.graph, len(self.items), reader)
        if reader.kind() == "aten::values":
            return self._new("prim::ListConstruct", list(self.items.values()), reader.output(), reader)
        if reader.kind() not in ("aten::__getitem__", "aten::__contains__") or not tp.is_constant(inputs[1]):
            return None
        key = tp.constant_value(inputs[1])
        if reader.kind() == "aten::__contains__":
            return None if self.is_list else tp.constant(self.graph, key in self.items, reader)
        return self.items.get(key + len(self.items) if self.is_list and key < 0 else key)

    def _construct(self, before: tp.Node) -> tp.Value:
        """The container as it is now, made before ``before``; once for each state."""
        if self.made is None:
            values = list(self.items.values())
            if not self.is_list:
                values = [v for key, item in self.items.items() for v in (tp.constant(self.graph, key, before), item)]
            kind = "prim::ListConstruct" if self.is_list else "prim::DictConstruct"
            self.made = self._new(kind, values, self.value, before)
        return self.made

    def _new(self, kind: str, values: list[tp.Value], like: tp.Value, before: tp.Node) -> tp.Value:
        made = tp.insert(self.graph, kind, values, before, self.node)
        made.setType(like.type())
        return made


def _place(user: tp.Node, order: dict[tp.Node, int]) -> int | None:
    """Where a node is in a block, or the node of the block that it is the end of a block of."""
    if user.kind() != "prim::Return":
        return order.get(user)
    owner = user.owningBlock().owningNode()
    return order.get(owner, len(order))


def _following(node: tp.Node) -> list[tp.Node]:
    """The nodes of its block after a node, and the block's end."""
    block: Any = node.owningBlock()
    nodes = [*block.nodes(), block.returnNode()]
    return nodes[nodes.index(node) + 1 :]


def _replace_in(node: tp.Node, old: tp.Value, new: Callable[[], tp.Value]) -> None:
    for offset, value in enumerate(list(node.inputs())):
        if value.debugName() == old.debugName():
            node.replaceInput(offset, new())


def _from_construct(graph: tp.Graph, node: tp.Node) -> Items | None:
    return dict(enumerate(node.inputs()))


def _from_pairs(graph: tp.Graph, node: tp.Node) -> Items | None:
    given = list(node.inputs())
    if not all(tp.is_constant(key) for key in given[::2]):
        return None
    return {tp.constant_value(key): value for key, value in zip(given[::2], given[1::2], strict=True)}


def _from_dict(graph: tp.Graph, node: tp.Node) -> Items | None:
    given = list(node.inputs())
    if not given:
        return {}
    source = given[0].node()
    return _from_pairs(graph, source) if source.kind() == "prim::DictConstruct" and _is_still(source) else None


def _from_copy(graph: tp.Graph, node: tp.Node) -> Items | None:
    items = _from_list(graph, node.input(), node)
    return None if items is None else dict(enumerate(items))


def _from_list(graph: tp.Graph, listed: tp.Value, before: tp.Node) -> list[tp.Value] | None:
    """The elements of a list that nothing changes, where they are known."""
    source = listed.node()
    if source.kind() == "prim::ListConstruct" and _is_still(source):
        return list(source.inputs())
    if tp.is_constant(listed) and isinstance(tp.constant_value(listed), list):
        return [tp.constant(graph, item, before) for item in tp.constant_value(listed)]
    return None


def _is_changed(node: tp.Node) -> bool:
    return any(use.user.kind() in _CHANGES and use.offset == 0 for use in node.output().uses())


def _is_still(node: tp.Node) -> bool:
    """Whether a container is only read, or read into another, so that nothing can change it."""
    return all(
        _only_reads(use.user) or (use.user.kind() == "aten::extend" and use.offset == 1) for use in node.output().uses()
    )


def _append(items: Items, given: list[tp.Value]) -> Items | None:
    return {**items, len(items): given[0]}


def _extend(items: Items, given: list[tp.Value]) -> Items | None:
    source = given[0].node()
    if source.kind() != "prim::ListConstruct" or not _is_still(source):
        return None
    return dict(enumerate([*items.values(), *source.inputs()]))


def _insert(items: Items, given: list[tp.Value]) -> Items | None:
    if not tp.is_constant(given[0]):
        return None
    values = list(items.values())
    values.insert(tp.constant_value(given[0]), given[1])
    return dict(enumerate(values))


def _set_item(items: Items, given: list[tp.Value]) -> Items | None:
    if not tp.is_constant(given[0]):
        return None
    key = tp.constant_value(given[0])
    if list(items) == list(range(len(items))) and isinstance(key, int) and key not in items:
        key += len(items)  # counted from the end of a list
        if key not in items:
            return None
    return {**items, key: given[1]}


def _reverse(items: Items, given: list[tp.Value]) -> Items | None:
    return dict(enumerate(reversed(items.values())))


_CHANGES: dict[str, Callable[[Items, list[tp.Value]], Items | None]] = {
    "aten::append": _append, "aten::extend": _extend, "aten::insert": _insert, "aten::_set_item": _set_item,
    "aten::reverse": _reverse,
}  # fmt: skip
_STARTS: dict[str, Callable[[tp.Graph, tp.Node], Items | None]] = {
    "prim::ListConstruct": _from_construct, "prim::DictConstruct": _from_pairs, "aten::dict": _from_dict,
    "aten::copy": _from_copy, "aten::list": _from_copy,
}  # fmt: skip
_COPIES = {"aten::keys", "aten::values", "aten::items", "aten::copy", "aten::list", "aten::add", "aten::mul"}
_ELEMENTS = {"TensorType", "IntType", "FloatType", "BoolType", "StringType", "NumberType", "NoneType"}
