"""A compiled TorchScript graph as an FX graph, so that torch.compile and torch.export see through it.

Only what compiling leaves in a graph is known: engine calls, operators, containers and constants, in one straight line.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from bridge import torch_private
from bridge.errors import ExportError
from bridge.runtime.calls import resolve


def fx_view(module: torch.jit.ScriptModule) -> torch.fx.GraphModule:
    """The forward method of a compiled module, as FX.

    Raises:
        ExportError: the module branches or loops, which FX cannot say.
    """
    return _Translation(module).run()


class _Translation:
    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self._module = module
        self._script = torch_private.graph_of(module).copy()
        torch_private.inline(self._script)
        self._root = torch.nn.Module()
        self._graph = torch.fx.Graph()
        self._values: dict[str, Any] = {}

    def run(self) -> torch.fx.GraphModule:
        _, *inputs = self._script.inputs()
        for value in inputs:
            self._values[value.debugName()] = self._graph.placeholder(_identifier(value.debugName()))
        for node in self._script.nodes():
            self._translate(node)
        results = tuple(self._of(value) for value in self._script.outputs())
        self._graph.output(results[0] if len(results) == 1 else results)
        self._graph.lint()
        return torch.fx.GraphModule(self._root, self._graph, "Compiled")

    def _of(self, value: Any) -> Any:
        return self._values[value.debugName()]

    def _translate(self, node: Any) -> None:
        kind = node.kind()
        if kind in ("prim::Constant", "prim::GetAttr"):
            self._values[node.output().debugName()] = self._constant(node.output())
        elif kind in ("prim::ListConstruct", "prim::TupleConstruct"):
            items = [self._of(value) for value in node.inputs()]
            self._values[node.output().debugName()] = items if kind == "prim::ListConstruct" else tuple(items)
        elif kind in ("prim::TupleUnpack", "prim::ListUnpack"):
            self._unpack(node)
        elif kind == "prim::DictConstruct":
            keys, values = [list(node.inputs())[start::2] for start in (0, 1)]
            pairs = {self._of(key): self._of(value) for key, value in zip(keys, values, strict=True)}
            self._values[node.output().debugName()] = pairs
        else:
            self._call(node)

    def _constant(self, value: Any) -> Any:
        found = resolve(value, self._script, self._module)
        if not isinstance(found, torch.Tensor):
            return found
        name = f"tensor_{len(list(self._root.named_buffers()))}"
        self._root.register_buffer(name, found, persistent=False)
        return self._graph.get_attr(name)

    def _unpack(self, node: Any) -> None:
        packed = self._of(node.input())
        for index, value in enumerate(node.outputs()):
            item = (
                packed[index]
                if isinstance(packed, list | tuple)
                else self._graph.call_function(operator.getitem, (packed, index))
            )
            self._values[value.debugName()] = item

    def _call(self, node: Any) -> None:
        target, arguments, keywords = self._target(node)
        result = self._graph.call_function(target, arguments, keywords)
        outputs = list(node.outputs())
        for index, value in enumerate(outputs):
            single = len(outputs) == 1
            self._values[value.debugName()] = (
                result if single else self._graph.call_function(operator.getitem, (result, index))
            )

    def _target(self, node: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        arguments = [self._of(value) for value in node.inputs()]
        if node.kind() == "aten::__getitem__":
            return operator.getitem, tuple(arguments), {}
        schema = torch_private.schema(node)
        namespace, name = node.kind().split("::")
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if schema is None or packet is None or list(node.blocks()):
            raise ExportError(
                f"torch.compile and torch.export cannot see through {node.kind()} in a compiled module",
                where=node.sourceRange() or None,
                hint="call the compiled module as it is, or compile with require_full_compilation=True",
            )
        positional = [value for value, formal in zip(arguments, schema.arguments, strict=True) if not formal.kwarg_only]
        keywords = {
            formal.name: value for value, formal in zip(arguments, schema.arguments, strict=True) if formal.kwarg_only
        }
        return getattr(packet, schema.overload_name or "default"), tuple(positional), keywords


def _identifier(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.split(".")[0])
