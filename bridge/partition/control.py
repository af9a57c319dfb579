"""Branches and loops that go into engines as a whole: prim::If and prim::Loop as ONNX If and Loop.

One goes when all in it may be in an engine, it only passes tensors, and a tensor or sizes decide what it does: then its
condition never comes back to the host between two engines. The target has the last word, as on operators.
"""

from __future__ import annotations

from bridge import torch_private as tp
from bridge.frontend.provenance import TAG
from bridge.partition.roles import Role, Roles

CONTROL = ("prim::If", "prim::Loop")


def absorb(roles: Roles) -> None:
    """Gives the role of an engine's node to branches and loops that may be one, the inner ones first."""
    if roles.policy.control:
        _Absorption(roles).run()


class _Absorption:
    def __init__(self, roles: Roles) -> None:
        self.roles = roles

    def run(self) -> None:
        for node in reversed(list(tp.walk(self.roles.program.graph))):
            if node.kind() == "prim::If" and self._may_go(node, [node.input()]):
                self._take(node, [node.input()])
            elif node.kind() == "prim::Loop":
                self._loop(node)

    def _loop(self, node: tp.Node) -> None:
        body = next(iter(node.blocks()))
        turn, *carried = body.inputs()
        trips, going = list(node.inputs())[:2]
        conditions = [going, next(iter(body.outputs()))]
        self.roles.turns.add(turn.debugName())
        if self._is_free(trips) and all(map(self._is_tensor, carried)) and self._may_go(node, conditions):
            for inner in tp.inside(node):
                if self.roles.of(inner) is Role.TORCH:  # it reads the counter
                    self.roles.settle(inner, Role.ENGINE)
            self._take(node, conditions)
        self.roles.turns.discard(turn.debugName())

    def _may_go(self, node: tp.Node, conditions: list[tp.Value]) -> bool:
        roles = self.roles
        if not node.outputsSize() or roles.why_not_wanted(node) is not None:
            return False
        results = [*node.outputs(), *(v for block in node.blocks() for v in self._results(node, block))]
        if not all(map(self._is_tensor, results)) or not all(map(self._decides, conditions)):
            return False
        tests = {value.node().i(TAG) for value in conditions}
        own = [inner for block in node.blocks() for inner in block.nodes() if inner.i(TAG) not in tests]
        return all(self._role(inner) is not Role.TORCH for inner in own) and any(
            self._role(inner) is Role.ENGINE for inner in own
        )

    def _results(self, node: tp.Node, block: tp.Block) -> list[tp.Value]:
        return list(block.outputs())[node.kind() == "prim::Loop" :]

    def _role(self, node: tp.Node) -> Role:
        role, turns = self.roles.of(node), self.roles.turns
        counts = any(value.debugName() in turns for value in node.inputs())
        return self.roles.decide_again(node) if role is Role.TORCH and counts and node.kind() not in CONTROL else role

    def _is_tensor(self, value: tp.Value) -> bool:
        """Whether a value is a tensor that may be in an engine."""
        roles = self.roles
        return (
            value.type().kind() == "TensorType"
            and roles.why_not_tensor(value) is None
            and not roles.memory.written(value)
        )

    def _is_free(self, value: tp.Value) -> bool:
        return tp.is_constant(value) or self._is_made_by(value, Role.FREE)

    def _decides(self, value: tp.Value) -> bool:
        """Whether a condition is arithmetic on sizes, or the truth of one scalar tensor."""
        if self._is_free(value):
            return True
        made = value.node()
        if made.kind() != "aten::Bool" or len(value.uses()) != 1 or not self._is_tensor(made.input()):
            return False
        seen = self.roles.facts.known_kind(made.input())
        return seen is not None and seen.rank == 0

    def _is_made_by(self, value: tp.Value, role: Role) -> bool:
        return value.node().hasAttribute(TAG) and self.roles.of(value.node()) is role

    def _take(self, node: tp.Node, conditions: list[tp.Value]) -> None:
        self.roles.settle(node, Role.ENGINE)
        for value in conditions:
            if not tp.is_constant(value):
                self.roles.settle(value.node(), Role.FREE)
