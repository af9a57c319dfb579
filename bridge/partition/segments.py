"""Cutting a graph into segments, the parts that become engines.

The level of a node is how often the longest path to it goes from PyTorch into an engine. All engine nodes of one level
and one block are one segment: no path leaves a segment and comes back, and no graph can be cut into fewer levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bridge import torch_private as tp
from bridge.frontend.alias import Memory
from bridge.frontend.provenance import TAG
from bridge.partition.control import CONTROL, absorb
from bridge.partition.roles import Role, Roles
from bridge.partition.worth import why_not_worth

_EFFECTS = {"prim::RaiseException", "prim::SetAttr", "prim::Print", "aten::warn"}


@dataclass
class Segment:
    """Nodes of one block that become one engine.

    Attributes:
        nodes: the engine's own nodes in order; what they need of FREE nodes is copied beside them.
        inputs: tensors that come from outside, in the order of the engine's inputs.
        outputs: tensors that others need.
    """

    nodes: list[tp.Node]
    inputs: list[tp.Value] = field(default_factory=list)
    outputs: list[tp.Value] = field(default_factory=list)

    @property
    def identities(self) -> list[int]:
        return [node.i(TAG) for node in self.nodes]

    @property
    def control(self) -> list[tp.Node]:
        """Branches and loops that are in the engine as a whole."""
        return [node for node in self.nodes if node.kind() in CONTROL]

    @property
    def operators(self) -> list[tp.Node]:
        """All operators in the engine, those in bodies of branches and loops too."""
        inner = (i for node in self.control for i in tp.inside(node) if i.kind() != "prim::Constant")
        return [*self.nodes, *inner]


@dataclass
class Cut:
    """One block's schedule: what runs in which order, nodes of PyTorch and segments mixed."""

    block: tp.Graph | tp.Block
    steps: list[tp.Node | Segment]

    @property
    def segments(self) -> list[Segment]:
        return [step for step in self.steps if isinstance(step, Segment)]


def cut(graph: tp.Graph, roles: Roles, memory: Memory) -> list[Cut]:
    """A schedule for every block of ``graph`` that holds a segment; what is not worth an engine is left to PyTorch."""
    absorb(roles)
    while left := keep_aliases(graph, roles, memory):
        roles.leave(left)
        absorb(roles)
    while True:
        cuts = [_Scheduler(block, roles, memory).run() for block in _blocks_outside(graph, roles)]
        segments = [segment for schedule in cuts for segment in schedule.segments]
        if _is_whole(graph, segments, roles) or not _leave_cheap(segments, roles):
            return [schedule for schedule in cuts if schedule.segments]


def _blocks_outside(block: tp.Graph | tp.Block, roles: Roles) -> Iterator[tp.Graph | tp.Block]:
    """A block and those in it, without bodies that are in engines as a whole."""
    yield block
    for node in block.nodes():
        if roles.of(node) is not Role.ENGINE:
            for inner in tp.blocks_of(node):
                yield from _blocks_outside(inner, roles)


def _is_whole(graph: tp.Graph, segments: list[Segment], roles: Roles) -> bool:
    """Whether one engine does all that the graph does."""
    return len(segments) == 1 and not any(
        roles.of(node) is Role.TORCH and tp.schema(node) is not None for node in tp.walk(graph)
    )


def _leave_cheap(segments: list[Segment], roles: Roles) -> bool:
    """Leaves the nodes of segments that are not worth an engine to PyTorch; tells whether there were any."""
    found = False
    for segment in segments:
        reason = why_not_worth(segment.operators)
        for node in segment.nodes if reason is not None else ():
            roles.stay(node, str(reason))
            found = True
    return found


def keep_aliases(graph: tp.Graph, roles: Roles, memory: Memory) -> dict[int, str]:
    """Leaves views to PyTorch where the caller could see the result share memory with an input or another result.

    Returns:
        Branches and loops that must be left to it for that reason, and then all in them be decided anew.
    """
    left: dict[int, str] = {}
    inputs = [value for value in graph.inputs() if value.type().kind() == "TensorType"]
    results = [value for value in _returned(graph) if value.type().kind() == "TensorType"]
    for position, result in enumerate(results):
        others = [*inputs, *(r for r in results[:position] if r.debugName() != result.debugName())]
        if any(memory.shared(result, other) for other in others):
            left |= _leave_views(result, roles)
    return left


def _returned(graph: tp.Graph) -> Iterator[tp.Value]:
    pending = list(graph.outputs())
    while pending:
        value = pending.pop()
        yield value
        if value.node().kind() in ("prim::TupleConstruct", "prim::ListConstruct", "prim::DictConstruct"):
            pending += list(value.node().inputs())


def _leave_views(value: tp.Value, roles: Roles) -> dict[int, str]:
    while True:
        node = value.node()
        parts = node.kind() == "prim::ListUnpack" and _is_view(node.input().node())  # of split, unbind
        if not node.hasAttribute(TAG) or roles.of(node) is not Role.ENGINE:
            return {}
        if node.kind() in CONTROL:
            return {node.i(TAG): "a result of one of its branches shares memory with an input or another result"}
        if not (parts or _is_view(node)) or _converts(node, roles):
            return {}
        roles.stay(node, "its result shares memory with an input or another result")
        value = node.inputsAt(0)


