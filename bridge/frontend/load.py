"""Modules of every kind in, one program out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from bridge import torch_private as tp
from bridge.errors import EngineError, SpecError, scripts_line
from bridge.frontend.facts import Argument, Fact, Varies
from bridge.frontend.observe import OBSERVED
from bridge.frontend.program import Program, prepare
from bridge.frontend.results import copy_shared_results
from bridge.logging import quiet_exporter, show_graph
from bridge.spec import CompileSpec, Input, Leaf
from rewrites.protos import uncollected

_LOG = logging.getLogger("bridge.frontend")

Adapt = Callable[[torch.jit.ScriptModule], torch.nn.Module]


class _Received(Exception):
    def __init__(self, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.arguments = arguments


class _Receiver(torch.nn.Module):
    def forward(self, *arguments: Any) -> Any:
        raise _Received(arguments)


@dataclass
class Loaded:
    """A program and how its inputs and outputs look from outside.

    Attributes:
        spec: with the names of the method's arguments.
        leaves: the input tensors and constants of the spec, flat.
        arguments: what is known of each of the method's arguments.
        adapt: puts a compiled module into the user's clothes (Python structures that TorchScript has no word for).
    """

    program: Program
    spec: CompileSpec
    leaves: list[Leaf]
    arguments: list[Argument]
    adapt: Adapt

    def received(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """What the program's method is given in such a call of the user's module; None where that is the very same."""
        receiver: Any = _Receiver()
        dressed = self.adapt(receiver)
        if dressed is receiver:
            return None
        try:
            dressed(*args, **kwargs)
        except _Received as call:
            return call.arguments
        except EngineError:  # they are given in another way than the spec's: by name
            pass
        return None


def load(
    module: Any, spec: CompileSpec, method: str = "forward", *, wants_gpu: bool = False, for_calls: bool = True
) -> Loaded:
    """Takes a ScriptModule, nn.Module or ExportedProgram to a frozen program.

    Args:
        wants_gpu: whether the backend runs on GPUs only: a module on the CPU is then compiled for the current GPU,
            if there is one.
        for_calls: whether what is made is called as the module is: callers may then give another tensor than the one
            that an argument left out of the spec has by default; else that is a constant.

    Raises:
        SpecError: the inputs do not fit the module.
        ExportError: an nn.Module that can be neither scripted nor exported nor traced.
    """
    refuse_unmade(module, method)
    module = getattr(module, "_orig_mod", module)  # torch.compile puts a module around the user's
    weights = (*module.parameters(), *module.buffers()) if isinstance(module, torch.nn.Module) else ()
    if any(tensor.is_meta for tensor in weights):
        raise SpecError("module: its weights are on the meta device, without values", hint="load them first")
    if any(is_lazy(tensor) for tensor in weights):
        raise SpecError(
            "module: its weights have no shapes yet", hint="call it once: a lazy module takes them from its input"
        )
    with quiet_exporter():
        scripted, spec, adapt = _scripted(module, spec.computed_in(parameter_dtype(module)), method)
        if isinstance(module, torch.nn.Module) and scripted is not module and not tp.has_method(scripted, method):
            method = "forward"  # exported or traced, a method is the forward of what it became
        return _prepared(scripted, spec, method, adapt, _home(scripted, spec, wants_gpu), for_calls)


def capture(module: Any, spec: CompileSpec) -> tuple[torch.jit.ScriptModule, Adapt]:
    """A ScriptModule of what `load` takes, not bound to any shapes, and how to dress what becomes of it."""
    refuse_unmade(module)
    with quiet_exporter():
        scripted, _, adapt = _scripted(module, spec, "forward")
    return scripted, adapt


def _is_in_itself(module: torch.nn.Module, around: tuple[torch.nn.Module, ...]) -> bool:
    inside = [child for child in module._modules.values() if child is not None]
    return any(module is one for one in around) or any(_is_in_itself(child, (*around, module)) for child in inside)


def refuse_unmade(module: Any, method: str = "forward") -> None:
    """Refuses a module that cannot be called, whatever it is given.

    Raises:
        SpecError: it is not initialised, or has no such method.
    """
    if not isinstance(method, str):
        raise SpecError(f"method_name: expected a name, got {method!r} ({type(method).__name__})", hint='"forward"')
    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        return
    name = type(module).__name__
    if "_modules" not in vars(module):
        raise SpecError(f"module: {name} is not initialised", hint=f"call super().__init__() first in {name}.__init__")
    if _is_in_itself(module, ()):
        raise SpecError(f"module: {name} is in itself, as a submodule", hint="hold it in a list or a weakref instead")
    if method == "forward" and "forward" not in vars(module) and type(module).forward is torch.nn.Module.forward:
        raise SpecError(f"module: {name} has no forward", hint="put it in a module whose forward calls what is in it")
    if not callable(getattr(module, method, None)):
        raise SpecError(f"method_name: {name} has no method {method!r}")


def _scripted(module: Any, spec: CompileSpec, method: str) -> tuple[torch.jit.ScriptModule, CompileSpec, Adapt]:
    if isinstance(module, torch.jit.ScriptFunction):
        told = f"module: {module.name} is a script function"
        raise SpecError(told, hint="call it in the forward() of a torch.nn.Module, and script that")
    if isinstance(module, torch.jit.ScriptModule):
        return module, spec, _as_it_is
    if isinstance(module, torch.export.ExportedProgram):
        from bridge.frontend.exported import from_exported

        return from_exported(module, spec)
    if isinstance(module, torch.nn.Module):
        from bridge.frontend.eager import from_eager

        return from_eager(module, spec, method)
    hint = "give a torch.jit.ScriptModule, a torch.nn.Module or a torch.export.ExportedProgram"
    if type(module).__name__ == "ModelProto":
        hint += "; rewrites.rewrite(model) makes an ONNX model one that TensorRT's own tools build"
    raise SpecError(f"module: {type(module).__name__} cannot be compiled", hint=hint)


def _as_it_is(module: torch.jit.ScriptModule) -> torch.nn.Module:
    return module


def _home(module: torch.nn.Module, spec: CompileSpec, wants_gpu: bool) -> torch.device:
    """Where the compiled module runs: the spec's device, else a GPU if the backend wants one, else the module's."""
    if spec.device is not None:
        return _present(spec.device)
    examples = [
        leaf.value.example.device for leaf in spec.flat_inputs() if leaf.is_tensor and leaf.value.example is not None
    ]
    current = next(
        (t.device for t in (*module.parameters(), *module.buffers())), examples[0] if examples else torch.device("cpu")
    )
    if wants_gpu and current.type == "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return current


def _present(device: torch.device) -> torch.device:
    """The device, if it is here; a GPU without a number is the current one.

    Raises:
        SpecError: it is not here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        told = f"there are {count} GPUs" if count else "there is no GPU that PyTorch can use"
        raise SpecError(f"device: {device} is not here", why=told, hint='leave it out, or device="cpu"')
    is_any = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if is_any else device


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module's parameters and buffers are; the CPU when it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def default_dtype(module: torch.nn.Module) -> torch.dtype:
    """The dtype of floating inputs that state none: that of the module's parameters."""
    return parameter_dtype(module) or torch.float32


