"""Plain nn.Modules: scripted or exported where that gives the same results, else traced with a warning."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from bridge import torch_private as tp
from bridge.errors import ExportError, SpecError
from bridge.frontend.around import (
    Around,
    AsForward,
    Dressed,
    InARow,
    OfTensors,
    WithDataclasses,
    WithoutDataclasses,
    holds_dataclasses,
    hollow,
    plain_spec,
    plainly,
)
from bridge.frontend.frozen import other_run, refuse_frozen_data, refuse_frozen_sizes
from bridge.frontend.runs import as_before, first_line, run, same
from bridge.spec import CompileSpec

if TYPE_CHECKING:
    from bridge.frontend.load import Adapt

    Found = tuple[torch.jit.ScriptModule, CompileSpec, Adapt]
    Changes = tuple[list[str], list[str]]

_LOG = logging.getLogger("bridge.frontend")


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Runs in eval mode and leaves every submodule in the mode it was in."""
    modes = [(child, child.training) for child in module.modules() if hasattr(child, "training")]  # frozen ones lack it
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


def from_eager(module: torch.nn.Module, spec: CompileSpec, method: str) -> Found:
    """A ScriptModule with the module's results on the spec's example, and how to dress it as the module again.

    Raises:
        ExportError: none of the ways works; the message says how each failed.
    """
    from bridge.frontend.load import _on, default_dtype, device_of, inputs_not_given

    taken = _required(module, method)
    if spec.inputs is None and not spec.kwarg_inputs and taken:
        raise inputs_not_given(method, taken)
    if any(getattr(child, "training", False) for child in module.modules()):
        _LOG.warning("the module is in training mode: compiled as after .eval()")
    with _evaluating(module), torch.no_grad():
        args, kwargs = _on(spec.example_inputs("opt", default_dtype=default_dtype(module)), device_of(module))
        _refuse_others(module, method, args, kwargs)
        with as_before(module) as before:
            expected = run(module, method, args, kwargs)
            numbers, buffers, others = before.numbers(), before.buffers(), before.others()
            after = other_run(module, method, args, kwargs) if others else None
        if others:
            with as_before(module):
                if same(other_run(module, method, args, kwargs), after):
                    others = []  # what is only kept, or computed once
        changes = [*numbers, *others], buffers
        if not holds_dataclasses((args, kwargs, expected)):
            return _captured(module, method, spec, args, kwargs, expected, changes)
        result, around = hollow(expected), WithoutDataclasses(module, method, args, kwargs)
        args, kwargs = plainly((args, kwargs))
        found = _captured(around, "forward", plain_spec(spec), args, kwargs, plainly(expected), changes)
        scripted, bound, adapt = found
        return scripted, bound, lambda compiled: WithDataclasses(adapt(compiled), result)


