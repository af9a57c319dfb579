"""Values that a run did not show, derived from those that it did.

Operators in branches that the example did not take are run on fake tensors: PyTorch's own shape rules and the fake
kernels of custom operators give dtype and shape without numbers. What needs numbers stays unknown, and so does
what follows from it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bridge import torch_private as tp
from bridge.frontend.observe import KINDS, Observations, TensorSeen, describe
from bridge.logging import silenced

_UNKNOWN = object()
_QUANTIZED = (torch.qint8, torch.quint8, torch.qint32)
_TYPES: dict[str, Any] = {
    "tensor": (torch.Tensor, type(None)), "int": int, "bool": bool, "float": float, "ints": (list, tuple),
    "tensors": (list, tuple),
}  # fmt: skip


def derive(module: torch.jit.ScriptModule, graph: tp.Graph, seen: Observations) -> Observations:
    """The observations of one run and, marked as derived, what follows from them for values that it did not show."""
    shown = {name for name, found in seen.values.items() if found}
    if all(name in shown for name in _observable(graph)):
        return seen
    found = Observations(dict(seen.values), set(seen.derived))
    quiet = silenced("torch._subclasses.fake_tensor")
    with quiet, FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        _Deriver(module, found).block(graph)
    return found


def shape_follows(node: tp.Node, seen: Observations) -> bool:
    """Whether an operator's fake kernel tells the shapes that were seen from those of its inputs, without numbers."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    run, results = function_of_node(node), [seen.tensor(value.debugName()) for value in node.outputs()]
    quiet = silenced("torch._subclasses.fake_tensor")
    with quiet, FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()), torch.no_grad():
        deriver = _Deriver(None, seen)
        arguments = [deriver.value(value) for value in node.inputs()]
        if run is None or any(argument is _UNKNOWN for argument in arguments):
            return False
        try:
            made = run(*arguments)
        except Exception:  # it has no fake kernel, or that needs numbers
            return False
    made = made if isinstance(made, (tuple, list)) else [made]
    shapes = [tuple(t.shape) if isinstance(t, torch.Tensor) else None for t in made]
    whole = all(shape is not None and all(type(size) is int for size in shape) for shape in shapes)
    return whole and shapes == [result.shape if result is not None else None for result in results]


def _observable(graph: tp.Graph) -> Iterator[str]:
    for value in tp.values(graph):
        if str(value.type().annotation_str) in KINDS and not tp.is_constant(value):
            yield value.debugName()


