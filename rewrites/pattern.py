"""Patterns: a function over a recorder becomes a tree, and the tree is matched against a node of the graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from rewrites.graph import Editor, Value, plain
from rewrites.schemas import COMMUTATIVE, attribute_defaults, same_attribute

_MISSING = object()
_EMPTY = gs.Variable.empty()


@dataclass(frozen=True)
class Var:
    """A pattern's variable: an input value or an attribute, by name. `optional` ones also match an input left out."""

    name: str
    optional: bool = False
    variadic: bool = False


@dataclass(eq=False)
class NodePattern:
    """One node: any of `ops`, its inputs, and what its attributes must be."""

    ops: tuple[str, ...]
    domain: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    outputs: int = 1
    open: bool = False


@dataclass(frozen=True)
class Output:
    """The value that a `NodePattern` makes at one position."""

    node: NodePattern
    index: int


@dataclass(frozen=True)
class AnyOf:
    """Any of several values."""

    choices: tuple[Any, ...]


class Recorder:
    """The `op` that a pattern function gets: `op.Softmax(x, axis=-1)` describes a node instead of adding one.

    An attribute left out must equal its schema default; a variable captures it; a function of one argument tests it.
    `_rest=True` lets all attributes that are not named be anything. `_domain=` and `_outputs=` are as in the builder.
    """

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return self.one_of(op_type)

    def one_of(self, *op_types: str) -> Callable[..., Any]:
        """A node of any of these operators."""

        def record(*inputs: Any, _domain: str = "", _outputs: int = 1, _rest: bool = False, **attributes: Any) -> Any:
            node = NodePattern(op_types, _domain, inputs, attributes, _outputs, _rest)
            values = tuple(Output(node, i) for i in range(_outputs))
            return values[0] if _outputs == 1 else values

        return record

    def any_of(self, *values: Any) -> AnyOf:
        """Any of these values, tried in order."""
        return AnyOf(values)


@dataclass
class Match:
    """A place where a rule applies.

    Attributes:
        root: the node the match was found at.
        nodes: every matched node, the root first.
        outputs: the values that the rewrite replaces.
        bound: variable -> Value, attribute, list of Values or None.
    """

    root: gs.Node
    nodes: list[gs.Node]
    outputs: list[gs.Tensor]
    bound: dict[str, Any] = field(default_factory=dict)


