"""What is written into slices and rows of a new tensor, ``mask[:, :n] = 1``: made functional.

Each write makes a new tensor, by PyTorch's slice_scatter and select_scatter, and all that comes later reads that. It is
what torch.func.functionalize does, for the views that a write by index makes.
"""

from __future__ import annotations

from typing import Any

from bridge import torch_private as tp
from bridge.frontend.pieces import has_twin, is_only_view, is_view, is_write, makes_new, twin

_SCATTERS = {"aten::slice": "aten::slice_scatter", "aten::select": "aten::select_scatter"}


def settle(graph: tp.Graph) -> None:
    """Replaces writes into slices of tensors that one block makes, reads and writes by functional operators."""
    if not any(is_write(node) for node in tp.walk(graph)):
        return
    tried: set[str] = set()
    while _settle_next(graph, tried):
        pass


def _settle_next(graph: tp.Graph, tried: set[str]) -> bool:
    """Settles the writes into one tensor that nothing else sees, and with them ends: some of the nodes are gone."""
    for node in tp.walk(graph):
        if node.outputsSize() != 1 or node.output().debugName() in tried:
            continue
        tried.add(node.output().debugName())
        if node.output().type().kind() == "TensorType" and is_only_view(node.output()):
            written = _Written(graph, node)
            if written.chains and written.is_understood():
                written.settle()
                return True
    return False


class _Written:
    """A new tensor and all that is done with it, in the order of its block.

    Attributes:
        chains: each write, with the views, the first first, through which it is made.
    """

    def __init__(self, graph: tp.Graph, node: tp.Node) -> None:
        self.graph, self.node, self.value = graph, node, node.output()
        self.chains: dict[tp.Node, list[tp.Node]] = {}
        self.views: dict[tp.Node, list[tp.Node]] = {}  # those that only read, and what reads them
        self.users = {use.user for use in self.value.uses()}
        for user in self.users:
            chain = self._chain(user)
            if chain is not None:
                self.chains[chain.pop()] = chain
            elif user.kind() in _SCATTERS:
                self.views[user] = _readers(user)

    def _chain(self, user: tp.Node) -> list[tp.Node] | None:
        """The views from the tensor to a write of which nothing reads the result, and the write."""
        chain, value = [user], self.value
        while chain[-1].kind() in _SCATTERS:
            value = chain[-1].output()
            if len(value.uses()) != 1:
                return None
            chain.append(value.uses()[0].user)
        write = chain[-1]
        if not is_write(write) or not (_is_copy(write) or has_twin(write)):
            return None
        return chain if [use.offset for use in value.uses() if use.user == write] == [0] else None

    def is_understood(self) -> bool:
        """Whether all writes are in the tensor's own block, and whatever else may keep it comes after the last."""
        block = self.node.owningBlock()
        self.order = {node: place for place, node in enumerate([*block.nodes(), block.returnNode()])}
        written = [node for write, chain in self.chains.items() for node in (*chain, write)]
        if not all(node in self.order for node in written):
            return False
        writes = sorted(self.order[write] for write in self.chains)
        if not all(self._is_read_in_time(_readers(write), self.order[write], writes) for write in self.chains):
            return False
        for node in self.users - set(written):
            place = self._place(node)
            if place is None or (place < writes[-1] and not self._reads_before(node, place, writes)):
                return False
        return True

    def _reads_before(self, node: tp.Node, place: int, writes: list[int]) -> bool:
        """Whether what an operator, or a view of it, reads is read before the next write."""
        if node not in self.views:
            return makes_new(node) and node in self.order
        return self._is_read_in_time(self.views[node], place, writes)

    def _is_read_in_time(self, readers: list[tp.Node], place: int, writes: list[int]) -> bool:
        following = min((write for write in writes if write > place), default=len(self.order) - 2)
        return all(reader in self.order and self.order[reader] <= following for reader in readers)

    def _place(self, node: Any) -> int | None:
        """Where a node is in the block, or the branch or loop that it is in."""
        while node is not None and node not in self.order:
            node = node.owningBlock().owningNode()
        return None if node is None else self.order[node]

    def settle(self) -> None:
        now = self.value
        firsts = {(chain or [write])[0]: write for write, chain in self.chains.items()}
        events = sorted([*self.chains, *(self.users - firsts.keys() - self.chains.keys())], key=self._position)
        for node in events:
            for offset, value in enumerate(tp.inputs_of(node)):
                if value.debugName() == self.value.debugName():
                    node.replaceInput(offset, now)
            if node in self.chains:
                now = self._write(node, self.chains[node], now)
        for write, chain in self.chains.items():
            for node in reversed([*chain, write]):
                node.destroy()

    def _position(self, node: tp.Node) -> int:
        place = self._place(node)
        assert place is not None
        return place

    def _write(self, write: tp.Node, chain: list[tp.Node], now: tp.Value) -> tp.Value:
        """The tensor after a write: what is written, put back into each view in turn."""
        seen = [now]
        for view in chain:
            seen.append(tp.insert(self.graph, view.kind(), [seen[-1], *tp.inputs_of(view)[1:]], write, view))
        made = self._written(write, seen.pop())
        write.output().replaceAllUsesWith(made)
        for view, around in zip(reversed(chain), reversed(seen), strict=True):
            made = tp.insert(self.graph, _SCATTERS[view.kind()], [around, made, *tp.inputs_of(view)[1:]], write)
        return made

    def _written(self, write: tp.Node, target: tp.Value) -> tp.Value:
        """What a write leaves in its target, in the target's dtype and shape."""
        if _is_copy(write):
            source = list(write.inputs())[1]
            made = tp.insert(self.graph, "aten::type_as", [source, target], write)
        else:
            # a copy, because torch.onnx takes what is put into a slice for put into the tensor around it
            copied = [target, tp.constant(self.graph, None, write)]
            write.replaceInput(0, tp.insert(self.graph, "aten::clone", copied, write))
            made = twin(self.graph, write, target)
        return tp.insert(self.graph, "aten::expand_as", [made, target], write)


def _is_copy(write: tp.Node) -> bool:
    """Whether a write takes over another tensor as it is."""
    inputs = list(write.inputs())
    return write.kind() in ("aten::copy_", "aten::fill_") and inputs[1].type().kind() == "TensorType"


def _readers(view: tp.Node) -> list[tp.Node]:
    """What reads a view, or the result of a write; what may keep it reads it until the end of the block."""
    found = []
    for use in view.output().uses():
        if makes_new(use.user) or (is_write(use.user) and use.offset > 0):
            found.append(use.user)
        elif is_view(use.user) and use.offset == 0:
            found += _readers(use.user)
        else:
            found.append(use.user.owningBlock().returnNode())
    return found
