"""A torch.export.ExportedProgram as a ScriptModule, so that it can go down the street like any other module."""

from __future__ import annotations

import copy
import inspect
import keyword
from collections.abc import Callable, Sequence
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
from torch.utils import _pytree as pytree

from bridge import torch_private as tp
from bridge.errors import EngineError, ExportError, SpecError
from bridge.frontend.around import Dressed
from bridge.frontend.emit import Emitter
from bridge.frontend.plain import in_plain_operators
from bridge.spec import CompileSpec, Constant, Input, Leaf
from bridge.spec.structure import dynamic_axes

_TYPES: dict[type, tuple[str, str]] = {
    TensorArgument: ("Tensor", "torch.zeros(1)"),
    SymIntArgument: ("int", "0"),
    SymFloatArgument: ("float", "0.0"),
    SymBoolArgument: ("bool", "False"),
}
_ANY = 2**63 - 1
_UNBOUNDED = 2**31
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
        constant_inputs: the other leaves of ``(args, kwargs)``, by position: the program holds their values.
    """

    module: torch.jit.ScriptModule
    in_spec: Any
    out_spec: Any
    arg_names: list[str]
    arg_leaves: list[int]
    output_names: list[str]
    output_leaves: list[int]
    constant_outputs: dict[int, Any] = field(default_factory=dict)
    constant_inputs: dict[int, Any] = field(default_factory=dict)


def to_script(program: torch.export.ExportedProgram) -> ExportedScript:
    """Emits the FX nodes of a program in plain operators (`in_plain_operators`) one by one as TorchScript nodes.

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
    _fill(program, module, arguments)
    return ExportedScript(
        module,
        program.call_spec.in_spec,
        program.call_spec.out_spec,
        names,
        arg_leaves,
        [results[i].arg.name for i in output_leaves],
        output_leaves,
        {i: _constant(spec.arg) for i, spec in enumerate(results) if i not in output_leaves},
        {i: spec.arg.value for i, spec in enumerate(users) if isinstance(spec.arg, ConstantArgument)},
    )


def from_exported(
    program: torch.export.ExportedProgram, spec: CompileSpec
) -> tuple[torch.jit.ScriptModule, CompileSpec, Callable[[torch.jit.ScriptModule], torch.nn.Module]]:
    """A program as a ScriptModule over its tensors in a row, the spec for it, and what gives it its own calls back.

    Without inputs in the spec, those of the program stand: its example's shapes, and its ranges where it is dynamic.

    Raises:
        SpecError: the spec's inputs do not have the structure of the program's, or sizes that it was not exported for.
    """
    program = in_plain_operators(program)
    script = to_script(program)
    is_given = spec.inputs is not None or spec.kwarg_inputs
    items = in_order(spec, script.in_spec) if is_given else _program_inputs(program)
    flat = copy.copy(spec)
    flat.kwarg_inputs = {}
    if is_given:
        for leaf, value in script.constant_inputs.items():
            _refuse_other_constant(items[leaf], value)
        for leaf in script.arg_leaves:
            _refuse_other_sizes(items[leaf], program, leaf)
    _refuse_failing_guards(items, program)
    flat.inputs = [_with_dtype(items[leaf], program, leaf) for leaf in script.arg_leaves]
    if _is_plain(script):
        return script.module, flat, lambda compiled: compiled
    return script.module, flat, lambda compiled: CalledAsProgram(compiled, script)


def dynamic_shapes(module: torch.nn.Module, spec: CompileSpec) -> dict[str, Any]:
    """``torch.export``'s dynamic_shapes for calling ``module`` with the spec's inputs, by argument name."""
    hint: Any = torch.export.Dim.DYNAMIC
    values = [
        {axis: hint(min=low, max=high) for axis, (low, _, high) in dynamic_axes(leaf).items()} or None
        for leaf in spec.flat_inputs()
    ]
    args, kwargs = spec.nest(values)
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


