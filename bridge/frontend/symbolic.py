"""Dimensions that PyTorch's shape functions leave open, by its fake kernels on symbolic sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bridge import torch_private as tp
from bridge.frontend.unseen import function_of_node
from bridge.logging import silenced

if TYPE_CHECKING:
    from bridge.frontend.facts import Facts

Symbols = tuple[int, ...]


def completed(graph: tp.Graph, facts: Facts, found: dict[str, Symbols]) -> dict[str, Symbols]:
    """The dimensions in ``found``, and those that follow from them: each operator with open ones runs by itself.

    Sizes that may vary are symbols then. A result that holds for some of their values only, which PyTorch notes as a
    guard, says nothing.
    """
    found = dict(found)
    with silenced("torch._subclasses.fake_tensor"), torch.no_grad():
        for node in tp.walk(graph):
            if _is_open(node, found):
                for value, dims in _Run(node, facts, found).results():
                    found[value.debugName()] = dims
    return found


def _is_open(node: tp.Node, found: dict[str, Symbols]) -> bool:
    """Whether a result has a dimension that is not known, nor any of the inputs'."""
    if list(node.blocks()) or tp.schema(node) is None:
        return False
    made = {size for value in node.outputs() for size in found.get(value.debugName(), ()) if size < 0}
    return bool(made) and not made <= {size for value in _tensors(node) for size in found.get(value.debugName(), ())}


def _tensors(node: tp.Node) -> Iterator[tp.Value]:
    for value in node.inputs():
        if value.node().kind() == "prim::ListConstruct":
            yield from _tensors(value.node())
        elif value.type().kind() == "TensorType":
            yield value


class _Unknown(Exception):
    """An argument of which too little is known."""


class _Run:
    """One operator, run on fake tensors."""

    def __init__(self, node: tp.Node, facts: Facts, found: dict[str, Symbols]) -> None:
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self.node, self.facts, self.found = node, facts, found
        self.shapes = ShapeEnv()
        self.sizes: dict[int, Any] = {}  # a dimension -> its symbol
        self.numbers: dict[Any, int] = {}  # an expression -> the dimension that it is

    def results(self) -> Iterator[tuple[tp.Value, Symbols]]:
        """The dimensions of results that are tensors of a rank that is certain."""
        run = function_of_node(self.node)
        if run is None:
            return
        try:
            with FakeTensorMode(allow_non_fake_inputs=True, shape_env=self.shapes):
                made = run(*(self._argument(value) for value in self.node.inputs()))
        except Exception:  # too little is known, there is no fake kernel, or it needs numbers
            return
        if self.shapes.guards:
            return
        outputs = list(self.node.outputs())
        for value, one in zip(outputs, made if len(outputs) > 1 else [made], strict=False):
            seen = self.facts.known_kind(value)
            if isinstance(one, torch.Tensor) and seen is not None and one.dim() == seen.rank:
                dims = tuple(map(self._number, one.shape))
                if all(size in (seen_size, min(size, -1)) for size, seen_size in zip(dims, seen.shape, strict=True)):
                    yield value, dims

    def _argument(self, value: tp.Value) -> Any:
        node = value.node()
        if node.kind() == "prim::Constant":
            return tp.constant_value(value)
        if node.kind() == "prim::ListConstruct":
            return [self._argument(item) for item in node.inputs()]
        if value.type().kind() == "TensorType":
            return self._fake(value)
        if value.type().kind() == "IntType":
            return self._size(node, value)
        raise _Unknown

    def _fake(self, value: tp.Value) -> torch.Tensor:
        dims, seen = self.found.get(value.debugName()), self.facts.known_kind(value)
        if dims is None or seen is None or len(dims) != seen.rank:
            raise _Unknown
        sizes = [self._symbol(dim, size) for dim, size in zip(dims, seen.shape, strict=True)]
        return torch.empty(sizes, dtype=seen.dtype, device=seen.device)

    def _size(self, node: tp.Node, value: tp.Value) -> Any:
        """A number: that of a dimension, or any other as one that may vary."""
        if node.kind() == "aten::size" and node.inputsSize() == 2 and tp.is_constant(list(node.inputs())[1]):
            tensor, axis = node.inputs()
            return self._fake(tensor).shape[tp.constant_value(axis)]
        seen = next(
            (number for number in self.facts.seen.values.get(value.debugName(), []) if number is not None), None
        )
        if type(seen) is not int:
            raise _Unknown
        return self._symbol(-(1 << 40) - len(self.sizes), seen)

    def _symbol(self, dim: int, seen: int) -> Any:
        from torch._dynamo.source import ConstantSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic

        if dim >= 0:
            return dim
        if dim not in self.sizes:
            hint, source = max(seen, 2), ConstantSource(f"d{len(self.sizes)}")
            symbol = self.shapes.create_symbol(hint, source, DimDynamic.DYNAMIC, None)
            self.sizes[dim] = self.shapes.create_symintnode(symbol, hint=hint, source=source)
            self.numbers[symbol] = dim
        return self.sizes[dim]

    def _number(self, size: Any) -> int:
        """A size as a dimension: itself, one that is known, or a new one."""
        if not isinstance(size, torch.SymInt):
            return int(size)
        expression = size.node.expr
        if expression.is_number:
            return int(expression)
        if expression not in self.numbers:
            taken = min((dim for dims in self.found.values() for dim in dims), default=0)
            self.numbers[expression] = min(taken, *self.numbers.values(), -1) - 1
        return self.numbers[expression]
