"""What every value of a graph was, seen in runs of the example inputs.

A copy of the module gets an observing operator after every node; its runs tell dtypes, shapes and Python numbers.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bridge import torch_private as tp
from bridge.errors import SpecError

_LIBRARY = torch.library.Library("bridge_observe", "DEF")
OBSERVED = "observed"
"""What a method is called in the tracebacks of its runs here."""
KINDS = {
    "Tensor": "tensor", "Optional[Tensor]": "tensor", "int": "int", "bool": "bool", "float": "float",
    "List[int]": "ints", "List[Tensor]": "tensors",
}  # fmt: skip
_ARGUMENT = {
    "tensor": "Tensor?",
    "int": "int",
    "bool": "bool",
    "float": "float",
    "ints": "int[]",
    "tensors": "Tensor[]",
}
_LOCK = threading.Lock()
_unoptimized = torch.jit.optimized_execution  # type: ignore[attr-defined]
_seen: list[list[Any]] = []


@dataclass(frozen=True)
class TensorSeen:
    """A tensor as it was in one run: ``shape`` in elements; ``strided`` unless it is sparse or nested.

    ``in_order``: its memory holds its elements one after the other, and nothing before them.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    device: torch.device
    strided: bool = True
    in_order: bool = field(default=True, compare=False)

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Observations:
    """What was seen of each value, by its name in the graph, in the order of the runs.

    Attributes:
        derived: values that no run showed, and that follow from those shown.
    """

    values: dict[str, list[Any]] = field(default_factory=dict)
    derived: set[str] = field(default_factory=set)

    def covers(self, graph: tp.Graph) -> bool:
        """Whether every value of the graph that can be looked at has been."""
        return bool(self.values) and all(
            value.debugName() in self.values
            for value in tp.values(graph)
            if not tp.is_constant(value) and str(value.type().annotation_str) in KINDS
        )

    def tensor(self, name: str) -> TensorSeen | None:
        """The value as a tensor, as first seen."""
        return next((seen for seen in self.values.get(name, ()) if isinstance(seen, TensorSeen)), None)

    def steady(self, name: str) -> bool:
        """Whether dtype, rank and device were the same each time that it was not None."""
        kinds = {
            (s.dtype, s.rank, s.device) if isinstance(s, TensorSeen) else None
            for s in self.values.get(name, ())
            if s is not None
        }
        return len(kinds) <= 1

    def constant(self, name: str) -> tuple[bool, Any]:
        """(True, value) when a Python number was the same each time."""
        seen = self.values.get(name, [])
        if not seen or any(isinstance(s, TensorSeen) for s in seen):
            return False, None
        return all(type(s) is type(seen[0]) and s == seen[0] for s in seen), seen[0]


def _note(index: int, value: Any) -> None:
    _seen[index].append(value)


def describe(value: Any) -> Any:
    """A value without its numbers: dtype, shape and device of tensors, also in lists; all else as it is."""
    if isinstance(value, torch.Tensor) and value.is_nested:
        return TensorSeen(value.dtype, (0,) * value.dim(), value.device, strided=False)
    if isinstance(value, torch.Tensor):
        strided = value.layout is torch.strided
        in_order = bool(strided and value.is_contiguous() and value.storage_offset() == 0)
        return TensorSeen(value.dtype, tuple(value.shape), value.device, strided, in_order)
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    return value


def _observer(value: Any, index: int) -> None:
    if not (isinstance(value, torch.Tensor) and value.is_meta):
        _note(index, describe(value))


for _kind, _type in _ARGUMENT.items():
    _SCHEMA = f"{_kind}({_type} value, int index) -> ()"
    _LIBRARY.define(_SCHEMA, alias_analysis="CONSERVATIVE")
    for _key in ("CompositeExplicitAutograd", "AutogradNestedTensor"):
        _LIBRARY.impl(_kind, _observer, _key)


def observe(module: torch.jit.ScriptModule, method: str, examples: Sequence[tuple[Any, ...]]) -> list[Observations]:
    """Runs ``method`` on each example (its arguments in order) and tells what every value was, run by run.

    Raises:
        SpecError: the module does not run on the first example; of later ones that fail, what they showed is kept.
    """
    state = _private_state(module, method)
    graph = tp.graph_of(module, method).copy()
    pairs = zip(tp.values(graph), tp.values(tp.graph_of(module, method)), strict=True)
    renamed = {copied.debugName(): original.debugName() for copied, original in pairs}
    _fill_uninitialized(graph)
    names = [renamed[name] for name in _instrument(graph)]
    observed = tp.function_of(OBSERVED, graph)
    runs = []
    with _LOCK:
        for position, example in enumerate(examples):
            _seen[:] = [[] for _ in names]
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]), _unoptimized(False):
                    observed(state, *_copied(example))
            except Exception as error:
                if position == 0:
                    raise _does_not_run(error) from error
            runs.append(Observations(dict(zip(names, list(_seen), strict=True))))
    return runs


