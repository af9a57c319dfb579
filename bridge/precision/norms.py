"""Normalizations that were exported as single steps: LayerNorm, RMSNorm and the like, told by their mean of squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

Consumers = Mapping[int, Sequence[tuple[gs.Node, int]]]
_REDUCTIONS = ("ReduceMean", "ReduceSum")
_REDUCTIONS_OF_SQUARES = ("ReduceSumSquare", "ReduceL2")
_TO_THE_ROOT = frozenset(
    ["Add", "Sqrt", "Reciprocal", "Clip", "Max", "Pow", "Unsqueeze", "Squeeze", "Expand", "Reshape", "Identity"]
)
_DIVIDING = ("Div", "Mul")
_LONGEST_CHAIN = 8


def normalization_nodes(nodes: Sequence[gs.Node], consumers: Consumers) -> set[int]:
    """Ids of the nodes between a normalization's input and its division, the division included.

    (Sub) Pow|Mul ReduceMean|ReduceSum, or ReduceL2, then Add, Sqrt, Reciprocal and the like, up to a Div or Mul.
    """
    found: set[int] = set()
    for node in nodes:
        if node.op in _REDUCTIONS_OF_SQUARES:
            found |= _after(node, consumers)
        elif _is_square(node):
            reductions = [user for user, _ in consumers.get(id(node.outputs[0]), ()) if user.op in _REDUCTIONS]
            for reduction in reductions:
                found |= {id(node), id(reduction)} | _before(node) | _after(reduction, consumers)
    return found


def _is_square(node: gs.Node) -> bool:
    if node.op == "Mul":
        return node.inputs[0] is node.inputs[1]
    return node.op == "Pow" and isinstance(node.inputs[1], gs.Constant) and bool((node.inputs[1].values == 2).all())


def _before(square: gs.Node) -> set[int]:
    found = set()
    for centering in square.inputs[0].inputs:
        if centering.op == "Sub":
            means = [node for node in centering.inputs[1].inputs if node.op == "ReduceMean"]
            found |= {id(centering), *map(id, means)}
    return found


def _after(reduction: gs.Node, consumers: Consumers) -> set[int]:
    found: set[int] = set()
    pending = [(reduction, 0)]
    while pending:
        node, length = pending.pop()
        for user, _ in consumers.get(id(node.outputs[0]), ()):
            if id(user) in found or user.op not in _TO_THE_ROOT | set(_DIVIDING):
                continue
            found.add(id(user))
            if user.op in _TO_THE_ROOT and length < _LONGEST_CHAIN:
                pending.append((user, length + 1))
    return found
