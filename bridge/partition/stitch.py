"""Putting engine calls into the graph in the place of their segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from bridge import torch_private as tp
from bridge.frontend.provenance import TAG
from bridge.partition.roles import Role, Roles
from bridge.partition.segments import Cut, Segment


def stitch(graph: tp.Graph, cuts: Sequence[Cut], roles: Roles, calls: Mapping[int, Call]) -> None:
    """Runs each segment by its engine, and each block in the order of its schedule.

    Args:
        calls: one for every segment, by its ``id``.
    """
    for cut in cuts:
        _reorder(cut)
    replaced: dict[str, tp.Value] = {}
    for cut in cuts:
        for segment in cut.segments:
            _replace(graph, segment, calls[id(segment)], replaced)
    for cut in cuts:
        _remove_unused(cut, roles)
    tp.remove_dead_code(graph)
    graph.lint()


class Call:
    """What a segment's nodes are replaced by.

    Args:
        inputs: values of the graph, in the order of the engine's inputs.
        plan: the engine as a uint8 tensor on the CPU.
        signature: JSON, see `bridge.runtime.signature`.
    """

    def __init__(self, inputs: Sequence[tp.Value], plan: torch.Tensor, signature: str) -> None:
        self.inputs, self.plan, self.signature = list(inputs), plan, signature


def _reorder(cut: Cut) -> None:
    last = cut.block.return_node() if hasattr(cut.block, "return_node") else cut.block.returnNode()
    for step in cut.steps:
        for node in step.nodes if isinstance(step, Segment) else [step]:
            node.moveBefore(last)


def _replace(graph: tp.Graph, segment: Segment, call: Call, replaced: dict[str, tp.Value]) -> None:
    """Puts a call behind a segment.

    ``replaced`` has the results of earlier calls, by the names of the values that they replace.
    """
    last = segment.nodes[-1]
    inputs = [replaced.get(value.debugName(), value) for value in call.inputs]
    names = [value.debugName() for value in segment.outputs]
    results = tp.insert_call(
        graph, "bridge::execute_engine", inputs, (call.plan, call.signature), len(segment.outputs), last
    )
    for name, old, new in zip(names, segment.outputs, results, strict=True):
        new.setType(old.type())
        old.replaceAllUsesWith(new)
        replaced[name] = new


def _remove_unused(cut: Cut, roles: Roles) -> None:
    """Destroys replaced nodes, and the sizes and lists that only they used."""
    replaced = [node for segment in cut.segments for node in segment.nodes]
    free = [step for step in cut.steps if not isinstance(step, Segment) and roles.of(step) is Role.FREE]
    left = {node.i(TAG): node for node in (*free, *replaced)}
    pending = list(left)
    while pending:
        node = left.get(pending.pop())
        if node is None or node.hasUses():
            continue
        del left[node.i(TAG)]
        pending += [value.node().i(TAG) for value in tp.reads(node) if value.node().hasAttribute(TAG)]
        node.destroy()