def _converts(node: tp.Node, roles: Roles) -> bool:
    """Whether an operator that may return its input, ``to``, gives another dtype: always in new memory."""
    made, given = (roles.facts.known_kind(next(iter(values))) for values in (tp.outputs_of(node), tp.inputs_of(node)))
    return node.kind() == "aten::to" and made is not None and given is not None and made.dtype is not given.dtype


def _is_view(node: tp.Node) -> bool:
    schema = tp.schema(node)
    return (
        schema is not None and schema.arguments[0].alias_info is not None and schema.returns[0].alias_info is not None
    )


class _Scheduler:
    """Levels, segments and the order of one block."""

    def __init__(self, block: tp.Graph | tp.Block, roles: Roles, memory: Memory) -> None:
        self.block, self.roles, self.memory = block, roles, memory
        self.nodes = list(block.nodes())
        self.maker = {value.debugName(): node for node in self.nodes for value in tp.outputs_of(node)}
        self.levels: dict[int, int] = {}
        self.needs: dict[int, set[str]] = {}
        self.readers: dict[str, set[int]] = {}  # levels of the engines that read a value
        self.lasting = -1

    def run(self) -> Cut:
        for node in self.nodes:
            self.levels[node.i(TAG)] = self._level(node)
        groups: dict[int, list[tp.Node]] = {}
        for node in self.nodes:
            if self.roles.of(node) is Role.ENGINE:
                groups.setdefault(self.levels[node.i(TAG)], []).append(node)
                for name in self.needs[node.i(TAG)]:
                    self.readers.setdefault(name, set()).add(self.levels[node.i(TAG)])
        segments = {level: Segment(nodes) for level, nodes in groups.items()}
        live = self._live()
        for segment in segments.values():
            self._border(segment, live)
        return Cut(self.block, self._order(segments))

    def _level(self, node: tp.Node) -> int:
        role = self.roles.of(node)
        level = -1 if role is not Role.ENGINE else 0
        self.needs[node.i(TAG)] = self._needs(node)
        for name in self.needs[node.i(TAG)]:
            source = self.maker[name]
            step = role is Role.ENGINE and self.roles.of(source) is Role.TORCH and source.kind() != "prim::GetAttr"
            level = max(level, self.levels[source.i(TAG)] + step)
        if role is Role.TORCH and self._is_ordered(node):
            level = self.lasting = max(level, self.lasting)
        return level

    def _needs(self, node: tp.Node) -> set[str]:
        """Values of this block that a node reads, also in its own blocks and through FREE nodes."""
        found: set[str] = set()
        pending = list(tp.reads(node))
        while pending:
            name = pending.pop().debugName()
            source = self.maker.get(name)
            if source is None or name in found:
                continue
            if self.roles.of(source) is Role.FREE and self.roles.of(node) is Role.ENGINE:
                pending += list(source.inputs())
            else:
                found.add(name)
        return found

    def _is_ordered(self, node: tp.Node) -> bool:
        """Whether a node must keep its place among others: it has effects or touches memory that changes."""
        for inner in (node, *tp.inside(node)):
            if (
                inner.kind() in _EFFECTS
                or inner.isNondeterministic()
                or (tp.schema(inner) is None and inner.kind().startswith("prim::Call"))
            ):
                return True
            if any(self.memory.written(value) for value in (*inner.inputs(), *inner.outputs())):
                return True
        return False

    def _live(self) -> set[str]:
        """Values that PyTorch's nodes and the block's results need."""
        live: set[str] = set()
        pending = list(self.block.outputs())
        for node in self.nodes:
            if self.roles.of(node) is Role.TORCH:
                pending += tp.reads(node)
        while pending:
            name = pending.pop().debugName()
            if name in live:
                continue
            live.add(name)
            source = self.maker.get(name)
            if source is not None and self.roles.of(source) is Role.FREE:
                pending += list(source.inputs())
        return live

    def _border(self, segment: Segment, live: set[str]) -> None:
        own = {value.debugName() for node in segment.nodes for value in tp.outputs_of(node)}
        inputs: dict[str, tp.Value] = {}
        pending = [value for node in reversed(segment.nodes) for value in reversed(list(tp.reads(node)))]
        done: set[str] = set()
        while pending:
            value = pending.pop()
            name = value.debugName()
            if name in own or name in done:
                continue
            done.add(name)
            source = value.node()
            if self._is_copied(source):
                pending += reversed(list(source.inputs()))
            elif value.type().kind() != "NoneType":
                inputs[name] = value
        segment.inputs = list(inputs.values())
        level = {self.levels[segment.nodes[0].i(TAG)]}
        made = [value for node in segment.nodes for value in tp.outputs_of(node)]
        segment.outputs = [v for v in made if v.debugName() in live or self.readers.get(v.debugName(), level) - level]

    def _is_copied(self, source: tp.Node) -> bool:
        return source.hasAttribute(TAG) and self.roles.of(source) is Role.FREE

    def _order(self, segments: dict[int, Segment]) -> list[tp.Node | Segment]:
        steps: list[tuple[int, int, tp.Node | Segment]] = [(level, 0, segment) for level, segment in segments.items()]
        steps += [(self.levels[node.i(TAG)], 1, node) for node in self.nodes if self.roles.of(node) is not Role.ENGINE]
        return [step for _, _, step in sorted(steps, key=lambda item: item[:2])]
