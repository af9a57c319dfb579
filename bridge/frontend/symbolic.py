"""Dimensions that PyTorch's shape functions leave open, by its fake kernels on symbolic sizes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode

from bridge import torch_private as tp
from bridge.frontend.unseen import function_of_node
from bridge.logging import silenced

if TYPE_CHECKING:
    from bridge.frontend.facts import Facts

Symbols = tuple[int, ...]
_MOST_KNOWN = 4096
_VIEWS = ("aten::view", "aten::reshape", "aten::_unsafe_view")
_Description = Any  # an argument, hashable; a size in it is itself, or -1 - its place among the sizes that may vary

_KNOWN: dict[_Description, list[Symbols | None]] = {}
"""What operators gave in this process: a graph is asked about more than once while it changes."""


def completed(graph: tp.Graph, facts: Facts, found: dict[str, Symbols]) -> dict[str, Symbols]:
    """The dimensions in ``found``, and those that follow from them: each operator with open ones runs by itself.

    Sizes that may vary are symbols then. A result that holds for some of their values only, which PyTorch notes as a
    guard, says nothing. Operators that differ in their sizes' names only, as those of equal layers, run once.
    """
    completion = _Completion(facts, dict(found))
    with silenced("torch._subclasses.fake_tensor"), torch.no_grad():
        for node in tp.walk(graph):
            if _is_open(node, completion.found):
                completion.run(node)
    return completion.found


def _operator(node: tp.Node) -> tp.Node:
    """What makes a node's results: of the parts of a list, the operator that gives the list."""
    return node.input().node() if node.kind() == "prim::ListUnpack" else node


def _is_open(node: tp.Node, found: dict[str, Symbols]) -> bool:
    """Whether a result has a dimension that is not known, nor any of the inputs'."""
    maker = _operator(node)
    if list(maker.blocks()) or tp.schema(maker) is None:
        return False
    made = {size for value in node.outputs() for size in found.get(value.debugName(), ()) if size < 0}
    return bool(made) and not made <= {size for value in _tensors(maker) for size in found.get(value.debugName(), ())}


def _tensors(node: tp.Node) -> Iterator[tp.Value]:
    for value in node.inputs():
        if value.node().kind() == "prim::ListConstruct":
            yield from _tensors(value.node())
        elif value.type().kind() == "TensorType":
            yield value


class _Unknown(Exception):
    """An argument of which too little is known."""


@dataclass(frozen=True)
class _Constant:
    """``kind`` tells apart what is equal, as 1 and True."""

    kind: type
    value: Any


@dataclass(frozen=True)
class _Size:
    size: int


@dataclass(frozen=True)
class _Tensor:
    dtype: torch.dtype
    device: torch.device
    sizes: Symbols


class _Completion:
    """Dimensions by values' names, ``found``, to which those of operators are added."""

    def __init__(self, facts: Facts, found: dict[str, Symbols]) -> None:
        self.facts, self.found = facts, found
        lowest = min((dim for dims in found.values() for dim in dims), default=0)
        self._fresh = itertools.count(min(lowest, 0) - 1, -1)
        self._numbers: dict[str, int] = {}  # a Python number that may vary -> the dimension that it is

    def run(self, node: tp.Node) -> None:
        """Adds the dimensions of a node's results that are tensors of a rank that is certain."""
        maker = _operator(node)
        sizes: dict[int, int] = {}  # a dimension that may vary -> what it was
        try:
            arguments = tuple(self._described(value, sizes) for value in maker.inputs())
        except _Unknown:
            return
        key = (str(tp.schema(maker)), arguments, tuple(sizes.values()))
        if key not in _KNOWN:
            if len(_KNOWN) >= _MOST_KNOWN:
                _KNOWN.clear()
            viewed = _viewed(*arguments[:2]) if maker.kind() in _VIEWS else None
            _KNOWN[key] = [viewed] if viewed is not None else _results(maker, arguments, list(sizes.values()))
        names = dict(enumerate(sizes))
        for value, result in zip(node.outputs(), _KNOWN[key], strict=False):
            seen = self.facts.known_kind(value)
            if result is None or seen is None or len(result) != seen.rank:
                continue
            if all(size < 0 or size == was for size, was in zip(result, seen.shape, strict=True)):
                for size in result:
                    if size < 0 and -1 - size not in names:
                        names[-1 - size] = next(self._fresh)
                self.found[value.debugName()] = tuple(size if size >= 0 else names[-1 - size] for size in result)

    def _described(self, value: tp.Value, sizes: dict[int, int]) -> _Description:
        node = value.node()
        if node.kind() == "prim::Constant":
            return _constant(tp.constant_value(value))
        if node.kind() == "prim::ListConstruct":
            return tuple(self._described(item, sizes) for item in node.inputs())
        if value.type().kind() == "TensorType" or self._is_there(value):
            return self._tensor(value, sizes)
        if value.type().kind() == "IntType":
            return _Size(self._number(node, value, sizes))
        raise _Unknown

    def _is_there(self, value: tp.Value) -> bool:
        """Whether an optional value (a bias) is a tensor whose dimensions never vary, in every call."""
        fact = self.facts.of(value)
        never = value.type().kind() == "OptionalType" and not (fact.presence or fact.kind or fact.shape)
        return never and self.facts.tensor(value) is not None

    def _tensor(self, value: tp.Value, sizes: dict[int, int]) -> _Tensor:
        dims, seen = self.found.get(value.debugName()), self.facts.known_kind(value)
        if dims is None and self._is_there(value):
            dims = seen.shape if seen is not None else None
        if dims is None or seen is None or len(dims) != seen.rank:
            raise _Unknown
        places = tuple(_place(dim, was, sizes) for dim, was in zip(dims, seen.shape, strict=True))
        return _Tensor(seen.dtype, seen.device, places)

    def _number(self, node: tp.Node, value: tp.Value, sizes: dict[int, int]) -> int:
        """A number: that of a dimension, or any other as one that may vary."""
        if node.kind() == "aten::size" and node.inputsSize() == 2 and tp.is_constant(list(node.inputs())[1]):
            tensor, axis = node.inputs()
            return int(self._tensor(tensor, sizes).sizes[tp.constant_value(axis)])
        name = value.debugName()
        was = next((number for number in self.facts.seen.values.get(name, []) if number is not None), None)
        if type(was) is not int:
            raise _Unknown
        if name not in self._numbers:
            self._numbers[name] = next(self._fresh)
        return _place(self._numbers[name], was, sizes)


