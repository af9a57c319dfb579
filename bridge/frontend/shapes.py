"""Dimensions that follow from other dimensions, by PyTorch's own shape functions; loops' bodies too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bridge import torch_private as tp
from bridge.frontend.symbolic import completed

if TYPE_CHECKING:
    from bridge.frontend.facts import Facts

Dims = tuple["int | None", ...]
Symbols = tuple[int, ...]
"""A tensor's dimensions; negative numbers stand for unknown ones, equal numbers for equal dimensions."""


def propagated(graph: tp.Graph, facts: Facts) -> dict[str, Symbols]:
    """The dimensions of tensors by the names of their values."""
    found = _propagate(zip(tp.values(graph), tp.values(copied := graph.copy()), strict=True), copied, facts)
    for node in tp.walk(graph):  # PyTorch's pass leaves loops out; an outer loop before those in it
        if node.kind() == "prim::Loop":
            pairs, copied = _body(next(iter(node.blocks())))
            found.update(_informed(_propagate(pairs, copied, facts), found))
    return completed(graph, facts, found)


def dims_of(symbols: Symbols) -> Dims:
    """None for each dimension that is not known."""
    return tuple(size if size >= 0 else None for size in symbols)


def _propagate(pairs: Iterable[tuple[tp.Value, tp.Value]], copied: tp.Graph, facts: Facts) -> dict[str, Symbols]:
    copies: list[tuple[str, Symbols, tp.Value]] = []
    for original, copy in pairs:
        sizes = facts.sizes(original) if original.type().kind() == "TensorType" else None
        seen = facts.known_kind(original)
        if sizes is not None and seen is not None:
            copy.setType(tp.tensor_type(seen.dtype, sizes))
            copies.append((original.debugName(), tp.symbolic_sizes(copy), copy))
    for node in list(tp.walk(copied)):
        if node.kind() == "aten::select" and not tp.is_constant(list(node.inputs())[2]):
            node.replaceInput(2, tp.constant(copied, 0, node))  # the shape is the same, whichever is selected
    tp.propagate_shapes(copied)
    return {name: _agreed(tp.symbolic_sizes(value), before) for name, before, value in copies}


def _agreed(derived: Symbols, known: Symbols) -> Symbols:
    """What is derived, and what was known before."""
    if len(derived) != len(known):
        return known
    return tuple(new if new >= 0 or old < 0 else old for new, old in zip(derived, known, strict=True))


def _informed(new: dict[str, Symbols], old: dict[str, Symbols]) -> dict[str, Symbols]:
    return {name: _agreed(dims, old[name]) if name in old else dims for name, dims in new.items()}


def _body(block: tp.Block) -> tuple[list[tuple[tp.Value, tp.Value]], tp.Graph]:
    """A loop's body as a graph of its own, and each of its values beside the copy."""
    copied = tp.new_graph()
    parameters, free = list(block.inputs()), list(_free(block))
    copies: dict[str, tp.Value] = {}
    for value in (*parameters, *free):
        if tp.is_constant(value) and value.type().kind() != "TensorType":
            node = copied.appendNode(tp.copy_into(copied, value.node(), copies))
            copies[value.debugName()] = node.output()
            continue
        copies[value.debugName()] = copied.addInput()
        copies[value.debugName()].setType(value.type())
    pairs = [(value, copies[value.debugName()]) for value in (*parameters, *free)]
    for node in block.nodes():
        copy = copied.appendNode(tp.copy_into(copied, node, copies))
        for original, twin in zip(tp.results(node), tp.results(copy), strict=True):
            copies[original.debugName()] = twin
            pairs.append((original, twin))
    for value in block.outputs():
        copied.registerOutput(copies[value.debugName()])
    return pairs, copied


def _free(block: tp.Block) -> Iterator[tp.Value]:
    """Values that a block reads from outside, each once."""
    own = {value.debugName() for value in tp.values(block)}
    read = [value for node in tp.walk(block) for value in node.inputs()]
    read += [value for inner in tp.blocks(block) for value in inner.outputs()]
    for value in read:
        if value.debugName() not in own:
            own.add(value.debugName())
            yield value
