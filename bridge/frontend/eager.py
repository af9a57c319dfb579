"""Plain nn.Modules: scripted or exported where that gives the same results, else traced with a warning."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from bridge.errors import ExportError, SpecError
from bridge.frontend.observe import told
from bridge.spec import CompileSpec

if TYPE_CHECKING:
    from bridge.frontend.load import Adapt

    Found = tuple[torch.jit.ScriptModule, CompileSpec, Adapt]

_LOG = logging.getLogger("bridge.frontend")


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Runs in eval mode and leaves every submodule in the mode it was in."""
    modes = [(child, child.training) for child in module.modules()]
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
    from bridge.frontend.load import _as_it_is, _on, default_dtype, device_of

    if any(child.training for child in module.modules()):
        _LOG.warning("the module is in training mode: compiled as after .eval()")
    failures: list[str] = []
    with _evaluating(module), torch.no_grad():
        args, kwargs = _on(spec.example_inputs("opt", default_dtype=default_dtype(module)), device_of(module))
        expected = _run(module, method, args, kwargs)
        scripted = _try_script(module, method, args, kwargs, expected, failures)
        if scripted is not None:
            return scripted, spec, _as_it_is
        if method == "forward":
            exported = _try_export(module, spec, args, kwargs, expected, failures)
            if exported is not None:
                return exported
        return _trace(module, method, spec, args, kwargs, expected, failures)


def _run(module: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):
            return getattr(module, method)(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except Exception as error:
        raise SpecError(
            "the module does not run on inputs of the given shapes and dtypes",
            why=told(error),
            hint="give real tensors as inputs: spec=[tensor, ...] or bridge.Input(example=tensor)",
        ) from error


def _try_script(
    module: torch.nn.Module, method: str, args: Any, kwargs: Any, expected: Any, failures: list[str]
) -> torch.jit.ScriptModule | None:
    try:
        scripted = torch.jit.script(module)
        result = _run(scripted, method, args, kwargs)
    except Exception as error:
        failures.append(f"torch.jit.script: {_first_line(error)}")
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
        program = torch.export.export(
            module, args, kwargs, dynamic_shapes=exported.dynamic_shapes(module, spec), strict=False
        )
        scripted, bound, adapt = exported.from_exported(program, spec)
        result = adapt(scripted)(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except Exception as error:
        failures.append(f"torch.export: {_first_line(error)}")
        return None
    if not same(result, expected):
        failures.append("torch.export: its results differ from the module's")
        return None
    return scripted, bound, adapt


def _trace(
    module: torch.nn.Module, method: str, spec: CompileSpec, args: Any, kwargs: Any, expected: Any, failures: list[str]
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
    target = (
        module
        if plain and method == "forward" and not kwargs
        else _Flat(module, method, len(args), list(kwargs), plain)
    )
    try:
        traced = torch.jit.trace(target, (*args, *kwargs.values()), strict=False, check_trace=False)
    except Exception as error:
        failures.append(f"torch.jit.trace: {_first_line(error)}")
        raise ExportError(f"{name} can be neither scripted nor exported nor traced", why="; ".join(failures)) from error
    bound = _positional(spec) if kwargs else spec
    _refuse_frozen_sizes(module, method, traced, spec, name)
    if plain:
        return traced, bound, _as_it_is
    return traced, bound, lambda compiled: Dressed(compiled, list(kwargs), len(args), leaves, structure)


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


def _refuse_frozen_sizes(
    module: Any, method: str, traced: torch.jit.ScriptModule, spec: CompileSpec, name: str
) -> None:
    """A trace may hold a size of its example as a constant: the smallest and largest inputs show it.

    Raises:
        ExportError: the trace gives other results than the module at another size.
    """
    from bridge.frontend.load import _on, default_dtype, device_of

    if not any(leaf.is_dynamic for leaf in spec.flat_inputs()):
        return
    for which in ("min", "max"):
        args, kwargs = _on(spec.example_inputs(which, default_dtype=default_dtype(module)), device_of(module))
        expected = [
            v for v in pytree.tree_flatten(_run(module, method, args, kwargs))[0] if isinstance(v, torch.Tensor)
        ]
        try:
            with torch.random.fork_rng(devices=[]):
                frozen = not same(_run_traced(traced, args, kwargs), expected)
        except Exception as error:
            frozen, why = True, _first_line(error)
        else:
            why = "its results differ from the module's"
        if frozen:
            raise ExportError(
                f"tracing {name} froze a size: the trace does not work at the {which}imum shapes", why=why,
                hint="make the module scriptable or exportable, or compile it for static shapes",
            )  # fmt: skip


def _run_traced(traced: torch.jit.ScriptModule, args: Any, kwargs: Any) -> list[torch.Tensor]:
    result = traced(*copy.deepcopy(args), *copy.deepcopy(tuple(kwargs.values())))
    return [v for v in pytree.tree_flatten(result)[0] if isinstance(v, torch.Tensor)]


def _positional(spec: CompileSpec) -> CompileSpec:
    moved = copy.copy(spec)
    values = [*(spec.inputs or ()), *spec.kwarg_inputs.values()]
    moved.kwarg_inputs = {}
    moved.inputs = values
    return moved


class _Flat(torch.nn.Module):
    """A module whose tensors come in a row and go out in a row."""

    def __init__(self, module: torch.nn.Module, method: str, positional: int, names: list[str], plain: bool) -> None:
        super().__init__()
        self.module, self.method, self.positional, self.names, self.plain = module, method, positional, names, plain

    def forward(self, *args: Any) -> Any:
        named = dict(zip(self.names, args[self.positional :], strict=True))
        result = getattr(self.module, self.method)(*args[: self.positional], **named)
        return result if self.plain else tuple(v for v in pytree.tree_flatten(result)[0] if isinstance(v, torch.Tensor))


class Dressed(torch.nn.Module):
    """A compiled module whose tensors are put back into the Python structure that the original returned."""

    def __init__(
        self, compiled: torch.jit.ScriptModule, names: list[str], positional: int, leaves: list[Any], structure: Any
    ) -> None:
        super().__init__()
        self.compiled, self.names, self.positional, self.structure = compiled, names, positional, structure
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


def same(result: Any, expected: Any) -> bool:
    """Whether all tensors agree as two runs of one computation do."""
    left, right = pytree.tree_flatten(result)[0], pytree.tree_flatten(expected)[0]
    if len(left) != len(right):
        return False
    return all(_equal(a, b) for a, b in zip(left, right, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return (
            type(a) is type(b) and bool(a == b)
            if not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor)
            else False
        )
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.dtype.is_floating_point:
        return bool(torch.equal(a, b))
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(a.dtype, 2e-2)
    return bool(torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:200]
