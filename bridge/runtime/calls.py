"""Engine calls in a module's graphs: where they are, their plans and signatures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bridge import torch_private
from bridge.runtime.signature import Signature

OPERATOR = "bridge::execute_engine"


@dataclass(frozen=True)
class EngineCall:
    """One call of `bridge::execute_engine`.

    Attributes:
        plan: the very tensor that the call passes.
        signature: what the call says about it.
        write_signature: puts another text in the place of the signature, for what will be saved: a TorchScript graph
            that has run once goes on with the one that it had.
    """

    plan: torch.Tensor
    signature: Signature
    write_signature: Callable[[str], None]


def engine_calls(module: torch.nn.Module) -> list[EngineCall]:
    """Every engine call in a module: in any method and branch, and in submodules."""
    found: list[EngineCall] = []
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):
            for method in torch_private.method_names(part):
                found += _in_graph(torch_private.graph_of(part, method), part)
        elif isinstance(part, torch.fx.GraphModule):
            found += _in_fx(part)
    return found


def _in_graph(graph: Any, module: torch.jit.ScriptModule) -> Iterator[EngineCall]:
    for node in torch_private.walk(graph):
        if node.kind() == OPERATOR:
            _, plan, text = node.inputs()
            signature = Signature.from_json(torch_private.constant_value(text))
            yield EngineCall(resolve(plan, graph, module), signature, partial(_write_in_graph, graph, node))


def _write_in_graph(graph: Any, node: Any, text: str) -> None:
    node.replaceInput(2, torch_private.constant(graph, text, node))


def resolve(value: Any, graph: Any, module: torch.nn.Module) -> Any:
    """What a graph's value is before any run: a constant, or an attribute of the module."""
    if value.debugName() == next(graph.inputs()).debugName():
        return module
    node = value.node()
    if node.kind() == "prim::GetAttr":
        return getattr(resolve(node.input(), graph, module), node.s("name"))
    return torch_private.constant_value(value)


def _in_fx(module: torch.fx.GraphModule) -> Iterator[EngineCall]:
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is torch.ops.bridge.execute_engine.default:
            _, plan, text = node.args
            yield EngineCall(
                attribute(module, plan.target), Signature.from_json(text), partial(_write_in_fx, module, node)
            )


def _write_in_fx(module: torch.fx.GraphModule, node: torch.fx.Node, text: str) -> None:
    node.update_arg(2, text)
    module.recompile()


def attribute(module: torch.nn.Module, path: str) -> Any:
    """The attribute at a dotted path."""
    result: Any = module
    for name in path.split("."):
        result = getattr(result, name)
    return result
