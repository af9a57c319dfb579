"""Putting engine calls into the graph in the place of their segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from bridge import torch_private as tp
from bridge.frontend.provenance import TAG
from bridge.partition.segments import Cut, Segment


def stitch(graph: tp.Graph, cuts: Sequence[Cut], calls: Mapping[int, Call]) -> None:
    """Runs each segment by its engine, and each block in the order of its schedule.

    Args:
        calls: by ``id`` of the segment; a segment without one stays in PyTorch.
    """
    for cut in cuts:
        _reorder(cut)
    for cut in cuts:
        for segment in cut.segments:
            call = calls.get(id(segment))
            if call is not None:
                _replace(graph, segment, call)
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


def _replace(graph: tp.Graph, segment: Segment, call: Call) -> None:
    last = segment.nodes[-1]
    results = tp.insert_call(graph, "bridge::execute_engine", call.inputs, (call.plan, call.signature), len(segment.outputs), last)
    for old, new in zip(segment.outputs, results, strict=True):
        new.setType(old.type())
        old.replaceAllUsesWith(new)
    for node in reversed(segment.nodes):
        if not node.hasUses():
            node.destroy()


def tagged(node: tp.Node) -> bool:
    return node.hasAttribute(TAG)
