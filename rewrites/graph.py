"""The one editor over `onnx_graphsurgeon` graphs: every change that a rewrite makes goes through it.

Nodes are removed by marking (content comparison and list searches in graphsurgeon are slow and compare names); the
lists are made right once, in `Editor.finish`, together with the order of the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from rewrites.folding import Folder
from rewrites.views import Node, Shape, Value, plain


class Editor:
    """Reads and changes one graph and the bodies inside it.

    Args:
        graph: the graph, changed in place.

    Attributes:
        opset: version of the default domain.
        outputs: ids of the tensors that are outputs of the graph or of a body.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph, self.opset = graph, int(graph.opset)
        self.owner: dict[int, gs.Graph] = {}
        self.outputs: set[int] = set()
        self._graphs: dict[int, gs.Graph] = {}
        self._dead: dict[int, gs.Node] = {}
        self._new: dict[int, list[gs.Node]] = {}
        self._stale: dict[int, gs.Tensor] = {}
        self._names: set[str] = set()
        self._counts: dict[str, int] = {}
        self._folder = Folder(self)
        self._adopt(graph)

    def _adopt(self, graph: gs.Graph) -> None:
        """Take a graph and its bodies in: own the nodes, know the names and outputs, make Constant nodes constants."""
        self._graphs[id(graph)] = graph
        self.outputs.update(id(t) for t in graph.outputs)
        self._names.update(t.name for t in graph.inputs)
        for node in graph.nodes:
            self.owner[id(node)] = graph
            self._names.add(node.name)
            self._names.update(t.name for t in node.outputs)
            self._names.update(t.name for t in node.inputs)
            for body in bodies(node):
                self._adopt(body)
        for node in graph.nodes:
            if node.op == "Constant" and not (node.domain or ""):
                self._absorb(node)

    def _absorb(self, node: gs.Node) -> None:
        tensor, values = node.outputs[0], constant_values(node)
        if values is None or id(tensor) in self.outputs:
            return
        self.remove(node)
        tensor.to_constant(values)
        list.clear(tensor.inputs)

    def nodes(self) -> Iterator[gs.Node]:
        """All live nodes: those of each graph in order, bodies after the graph that holds them."""
        for graph in list(self._graphs.values()):
            yield from (n for n in graph.nodes if id(n) not in self._dead)
            yield from (n for n in self._new.get(id(graph), ()) if id(n) not in self._dead)

    def is_live(self, node: gs.Node) -> bool:
        return id(node) in self.owner and id(node) not in self._dead

    def producer(self, tensor: gs.Tensor) -> gs.Node | None:
        """The live node that makes the tensor, or None for inputs and constants."""
        for node in tensor.inputs:
            if id(node) not in self._dead:
                return node
        return None

    def consumers(self, tensor: gs.Tensor) -> list[gs.Node]:
        """The live nodes that read the tensor, bodies' nodes among them."""
        return [n for n in tensor.outputs if id(n) not in self._dead]

    def is_used(self, tensor: gs.Tensor) -> bool:
        return id(tensor) in self.outputs or any(id(n) not in self._dead for n in tensor.outputs)

    def constant(self, tensor: gs.Tensor) -> np.ndarray[Any, Any] | None:
        """The tensor's constant value, after folding small computations; None when it is not constant."""
        return self._folder.value(tensor)

    def unique(self, base: str) -> str:
        """`base`, or `base_2`, `base_3`... when it is taken."""
        if base not in self._names:
            self._names.add(base)
            return base
        count = self._counts.get(base, 1)
        while f"{base}_{count + 1}" in self._names:
            count += 1
        self._counts[base] = count + 1
        self._names.add(f"{base}_{count + 1}")
        return f"{base}_{count + 1}"

    def insert(self, node: gs.Node, graph: gs.Graph) -> None:
        """Add a node; its place in the order is found by `finish`."""
        self.owner[id(node)] = graph
        self._new.setdefault(id(graph), []).append(node)
        for body in bodies(node):
            self._adopt(body)

    def remove(self, node: gs.Node) -> None:
        """Remove a node, and leave its outputs without a producer."""
        self._dead[id(node)] = node
        for tensor in (*node.inputs, *node.outputs):
            self._stale[id(tensor)] = tensor
        for body in bodies(node):
            self._graphs.pop(id(body), None)
            for inner in (*body.nodes, *self._new.get(id(body), ())):
                self.remove(inner)

    def remove_unused(self, nodes: Iterable[gs.Node]) -> list[gs.Node]:
        """Remove those of the nodes that nothing reads, then what only they read. Gives back what was removed."""
        stack, removed = list(nodes), []
        while stack:
            node = stack.pop()
            if not self.is_live(node) or any(t.name and self.is_used(t) for t in node.outputs):
                continue
            self.remove(node)
            removed.append(node)
            read = [*node.inputs, *(t for body in bodies(node) for t in captured(body))]
            stack.extend(p for t in read if (p := self.producer(t)) is not None)
        return removed

    def take_over(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let the node that makes `new` make `old` instead: readers, names and graph outputs stay as they are."""
        maker, former = self.producer(new), self.producer(old)
        if former is not None:
            self._replace_in(former.outputs, old, gs.Variable(self.unique(old.name), old.dtype, old.shape), "inputs")
            list.clear(old.inputs)
        assert maker is not None
        self._replace_in(maker.outputs, new, old, "inputs")
        list.clear(new.inputs)
        self.redirect(new, old)
        if old.dtype is None:
            old.dtype = new.dtype
        old.shape = _narrower(old.shape, new.shape)
        self._folder.forget(old)

    def redirect(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let every node that reads `old` read `new`; graph outputs stay."""
        for node in self.consumers(old):
            self._replace_in(node.inputs, old, new, "outputs")
        list.clear(old.outputs)

    def _replace_in(self, tensors: Any, old: gs.Tensor, new: gs.Tensor, side: str) -> None:
        node = tensors.parent_obj
        for i, tensor in enumerate(tensors):
            if tensor is old:
                list.__setitem__(tensors, i, new)
                list.append(getattr(new, side), node)
        self._stale[id(old)], self._stale[id(new)] = old, new

    def finish(self) -> gs.Graph:
        """Make graphsurgeon's lists and the order of the nodes right. The editor stays usable."""
        for tensor in self._stale.values():
            _keep(tensor.outputs, [n for n in tensor.outputs if self.is_live(n) and any(t is tensor for t in n.inputs)])
            _keep(tensor.inputs, [n for n in tensor.inputs if self.is_live(n) and any(t is tensor for t in n.outputs)])
        for graph in self._graphs.values():
            new = self._new.get(id(graph), [])
            live = [n for n in graph.nodes if id(n) not in self._dead] + [n for n in new if id(n) not in self._dead]
            graph.nodes[:] = _sorted(live) if new else live
        self._new.clear()
        self._stale.clear()
        return self.graph


def bodies(node: gs.Node) -> list[gs.Graph]:
    """The graphs inside a node's attributes."""
    return [a for a in node.attrs.values() if isinstance(a, gs.Graph)] if node.attrs else []


def captured(graph: gs.Graph) -> list[gs.Tensor]:
    """Every tensor that a body and the bodies inside it read; outer values are among them."""
    read = [t for node in graph.nodes for t in node.inputs] + list(graph.outputs)
    return read + [t for node in graph.nodes for body in bodies(node) for t in captured(body)]


def constant_values(node: gs.Node) -> Any:
    """What a Constant node holds, not loaded; None for kinds that graphsurgeon cannot hold as a constant."""
    for name, value in node.attrs.items():
        if name == "value" and isinstance(value, gs.Constant):
            return value._values
        if name in ("value_int", "value_ints"):
            return np.array(value, np.int64)
        if name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
    return None


def _narrower(old: Any, new: Any) -> Any:
    """The dimensions of what takes another's place: sizes stand where either knows them."""
    if old is None or new is None or len(old) != len(new):
        return new if old is None else old
    return [b if type(b) is int else a for a, b in zip(old, new, strict=True)]


def _keep(tensors: Any, nodes: list[gs.Node]) -> None:
    list.__setitem__(tensors, slice(None), nodes)


def _sorted(nodes: list[gs.Node]) -> list[gs.Node]:
    """The nodes in an order in which each comes after what it reads; otherwise as given."""
    ours = {id(n) for n in nodes}
    order: list[gs.Node] = []
    done: set[int] = set()
    for first in nodes:
        stack = [(first, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                order.append(node)
            elif id(node) not in done:
                done.add(id(node))
                stack.append((node, True))
                read = [*node.inputs, *(t for body in bodies(node) for t in captured(body))]
                makers = (p for t in reversed(read) for p in t.inputs)
                stack.extend((p, False) for p in makers if id(p) in ours and id(p) not in done)
    return order


__all__ = ["Editor", "Node", "Shape", "Value", "bodies", "captured", "constant_values", "plain"]
