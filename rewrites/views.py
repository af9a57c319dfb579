"""The graph as rules see it: shapes, values and nodes, to be read and never written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from rewrites.errors import Refusal
from rewrites.infer import numpy_type
from rewrites.schemas import attribute_defaults

if TYPE_CHECKING:
    from rewrites.graph import Editor


class Shape(tuple[Any, ...]):
    """The dimensions of a value: int (static), str (symbolic, equal names are equal sizes) or None (unknown)."""

    def is_static(self, axis: int | None = None) -> bool:
        """Whether the axis (or every axis) has one known size."""
        return all(type(d) is int for d in self) if axis is None else type(self[axis]) is int

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return Shape(found) if isinstance(key, slice) else found

    @property
    def size(self) -> int:
        """The number of elements; refuses the match when a dimension is not static."""
        if not self.is_static():
            raise Refusal(f"the shape must be static; it is {list(self)}")
        return int(np.prod(self, dtype=np.int64))


class Value:
    """A value of the graph, as rules see it. What is not known (`shape`, `dtype`) refuses the match when asked for."""

    __slots__ = ("editor", "tensor")

    def __init__(self, tensor: gs.Tensor, editor: Editor) -> None:
        self.tensor, self.editor = tensor, editor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and other.tensor is self.tensor

    def __hash__(self) -> int:
        return id(self.tensor)

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.known_dtype}, {self.dims})"

    @property
    def name(self) -> str:
        return str(self.tensor.name)

    @property
    def dims(self) -> Shape | None:
        """The shape, or None when the rank is unknown."""
        dims = self.tensor.shape
        return None if dims is None else Shape(_dim(d) for d in dims)

    @property
    def shape(self) -> Shape:
        dims = self.dims
        if dims is None:
            raise Refusal(f"the rank of {self.name!r} is unknown")
        return dims

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def known_dtype(self) -> np.dtype[Any] | None:
        """The element type, or None when it is unknown."""
        return numpy_type(self.tensor.dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype = self.known_dtype
        if dtype is None:
            raise Refusal(f"the type of {self.name!r} is unknown")
        return dtype

    @property
    def constant(self) -> np.ndarray[Any, Any] | None:
        """The value when it is a constant, after folding what is small; None otherwise. Do not write into it."""
        return self.editor.constant(self.tensor)

    def __index__(self) -> int:
        """The constant as an axis or a size: `x.shape[axis]`, `int(axis)`; refuses when it is not constant."""
        value = self.constant
        if value is None or value.size != 1:
            raise Refusal(f"{self.name!r} must be a constant of one element")
        return int(value.reshape(()))

    @property
    def producer(self) -> Node | None:
        node = self.editor.producer(self.tensor)
        return None if node is None else Node(node, self.editor)

    @property
    def consumers(self) -> list[Node]:
        return [Node(n, self.editor) for n in self.editor.consumers(self.tensor)]

    @property
    def is_output(self) -> bool:
        """Whether this is an output of the graph, or of the body, that it lives in."""
        return id(self.tensor) in self.editor.outputs


def _dim(dim: Any) -> int | str | None:
    if isinstance(dim, (int, np.integer)):
        return int(dim) if dim >= 0 else None
    return dim or None


class Node:
    """A node of the graph, as rules see it: read it, never write."""

    __slots__ = ("editor", "raw")

    def __init__(self, raw: gs.Node, editor: Editor) -> None:
        self.raw, self.editor = raw, editor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.raw is self.raw

    def __hash__(self) -> int:
        return id(self.raw)

    def __repr__(self) -> str:
        return f"Node({self.op!r}, {self.name!r})"

    @property
    def op(self) -> str:
        return str(self.raw.op)

    @property
    def domain(self) -> str:
        return self.raw.domain or ""

    @property
    def name(self) -> str:
        return str(self.raw.name)

    @property
    def inputs(self) -> list[Value | None]:
        """The inputs; None for an optional one left out."""
        return [Value(t, self.editor) if t.name else None for t in self.raw.inputs]

    @property
    def outputs(self) -> list[Value | None]:
        """The outputs; None for an optional one left out."""
        return [Value(t, self.editor) if t.name else None for t in self.raw.outputs]

    @property
    def attributes(self) -> dict[str, Any]:
        """Every attribute of the operator's schema, with its default where the node does not give it."""
        return {**attribute_defaults(self.op, self.domain, self.editor.opset), **self.given}

    @property
    def given(self) -> dict[str, Any]:
        """The attributes that the node itself gives; tensors as numpy arrays, bodies as graphsurgeon graphs."""
        return {name: plain(value) for name, value in self.raw.attrs.items()}

    def used_outputs(self) -> list[int]:
        """Positions of the outputs that something reads."""
        return [i for i, t in enumerate(self.raw.outputs) if t.name and self.editor.is_used(t)]


def plain(attribute: Any) -> Any:
    """An attribute as rules see it: a constant tensor becomes its numpy array."""
    return attribute.values if isinstance(attribute, gs.Constant) else attribute
