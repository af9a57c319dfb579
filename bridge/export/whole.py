"""A whole method as a TorchScript graph, control flow and all: tensors in, tensors out, weights among the inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bridge import torch_private as tp
from bridge.errors import ExportError
from bridge.export.function import Function
from bridge.frontend.program import Program
from bridge.frontend.provenance import TAG
from bridge.partition.roles import SMALL_CONSTANT

_STRUCTURES = ("prim::TupleConstruct", "prim::ListConstruct", "prim::DictConstruct")


def whole_function(
    program: Program, paths: Mapping[str, str], leaves: Mapping[str, object]
) -> tuple[Function, list[tp.Value]]:
    """The method's graph, and the values of the program's graph that are its results, flat.

    Args:
        paths: attribute path of each value read from the module.
        leaves: the names of the values that are the caller's tensors.

    Raises:
        ExportError: the method returns what is no tensor.
    """
    graph = program.graph.copy()
    function = Function(graph)
    originals = dict(zip((v.debugName() for v in tp.values(graph)), tp.values(program.graph), strict=True))
    for copied, original in zip(tp.walk(graph), tp.walk(program.graph), strict=True):
        if original.hasAttribute(TAG):
            function.nodes[original.i(TAG)] = original
            for one, other in zip(copied.outputs(), original.outputs(), strict=True):
                _give_type(one, other, program)
    formals = list(graph.inputs())
    results = _flatten_results(graph, originals)
    _lift_inputs(function, originals, leaves, program)
    _lift_weights(function, program, originals, paths)
    tp.remove_dead_code(graph)
    for position in reversed(range(len(formals))):
        if formals[position].uses():
            raise ExportError(
                f"{formals[position].debugName()} is neither a tensor nor fixed",
                hint="give it as bridge.Constant(value)",
            )
        graph.eraseInput(position)
    return function, results


def _give_type(copied: tp.Value, original: tp.Value, program: Program) -> None:
    if original.type().kind() != "TensorType" or copied.node().kind() == "prim::Constant":
        return
    seen, sizes = program.facts.known_kind(original), program.facts.sizes(original)
    if seen is not None and sizes is not None:
        copied.setType(tp.tensor_type(seen.dtype, sizes))


def _flatten_results(graph: tp.Graph, originals: Mapping[str, tp.Value]) -> list[tp.Value]:
    """Makes every tensor in the returned nest a result of its own; gives the original values."""
    given = list(graph.outputs())
    pending, found = list(given), []
    while pending:
        value = pending.pop(0)
        node = value.node()
        if node.kind() in _STRUCTURES:
            inputs = list(node.inputs())
            pending[:0] = inputs[1::2] if node.kind() == "prim::DictConstruct" else inputs
        elif value.type().kind() == "TensorType":
            found.append(value)
        else:
            raise ExportError(
                f"a result is no tensor: {value.type().annotation_str}",
                hint="return tensors, or tuples, lists and dicts of them",
            )
    for value in found:
        graph.registerOutput(value)
    for _ in given:
        graph.eraseOutput(0)
    return [originals[value.debugName()] for value in found]


def _lift_inputs(
    function: Function, originals: Mapping[str, tp.Value], leaves: Mapping[str, object], program: Program
) -> None:
    """Each of the caller's tensors becomes one input, however often it is read out of a nest."""
    by_name = {value.debugName(): value for value in tp.values(function.graph)}
    copies = {original.debugName(): by_name[name] for name, original in originals.items()}
    known = {original.debugName(): original for original in originals.values()}
    lifted: dict[int, tp.Value] = {}
    for name, leaf in leaves.items():
        if id(leaf) not in lifted:
            lifted[id(leaf)] = function.graph.addInput()
            if copies[name].type().kind() == "OptionalType":  # it is given
                lifted[id(leaf)].setType(copies[name].type().getElementType())
            else:
                lifted[id(leaf)].setType(copies[name].type())
            _give_type(lifted[id(leaf)], known[name], program)
            function.inputs.append(known[name])
        copies[name].replaceAllUsesWith(lifted[id(leaf)])


def _lift_weights(
    function: Function, program: Program, originals: Mapping[str, tp.Value], paths: Mapping[str, str]
) -> None:
    """Parameters, also those that a scripted module holds as optional, and large constants become inputs: no copies."""
    lifted: dict[str, tp.Value] = {}
    for node in list(tp.walk(function.graph)):
        if node.kind() not in ("prim::GetAttr", "prim::Constant"):
            continue
        value = node.output()
        if value.type().kind() not in ("TensorType", "OptionalType"):
            continue
        name, tensor = f"constant_{len(function.weights)}", None
        if node.kind() == "prim::GetAttr":
            name = paths[originals[value.debugName()].debugName()]
            tensor = _attribute(program.module, name)
        elif isinstance(held := tp.constant_value(value), torch.Tensor) and held.numel() > SMALL_CONSTANT:
            tensor = held
        if not isinstance(tensor, torch.Tensor):
            continue
        if name not in lifted:  # a module that is called twice reads its weights twice
            lifted[name] = function.graph.addInput()
            lifted[name].setType(tp.tensor_type(tensor.dtype, list(tensor.shape)))
            function.weights[name] = tensor
        value.replaceAllUsesWith(lifted[name])


def _attribute(module: torch.nn.Module, path: str) -> object:
    value: object = module
    for part in path.split("."):
        value = getattr(value, part)
    return value
