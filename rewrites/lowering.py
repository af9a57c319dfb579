"""Lowerings: an operator's meaning as a PyTorch function, exported once for each kind of argument and spliced in.

torch is imported when the first lowering is applied, and nowhere else in this package.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from rewrites import torch_domain
from rewrites.builder import Builder
from rewrites.errors import Refusal, RewriteError, require
from rewrites.example import Example
from rewrites.exporting import Exporter
from rewrites.graph import Editor, Node, Value
from rewrites.pattern import Match
from rewrites.rule import NodeRule
from rewrites.trials import Operand

Known = tuple[str, Callable[[Any], Any]]
"""An argument's name, and what is told of its value where that is constant (a numpy array)."""


class Lowering(NodeRule):
    """An operator replaced by the graph of a PyTorch function; made by `lowering`."""

    forgiving = True

    def __init__(
        self,
        operator: str,
        function: Callable[..., Any],
        static: Mapping[str, Sequence[int | str] | None] | None = None,
        known: Mapping[str, Known] | None = None,
        also: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(operator, function, **options)
        self.function, self.static, self.known, self.also = function, static or {}, known or {}, tuple(also)
        self._exporter = Exporter()

    def keys(self) -> Iterable[tuple[str, str]]:
        parts = (operator.partition("::") for operator in (self.name, *self.also))
        return [(torch_domain.PREFIX + namespace, name) for namespace, _, name in parts]

    def match(self, editor: Editor, node: gs.Node) -> Match | None:
        return Match(node, [node], [t for t in node.outputs if t.name], {"node": Node(node, editor)})

    def rewrite(self, op: Builder, match: Match) -> Any:
        arguments = self._bind(torch_domain.decode(match.bound["node"]))
        for name, (argument, tell) in self.known.items():
            value = arguments.get(argument)
            constant = value.constant if isinstance(value, Value) else None
            arguments[name] = None if constant is None else tell(constant)
        seen = torch_domain.seen_shapes(match.bound["node"])
        return splice_function(op, self._exporter, self.function, arguments, self.static, seen)

    def _bind(self, call: torch_domain.Call) -> dict[str, Any]:
        """Schema arguments as the function's parameters: by name, otherwise by position."""
        parameters = inspect.signature(self.function).parameters
        positional = [n for n, p in parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        bound: dict[str, Any] = {}
        for i, argument in enumerate(call.schema.arguments):
            by_position = positional[i] if i < len(positional) and not argument.keyword_only else None
            name = argument.name if argument.name in parameters else by_position
            given = argument.name in call.arguments
            value = call.arguments[argument.name] if given else argument.default
            if name is not None and value is not torch_domain.REQUIRED:
                bound[name] = value
            elif given and (isinstance(value, Value) or value != argument.default):
                raise Refusal(f"the argument {argument.name} is not handled at {value!r}")
        return bound


def splice_function(
    op: Builder,
    exporter: Exporter,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    static: Mapping[str, Sequence[int | str] | None] | None = None,
    seen: Mapping[Value, tuple[int, ...]] | None = None,
) -> tuple[Value, ...]:
    """Put the graph of `function(**arguments)` here; what its results become.

    Args:
        op: adds the nodes.
        exporter: exports the function, once for each kind of arguments.
        function: any function of PyTorch's tensors.
        arguments: values, literals, or lists of these.
        static: argument -> axes whose sizes the function reads as numbers; None for all.
        seen: the shapes that values had in a run of the model.

    Raises:
        Refusal: when the function refuses, or no exporter gives a right graph of it.
    """
    operands: list[Operand] = []
    tensors: list[Value] = []
    literals: dict[str, Any] = {}
    for name, value in arguments.items():
        start = len(tensors)
        literals[name] = _take(value, tensors)
        axes = (static or {}).get(name, ())
        named = (
            None if axes is None else [axis for a in axes for axis in _axes(arguments[a] if isinstance(a, str) else a)]
        )
        operands += [_operand(name, t, named, (seen or {}).get(t)) for t in tensors[start:]]

    def positional(*given: Any) -> Any:
        return function(**{name: _fill(value, given) for name, value in literals.items()})

    model = exporter.export(positional, (function, repr(literals)), operands, op.opset)
    return op.splice(model, tensors)


def _axes(given: int | Sequence[int]) -> Sequence[int]:
    return [given] if isinstance(given, int) else given


def _operand(name: str, value: Value, axes: Sequence[int] | None, seen: tuple[int, ...] | None) -> Operand:
    fixed = frozenset(range(value.rank) if axes is None else (axis % max(value.rank, 1) for axis in axes if value.rank))
    require(all(value.shape.is_static(axis) for axis in fixed), f"the sizes of {name} must be static")
    return Operand(value.dtype.name, tuple(value.shape), fixed, seen if seen and len(seen) == value.rank else None)


class _Slot(int):
    """The position of a tensor among the exported function's inputs."""

    def __repr__(self) -> str:
        return f"<{int(self)}>"


def _take(value: Any, tensors: list[Value]) -> Any:
    """The argument with its tensors moved into `tensors` and slots in their places."""
    if isinstance(value, Value):
        tensors.append(value)
        return _Slot(len(tensors) - 1)
    return [_take(v, tensors) for v in value] if isinstance(value, list) else value


def _fill(value: Any, tensors: Sequence[Any]) -> Any:
    import torch

    if isinstance(value, _Slot):
        return tensors[value]
    if isinstance(value, Mapping) and "dtype" in value:
        return getattr(torch, value["dtype"])
    if isinstance(value, Mapping):
        return None
    return [_fill(v, tensors) for v in value] if isinstance(value, list) else value


def lowering(
    operator: str,
    *,
    examples: Sequence[Example],
    refuses: Sequence[Example] = (),
    needed_by: Mapping[str, str] | None = None,
    priority: int = 0,
    static: Mapping[str, Sequence[int | str] | None] | None = None,
    known: Mapping[str, Known] | None = None,
    also: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Lowering]:
    """Make a lowering of a PyTorch function with the operator's arguments.

    Arguments are bound by the names in the schema, otherwise by position. One that the function does not have is
    refused at any value but its default; `require` in the function refuses what it does not handle.

    Args:
        operator: "aten::searchsorted" for all overloads, "aten::searchsorted.Tensor" for one.
        examples, refuses: arguments by the schema's names, tensors as shapes.
        needed_by: every target unless said.
        priority: smaller ones are tried first.
        static: argument -> the axes whose sizes the function reads as numbers, by `int(x.shape[axis])`; "dim" for the
            axis that the argument `dim` names, None for all: refused where dynamic, exported once for each size.
        known: further parameter of the function -> (argument, what is told of that argument's value where it is
            constant: a literal). None where it is not.
        also: operators of other packages that mean the same, with the same arguments in the same order.
    """

    for named in (operator, *also):
        if not isinstance(named, str) or not re.fullmatch(r"\w+::\w+(\.\w+)?", named):
            hint = '"aten::gelu", or "aten::gelu.out" for one overload'
            raise RewriteError(f"lowering: {named!r} is no operator", hint=hint)

    def make(function: Callable[..., Any]) -> Lowering:
        where = needed_by or {"any": "all versions"}
        options = {"needed_by": where, "examples": examples, "refuses": refuses, "priority": priority}
        return Lowering(operator, function, static, known, also, **options)

    return make


def in_single_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in FP32 where its floating tensors have the same sixteen bits; floating results are rounded once.

    Series, recurrences and quotients that are rounded down lose more than a bit where every step is rounded.

    Source: `at::opmath_type`, in which PyTorch's own kernels compute.
    """

    @functools.wraps(function)
    def widened(*given: Any, **named: Any) -> Any:
        import torch
        from torch.utils import _pytree

        floating = [t for t in _pytree.tree_leaves((given, named)) if _is_floating(t)]
        kinds = {t.dtype for t in floating}
        kind = kinds.pop() if len(kinds) == 1 else torch.float32
        if kind not in (torch.float16, torch.bfloat16):
            return function(*given, **named)
        given, named = _pytree.tree_map(lambda x: x.float() if _is_floating(x) else x, (given, named))
        return _pytree.tree_map(lambda x: x.to(kind) if _is_floating(x) else x, function(*given, **named))

    return widened


def _is_floating(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point()


__all__ = ["Lowering", "in_single_precision", "lowering", "splice_function"]
