"""Which values share memory that something writes to.

Flow-insensitive: values that may share memory at any time are one set (union-find). A write marks the whole set.
Writing into a list or dict (``append``) is kept apart from writing into the tensors in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge import torch_private as tp

_RETURNS_ITS_INPUT = {"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout"}


class Memory:
    """The sets of values of one graph and what is written.

    Args:
        others: graphs of the module's other methods, which may write to its attributes between two calls.
    """

    def __init__(self, graph: tp.Graph, others: Sequence[tp.Graph] = ()) -> None:
        self._parent: dict[str, str] = {}
        self._written: set[str] = set()
        self._containers_written: set[str] = set()
        self._tensor_writes: list[str] = []
        self._container_writes: list[str] = []
        self.paths: dict[str, str] = {next(iter(graph.inputs())).debugName(): ""}
        for block in tp.blocks(graph):
            for node in block.nodes():
                self._visit(node)
        for other in others:
            self._tensor_writes += Memory(other).written_attributes()
        self._written = {self._find(name) for name in self._tensor_writes}
        self._containers_written = {self._find(name) for name in self._container_writes}

    def written_attributes(self) -> list[str]:
        """Keys of the module's attributes that may be written to."""
        read = (f"@{path}" for path in self.paths.values())
        found = [key for key in read if self._find(key) in self._written | self._containers_written]
        return [*found, *(key for key in self._tensor_writes if key.startswith("@"))]

    def written(self, value: tp.Value) -> bool:
        """Whether the memory of a tensor, or the list or dict itself, may be written to."""
        root = self._find(self._key(value))
        return root in (self._containers_written | self._written if _is_container(value) else self._written)

    def place(self, value: tp.Value) -> str:
        """A name of the memory that a value may be in: equal for values that may share it."""
        return self._find(self._key(value))

    def holder_written(self, value: tp.Value) -> bool:
        """Whether a list or dict that may hold the value is written to."""
        return self.place(value) in self._containers_written

    def is_container(self, value: tp.Value) -> bool:
        return _is_container(value)

    def shared(self, first: tp.Value, second: tp.Value) -> bool:
        return self._find(self._key(first)) == self._find(self._key(second))

    def path(self, value: tp.Value) -> str | None:
        """The attribute path of a value read from the module, ``layer1.0.weight``."""
        return self.paths.get(value.debugName())

    def _find(self, name: str) -> str:
        root = name
        while self._parent.get(root, root) != root:
            root = self._parent[root]
        while self._parent.get(name, name) != root:
            self._parent[name], name = root, self._parent[name]
        return root

    def _union(self, first: str, second: str) -> None:
        self._parent[self._find(first)] = self._find(second)

    def _key(self, value: tp.Value) -> str:
        path = self.paths.get(value.debugName())
        return f"@{path}" if path is not None else value.debugName()

    def _join(self, first: tp.Value, second: tp.Value) -> None:
        if _holds_memory(first) and _holds_memory(second):
            self._union(self._key(first), self._key(second))

    def _visit(self, node: tp.Node) -> None:
        kind = node.kind()
        inputs, outputs = tp.inputs_of(node), tp.outputs_of(node)
        if kind == "prim::GetAttr" and inputs[0].debugName() in self.paths:
            parent = self.paths[inputs[0].debugName()]
            self.paths[outputs[0].debugName()] = f"{parent}.{node.s('name')}" if parent else node.s("name")
        elif kind == "prim::SetAttr":
            self._set_attribute(node, inputs)
        elif kind in ("prim::If", "prim::Loop"):
            self._control(node, inputs, outputs)
        elif kind != "prim::Constant":
            self._operator(node, inputs, outputs)

    def _set_attribute(self, node: tp.Node, inputs: list[tp.Value]) -> None:
        owner = self.paths.get(inputs[0].debugName())
        name = f"@{owner}.{node.s('name')}" if owner else f"@{node.s('name')}" if owner == "" else self._key(inputs[0])
        self._tensor_writes.append(name)
        if _holds_memory(inputs[1]):
            self._union(name, self._key(inputs[1]))

    def _control(self, node: tp.Node, inputs: list[tp.Value], outputs: list[tp.Value]) -> None:
        for block in tp.blocks_of(node):
            results = list(block.outputs())
            if node.kind() == "prim::Loop":
                results = results[1:]
                for start, parameter in zip(inputs[2:], list(block.inputs())[1:], strict=True):
                    self._join(start, parameter)
            for result, output in zip(results, outputs, strict=True):
                self._join(result, output)
        if node.kind() == "prim::Loop":
            for start, output in zip(inputs[2:], outputs, strict=True):
                self._join(start, output)

    def _operator(self, node: tp.Node, inputs: list[tp.Value], outputs: list[tp.Value]) -> None:
        schema = tp.schema(node)
        if schema is None:
            self._construct(node, inputs, outputs)
            return
        if node.kind() in _RETURNS_ITS_INPUT:
            self._join(inputs[0], outputs[0])
        for value in tp.written_to(node):
            (self._container_writes if _is_container(value) else self._tensor_writes).append(self._key(value))
        sets: dict[str, list[tp.Value]] = {}
        for value, argument in zip(inputs, schema.arguments, strict=False):
            self._annotate(value, argument.alias_info, sets)
        for value, result in zip(outputs, schema.returns, strict=False):
            self._annotate(value, result.alias_info, sets)
        if "*" in sets:  # into or out of a container: the schema does not say which
            sets["*"] += [value for value in (*inputs, *outputs) if _is_container(value)]
        for values in sets.values():
            for value in values[1:]:
                self._join(values[0], value)

    def _annotate(self, value: tp.Value, alias: object, sets: dict[str, list[tp.Value]]) -> None:
        if alias is None:
            return
        for name in alias.before_set | alias.after_set:  # type: ignore[attr-defined]
            sets.setdefault("*" if "*" in str(name) else str(name), []).append(value)

    def _construct(self, node: tp.Node, inputs: list[tp.Value], outputs: list[tp.Value]) -> None:
        """Containers share the memory of what is in them; a call not understood shares and writes everything.

        One that holds the graph's results, or is the argument of operators that make new tensors, joins nothing:
        nothing is read out of it.
        """
        if _is_passed_on(node):
            return
        understood = node.kind().startswith("prim::") and node.kind() not in ("prim::CallMethod", "prim::CallFunction")
        values = [v for v in (*inputs, *outputs) if _holds_memory(v)]
        for value in values[1:]:
            self._join(values[0], value)
        if not understood:
            self._tensor_writes += [self._key(v) for v in values]


def _is_passed_on(node: tp.Node) -> bool:
    """Whether a node makes a container that leaves the graph, by itself or in another, or that operators only read."""
    if node.kind() not in ("prim::TupleConstruct", "prim::ListConstruct", "prim::DictConstruct"):
        return False
    return all(map(_lets_go, node.output().uses()))


def _lets_go(use: Any) -> bool:
    if use.user.kind() == "prim::Return":
        return use.user.owningBlock().owningNode() is None
    schema = tp.schema(use.user)
    if schema is not None and use.offset < len(schema.arguments):
        return schema.arguments[use.offset].alias_info is None
    return _is_passed_on(use.user)


def _is_container(value: tp.Value) -> bool:
    return value.type().kind() in ("ListType", "DictType", "TupleType", "ClassType")


def _holds_memory(value: tp.Value) -> bool:
    kind = value.type().kind()
    if kind in ("TensorType", "ClassType", "AnyType", "InterfaceType"):
        return True
    return (
        "Tensor" in str(value.type().annotation_str)
        if kind in ("OptionalType", "ListType", "DictType", "TupleType", "UnionType")
        else False
    )