class Pattern:
    """A compiled pattern function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        variables = [_variable(p) for p in list(inspect.signature(function).parameters.values())[1:]]
        positional = [v for v in variables if not v.variadic]
        star = [v for v in variables if v.variadic]
        found = (
            function(Recorder(), *positional, *star)
            if star
            else function(Recorder(), **{v.name: v for v in positional})
        )
        self.outputs: tuple[Any, ...] = found if isinstance(found, tuple) else (found,)

    def roots(self) -> Iterator[tuple[str, str]]:
        """(domain, operator) of every node that the root may be."""
        choices = self.outputs[0].choices if isinstance(self.outputs[0], AnyOf) else (self.outputs[0],)
        for choice in choices:
            yield from ((choice.node.domain, op) for op in choice.node.ops)

    def makers(self) -> frozenset[str] | None:
        """Operators of which one must make an input of the root; None when the pattern does not say."""
        first = self.outputs[0]
        found: set[str] = set()
        for choice in first.choices if isinstance(first, AnyOf) else (first,):
            inner = next((i for i in choice.node.inputs if isinstance(i, Output)), None)
            if inner is None:
                return None
            found.update(inner.node.ops)
        return frozenset(found)

    def match(self, editor: Editor, node: gs.Node) -> Match | None:
        """The match whose first output is made by `node`, or None."""
        first = self.outputs[0]
        for choice in first.choices if isinstance(first, AnyOf) else (first,):
            if choice.index < len(node.outputs) and _may_match(choice.node, node, editor):
                solver = _Solver(editor)
                if solver.solve([(choice, node.outputs[choice.index])]) and solver.others(self.outputs[1:]):
                    outputs = [solver.tensor_of(choice), *(solver.tensor_of(o) for o in self.outputs[1:])]
                    return Match(node, list(solver.nodes.values()), outputs, solver.bound)
        return None


def _may_match(pattern: NodePattern, node: gs.Node, editor: Editor) -> bool:
    """A cheap look at the operators of the inputs, which spares most nodes the attempt."""
    commutes = node.op in COMMUTATIVE
    for i, wanted in enumerate(pattern.inputs):
        if isinstance(wanted, Output):
            makers = [editor.producer(t) for t in (node.inputs if commutes else node.inputs[i : i + 1])]
            if not any(maker is not None and maker.op in wanted.node.ops for maker in makers):
                return False
    return True


def _variable(parameter: inspect.Parameter) -> Var:
    return Var(
        parameter.name,
        optional=parameter.default is None,
        variadic=parameter.kind is inspect.Parameter.VAR_POSITIONAL,
    )


class _Solver:
    """One attempt: which node each node pattern is, and what each variable is."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.nodes: dict[NodePattern, gs.Node] = {}
        self.bound: dict[str, Any] = {}

    def solve(self, goals: list[tuple[Any, gs.Tensor]]) -> bool:
        """Whether every (pattern, tensor) fits together with what is bound; tries operand orders and alternatives."""
        if not goals:
            return True
        (pattern, tensor), rest = goals[0], goals[1:]
        if isinstance(pattern, AnyOf):
            return any(self._attempt([(choice, tensor), *rest]) for choice in pattern.choices)
        if isinstance(pattern, Var):
            return self._bind(pattern, tensor) and self.solve(rest)
        if isinstance(pattern, Output):
            return self._solve_node(pattern, tensor, rest)
        if pattern is None:
            return not tensor.name and self.solve(rest)
        return self._equals(tensor, pattern) and self.solve(rest)

    def _attempt(self, goals: list[tuple[Any, gs.Tensor]]) -> bool:
        nodes, bound = dict(self.nodes), dict(self.bound)
        if self.solve(goals):
            return True
        self.nodes, self.bound = nodes, bound
        return False

    def _solve_node(self, pattern: Output, tensor: gs.Tensor, rest: list[tuple[Any, gs.Tensor]]) -> bool:
        node = self.editor.producer(tensor)
        if node is None or pattern.index >= len(node.outputs) or node.outputs[pattern.index] is not tensor:
            return False
        known = self.nodes.get(pattern.node)
        if known is not None:
            return known is node and self.solve(rest)
        if any(n is node for n in self.nodes.values()) or not self._fits(pattern.node, node):
            return False
        self.nodes[pattern.node] = node
        orders = list(self._operands(pattern.node, node))
        return (
            self.solve(orders[0] + rest) if len(orders) == 1 else any(self._attempt(goals + rest) for goals in orders)
        )

    def _fits(self, pattern: NodePattern, node: gs.Node) -> bool:
        if node.op not in pattern.ops or (node.domain or "").replace("ai.onnx", "") != pattern.domain:
            return False
        if sum(bool(t.name) for t in node.outputs[pattern.outputs :]) and any(
            self.editor.is_used(t) for t in node.outputs[pattern.outputs :] if t.name
        ):
            return False
        defaults = attribute_defaults(node.op, pattern.domain, self.editor.opset)
        for name, wanted in pattern.attributes.items():
            actual = plain(node.attrs[name]) if name in node.attrs else defaults.get(name)
            if not self._attribute(wanted, actual, name):
                return False
        rest = () if pattern.open else [n for n in node.attrs if n not in pattern.attributes]
        return all(same_attribute(plain(node.attrs[n]), defaults.get(n), n) for n in rest)

    def _attribute(self, wanted: Any, actual: Any, name: str) -> bool:
        if isinstance(wanted, Var):
            known = self.bound.setdefault(wanted.name, actual)
            return known is actual or same_attribute(actual, known, name)
        return bool(wanted(actual)) if callable(wanted) else same_attribute(actual, wanted, name)

    def _operands(self, pattern: NodePattern, node: gs.Node) -> Iterator[list[tuple[Any, gs.Tensor]]]:
        wanted, actual = list(pattern.inputs), list(node.inputs)
        if wanted and isinstance(wanted[-1], Var) and wanted[-1].variadic:
            star = wanted.pop()
            self.bound[star.name] = [Value(t, self.editor) for t in actual[len(wanted) :]]
            actual = actual[: len(wanted)]
        actual += [_EMPTY] * (len(wanted) - len(actual))
        if any(t.name for t in actual[len(wanted) :]):
            return
        yield list(zip(wanted, actual, strict=False))
        if len(wanted) == 2 and node.op in COMMUTATIVE and not pattern.domain:
            yield list(zip(wanted, reversed(actual), strict=False))

    def _bind(self, variable: Var, tensor: gs.Tensor) -> bool:
        if not tensor.name:
            return variable.optional and self.bound.setdefault(variable.name, None) is None
        known = self.bound.get(variable.name, _MISSING)
        if known is _MISSING:
            self.bound[variable.name] = Value(tensor, self.editor)
            return True
        return isinstance(known, Value) and (known.tensor is tensor or self._same_constant(known.tensor, tensor))

    def _same_constant(self, one: gs.Tensor, other: gs.Tensor) -> bool:
        if (
            not isinstance(one, gs.Constant)
            or not isinstance(other, gs.Constant)
            or tuple(one.shape) != tuple(other.shape)
        ):
            return False
        return one.dtype == other.dtype and bool(np.array_equal(one.values, other.values))

    def _equals(self, tensor: gs.Tensor, wanted: Any) -> bool:
        """Whether a constant has this value everywhere (a number) or is this list or array."""
        value = self.editor.constant(tensor) if tensor.name else None
        if value is None or (np.ndim(wanted) and np.shape(wanted) != value.shape):
            return False
        return value.dtype.kind not in "OSU" and bool(np.all(value == np.asarray(wanted).astype(value.dtype)))

    def others(self, outputs: Sequence[Any]) -> bool:
        """Match the outputs after the first: their nodes are found through the values that they share."""
        for output in outputs:
            if output.node not in self.nodes and not any(
                self._attempt([(output, node.outputs[output.index])]) for node in self._candidates(output)
            ):
                return False
        return True

    def _candidates(self, output: Output) -> Iterator[gs.Node]:
        for wanted in output.node.inputs:
            shared = self.bound.get(wanted.name) if isinstance(wanted, Var) else None
            tensor = shared.tensor if isinstance(shared, Value) else None
            if isinstance(wanted, Output) and wanted.node in self.nodes:
                tensor = self.nodes[wanted.node].outputs[wanted.index]
            if tensor is not None:
                yield from (n for n in self.editor.consumers(tensor) if output.index < len(n.outputs))

    def tensor_of(self, output: Output) -> gs.Tensor:
        return self.nodes[output.node].outputs[output.index]
