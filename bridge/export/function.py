"""A segment as a TorchScript graph of its own: tensors in, tensors out, weights among the inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.frontend.program import Program
from bridge.frontend.provenance import TAG
from bridge.partition.roles import SMALL_CONSTANT
from bridge.partition.segments import Segment


@dataclass
class Function:
    """What is exported.

    Attributes:
        graph: its inputs are ``inputs`` and then ``weights``, its outputs those of the segment.
        inputs: the values of the program's graph that feed it, in order.
        weights: name and tensor of each further input.
        nodes: the original node of each identity.
    """

    graph: tp.Graph
    inputs: list[tp.Value] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    nodes: dict[int, tp.Node] = field(default_factory=dict)


def function_of(segment: Segment, program: Program, paths: dict[str, str]) -> Function:
    """Copies a segment's nodes, and the sizes, lists and constants that they need, into a graph of its own.

    Args:
        paths: attribute path of each value read from the module.
    """
    return _Builder(program, paths).build(segment)


class _Builder:
    def __init__(self, program: Program, paths: dict[str, str]) -> None:
        self.program, self.paths = program, paths
        self.function = Function(tp.new_graph())
        self.copies: dict[str, tp.Value] = {}
        self.boundary: set[str] = set()

    def build(self, segment: Segment) -> Function:
        weights = []
        for value in segment.inputs:
            self.boundary.add(value.debugName())
            weight = self._weight(value)
            if weight is None:
                self.function.inputs.append(value)
                self._add_input(value)
            else:
                weights.append((value, *weight))
        large = list(self._large_constants(segment))
        weights += [(value, f"constant_{i}", tp.constant_value(value)) for i, value in enumerate(large)]
        added: dict[str, tp.Value] = {}
        for value, name, tensor in weights:
            if name not in added:
                self.function.weights[name] = tensor
                added[name] = self._add_weight(tensor)
            self.copies[value.debugName()] = added[name]
        for node in segment.nodes:
            self._copy(node)
        for value in segment.outputs:
            self.function.graph.registerOutput(self.copies[value.debugName()])
        return self.function

    def _weight(self, value: tp.Value) -> tuple[str, torch.Tensor] | None:
        path = self.paths.get(value.debugName())
        if path is None:
            return None
        tensor: Any = self.program.module
        for part in path.split("."):
            tensor = getattr(tensor, part)
        return (path, tensor) if isinstance(tensor, torch.Tensor) else None

    def _large_constants(self, segment: Segment) -> list[tp.Value]:
        found: dict[str, tp.Value] = {}
        pending = [value for node in segment.nodes for value in tp.reads(node)]
        while pending:
            value = pending.pop()
            if value.debugName() in self.boundary or value.debugName() in found:
                continue
            node = value.node()
            if tp.is_constant(value) and value.type().kind() == "TensorType":
                held = tp.constant_value(value)
                if isinstance(held, torch.Tensor) and held.numel() > SMALL_CONSTANT:
                    found[value.debugName()] = value
            elif node.kind() == "prim::ListConstruct":
                pending += tp.inputs_of(node)
        return list(found.values())

    def _add_input(self, value: tp.Value) -> None:
        copy = self.function.graph.addInput()
        self._set_type(copy, value)
        self.copies[value.debugName()] = copy

    def _add_weight(self, tensor: torch.Tensor) -> tp.Value:
        copy = self.function.graph.addInput()
        copy.setType(tp.tensor_type(tensor.dtype, list(tensor.shape)))
        return copy

    def _set_type(self, copy: tp.Value, value: tp.Value) -> None:
        tensor = self.program.facts.known_kind(value)
        sizes = self.program.facts.sizes(value)
        if tensor is not None and sizes is not None:
            copy.setType(tp.tensor_type(tensor.dtype, sizes))

    def _copy(self, node: tp.Node) -> None:
        for value in tp.reads(node):
            if value.debugName() not in self.copies:
                self._copy(value.node())
        copy = tp.copy_into(self.function.graph, node, self.copies)
        self.function.graph.appendNode(copy)
        self.function.nodes.update((inner.i(TAG), inner) for inner in (node, *tp.inside(node)))
        for value, copied in zip(tp.outputs_of(node), copy.outputs(), strict=True):
            self.copies[value.debugName()] = copied
        for value, copied in zip(tp.results(node), tp.results(copy), strict=True):
            if value.type().kind() == "TensorType" and not tp.is_constant(value):
                self._set_type(copied, value)
