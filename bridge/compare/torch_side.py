"""What everything is compared with: the frozen TorchScript graph, run in PyTorch for chosen intermediate values."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bridge import torch_private as tp
from bridge.compare.arrays import Array, as_numpy
from bridge.compare.inputs import InputSet
from bridge.compare.steps import Key, Step, matched
from bridge.frontend.load import Loaded, _on
from bridge.frontend.program import Program
from bridge.frontend.provenance import TAG
from bridge.spec import CompileSpec

_LIBRARY: Any = torch.library.Library("bridge_compare", "DEF")
_LIBRARY.define("tap(Tensor? value, int index) -> ()", alias_analysis="CONSERVATIVE")
_HERE = threading.local()


def _tap(value: torch.Tensor | None, index: int) -> None:
    if value is not None:
        _HERE.found.setdefault(index, []).append(value.detach().cpu().clone())


_LIBRARY.impl("tap", _tap, "CompositeExplicitAutograd")


class TorchSide:
    """The frozen TorchScript graph of a program, run in PyTorch without optimisations."""

    label = "PyTorch"

    def __init__(self, program: Program, arguments: tuple[Any, ...]) -> None:
        self.program, self.arguments = program, arguments
        self.steps = [_torch_step(node) for node in program.graph.nodes() if node.hasAttribute(TAG)]
        self.deep = list(_torch_steps(program.graph))
        self.turns = {name for node in program.graph.nodes() for name in _in_loops(node)}
        self.results = [value.debugName() for value in program.graph.outputs()]
        self._kept: dict[str, Array] = {}

    def match(self, keys: Mapping[int, int]) -> None:
        """Matches its nodes by other keys; those without one are left out."""
        self.steps, self.deep = matched(self.steps, keys), matched(self.deep, keys)

    def size(self, name: str) -> int:
        """Bytes of a value in the example run; 0 when it was not seen."""
        seen = self.program.facts.seen.tensor(name)
        return math.prod(seen.shape) * seen.dtype.itemsize if seen is not None else 0

    def exact(self, key: Key) -> Collection[str]:
        """Nothing: it computes all of it."""
        return ()

    def kept(self, names: Sequence[str]) -> dict[str, Array]:
        """As `values`, and kept: what several graphs are fed with."""
        new = [name for name in names if name not in self._kept and name not in self.turns]
        if new:
            self._kept.update(self.values(new))
        return self._kept

    def values(self, names: Sequence[str]) -> dict[str, Array]:
        """These values of one run; a loop's are those of its turns in a row; what was not made is left out."""
        module = tp.clone(self.program.module)
        graph = tp.graph_of(module, self.program.method)
        copies = dict(zip((v.debugName() for v in tp.values(self.program.graph)), tp.values(graph), strict=True))
        wanted = [name for name in names if name in copies and _may_be_tensor(copies[name].type())]
        first = next(iter(graph.nodes()), graph.return_node())
        for index, name in enumerate(wanted):
            node = copies[name].node()
            position = tp.constant(graph, index, first)
            tap = graph.create("bridge_compare::tap", [copies[name], position], 0)
            tap.insertBefore(first) if node.kind() == "prim::Param" else tap.insertAfter(node)
        _HERE.found = {}
        with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            getattr(module, self.program.method)(*self.arguments)
        found, _HERE.found = _HERE.found, {}
        values = {wanted[index]: [as_numpy(tensor) for tensor in tensors] for index, tensors in found.items()}
        return {name: made for name, turns in values.items() if (made := self._joined(name, turns)) is not None}

    def _joined(self, name: str, turns: list[Array]) -> Array | None:
        """A value that is made once; the turns of a loop on a new first axis, None where their shapes differ."""
        if name not in self.turns:
            return turns[-1]
        return np.stack(turns) if len({turn.shape for turn in turns}) == 1 else None


def _may_be_tensor(type_: Any) -> bool:
    kind = type_.getElementType().kind() if type_.kind() == "OptionalType" else type_.kind()
    return bool(kind == "TensorType")


def _torch_steps(block: tp.Graph | tp.Block) -> Iterator[Step]:
    """The nodes of a block, each behind those of its own blocks, and what loops carry into their bodies."""
    for node in block.nodes():
        for inner in node.blocks():
            if node.kind() == "prim::Loop":
                carried = zip(list(node.inputs())[2:], list(inner.inputs())[1:], strict=True)
                yield from (Step(None, "", (one.debugName(),), (other.debugName(),)) for one, other in carried)
            yield from _torch_steps(inner)
        if node.hasAttribute(TAG):
            yield _torch_step(node)


def _in_loops(node: tp.Node) -> Iterator[str]:
    """What is made inside a loop, and so more than once."""
    for block in node.blocks():
        for inner in tp.walk(block) if node.kind() == "prim::Loop" else ():
            yield from (value.debugName() for value in inner.outputs())
        for inner in block.nodes() if node.kind() != "prim::Loop" else ():
            yield from _in_loops(inner)


def _torch_step(node: tp.Node) -> Step:
    inputs = [value.debugName() for value in node.inputs()]
    for block in node.blocks():
        inputs += [value.debugName() for inner in tp.walk(block) for value in inner.inputs()]
        inputs += [value.debugName() for value in block.outputs()]
    outputs = [value.debugName() for value in node.outputs()]
    made = outputs if node.kind() != "prim::Constant" else []
    name = f"{node.kind()}[{node.s('name')}]" if node.kind() == "prim::GetAttr" else node.kind()
    return Step(node.i(TAG), name, tuple(inputs), tuple(made))


def with_inputs(spec: CompileSpec, inputs: InputSet) -> CompileSpec:
    """The spec; with these inputs where it has none."""
    if spec.inputs is not None or spec.kwarg_inputs:
        return spec
    made = copy.copy(spec)
    made.inputs, made.kwarg_inputs = list(inputs.args), dict(inputs.kwargs)
    return made


def arguments_of(loaded: Loaded, inputs: InputSet) -> tuple[Any, ...]:
    """The method's arguments in order; a traced module has names of its own for what was given by keyword."""
    arguments = tp.schema_of(loaded.program.module, loaded.program.method).arguments[1:]
    received = loaded.received(inputs.args, dict(inputs.kwargs))
    if received is not None:
        return tuple(_on(received, loaded.program.device))
    values, given = list(inputs.args), dict(inputs.kwargs)
    for argument in arguments[len(values) :]:
        known = argument.name in given
        if known or (given and not argument.has_default_value()):
            values.append(given.pop(argument.name if known else next(iter(given))))
        else:
            values.append(argument.default_value)
    return tuple(_on(values, loaded.program.device))
