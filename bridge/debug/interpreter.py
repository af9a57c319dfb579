"""TorchScript graphs run node by node, from Python: every node by TorchScript itself, in a graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.errors import BridgeError
from bridge.frontend.program import Program
from bridge.frontend.provenance import TAG
from bridge.partition.segments import Segment

Block = tp.Graph | tp.Block
Step = tp.Node | Segment


class _Absent:
    """What a branch left uninitialized."""

    def __repr__(self) -> str:
        return "uninitialized"


ABSENT = _Absent()


@dataclass(frozen=True)
class Ran:
    """A node that has run.

    Attributes:
        inputs, outputs: its values, in order.
        place: the branches and iterations it ran in, outermost first: ``("if True", "iteration 3")``.
    """

    node: tp.Node
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    place: tuple[str, ...]


@dataclass(frozen=True)
class Entered:
    """A segment whose nodes run next."""

    segment: Segment


@dataclass(frozen=True)
class Left:
    """A segment whose nodes have all run."""

    segment: Segment


Event = Ran | Entered | Left


class Interpreter:
    """One run of a program's method.

    Attributes:
        values: what the graph's values are at the moment, by name; those that nothing will read any more are let go.
        results: what the method returned, once the run has ended.
    """

    def __init__(
        self, program: Program, state: torch.nn.Module, arguments: Sequence[Any], order: Callable[[Block], list[Step]]
    ) -> None:
        self.program, self.order = program, order
        names = [value.debugName() for value in program.graph.inputs()]
        self.values: dict[str, Any] = dict(zip(names, (state, *arguments), strict=True))
        self.results: Any = None
        self.place: list[str] = []
        self._functions: dict[int, _NodeFunction] = {}
        self._plans: dict[int, _BlockPlan] = {}

    def run(self) -> Iterator[Event]:
        """Runs the method; an event for every node that does something."""
        graph = self.program.graph
        yield from self._block(graph, -1)
        found = yield from self._outputs(graph)
        self.results = found[0] if len(found) == 1 else tuple(found)

    def _block(self, block: Block, key: int) -> Iterator[Event]:
        """Runs a block; ``key`` is the block's own, so that its plan is made once."""
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = _BlockPlan(self.order(block), [v.debugName() for v in block.outputs()])
        for name in plan.own:
            self.values.pop(name, None)  # of the iteration before
        for position, step in enumerate(plan.steps):
            if isinstance(step, Segment):
                yield from self._needed(step.inputs)
                yield Entered(step)
                for node in step.nodes:
                    yield from self._node(node)
                yield Left(step)
            else:
                yield from self._node(step)
            for name in plan.released[position]:
                self.values.pop(name, None)

    def _needed(self, values: Sequence[tp.Value]) -> Iterator[Event]:
        """Makes values that come later in the order: sizes and lists are where they are needed first."""
        for value in values:
            if value.debugName() not in self.values:
                yield from self._node(value.node())

    def _node(self, node: tp.Node) -> Iterator[Event]:
        outputs = [value.debugName() for value in node.outputs()]
        if outputs and all(name in self.values for name in outputs):
            return
        yield from self._needed(list(node.inputs()))
        inputs = tuple(self.values[value.debugName()] for value in node.inputs())
        if node.kind() == "prim::If":
            made = yield from self._if(node, bool(inputs[0]))
        elif node.kind() == "prim::Loop":
            made = yield from self._loop(node, inputs)
        else:
            made = self._execute(node, inputs)
        self.values.update(zip(outputs, made, strict=True))
        yield Ran(node, inputs, tuple(made), tuple(self.place))

    def _if(self, node: tp.Node, condition: bool) -> Generator[Event, None, list[Any]]:
        block = list(node.blocks())[not condition]
        self.place.append(f"if {condition}")
        yield from self._block(block, 2 * node.i(TAG) + (not condition))
        made = yield from self._outputs(block)
        self.place.pop()
        return made

    def _loop(self, node: tp.Node, inputs: Sequence[Any]) -> Generator[Event, None, list[Any]]:
        (block,) = node.blocks()
        most, going, carried = inputs[0], bool(inputs[1]), list(inputs[2:])
        names = [value.debugName() for value in block.inputs()]
        iteration = 0
        while going and iteration < most:
            self.place.append(f"iteration {iteration}")
            self.values.update(zip(names, (iteration, *carried), strict=True))
            yield from self._block(block, 2 * node.i(TAG))
            going, *carried = yield from self._outputs(block)
            self.place.pop()
            iteration += 1
        return carried

    def _outputs(self, block: Block) -> Generator[Event, None, list[Any]]:
        values = list(block.outputs())
        yield from self._needed(values)
        return [self.values[value.debugName()] for value in values]

    def _execute(self, node: tp.Node, inputs: Sequence[Any]) -> list[Any]:
        kind = node.kind()
        if kind == "prim::Constant":
            return [tp.constant_value(node.output())]
        if kind == "prim::GetAttr":
            return [getattr(inputs[0], node.s("name"))]
        if kind == "prim::SetAttr":
            setattr(inputs[0], node.s("name"), inputs[1])
            return []
        if kind == "prim::ListConstruct":
            return [list(inputs)]
        if kind == "prim::Uninitialized":
            return [ABSENT]
        function = self._functions.get(node.i(TAG))
        if function is None:
            function = self._functions[node.i(TAG)] = _NodeFunction(node)
        try:
            return function(inputs)
        except RuntimeError as error:
            raise self._failed(node, error) from error

    def _failed(self, node: tp.Node, error: Exception) -> BridgeError:
        told = [line for line in str(error).splitlines() if line.strip()]
        origin = self.program.provenance[node.i(TAG)]
        return BridgeError(
            f"{origin.operator} failed in PyTorch", where=str(origin), why=told[-1] if told else type(error).__name__
        )


