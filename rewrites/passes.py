"""What a whole-graph pass is given: the nodes to read, and one way to replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rewrites.builder import Builder
from rewrites.graph import Editor, Node, Value


class PassGraph:
    """The graph as whole-graph passes see it.

    Args:
        editor: the editor of the graph.
        builder: makes the builder for a node's place.
        commit: puts values in the place of a node's outputs.
    """

    def __init__(
        self,
        editor: Editor,
        builder: Callable[[Node], Builder],
        commit: Callable[[Node, Builder, tuple[Value, ...]], None],
    ) -> None:
        self._editor, self._builder, self._commit = editor, builder, commit

    @property
    def opset(self) -> int:
        return self._editor.opset

    def nodes(self) -> Iterator[Node]:
        """Every node that is there now, each graph's in order, bodies included."""
        for raw in list(self._editor.nodes()):
            if self._editor.is_live(raw):
                yield Node(raw, self._editor)

    def scope(self, node: Node) -> int:
        """A number that is the same for the nodes of one graph or body."""
        return id(self._editor.owner[id(node.raw)])

    def replace(self, node: Node, make: Callable[[Builder], Value | tuple[Value, ...]]) -> None:
        """Put what `make(op)` gives in the place of the node's outputs; it may also give values already there."""
        op = self._builder(node)
        made = make(op)
        self._commit(node, op, made if isinstance(made, tuple) else (made,))