def parameter_dtype(module: Any) -> torch.dtype | None:
    """That of a module's first floating parameter; None without one."""
    parameters = module.parameters() if isinstance(module, torch.nn.Module) else ()
    return next((p.dtype for p in parameters if p.dtype.is_floating_point), None)


def _prepared(
    module: torch.jit.ScriptModule, spec: CompileSpec, method: str, adapt: Adapt, device: torch.device, for_calls: bool
) -> Loaded:
    if not tp.has_method(module, method):
        names = ", ".join(tp.method_names(module))
        raise SpecError(f"method_name: the module has no method {method!r}", hint=f"its methods: {names}")
    arguments = tp.schema_of(module, method).arguments[1:]
    optional = [a.name for a in arguments if a.has_default_value()]
    if spec.inputs is None and not spec.kwarg_inputs and len(optional) < len(arguments):
        spec = copy.copy(spec)
        spec.inputs = _as_traced(module, method) or None
        if spec.inputs is None:
            raise inputs_not_given(method, [a.name for a in arguments])
    spec = spec.bind_names(tp.argument_names(module, method), optional=optional, method=method)
    dtype = default_dtype(module)
    leaves = spec.flat_inputs(dtype)
    _check_kinds(arguments, leaves)
    known = [_argument(position, a, spec, leaves, for_calls) for position, a in enumerate(arguments)]
    moves = any(tensor.device != device for tensor in (*module.parameters(), *module.buffers()))
    moved = copy.deepcopy(module).to(device) if moves else module
    with uncollected():
        program = _prepare(moved, method, _on(example_of(spec, arguments, dtype), device), known, device, leaves)
    show_graph(_LOG, f"{method}, folded", lambda: program.graph)
    if spec.require_full_compilation:
        copy_shared_results(program)
    return Loaded(program, spec, leaves, known, adapt)