class _BlockPlan:
    """A block's steps in order.

    Attributes:
        own: names of the values that its nodes make.
        released: for each step, the values that nothing reads after it.
    """

    def __init__(self, steps: Sequence[Step], results: Sequence[str]) -> None:
        self.steps = list(steps)
        last: dict[str, int] = {}
        for position, step in enumerate(self.steps):
            nodes = step.nodes if isinstance(step, Segment) else [step]
            last.update({v.debugName(): max(position, last.get(v.debugName(), 0)) for n in nodes for v in n.outputs()})
            for name in {name for node in nodes for name in _reads(node)}:
                last[name] = max(position, last.get(name, 0))
        made = [v.debugName() for step in self.steps for n in _nodes(step) for v in n.outputs()]
        self.own = set(made)
        self.released: list[list[str]] = [[] for _ in self.steps]
        for name in made:
            if name not in results:
                self.released[last[name]].append(name)


def _nodes(step: Step) -> list[tp.Node]:
    return step.nodes if isinstance(step, Segment) else [step]


def _reads(node: tp.Node) -> Iterator[str]:
    """What a node reads, also in its bodies."""
    yield from (value.debugName() for value in node.inputs())
    for block in node.blocks():
        yield from (value.debugName() for value in block.outputs())
        for inner in block.nodes():
            yield from _reads(inner)


class _NodeFunction:
    """One node as a function of its inputs.

    Lists and dictionaries are copied on their way into TorchScript: what the node changes in one is copied back. An
    operator that changes a list and returns one returns the same.
    """

    def __init__(self, node: tp.Node) -> None:
        graph = tp.new_graph()
        copies: dict[str, tp.Value] = {}
        self.passed: list[int] = []
        for position, value in enumerate(node.inputs()):
            if value.debugName() in copies:
                continue
            if tp.is_constant(value):
                constant = tp.copy_into(graph, value.node(), {})
                graph.appendNode(constant)
                copies[value.debugName()] = constant.output()
            else:
                copies[value.debugName()] = graph.addInput()
                copies[value.debugName()].setType(value.type())
                self.passed.append(position)
        copy = tp.copy_into(graph, node, copies)
        graph.appendNode(copy)
        self.changed = [i for i in _written(node) if i in self.passed]
        self.count = node.outputsSize()
        self.returns_changed = bool(self.changed) and _returns_changed(node)
        inner = list(node.inputs())
        results = [*copy.outputs(), *(copies[inner[i].debugName()] for i in self.changed)]
        graph.registerOutput(results[0] if len(results) == 1 else tp.append_tuple(graph, results))
        self.function = tp.function_of("node", graph)

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            found = self.function(*(inputs[position] for position in self.passed))
        total = self.count + len(self.changed)
        made = [found] if total == 1 else list(found)
        for position, content in zip(self.changed, made[self.count :], strict=True):
            _copy_back(inputs[position], content)
        return [inputs[self.changed[0]]] if self.returns_changed else made[: self.count]


def _written(node: tp.Node) -> list[int]:
    """Positions of the lists and dictionaries that a node changes in place."""
    schema = tp.schema(node)
    if schema is None:
        return []
    kinds = [value.type().kind() for value in node.inputs()]
    return [
        position
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and kinds[position] in ("ListType", "DictType")
    ]


def _returns_changed(node: tp.Node) -> bool:
    schema = tp.schema(node)
    returned = schema.returns[0].alias_info if schema is not None and len(schema.returns) == 1 else None
    return returned is not None and returned.is_write


def _copy_back(target: Any, content: Any) -> None:
    if isinstance(target, dict):
        target.clear()
        target.update(content)
    else:
        target[:] = content