class _Deriver:
    def __init__(self, module: torch.jit.ScriptModule | None, seen: Observations) -> None:
        self.module, self.seen = module, seen
        self.known: dict[str, Any] = {}

    def block(self, block: tp.Graph | tp.Block) -> None:
        for node in block.nodes():
            if node.kind() == "prim::If":
                self._branch(node)
            elif node.kind() == "prim::Loop":
                self._loop(node)
            elif node.kind() == "prim::GetAttr":
                self._set(node.output(), self._find(node.output()))
            elif node.kind() != "prim::Constant" and self._is_missing(node):
                self._operator(node)

    def _is_missing(self, node: tp.Node) -> bool:
        return any(not self.seen.values.get(value.debugName()) for value in node.outputs())

    def _operator(self, node: tp.Node) -> None:
        run = _FUNCTIONS.get(node.kind()) or function_of_node(node)
        arguments = [self.value(value) for value in node.inputs()]
        if run is None or any(argument is _UNKNOWN for argument in arguments):
            return
        try:
            result = run(*arguments)
        except Exception:  # it needs numbers, or PyTorch has no rule for its shape
            return
        results = result if node.outputsSize() != 1 else [result]
        for value, one in zip(node.outputs(), results, strict=False):
            self._set(value, one)

    def _set(self, value: tp.Value, found: Any) -> None:
        name = value.debugName()
        kind = KINDS.get(str(value.type().annotation_str))
        if found is _UNKNOWN or self.seen.values.get(name) or (kind and not isinstance(found, _TYPES[kind])):
            return
        self.known[name] = found
        if kind:
            self.seen.values[name] = [describe(found)]
            self.seen.derived.add(name)

    def value(self, value: tp.Value) -> Any:
        """What a value is, with fake tensors in the place of tensors."""
        name = value.debugName()
        if name not in self.known:
            self.known[name] = self._find(value)
        return self.known[name]

    def _find(self, value: tp.Value) -> Any:
        node = value.node()
        if node.kind() == "prim::Constant":
            held = tp.constant_value(value)
            return copy.copy(held) if isinstance(held, list) else held
        if self.seen.values.get(value.debugName()):
            return self._fake(next((s for s in self.seen.values[value.debugName()] if s is not None), None))
        if node.kind() == "prim::GetAttr":
            owner = self.value(node.input())
            return getattr(owner, node.s("name"), _UNKNOWN)
        return (
            self.module
            if self.module is not None and node.kind() == "prim::Param" and value.type().kind() == "ClassType"
            else _UNKNOWN
        )

    def _fake(self, seen: Any) -> Any:
        if isinstance(seen, TensorSeen):
            if seen.dtype in _QUANTIZED:  # of which there are no fake ones
                return _UNKNOWN
            return torch.empty(seen.shape, dtype=seen.dtype, device=seen.device)
        return [self._fake(item) for item in seen] if isinstance(seen, list) else seen

    def _branch(self, node: tp.Node) -> None:
        for block in node.blocks():
            self.block(block)
        for position, value in enumerate(node.outputs()):
            sides = [self.value(list(block.outputs())[position]) for block in node.blocks()]
            self._set(value, next((s for s in sides if s is not _UNKNOWN and s is not None), sides[0]))

    def _loop(self, node: tp.Node) -> None:
        body = next(iter(node.blocks()))
        turn, *parameters = body.inputs()
        self._set(turn, 0)
        starts = [self.value(value) for value in list(node.inputs())[2:]]
        for parameter, start in zip(parameters, starts, strict=True):
            self._set(parameter, start)
        self.block(body)
        ends = [self.value(value) for value in list(body.outputs())[1:]]
        for value, start, end in zip(node.outputs(), starts, ends, strict=True):
            self._set(value, end if end is not _UNKNOWN and end is not None else start)


def function_of_node(node: tp.Node) -> Callable[..., Any] | None:
    """The operator that a node runs, as PyTorch has it for Python."""
    schema = tp.schema(node)
    if schema is None:
        return None
    namespace, _, name = schema.name.partition("::")
    overload = getattr(getattr(getattr(torch.ops, namespace), name, None), schema.overload_name or "default", None)
    if overload is None:
        return None
    positional = [argument for argument in schema.arguments if not argument.kwarg_only]
    names = [argument.name for argument in schema.arguments[len(positional) :]]

    def run(*arguments: Any) -> Any:
        keywords = dict(zip(names, arguments[len(positional) :], strict=True))
        return overload(*arguments[: len(positional)], **keywords)

    return run


def _construct(*items: Any) -> list[Any]:
    return list(items)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": _construct,
    "prim::TupleConstruct": lambda *items: items,
    "prim::TupleUnpack": lambda items: items,
    "prim::TupleIndex": lambda items, index: items[index],
    "prim::ListUnpack": lambda items: items,
    "prim::unchecked_cast": lambda value: _UNKNOWN if value is None else value,
    "aten::__getitem__": lambda items, index: items[index],
    "aten::len": len,
    "aten::size": lambda tensor, *dim: tensor.shape[dim[0]] if dim else list(tensor.shape),
    "aten::dim": lambda tensor: tensor.dim(),
    "aten::__is__": lambda first, second: first is second,
    "aten::__isnot__": lambda first, second: first is not second,
    "prim::dtype": lambda tensor: _UNKNOWN,
    "prim::device": lambda tensor: _UNKNOWN,
}