def together(runs: Sequence[Observations]) -> Observations:
    """What was seen in some run, of each value in the order of the runs; derived is what no run showed."""
    found = Observations(derived=set.intersection(*(run.derived for run in runs)))
    for run in runs:
        for name, seen in run.values.items():
            found.values.setdefault(name, []).extend(seen)
    return found


def _copied(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """A deep copy of the arguments, what they share included; compressed sparse tensors have none of their own."""
    sparse = [t for t in pytree.tree_leaves(example) if isinstance(t, torch.Tensor) and t.layout is not torch.strided]
    copied: tuple[Any, ...] = copy.deepcopy(example, {id(tensor): tensor.clone() for tensor in sparse})
    return copied


def told(error: Exception) -> str:
    """The line of an error's message that says what is wrong: the last that names an error, where any does."""
    lines = str(error).strip().splitlines()
    named = [line for line in lines if re.match(r"\w*(Error|Exception): ", line)]
    return (named or lines or [type(error).__name__])[-1]


def _does_not_run(error: Exception) -> SpecError:
    return SpecError(
        "the module does not run on inputs of the given shapes and dtypes",
        why=told(error),
        hint="give real tensors as inputs: spec=[tensor, ...] or bridge.Input(example=tensor)",
    )


def writes(node: tp.Node) -> bool:
    """Whether a node changes a tensor, an attribute or a list in place."""
    if node.kind() in ("prim::SetAttr",):
        return True
    return bool(tp.written_to(node))


def _private_state(module: torch.jit.ScriptModule, method: str) -> torch.jit.ScriptModule:
    """What runs may change: the module itself, or a copy of it when running changes its state."""
    changes = any(writes(node) for node in tp.walk(tp.graph_of(module, method)))
    return copy.deepcopy(module) if changes else module


def _instrument(graph: tp.Graph) -> list[str]:
    """Inserts an observer for every value; gives the values' names in the order of the observers."""
    names: list[str] = []
    absent = _maybe_absent(graph)
    for block in list(tp.blocks(graph)):
        nodes = list(block.nodes())
        first = nodes[0] if nodes else graph.return_node() if block is graph else None
        for value in block.inputs():
            if first is None or value.debugName() in absent:
                continue
            observer = _create(graph, value, names, first)
            if observer is not None:
                observer.insertBefore(first)
        for node in nodes:
            for value in tp.outputs_of(node) if node.kind() != "prim::Constant" else ():
                if value.debugName() in absent:
                    continue
                observer = _create(graph, value, names, node)
                if observer is not None:
                    observer.insertAfter(node)
    return names


def _fill_uninitialized(graph: tp.Graph) -> None:
    """Gives what a branch leaves uninitialized a value that can be looked at; tensors, one known as none."""
    fillers = {"Tensor": torch.empty((), device="meta"), "int": 0, "bool": False, "float": 0.0}
    for node in list(tp.walk(graph)):
        filler = fillers.get(str(node.output().type().annotation_str)) if node.kind() == "prim::Uninitialized" else None
        if filler is not None:
            node.output().replaceAllUsesWith(tp.constant(graph, filler, node))
            node.destroy()


def _maybe_absent(graph: tp.Graph) -> set[str]:
    """Values that a branch may leave uninitialized: no operator may look at them."""
    absent: set[str] = set()
    before = -1
    while before != len(absent):
        before = len(absent)
        for node in tp.walk(graph):
            outputs = [value.debugName() for value in tp.outputs_of(node)]
            if node.kind() == "prim::Uninitialized":
                absent.update(outputs)
            elif node.kind() in ("prim::If", "prim::Loop"):
                for block in tp.blocks_of(node):
                    results = [value.debugName() for value in block.outputs()][node.kind() == "prim::Loop" :]
                    absent.update(output for result, output in zip(results, outputs, strict=True) if result in absent)
            if node.kind() == "prim::Loop":
                starts = [value.debugName() for value in tp.inputs_of(node)][2:]
                parameters = [value.debugName() for value in next(iter(node.blocks())).inputs()][1:]
                for start, parameter, output in zip(starts, parameters, outputs, strict=True):
                    if start in absent or output in absent:
                        absent.update((parameter, output))
    return absent


def _create(graph: tp.Graph, value: tp.Value, names: list[str], near: tp.Node) -> tp.Node | None:
    kind = KINDS.get(str(value.type().annotation_str))
    if kind is None:
        return None
    index = tp.constant(graph, len(names), near)
    names.append(value.debugName())
    return graph.create(f"bridge_observe::{kind}", [value, index], 0)
