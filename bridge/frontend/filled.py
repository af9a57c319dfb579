"""Tensors that are filled with what never varies (masks of windows, tables of positions): constants.

What is written in place is left to PyTorch otherwise, or written anew in every call. Here all of it is known before any
call, so that the graph's own operators are run once, in their order, and those that read the result are given it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.frontend.alias import Memory
from bridge.frontend.facts import Fact, Facts

_LOG = logging.getLogger("bridge.frontend")
_NEW = {"aten::new_zeros", "aten::new_ones", "aten::new_full"}
"""Of their first argument these read the dtype and the device only."""
_FILLING = {"aten::slice_scatter", "aten::select_scatter", "aten::index_put"}
"""What filling in place becomes where it is made functional."""
_LARGEST = 64 << 20
"""Bytes of a result that is made part of the module."""


def fold_filled(graph: tp.Graph, facts: Facts, device: torch.device, others: Sequence[tp.Graph] = ()) -> bool:
    """Puts constants in the place of tensors that are filled piece by piece; tells whether there were any.

    Only where nothing but such operators writes to the memory, whatever else reads it does so after the last of them,
    and no result of the graph shares it: a caller may write to results.

    Args:
        others: graphs of the module's other methods, which may write to its attributes.
    """
    if not any(node.kind() in _FILLING or tp.written_to(node) for node in graph.nodes()):
        return False
    family = _Family(graph, facts, Memory(graph, others))
    wanted = family.wanted()
    if not wanted:
        return False
    try:
        values = _run(family.leading_to(wanted), wanted, facts, device)
    except Exception as error:
        _LOG.debug("what is filled in place is left as it is: %s", error)
        return False
    changed = False
    for value, made in zip(wanted, values, strict=True):
        if isinstance(made, torch.Tensor) and made.nbytes <= _LARGEST:
            _replace(graph, value, made, family, facts)
            changed = True
    if changed:
        family.remove_unread()
    return changed


class _Family:
    """The operators outside branches and loops that compute from constants alone, with what they write to."""

    def __init__(self, graph: tp.Graph, facts: Facts, memory: Memory) -> None:
        self.graph, self.facts, self.memory = graph, facts, memory
        self.order = {node: place for place, node in enumerate(graph.nodes())}
        self.nodes: list[tp.Node] = []
        foreign = {memory.place(value) for value in chain(graph.inputs(), _given_back(graph.outputs()))}
        while True:
            self.nodes = self._computed(foreign)
            added = {place for node in self._others() for place in self._written(node)} - foreign
            if not added:
                break
            foreign |= added
        self.last: dict[str, int] = {}
        for node in self.nodes:
            for place in self._written(node):
                self.last[place] = self.order[node]

    def _computed(self, foreign: set[str]) -> list[tp.Node]:
        """Those whose inputs are constants or results of each other, and whose memory no one else writes."""
        found: list[tp.Node] = []
        known: set[str] = set()
        for node in self.graph.nodes():
            if self._is_one(node, known) and not any(self.memory.place(v) in foreign for v in _tensors(node)):
                found.append(node)
                known.update(value.debugName() for value in tp.outputs_of(node))
        return found

    def _is_one(self, node: tp.Node, known: set[str]) -> bool:
        inputs = tp.inputs_of(node)
        if node.kind() in _NEW:
            if self.facts.known_kind(inputs[0]) is None:
                return False
            inputs = inputs[1:]
        elif tp.schema(node) is None and node.kind() != "prim::ListConstruct":
            return False
        plain = node.kind().startswith(("aten::", "prim::")) and node.kind() != "prim::Constant"
        if not plain or tp.blocks_of(node) or node.isNondeterministic():
            return False
        return all(tp.is_constant(value) or value.debugName() in known for value in inputs)

    def _others(self) -> Iterator[tp.Node]:
        own = set(self.nodes)
        return (node for node in tp.walk(self.graph) if node not in own)

    def _written(self, node: tp.Node) -> list[str]:
        if tp.schema(node) is None:
            understood = node.kind().startswith("prim::") and node.kind() not in ("prim::CallMethod", "prim::SetAttr")
            touched = () if understood else (*tp.inputs_of(node), *tp.outputs_of(node))
            return [self.memory.place(value) for value in touched]
        return [self.memory.place(value) for value in tp.written_to(node)]

    def wanted(self) -> list[tp.Value]:
        """Tensors that follow from what is filled, and that others read when all is written."""
        own, following, found = set(self.nodes), set[str](), []
        for node in self.nodes:
            touches = node.kind() in _FILLING or any(self.memory.place(value) in self.last for value in _tensors(node))
            if touches or any(value.debugName() in following for value in tp.inputs_of(node)):
                following.update(value.debugName() for value in tp.outputs_of(node))
                found += [value for value in tp.outputs_of(node) if self._is_read(value, own)]
        return found

    def _is_read(self, value: tp.Value, own: set[tp.Node]) -> bool:
        readers = [use.user for use in value.uses() if use.user not in own]
        last = self.last.get(self.memory.place(value), -1)
        late = all(self._place(node) > last for node in readers)
        return value.type().kind() == "TensorType" and bool(readers) and late

    def _place(self, node: tp.Node) -> int:
        """Where a node stands among those outside branches and loops."""
        while node not in self.order:
            owner = node.owningBlock().owningNode()
            if owner is None:
                return len(self.order)
            node = owner
        return self.order[node]

    def leading_to(self, values: Sequence[tp.Value]) -> list[tp.Node]:
        """The operators that decide what is in these tensors, in order."""
        names, places = {value.debugName() for value in values}, {self.memory.place(value) for value in values}
        needed: set[tp.Node] = set()
        while True:
            more = [
                node
                for node in self.nodes
                if node not in needed
                and (
                    any(value.debugName() in names for value in tp.outputs_of(node))
                    or places.intersection(self._written(node))
                )
            ]
            if not more:
                return [node for node in self.nodes if node in needed]
            needed.update(more)
            names |= {value.debugName() for node in more for value in tp.inputs_of(node)}
            places |= {self.memory.place(value) for node in more for value in _tensors(node)}

    def remove_unread(self) -> None:
        """Takes those out that nothing outside them needs any more."""
        own = set(self.nodes)
        read = [v for node in self.nodes for v in tp.outputs_of(node) if any(use.user not in own for use in v.uses())]
        needed = set(self.leading_to(read))
        for node in reversed(self.nodes):
            if node not in needed:
                node.destroy()


def _given_back(values: Iterable[tp.Value]) -> Iterator[tp.Value]:
    """Values and all that they were put together of."""
    for value in values:
        yield value
        if tp.schema(value.node()) is None and value.node().kind().endswith("Construct"):
            yield from _given_back(value.node().inputs())


def _tensors(node: tp.Node) -> list[tp.Value]:
    """The tensors of a node, but for the one of which only the dtype is read."""
    inputs = tp.inputs_of(node)[1:] if node.kind() in _NEW else tp.inputs_of(node)
    return [value for value in (*inputs, *tp.outputs_of(node)) if "Tensor" in str(value.type().annotation_str)]


def _run(nodes: Sequence[tp.Node], wanted: Sequence[tp.Value], facts: Facts, device: torch.device) -> list[Any]:
    """What these operators compute, all of them run once in their order."""
    graph = tp.new_graph()
    copies: dict[str, tp.Value] = {}
    for node in nodes:
        for position, value in enumerate(tp.inputs_of(node)):
            if value.debugName() in copies:
                continue
            seen = facts.known_kind(value) if position == 0 and node.kind() in _NEW else None
            held = torch.empty(0, dtype=seen.dtype, device=device) if seen is not None else tp.constant_value(value)
            copies[value.debugName()] = tp.constant(graph, held, graph.return_node())
        copy = tp.copy_into(graph, node, copies)
        copy.insertBefore(graph.return_node())
        copies.update({value.debugName(): new for value, new in zip(tp.outputs_of(node), copy.outputs(), strict=True)})
    graph.registerOutput(tp.append_tuple(graph, [copies[value.debugName()] for value in wanted]))
    with torch.no_grad():
        return list(tp.function_of("filled", graph)())


def _replace(graph: tp.Graph, value: tp.Value, made: torch.Tensor, family: _Family, facts: Facts) -> None:
    """Gives a constant to the readers of a value that are not of its family."""
    own = set(family.nodes)
    constant = tp.constant(graph, made.detach().clone(), value.node())
    facts.varies[constant.debugName()] = Fact()
    for use in list(value.uses()):
        if use.user not in own:
            use.user.replaceInput(use.offset, constant)
