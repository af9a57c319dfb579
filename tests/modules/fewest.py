"""The fewest segments that a partition may have, counted on its own: not by levels, but along every path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bridge.frontend.provenance import TAG
from bridge.partition.roles import Role


def fewest(graph: Any, roles: Any) -> int:
    """Over all blocks, the most runs of engine nodes that some path of dependencies goes through."""
    return sum(_runs(block, roles) for block in _blocks(graph, roles))


def _blocks(block: Any, roles: Any) -> Iterator[Any]:
    yield block
    for node in block.nodes():
        if roles.of(node) is not Role.ENGINE:
            for inner in node.blocks():
                yield from _blocks(inner, roles)


def _runs(block: Any, roles: Any) -> int:
    """Dynamic programming over one block: runs on the longest path to each value, and whether it ends in a run."""
    best: dict[str, tuple[int, int]] = {}  # value -> most runs on a path that ends inside, outside of an engine
    most = 0
    for node in block.nodes():
        before = [best[name] for name in _names(node) if name in best]
        inside = max((pair[0] for pair in before), default=0)
        outside = max((pair[1] for pair in before), default=0)
        role = roles.of(node) if node.hasAttribute(TAG) else Role.TORCH
        if role is Role.ENGINE:
            here = (max(inside, outside + 1), 0)
        elif role is Role.FREE or node.kind() == "prim::GetAttr":
            here = (inside, outside)
        else:
            here = (0, max(inside, outside))
        most = max(most, *here)
        best.update((value.debugName(), here) for value in node.outputs())
    return most


def _names(node: Any) -> set[str]:
    """Names of all values that a node or its bodies read or give back."""
    names = {value.debugName() for value in node.inputs()}
    for block in node.blocks():
        names |= {value.debugName() for value in block.outputs()}
        for inner in block.nodes():
            names |= _names(inner)
    return names
