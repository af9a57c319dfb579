"""A torch.export.ExportedProgram as a ScriptModule, so that it can go down the street like any other module."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    OutputKind,
    SymBoolArgument,
    SymFloatArgument,
    SymIntArgument,
    TensorArgument,
)

from bridge import torch_private as tp
from bridge.errors import ExportError
from bridge.frontend.emit import Emitter
from bridge.frontend.provenance import Provenance

_TYPES: dict[type, tuple[str, str]] = {
    TensorArgument: ("Tensor", "torch.zeros(1)"),
    SymIntArgument: ("int", "0"),
    SymFloatArgument: ("float", "0.0"),
    SymBoolArgument: ("bool", "False"),
}
_STATE = (InputKind.PARAMETER, InputKind.BUFFER)


@dataclass
class ExportedScript:
    """A ScriptModule made from an exported program.

    ``module(*tensors)`` takes the leaves of the program's ``(args, kwargs)`` that are tensors or symbolic numbers, in
    order, and gives back one value, or a tuple of the leaves of the program's result that are not constant.

    Attributes:
        module: in evaluation mode, never run yet, over the program's own tensors (nothing is copied).
        in_spec: structure of ``(args, kwargs)``; None when the program does not say.
        out_spec: structure of the result.
        arg_names: names of the module's arguments.
        arg_leaves: for each of them, its position among the flattened ``(args, kwargs)``.
        output_names: names of the module's results.
        output_leaves: for each of them, its position among the flattened result.
        constant_outputs: the other leaves of the result.
        provenance: where every node came from; nodes carry their position there as the attribute ``bridge_id``.
    """

    module: torch.jit.ScriptModule
    in_spec: Any
    out_spec: Any
    arg_names: list[str]
    arg_leaves: list[int]
    output_names: list[str]
    output_leaves: list[int]
    constant_outputs: dict[int, Any] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)


def to_script(program: torch.export.ExportedProgram) -> ExportedScript:
    """Emits a program's FX nodes one by one as TorchScript nodes.

    Symbolic sizes stay what they are (``aten::size`` and arithmetic on numbers), the module tree and the names of its
    parameters and buffers are kept, mutated buffers are written back. Buffers that were not persistent become
    persistent, as in every ScriptModule. Checks of input shapes are dropped: the spec's checks take their place.

    Raises:
        UnsupportedOperatorError: an operator has no TorchScript form.
        ExportError: the program cannot be expressed: it returns nothing, or runs under autocast.
    """
    inputs = program.graph_signature.input_specs
    outputs = program.graph_signature.output_specs
    users = [spec for spec in inputs if spec.kind == InputKind.USER_INPUT]
    results = [spec for spec in outputs if spec.kind == OutputKind.USER_OUTPUT]
    arg_leaves = [i for i, spec in enumerate(users) if type(spec.arg) in _TYPES]
    output_leaves = [i for i, spec in enumerate(results) if type(spec.arg) in _TYPES]
    if not output_leaves:
        raise ExportError("the exported program returns no tensor", hint="return what should be computed from forward")
    names = _unique([_identifier(users[i].arg.name) for i in arg_leaves])
    arguments = {users[i].arg.name: name for i, name in zip(arg_leaves, names, strict=True)}
    module = tp.shell(
        _tree(program), _template([users[i] for i in arg_leaves], names, [results[i] for i in output_leaves])
    )
    table = Provenance()
    _fill(program, module, arguments, table)
    return ExportedScript(
        module,
        program.call_spec.in_spec,
        program.call_spec.out_spec,
        names,
        arg_leaves,
        [results[i].arg.name for i in output_leaves],
        output_leaves,
        {i: _constant(spec.arg) for i, spec in enumerate(results) if i not in output_leaves},
        table,
    )


def _identifier(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) or name in ("self", "torch") else name


def _unique(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        unique = name
        while unique in found:
            unique += "_"
        found.append(unique)
    return found


def _constant(argument: Any) -> Any:
    return argument.value if isinstance(argument, ConstantArgument) else None


def _template(users: Sequence[Any], names: Sequence[str], results: Sequence[Any]) -> str:
    """A forward with the right arguments and results; its body is replaced afterwards."""
    arguments = "".join(f", {name}: {_TYPES[type(spec.arg)][0]}" for name, spec in zip(names, users, strict=True))
    types, values = zip(*(_TYPES[type(spec.arg)] for spec in results), strict=True)
    if len(results) == 1:
        return f"def forward(self{arguments}) -> {types[0]}:\n    return {values[0]}\n"
    return f"def forward(self{arguments}) -> Tuple[{', '.join(types)}]:\n    return ({', '.join(values)})\n"


def _tree(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """Bare modules that hold the program's parameters and buffers under their names."""
    root = torch.nn.Module()
    hidden = {s.target: program.constants[s.target] for s in program.graph_signature.input_specs
              if s.kind == InputKind.BUFFER and s.target in program.constants}  # fmt: skip
    for name, tensor in {**program.state_dict, **hidden}.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        if isinstance(tensor, torch.nn.Parameter):
            owner.register_parameter(last, tensor)
        else:
            owner.register_buffer(last, tensor)
    return root.eval()


def _fill(
    program: torch.export.ExportedProgram, module: torch.jit.ScriptModule, arguments: dict[str, str], table: Provenance
) -> None:
    """Replaces the body of ``module.forward`` by the program's nodes."""
    graph: Any = tp.graph_of(module)
    formals = dict(zip(["self", *arguments], graph.inputs(), strict=True))
    emitter = Emitter(graph, table)
    state: dict[str, tp.Value] = {}
    with graph.insert_point_guard(graph.return_node()):
        given = [_input(program, module, graph, spec, formals, state) for spec in program.graph_signature.input_specs]
        found = emitter.emit(program.graph_module, given)
        results = []
        for spec, value in zip(program.graph_signature.output_specs, found, strict=True):
            if spec.kind == OutputKind.USER_OUTPUT and type(spec.arg) in _TYPES:
                results.append(emitter.value(value))
            elif spec.kind == OutputKind.BUFFER_MUTATION:
                emitter.write(state[spec.target], value)
            elif spec.kind == OutputKind.USER_INPUT_MUTATION:
                emitter.write(formals[spec.target], value)
        result = results[0] if len(results) == 1 else emitter.tuple(results)
    tp.replace_output(graph, result)
    tp.remove_dead_code(graph)


def _input(
    program: torch.export.ExportedProgram,
    module: torch.jit.ScriptModule,
    graph: Any,
    spec: Any,
    formals: dict[str, tp.Value],
    state: dict[str, tp.Value],
) -> Any:
    if spec.kind == InputKind.USER_INPUT:
        return formals[spec.arg.name] if spec.arg.name in formals else _constant(spec.arg)
    if spec.kind in _STATE:
        if spec.target not in state:
            state[spec.target] = tp.attribute(graph, module, spec.target)
        return state[spec.target]
    if spec.kind == InputKind.CONSTANT_TENSOR:
        return graph.insertConstant(program.constants[spec.target].detach())
    if spec.kind == InputKind.TOKEN:
        return None
    raise ExportError(
        f"the exported program holds the custom object {spec.target!r}, which TorchScript nodes cannot take",
        hint="keep plain tensors and numbers as attributes",
    )
