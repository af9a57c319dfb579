"""Lowerings: an operator's meaning as a PyTorch function, exported once for each kind of argument and spliced in.

torch is imported when the first lowering is applied, and nowhere else in this package.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import version_converter

from rewrites import torch_domain
from rewrites.builder import Builder
from rewrites.errors import Refusal, RewriteError, require
from rewrites.example import SIZES, Example
from rewrites.graph import Editor, Node, Value
from rewrites.pattern import Match
from rewrites.rule import NodeRule

_NEWEST_EXPORT = 20


class Lowering(NodeRule):
    """An operator replaced by the graph of a PyTorch function; made by `lowering`."""

    def __init__(
        self,
        operator: str,
        function: Callable[..., Any],
        static: Mapping[str, Sequence[int] | None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(operator, function, **options)
        self.function, self.static = function, static or {}
        self._exported: dict[Any, onnx.ModelProto] = {}

    def keys(self) -> Iterable[tuple[str, str]]:
        namespace, _, name = self.name.partition("::")
        return [(torch_domain.PREFIX + namespace, name)]

    def match(self, editor: Editor, node: gs.Node) -> Match | None:
        return Match(node, [node], [t for t in node.outputs if t.name], {"node": Node(node, editor)})

    def rewrite(self, op: Builder, match: Match) -> Any:
        arguments = self._bind(torch_domain.decode(match.bound["node"]))
        tensors: list[Value] = []
        static = {name: _take(value, tensors) for name, value in arguments.items()}
        sizes = self._sizes(arguments)
        key = (op.opset, tuple(_kind(t) for t in tensors), repr(static), repr(sizes))
        if key not in self._exported:
            self._exported[key] = _export(self.function, static, tensors, op.opset)
        return op.splice(self._exported[key], tensors)

    def _sizes(self, arguments: Mapping[str, Any]) -> list[Any]:
        """The sizes that the function takes as plain numbers: those of the axes that `static` names."""
        found: list[Any] = []
        for name, axes in self.static.items():
            given = arguments.get(name)
            for value in given if isinstance(given, list) else [given]:
                if isinstance(value, Value):
                    found += [value.shape[axis] for axis in (range(value.rank) if axes is None else axes)]
                    _require_static(name, found)
        return found

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


def _require_static(name: str, sizes: Sequence[Any]) -> None:
    """Refuse sizes that are not all numbers."""
    require(all(type(size) is int for size in sizes), f"the sizes of {name} must be static")


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


def _kind(value: Value) -> tuple[str, tuple[bool, ...]]:
    """What an export depends on: the type, the rank, and which axes have size one."""
    return value.dtype.name, tuple(d == 1 for d in value.shape)


def _samples(tensors: Sequence[Value]) -> list[Any]:
    """A tensor for each value: static axes at their size, symbolic ones at a size of their own."""
    import torch

    sizes: dict[Any, int] = {}
    samples = []
    for value in tensors:
        shape = [
            d if type(d) is int else sizes.setdefault(d or object(), SIZES[len(sizes) % len(SIZES)] + 6)
            for d in value.shape
        ]
        dtype = getattr(torch, {"bool": "bool"}.get(value.dtype.name, value.dtype.name))
        samples.append(torch.rand(shape).to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype))
    return samples


def _export(
    function: Callable[..., Any], static: dict[str, Any], tensors: Sequence[Value], opset: int
) -> onnx.ModelProto:
    """The function's graph at `opset`, every axis dynamic; by whichever exporter can.

    Raises:
        Refusal: when the function refuses its arguments.
        RewriteError: when neither exporter can.
    """
    import torch

    class Module(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return function(**{name: _fill(value, given) for name, value in static.items()})

    module, samples, problems = Module().eval(), tuple(_samples(tensors)), []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module(*samples)
        for export in (_by_torchscript, _by_torch_export):
            try:
                return _at_opset(export(module, samples, min(opset, _NEWEST_EXPORT)), opset)
            except Refusal:
                raise
            except Exception as error:
                problems.append(f"{type(error).__name__}: {str(error)[:300]}")
    raise RewriteError(
        "neither exporter takes this function: " + "; ".join(problems), hint="write it with simpler operators"
    )


def _by_torchscript(module: Any, samples: tuple[Any, ...], opset: int) -> onnx.ModelProto:
    import torch

    names, buffer = [f"in{i}" for i in range(len(samples))], io.BytesIO()
    axes = {name: {i: f"{name}_{i}" for i in range(s.dim())} for name, s in zip(names, samples)}
    torch.onnx.export(module, samples, buffer, input_names=names, dynamic_axes=axes, opset_version=opset, dynamo=False)
    return onnx.load_from_string(buffer.getvalue())


def _by_torch_export(module: Any, samples: tuple[Any, ...], opset: int) -> onnx.ModelProto:
    import torch

    axes = tuple({i: torch.export.Dim.DYNAMIC for i in range(s.dim())} for s in samples)
    program = torch.onnx.export(
        module, samples, dynamic_shapes=(axes,), opset_version=opset, dynamo=True, verbose=False
    )
    assert program is not None
    return onnx.inliner.inline_local_functions(program.model_proto)


def _at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    have = next(o.version for o in model.opset_import if o.domain == "")
    return model if have == opset else version_converter.convert_version(model, opset)


def lowering(
    operator: str,
    *,
    examples: Sequence[Example],
    refuses: Sequence[Example] = (),
    needed_by: Mapping[str, str] | None = None,
    priority: int = 0,
    static: Mapping[str, Sequence[int] | None] | None = None,
) -> Callable[[Callable[..., Any]], Lowering]:
    """Make a lowering of a PyTorch function with the operator's arguments.

    Arguments are bound by the names in the schema, otherwise by position. One that the function does not have is
    refused at any value but its default; `require` in the function refuses what it does not handle.

    Args:
        operator: "aten::searchsorted" for all overloads, "aten::searchsorted.Tensor" for one.
        examples, refuses: arguments by the schema's names, tensors as shapes.
        needed_by: every target unless said.
        priority: smaller ones are tried first.
        static: argument -> the axes whose sizes the function reads as numbers, by `int(x.shape[axis])`, None for all
            of them: refused where one is dynamic, exported once for each size.
    """

    def make(function: Callable[..., Any]) -> Lowering:
        where = needed_by or {"any": "all versions"}
        options = {"needed_by": where, "examples": examples, "refuses": refuses, "priority": priority}
        return Lowering(operator, function, static, **options)

    return make


__all__ = ["Lowering", "lowering"]