def _as_traced(module: torch.jit.ScriptModule, method: str) -> list[Input]:
    """Inputs of the shapes that a module was traced with; none where it was scripted, or loaded from a file."""
    types: list[Any] = [value.type() for value in list(tp.graph_of(module, method).inputs())[1:]]
    known = all(one.kind() == "TensorType" and one.sizes() is not None and one.dtype() is not None for one in types)
    return [Input(one.sizes(), dtype=one.dtype()) for one in types] if known else []


def inputs_not_given(method: str, arguments: Sequence[str]) -> SpecError:
    """What is said of a spec without inputs for a method that takes some."""
    return SpecError(
        f"inputs: not given; {method}({', '.join(arguments)}) needs their shapes",
        hint="one item for each: [bridge.Input((1, 3, 224, 224))], a shape, or a tensor",
    )


def _prepare(
    module: torch.jit.ScriptModule,
    method: str,
    example: tuple[Any, ...],
    known: list[Argument],
    device: torch.device,
    leaves: Sequence[Leaf],
) -> Program:
    """`prepare`, whose complaint about the inputs says what they were."""
    try:
        return prepare(module, method, example, known, device)
    except SpecError as error:
        if error.where is None:
            given = ", ".join(f"{leaf.name}: {_given(leaf)}" for leaf in leaves)
            line = scripts_line(error.__cause__) if error.__cause__ is not None else None
            called = line and line.replace(f" in {OBSERVED}", f" in {method}")
            where = "; ".join(filter(None, [called, given])) or None
            raise SpecError(error.what, where=where, why=error.why, hint=error.hint) from error
        raise


def _given(leaf: Leaf) -> str:
    if not leaf.is_tensor:
        return repr(leaf.value)
    return f"{str(leaf.dtype).removeprefix('torch.')} {'x'.join(map(str, leaf.opt_shape)) or 'scalar'}"


def _check_kinds(arguments: Sequence[Any], leaves: Sequence[Leaf]) -> None:
    """Refuses Python values, which are passed as they are, where a tensor belongs."""
    for position, argument in enumerate(arguments):
        own = [leaf for leaf in leaves if leaf.path[0] in (position, argument.name)]
        if str(argument.type) != "Tensor" or not own or (len(own[0].path) == 1 and own[0].is_tensor):
            continue
        values = tuple(leaf.value for leaf in own)
        value = values if len(own[0].path) > 1 else values[0]
        field = f"inputs[{position}]" if own[0].path[0] == position else f"kwarg_inputs[{argument.name!r}]"
        told = f"expected an input for the tensor {argument.name!r}, got {value!r} ({type(value).__name__})"
        hint = "a shape such as (8, 16), a range {'min': ..., 'opt': ..., 'max': ...}, a tensor or bridge.Input"
        raise SpecError(f"{field}: {told}", hint=hint)


def example_of(spec: CompileSpec, arguments: Sequence[Any], dtype: torch.dtype, which: str = "opt") -> tuple[Any, ...]:
    """One call's arguments in the method's order."""
    args, kwargs = spec.example_inputs(which, default_dtype=dtype)  # type: ignore[arg-type]
    rest = arguments[len(args) :]
    return (*args, *(kwargs.get(a.name, a.default_value) for a in rest))


def _on(values: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda v: v.to(device) if isinstance(v, torch.Tensor) else v, values)


def _argument(position: int, argument: Any, spec: CompileSpec, leaves: Sequence[Leaf], for_calls: bool) -> Argument:
    """What is known of an argument: fixed where the spec gives a Python value or leaves the default."""
    own = [leaf for leaf in leaves if leaf.path[0] in (position, argument.name)]
    if not own:
        given = position < len(spec.inputs or ()) or argument.name in spec.kwarg_inputs
        given = given or (for_calls and isinstance(argument.default_value, torch.Tensor))
        return (
            Argument(Fact(shape=Varies.NEVER, content=Varies.WITH_DATA))
            if given
            else Argument(Fact(), fixed=True, value=argument.default_value)
        )
    if not any(leaf.is_tensor for leaf in own):
        if len(own) == 1 and len(own[0].path) == 1:
            return Argument(Fact(), fixed=True, value=tp.as_declared(own[0].value, argument.type))
        return Argument(Fact(Varies.NEVER, Varies.WITH_DATA, Varies.WITH_DATA))
    dynamic = any(leaf.is_dynamic for leaf in own)
    fact = Fact(shape=Varies.WITH_SHAPES if dynamic else Varies.NEVER, content=Varies.WITH_DATA)
    dims = (
        tuple(d if isinstance(d, int) else None for d in own[0].dims)
        if len(own) == 1 and len(own[0].path) == 1
        else None
    )
    return Argument(fact, dims)