class CalledAsProgram(Dressed):
    """A compiled module behind the calling convention of the program it was made from."""

    def __init__(self, compiled: torch.jit.ScriptModule, script: ExportedScript) -> None:
        super().__init__(compiled)
        self.in_spec, self.out_spec = script.in_spec, script.out_spec
        positional, named = _children(script.in_spec)
        self.positional, self.names = positional.num_children, tuple(named.context)
        self.arg_leaves, self.output_leaves = script.arg_leaves, script.output_leaves
        self.constants, self.fixed = script.constant_outputs, script.constant_inputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The program's arguments, nested as its own.

        Raises:
            EngineError: there are others, or a Python value is not the one that the program was made with.
        """
        leaves = self._leaves(args, kwargs)
        for position, value in self.fixed.items():
            if not _is_constant(leaves[position], value):
                raise EngineError(
                    f"this module was compiled for {value!r} where it is given {_short(leaves[position])}",
                    where=_place(self.in_spec, position),
                    hint="compile it again for another value",
                )
        found = self.compiled(*(leaves[i] for i in self.arg_leaves))
        values = dict(self.constants)
        values.update(zip(self.output_leaves, found if isinstance(found, tuple) else [found], strict=True))
        return pytree.tree_unflatten([values[i] for i in sorted(values)], self.out_spec)

    def _leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        if len(args) != self.positional or set(kwargs) != set(self.names):
            taken, given = _counted(self.positional, self.names), _counted(len(args), list(kwargs))
            hint = "arguments are given in the way in which inputs and kwarg_inputs of the spec gave them"
            raise EngineError(f"this module was compiled for {taken}, and is given {given}", hint=hint)
        try:
            return list(self.in_spec.flatten_up_to((args, kwargs)))
        except ValueError as error:
            hint = "nest them as the inputs that it was compiled for"
            raise EngineError("the arguments are nested in another way", why=str(error), hint=hint) from error


def _counted(positional: int, names: Sequence[str]) -> str:
    by_name = f" and {', '.join(names)} by name" if names else ""
    return f"{positional} argument{'' if positional == 1 else 's'} by position{by_name}"


def _is_constant(given: Any, value: Any) -> bool:
    return type(given) is type(value) and (given == value or (given != given and value != value))


def _short(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, torch.Tensor) else f"{value!r}"


def _place(structure: Any, position: int) -> str:
    """The argument of a leaf, and its place in it: ``inputs[0]['n']``."""
    numbered = pytree.tree_unflatten(list(range(structure.num_leaves)), structure)
    path = next(path for path, leaf in pytree.tree_flatten_with_path(numbered)[0] if leaf == position)
    of_all = "inputs" if path[0] == pytree.SequenceKey(0) else "kwarg_inputs"
    return of_all + pytree.keystr(path[1:])


def _children(structure: Any) -> list[Any]:
    """Those of a node; the attribute of older versions of PyTorch is deprecated in newer ones."""
    found = structure.children() if hasattr(structure, "children") else structure.children_specs
    return list(found)


def _is_plain(script: ExportedScript) -> bool:
    """Whether the program takes tensors in a row and returns one, or a tuple of several."""
    args, kwargs = _children(script.in_spec)
    plain_in = kwargs.num_leaves == 0 and all(child.is_leaf() for child in _children(args))
    out = script.out_spec
    plain_tuple = out.type is tuple and out.num_leaves > 1 and all(child.is_leaf() for child in _children(out))
    all_tensors = len(script.arg_leaves) == args.num_leaves and not script.constant_outputs
    return bool(plain_in and all_tensors and (out.is_leaf() or plain_tuple))


def in_order(spec: CompileSpec, in_spec: Any) -> list[Any]:
    """The spec's Inputs and constants in the order of the program's leaves."""
    leaves = spec.flat_inputs()
    nested = spec.nest([_Held(leaf) for leaf in leaves])
    try:
        held = in_spec.flatten_up_to(nested)
    except ValueError as error:
        raise SpecError("inputs: not nested as the exported program's", why=str(error)) from error
    wrong = next((item for item in held if not isinstance(item, _Held)), None)
    if wrong is not None:
        raise SpecError("inputs: a nest stands where the exported program takes a tensor", why=repr(wrong))
    return [item.leaf.value if item.leaf.is_tensor else Constant(item.leaf.value) for item in held]


@dataclass(frozen=True)
class _Held:
    leaf: Leaf


def _program_inputs(program: torch.export.ExportedProgram) -> list[Any]:
    """Inputs with the program's own shapes and ranges, constants for the rest."""
    found: list[Any] = []
    examples = pytree.tree_flatten(program.example_inputs)[0] if program.example_inputs is not None else []
    for position, (spec, value) in enumerate(_users(program)):
        if not isinstance(value, torch.Tensor):
            found.append(Constant(examples[position] if position < len(examples) else _constant(spec.arg)))
            continue
        example = examples[position] if position < len(examples) else None
        bounds = [_bounds(program, spec.arg.name, axis, size, example) for axis, size in enumerate(value.shape)]
        low, best, high = (tuple(bound[i] for bound in bounds) for i in range(3))
        named = [str(size) if low[axis] != high[axis] else low[axis] for axis, size in enumerate(value.shape)]
        found.append(Input(named, min_shape=low, opt_shape=best, max_shape=high, dtype=value.dtype))
    return found


