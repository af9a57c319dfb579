"""Tuples that loops carry and branches give, taken apart: engines pass tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge import torch_private as tp


def take_apart(graph: tp.Graph) -> None:
    """Lets every prim::If and prim::Loop pass the parts of tuples, named ones and nested ones too.

    Where such a tuple is read, it is made again from its parts.
    """
    for node in reversed([node for node in tp.walk(graph) if node.kind() in ("prim::If", "prim::Loop")]):
        position = 0
        while position < node.outputsSize():
            if list(node.outputs())[position].type().kind() == "TupleType":
                _pass_parts(graph, node, position)
            else:
                position += 1


def _pass_parts(graph: tp.Graph, node: Any, position: int) -> None:
    """Passes the parts of one result, behind all others, in its place."""
    result = list(node.outputs())[position]
    types = result.type().elements()
    loop = node.kind() == "prim::Loop"
    if loop:  # the inputs begin with the number of turns and a condition, those of the body with the counter
        for part in _parts(graph, list(node.inputs())[2 + position], types, node):
            node.addInput(part)
        node.removeInput(2 + position)
    block: Any
    for block in node.blocks():
        end = block.returnNode()
        if loop:
            carried = list(block.inputs())[1 + position]
            made = _tuple(graph, _typed([block.addInputToBlock() for _ in types], types), carried)
            made.node().insertBefore(next(iter(block.nodes()), end))
            block.paramNode().eraseOutput(1 + position)
        for part in _parts(graph, list(block.outputs())[loop + position], types, end):
            block.registerOutput(part)
        end.removeInput(loop + position)
    _tuple(graph, _typed([node.addOutput() for _ in types], types), result).node().insertAfter(node)
    node.eraseOutput(position)


def _parts(graph: tp.Graph, value: tp.Value, types: Sequence[Any], before: tp.Node) -> list[tp.Value]:
    """What a tuple is made of; of one that no call ever reads, parts that none reads."""
    if value.node().kind() == "prim::TupleConstruct":
        return list(value.node().inputs())
    if value.node().kind() == "prim::Uninitialized":
        made = [graph.create("prim::Uninitialized", [], 1).insertBefore(before).output() for _ in types]
    else:
        made = list(graph.create("prim::TupleUnpack", [value], len(types)).insertBefore(before).outputs())
    for part in made:
        part.node().copyMetadata(value.node())
    return _typed(made, types)


def _tuple(graph: tp.Graph, parts: Sequence[tp.Value], instead: tp.Value) -> tp.Value:
    """A tuple in the place of another of its type."""
    made = graph.create("prim::TupleConstruct", list(parts), 1)
    made.output().setType(instead.type())
    made.copyMetadata(instead.node())
    instead.replaceAllUsesWith(made.output())
    return made.output()


def _typed(values: list[tp.Value], types: Sequence[Any]) -> list[tp.Value]:
    for value, type_ in zip(values, types, strict=True):
        value.setType(type_)
    return values