def _constant(value: Any) -> _Constant:
    if isinstance(value, list):
        return _Constant(list, tuple(map(_constant, value)))
    if isinstance(value, (dict, tuple)):
        raise _Unknown
    return _Constant(type(value), value)


def _place(dim: int, was: int, sizes: dict[int, int]) -> int:
    if dim >= 0:
        return dim
    sizes.setdefault(dim, max(was, 2))
    return -1 - list(sizes).index(dim)


def _viewed(tensor: _Description, sizes: _Description) -> Symbols | None:
    """The sizes that a tensor is viewed by, which are the result's; one of -1 is what the others leave of all elements.

    As the fake kernel gives them, which takes a second for what attention in windows views.
    """
    listed = sizes.value if isinstance(sizes, _Constant) and sizes.kind is list else sizes
    if not isinstance(tensor, _Tensor) or not isinstance(listed, tuple):
        return None
    wanted = [item.size if isinstance(item, _Size) else item.value for item in listed]
    open_ = [place for place, item in enumerate(listed) if item == _Constant(int, -1)]
    if len(open_) == 1:
        left = _quotient(tensor.sizes, [size for place, size in enumerate(wanted) if place != open_[0]])
        varying = [size for size in (*tensor.sizes, *wanted) if size < 0]
        wanted[open_[0]] = left if left is not None else min(varying, default=0) - 1
    return tuple(wanted) if len(open_) < 2 else None


def _quotient(sizes: Sequence[int], others: Sequence[int]) -> int | None:
    """The product of some sizes, divided by that of others, where that is a number or one of the sizes."""
    number, divisor = math.prod(s for s in sizes if s >= 0), math.prod(s for s in others if s >= 0)
    left = Counter(s for s in sizes if s < 0)
    gone = Counter(s for s in others if s < 0)
    if not divisor or number % divisor or gone - left:
        return None
    rest = list((left - gone).elements())
    if not rest:
        return number // divisor
    return rest[0] if len(rest) == 1 and number == divisor else None


def _results(node: tp.Node, arguments: Sequence[_Description], hints: list[int]) -> list[Symbols | None]:
    """The sizes of the results; those that are none of the arguments' are counted on from these.

    Operators that are put together of others are so by PyTorch's dispatcher in Python: the one in C++ fixes sizes.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    function, shapes = function_of_node(node), ShapeEnv()
    if function is None:
        return []
    symbols = [_symbol(shapes, index, hint) for index, hint in enumerate(hints)]
    places: dict[Any, int] = {symbol.node.expr: -1 - index for index, symbol in enumerate(symbols)}
    try:
        with enable_python_dispatcher(), FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes):
            made = function(*(_argument(item, symbols) for item in arguments))
    except Exception:  # there is no fake kernel, or it needs numbers
        return []
    if shapes.guards:
        return []
    listed = made if isinstance(made, (tuple, list)) else [made]
    return [
        tuple(_number_of(size, places) for size in one.shape) if isinstance(one, torch.Tensor) else None
        for one in listed
    ]


def _symbol(shapes: Any, index: int, hint: int) -> Any:
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic

    source = ConstantSource(f"d{index}")
    symbol = shapes.create_symbol(hint, source, DimDynamic.DYNAMIC, None)
    return shapes.create_symintnode(symbol, hint=hint, source=source)


def _argument(item: _Description, symbols: Sequence[Any]) -> Any:
    if isinstance(item, tuple):
        return [_argument(part, symbols) for part in item]
    if isinstance(item, _Constant):
        return [_argument(part, symbols) for part in item.value] if item.kind is list else item.value
    if isinstance(item, _Size):
        return _size(item.size, symbols)
    return torch.empty([_size(size, symbols) for size in item.sizes], dtype=item.dtype, device=item.device)


def _size(size: int, symbols: Sequence[Any]) -> Any:
    return size if size >= 0 else symbols[-1 - size]


def _number_of(size: Any, places: dict[Any, int]) -> int:
    """A size: itself, one of the arguments', or a new one."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr
    if expression.is_number:
        return int(expression)
    return places.setdefault(expression, -1 - len(places))