def _captured(
    module: torch.nn.Module, method: str, spec: CompileSpec, args: Any, kwargs: Any, expected: Any, changes: Changes
) -> Found:
    """The module scripted, else exported, else traced: the first that gives what is expected.

    Args:
        changes: names of what a call changes in the module, and only scripting follows; of what exporting also follows.
    """
    from bridge.frontend.load import _as_it_is

    failures: list[str] = []
    scripted = None if isinstance(module, Around) else _try_script(module, method, args, kwargs, expected, failures)
    if scripted is not None:
        return scripted, spec, _as_it_is
    if method != "forward":
        module = AsForward(module, method)
    _warn(module, changes[0])
    with as_before(module):
        exported = _try_export(module, spec, args, kwargs, expected, failures)
    if exported is not None:
        return exported
    _warn(module, changes[1])
    with as_before(module):
        if all(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
            return _trace(module, spec, args, kwargs, expected, failures)
        return _trace_tensors(module, spec, args, kwargs, expected, failures)


def _required(module: torch.nn.Module, method: str) -> list[str]:
    """The arguments that a method must be given."""
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(getattr(module, method)).parameters.values()
    return [one.name for one in parameters if one.kind in plain and one.default is one.empty]


def _refuse_others(module: torch.nn.Module, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    signature = inspect.signature(getattr(module, method))
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        told = f"inputs: they are not those of {method}({', '.join(signature.parameters)})"
        hint = "one item for each, in order; what is given by name goes into kwarg_inputs"
        raise SpecError(told, why=str(error), hint=hint) from error


def _warn(module: torch.nn.Module, names: list[str]) -> None:
    if names:
        told = "%s sets %s when it is called: as it is not scripted, what is compiled keeps what it was"
        _LOG.warning(told, type(module).__name__, ", ".join(names))


def _try_script(
    module: torch.nn.Module, method: str, args: Any, kwargs: Any, expected: Any, failures: list[str]
) -> torch.jit.ScriptModule | None:
    try:
        scripted = torch.jit.script(module)
        result = run(tp.twin(scripted), method, args, kwargs)
    except Exception as error:
        failures.append(f"torch.jit.script: {first_line(error)}")
        return None
    if not same(result, expected):
        failures.append("torch.jit.script: its results differ from the module's")
        return None
    return scripted


def _try_export(
    module: torch.nn.Module, spec: CompileSpec, args: Any, kwargs: Any, expected: Any, failures: list[str]
) -> Found | None:
    from bridge.frontend import exported

    try:
        shapes = exported.dynamic_shapes(module, spec)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assigned during export")  # said by `_warn` where it matters
            program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
        scripted, bound, adapt = exported.from_exported(program, spec)
        result = adapt(scripted)(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except Exception as error:
        failures.append(f"torch.export: {first_line(error)}")
        return None
    if not same(result, expected):
        failures.append("torch.export: its results differ from the module's")
        return None
    return scripted, bound, adapt


def _trace(
    module: torch.nn.Module, spec: CompileSpec, args: Any, kwargs: Any, expected: Any, failures: list[str]
) -> tuple[torch.jit.ScriptModule, CompileSpec, Adapt]:
    from bridge.frontend.load import _as_it_is

    name = type(module).__name__
    leaves, structure = pytree.tree_flatten(expected)
    _refuse_objects(leaves, name)
    _LOG.warning(
        "%s could not be scripted or exported and is traced: control flow that depends on the data is fixed (%s)",
        name, "; ".join(failures),
    )  # fmt: skip
    plain = _is_plain(expected)
    target = module if plain and not kwargs else InARow(module, len(args), list(kwargs), plain)
    try:
        traced = torch.jit.trace(target, (*args, *kwargs.values()), strict=False, check_trace=False)
    except Exception as error:
        failures.append(f"torch.jit.trace: {first_line(error)}")
        raise ExportError(f"{name} can be neither scripted nor exported nor traced", why="; ".join(failures)) from error
    bound = _positional(spec) if kwargs else spec
    refuse_frozen_data(module, traced, args, kwargs)
    refuse_frozen_sizes(module, traced, spec, name)
    if plain:
        return traced, bound, _as_it_is
    return traced, bound, lambda compiled: FromARow(compiled, list(kwargs), len(args), leaves, structure)


def _trace_tensors(
    module: torch.nn.Module, spec: CompileSpec, args: Any, kwargs: Any, expected: Any, failures: list[str]
) -> Found:
    """A trace over the tensors alone: other values among the arguments are part of it, and checked at calls."""
    from bridge.frontend import exported

    leaves, given = pytree.tree_flatten((args, kwargs))
    results, made = pytree.tree_flatten(expected)
    _refuse_objects(results, type(module).__name__)
    places, fixed = _apart(leaves)
    outputs, constants = _apart(results)
    flat = copy.copy(spec)
    flat.kwarg_inputs = {}
    flat.inputs = [exported.in_order(spec, given)[place] for place in places]
    around = OfTensors(module, fixed, given)
    tensors, wanted = tuple(leaves[place] for place in places), tuple(results[place] for place in outputs)
    traced, bound, _ = _trace(around, flat, tensors, {}, wanted, failures)
    script = exported.ExportedScript(traced, given, made, [], places, [], outputs, constants, fixed)
    return traced, bound, lambda compiled: exported.CalledAsProgram(compiled, script)


def _apart(leaves: list[Any]) -> tuple[list[int], dict[int, Any]]:
    """The places of the tensors, and the other leaves by their places."""
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    return places, {place: leaf for place, leaf in enumerate(leaves) if place not in places}


def _is_plain(result: Any) -> bool:
    """Whether TorchScript can return the result as it is: a tensor, or a tuple, list or dict of tensors."""
    if isinstance(result, torch.Tensor):
        return True
    items = result.values() if type(result) is dict else result if type(result) in (tuple, list) else [None]
    return all(isinstance(item, torch.Tensor) for item in items)


def _refuse_objects(leaves: list[Any], name: str) -> None:
    for leaf in leaves:
        if not isinstance(leaf, (torch.Tensor, int, float, bool, str, type(None))):
            raise ExportError(
                f"{name} returns a {type(leaf).__name__}, which cannot be taken apart into tensors",
                hint="leave it out of the result (a cache: use_cache=False), or register it with torch.utils._pytree",
            )


def _positional(spec: CompileSpec) -> CompileSpec:
    moved = copy.copy(spec)
    values = [*(spec.inputs or ()), *spec.kwarg_inputs.values()]
    moved.kwarg_inputs = {}
    moved.inputs = values
    return moved


class FromARow(Dressed):
    """A compiled module whose tensors are put back into the Python structure that the original returned."""

    def __init__(
        self, compiled: torch.jit.ScriptModule, names: list[str], positional: int, leaves: list[Any], structure: Any
    ) -> None:
        super().__init__(compiled)
        self.names, self.positional, self.structure = names, positional, structure
        self.constants = [None if isinstance(leaf, torch.Tensor) else (leaf,) for leaf in leaves]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The original's arguments; those that it was compiled with by name may be given either way."""
        unknown = [name for name in kwargs if name not in self.names]
        if unknown:
            raise TypeError(
                f"unexpected keyword argument {unknown[0]!r}; compiled with {', '.join(self.names) or 'none'}"
            )
        rest = self.names[len(args) - self.positional :] if len(args) > self.positional else self.names
        results = self.compiled(*args, *(kwargs[name] for name in rest))
        tensors = iter(results if isinstance(results, (tuple, list)) else [results])
        filled = [next(tensors) if constant is None else constant[0] for constant in self.constants]
        return pytree.tree_unflatten(filled, self.structure)
