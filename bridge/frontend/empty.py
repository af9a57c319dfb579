"""Tensors without elements: where their shape never varies they are constants, whatever the call."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bridge import torch_private as tp
from bridge.frontend.alias import Memory
from bridge.frontend.facts import Fact, Facts, Varies
from bridge.frontend.observe import TensorSeen


def fold_empty(graph: tp.Graph, facts: Facts, device: torch.device, others: Sequence[tp.Graph] = ()) -> bool:
    """Puts constants in the place of tensors that are empty in every call; tells whether there were any.

    An engine need not compute what has no elements, and what an operator makes of nothing (a sum: zero) is known
    beforehand. What is written to in place stays as it is: it could be resized.

    Args:
        others: graphs of the module's other methods, which may write to its attributes.
    """
    joined = _leave_out_of_joins(graph, facts)
    empty = [(value, shape) for value in tp.values(graph) if (shape := _empty_shape(value, facts)) is not None]
    if not empty:
        return joined
    memory = Memory(graph, others)
    changed = joined
    for value, shape in empty:
        if memory.written(value) or not value.uses():
            continue
        first = next(iter(graph.nodes()), graph.return_node())
        seen = facts.known_kind(value)
        assert seen is not None
        constant = tp.constant(graph, torch.empty(shape, dtype=seen.dtype, device=device), first)
        facts.varies[constant.debugName()] = Fact()
        value.replaceAllUsesWith(constant)
        changed = True
    return changed


def _empty_shape(value: tp.Value, facts: Facts) -> tuple[int, ...] | None:
    """The shape of an empty strided tensor that is the same in every call."""
    if value.type().kind() != "TensorType" or tp.is_constant(value) or facts.of(value).shape is not Varies.NEVER:
        return None
    seen = facts.known_kind(value)
    return seen.shape if seen is not None and seen.strided and 0 in seen.shape else None


def _leave_out_of_joins(graph: tp.Graph, facts: Facts) -> bool:
    """Takes what has no elements along the axis out of ``cat``, whatever its other dimensions; tells whether it did.

    Rotary embeddings join what they turned with the rest of each head, of which there is often none; caches begin as a
    vector of nothing, which ``cat`` takes beside any others.
    """
    changed = False
    for node in [node for node in tp.walk(graph) if node.kind() == "aten::cat" and node.inputsSize() == 2]:
        listed, axis = node.inputs()
        made = facts.known_kind(node.output())
        if made is None or listed.node().kind() != "prim::ListConstruct" or not tp.is_constant(axis):
            continue
        parts, place = list(listed.node().inputs()), tp.constant_value(axis)
        kept = [part for part in parts if not _has_none_along(part, place, made, facts)]
        if 0 < len(kept) < len(parts) and len(listed.uses()) == 1:
            shorter = tp.insert_list(graph, kept, node)
            facts.varies[shorter.debugName()] = facts.of(listed)
            node.replaceInput(0, shorter)
            changed = True
    return changed


def _has_none_along(part: tp.Value, axis: int, made: TensorSeen, facts: Facts) -> bool:
    sizes, seen = facts.sizes(part), facts.known_kind(part)
    if sizes is None or seen is None or seen.dtype != made.dtype:
        return False
    return sizes == (0,) or (len(sizes) == made.rank and sizes[axis] == 0)