def _bounds(program: Any, name: str, axis: int, size: Any, example: Any) -> tuple[int, int, int]:
    if isinstance(size, int):
        return size, size, size
    known = program.range_constraints.get(size.node.expr)
    if known is None or example is None or not (known.upper.is_Integer and known.upper < _UNBOUNDED):
        raise SpecError(
            f"inputs: dimension {axis} of {name} has no largest size in the exported program",
            hint="give the range: inputs=[bridge.Input(min_shape=..., opt_shape=..., max_shape=...)]",
        )
    return int(known.lower), int(example.shape[axis]), int(known.upper)


def _refuse_other_constant(item: Any, value: Any) -> None:
    if isinstance(item, Constant) and not _is_constant(item.value, value):
        told = f"inputs: {_short(item.value)} is given where the exported program holds {value!r}"
        raise SpecError(told, hint="export it with that value, or leave the inputs out")


def _refuse_other_sizes(item: Any, program: torch.export.ExportedProgram, leaf: int) -> None:
    """A program holds the sizes that it was exported for, wherever they are computed with."""
    user, value = _users(program)[leaf]
    if not isinstance(item, Input) or not isinstance(value, torch.Tensor):
        return
    name, hint = user.arg.name, "export it with dynamic_shapes=..., or give the shapes that it was exported for"
    if item.rank != value.dim():
        raise SpecError(f"inputs: {name} has rank {value.dim()} in the exported program, not {item.rank}", hint=hint)
    for axis, size in enumerate(value.shape):
        low, high = item.min_shape[axis], item.max_shape[axis]
        allowed = (size, size) if isinstance(size, int) else _allowed(program, size)
        if not allowed[0] <= low <= high <= allowed[1]:
            there, here = (f"{a} to {b}" if a != b else str(a) for a, b in (allowed, (low, high)))
            told = f"inputs: dimension {axis} of {name} is {here}, but {there} in the exported program"
            raise SpecError(told.replace(f"{_ANY}", "more"), hint=hint)


def _allowed(program: torch.export.ExportedProgram, size: Any) -> tuple[int, int]:
    """The range of a size; torch.export writes 2 where 0 and 1 are as good, and one number where it kept a size."""
    if size.node.expr.is_Integer:
        return int(size.node.expr), int(size.node.expr)
    known = program.range_constraints.get(size.node.expr)
    if known is None:
        return 0, _ANY
    low = int(known.lower) if known.lower.is_Integer else 0
    return low if low > 2 else 0, int(known.upper) if known.upper.is_Integer else _ANY


def _refuse_failing_guards(items: Sequence[Any], program: torch.export.ExportedProgram) -> None:
    """Where it branched or rounded, torch.export kept what it saw, and notes for which sizes that holds."""
    if not getattr(program, "_guards_code", True):
        return
    guards = getattr(program.module(), "_guards_fn", None)
    if guards is None:
        return
    for which in ("min_shape", "opt_shape", "max_shape"):
        shapes = [getattr(item, which) if isinstance(item, Input) else None for item in items]
        given = [
            torch.empty(shape, device="meta") if shape is not None else getattr(item, "value", item)
            for item, shape in zip(items, shapes, strict=True)
        ]
        try:
            guards(*given)
        except AssertionError as error:
            names = (user.arg.name for user, _ in _users(program))
            told = ", ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True) if shape is not None)
            raise SpecError(
                f"inputs: the exported program does not hold for {told}",
                why=str(error),
                hint="export it at other sizes, or with sizes computed by // and without branches on them",
            ) from error


def _users(program: torch.export.ExportedProgram) -> list[tuple[Any, Any]]:
    """Each user input's spec with its fake tensor or value."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = program.graph_signature.input_specs
    return [(spec, values.get(spec.arg.name)) for spec in inputs if spec.kind == InputKind.USER_INPUT]


def _with_dtype(item: Any, program: torch.export.ExportedProgram, leaf: int) -> Any:
    """An Input that states no dtype takes the program's."""
    value = _users(program)[leaf][1]
    if not isinstance(item, Input) or item.dtype is not None or not isinstance(value, torch.Tensor):
        return item
    shapes = {kind: getattr(item, kind) for kind in ("shape", "min_shape", "opt_shape", "max_shape")}
    return Input(**shapes, dtype=value.dtype, name=item.name, value_range=item.value_range)


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


def _fill(program: torch.export.ExportedProgram, module: torch.jit.ScriptModule, arguments: dict[str, str]) -> None:
    """Replaces the body of ``module.forward`` by the program's nodes."""
    graph: Any = tp.graph_of(module)
    formals = dict(zip(["self", *arguments], graph.inputs(), strict=True))
    emitter = Emitter(graph)
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
