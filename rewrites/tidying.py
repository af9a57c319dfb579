"""Models of any exporter in the one form that is worked on: in order, names unique, no sparse constants."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from rewrites.errors import RewriteError
from rewrites.schemas import schema_of

_OPTIONAL = defs.OpSchema.FormalParameterOption.Optional
_BROKEN = "a broken model: onnx.checker.check_model(model) may say more; export it again"


def tidy(model: onnx.ModelProto, notes: list[str]) -> None:
    """Bring a model into order, in place.

    The domain "ai.onnx" is written "", nodes come after what they read and share no names, names of values in bodies
    are no outer value's, bodies make what they give, sparse constants are dense, and what is left out at the end of a
    node's inputs or outputs is not written.

    Args:
        model: without functions.
        notes: gets a sentence where the order was wrong.

    Raises:
        RewriteError: the model is broken: a value is made twice or by no node, nodes wait for each other, or it does
            not say which opset it is of.
    """
    _name_domain(model)
    imports = {entry.domain: entry.version for entry in model.opset_import}
    _Scope(model.graph, imports, notes, set(_all_names(model.graph))).tidy(None)
    _name_nodes(model.graph)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    return [graph for a in node.attribute for graph in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def called(node: onnx.NodeProto) -> str:
    """What a node is called in messages."""
    return f"{node.op_type} {node.name or next(filter(None, node.output), '')}".strip()


def _name_domain(model: onnx.ModelProto) -> None:
    given = [("" if entry.domain == "ai.onnx" else entry.domain, entry.version) for entry in model.opset_import]
    versions = dict(reversed(given))  # of two for one domain the first counts
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*entry) for entry in versions.items())
    for node in all_nodes(model.graph):
        if node.domain == "ai.onnx":
            node.domain = ""
        if not node.domain and "" not in versions:
            told = f"the model does not say which opset it is of, but has {called(node)}"
            raise RewriteError(told, hint='give its opset_import an entry for the domain ""')


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken = {node.name for node in all_nodes(graph)}
    seen: dict[str, int] = {"": 0}
    for node in all_nodes(graph):
        if node.name and node.name in seen:
            name, count = node.name, seen[node.name]
            while f"{name}_{count}" in taken:
                count += 1
            node.name, seen[name] = f"{name}_{count}", count + 1
            taken.add(node.name)
        else:
            seen[node.name] = 2


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, each before those of its bodies."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from all_nodes(body)


def _own_names(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """(value, what makes it) for every value of one graph; inputs that have initializers count once."""
    given = {value.name for value in graph.input}
    yield from ((value.name, "an input") for value in graph.input)
    yield from ((t.name, "an initializer") for t in graph.initializer if t.name not in given)
    sparse = [t.values.name for t in graph.sparse_initializer]
    yield from ((name, "an initializer") for name in sparse if name not in given)
    yield from ((name, called(node)) for node in graph.node for name in node.output if name)


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (name for name, _ in _own_names(graph))
    for node in graph.node:
        for body in bodies(node):
            yield from _all_names(body)


class _Scope:
    """One graph or body; ``taken`` are the names of all values of the model."""

    def __init__(self, graph: onnx.GraphProto, imports: Mapping[str, int], notes: list[str], taken: set[str]) -> None:
        self.graph, self.imports, self.notes, self.taken = graph, imports, notes, taken

    def tidy(self, outer: frozenset[str] | None) -> set[str]:
        """Tidy it, inside a graph with these values; gives back those of them that it reads."""
        own = self._owned()
        there = own | (outer or frozenset())
        _make_dense(self.graph)
        read = [self._read(node, there) for node in self.graph.node]
        results = {value.name for value in self.graph.output}
        self._sort(read)
        if unknown := results - there:
            raise RewriteError(f"the output {min(unknown)!r} is made by nothing", hint=_BROKEN)
        if outer is not None:
            self._give_only(own)
            _rename(self.graph, {name: self._free(name) for name in sorted(own & outer)})
        return set().union(results, *read) - own

    def _owned(self) -> frozenset[str]:
        owners: dict[str, str] = {}
        for name, owner in _own_names(self.graph):
            if name in owners:
                raise RewriteError(f"{name!r} is made twice, by {owners[name]} and by {owner}", hint=_BROKEN)
            owners[name] = owner
        return frozenset(owners)

    def _read(self, node: onnx.NodeProto, there: frozenset[str]) -> set[str]:
        """What a node reads, also in its bodies, which are tidied."""
        self._shorten(node)
        found = set(node.input) - {""}
        if unknown := found - there:
            raise RewriteError(f"{called(node)} reads {min(unknown)!r}, which nothing makes", hint=_BROKEN)
        inside = (_Scope(body, self.imports, self.notes, self.taken).tidy(there) for body in bodies(node))
        return found.union(*inside)

    def _free(self, name: str) -> str:
        count = 2
        while f"{name}_{count}" in self.taken:
            count += 1
        self.taken.add(f"{name}_{count}")
        return f"{name}_{count}"

    def _shorten(self, node: onnx.NodeProto) -> None:
        """Take off what is left out at the end, where the schema says that it may be."""
        schema = schema_of(node.op_type, node.domain, self.imports.get(node.domain, 1))
        if schema is None:
            return
        for given, formals, least in ((node.input, schema.inputs, schema.min_input),
                                      (node.output, schema.outputs, schema.min_output)):  # fmt: skip
            while len(given) > least and not given[-1] and _may_be_left_out(formals, len(given) - 1):
                del given[-1]

    def _sort(self, read: list[set[str]]) -> None:
        """Let every node come after those that make what it reads; otherwise as they are."""
        nodes = list(self.graph.node)
        makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
        waits = [{makers[name] for name in values if name in makers} for values in read]
        if all(max(before, default=-1) < i for i, before in enumerate(waits)):
            return
        after: list[list[int]] = [[] for _ in nodes]
        for i, before in enumerate(waits):
            for maker in before:
                after[maker].append(i)
        ready, order, left = [i for i, before in enumerate(waits) if not before], [], [len(b) for b in waits]
        while ready:
            order.append(heapq.heappop(ready))
            for i in after[order[-1]]:
                left[i] -= 1
                if not left[i]:
                    heapq.heappush(ready, i)
        if len(order) < len(nodes):
            stuck = ", ".join(called(nodes[i]) for i, count in enumerate(left) if count)
            raise RewriteError(f"these nodes wait for each other: {stuck}", hint=_BROKEN)
        del self.graph.node[:]
        self.graph.node.extend(nodes[i] for i in order)
        self.notes.append(f"the nodes of {self.graph.name or 'the graph'} were put in order")

    def _give_only(self, own: frozenset[str]) -> None:
        """A body makes what it gives: an outer value goes through Identity."""
        for value in self.graph.output:
            if value.name not in own:
                name = self._free(value.name)
                self.graph.node.append(helper.make_node("Identity", [value.name], [name]))
                value.name = name


def _may_be_left_out(formals: Sequence[Any], position: int) -> bool:
    return position < len(formals) and bool(formals[position].option == _OPTIONAL)


def _rename(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    """Give values other names, in bodies too, unless a body has a value of that name itself."""
    if not renamed:
        return
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        for body in bodies(node):
            own = {name for name, _ in _own_names(body)}
            _rename(body, {old: new for old, new in renamed.items() if old not in own})


def _make_dense(graph: onnx.GraphProto) -> None:
    graph.initializer.extend(_dense(tensor, tensor.values.name) for tensor in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    for attribute in (a for node in graph.node if node.op_type == "Constant" for a in node.attribute):
        if attribute.name == "sparse_value":
            attribute.CopyFrom(helper.make_attribute("value", _dense(attribute.sparse_tensor, "")))


def _dense(tensor: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    values, places = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    dense[tuple(places.T) if places.ndim == 2 else np.unravel_index(places, dense.shape)] = values
    return numpy_helper.from_array(dense, name)
