"""What a trace holds as a constant though it varies: other values and other sizes of the inputs show it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bridge.errors import ExportError, SpecError
from bridge.frontend.runs import as_before, first_line, run, same, tensors_of
from bridge.spec import CompileSpec


def refuse_frozen_data(module: torch.nn.Module, traced: torch.jit.ScriptModule, args: Any, kwargs: Any) -> None:
    """A trace holds as constants what left PyTorch on the way (NumPy, numbers): other values of the inputs show it.

    Raises:
        ExportError: the trace gives other results than the module on the example's values in another order.
    """
    other_args, other_kwargs = pytree.tree_map(_shuffled, (args, kwargs))
    with as_before(module):
        expected = other_run(module, "forward", args, kwargs)
    if expected is None:
        return
    with torch.random.fork_rng(devices=[]):
        found = _run_traced(traced, other_args, other_kwargs)
    if not same(found, expected):
        raise ExportError(
            f"tracing {type(module).__name__} froze values: with other inputs of the same shapes its results differ",
            why="what is computed outside of PyTorch, and branches that depend on the data, are constants in a trace",
            hint="compute it with tensors, torch.where or torch.cond; or make the module scriptable",
        )


def other_run(module: torch.nn.Module, method: str, args: Any, kwargs: Any) -> list[torch.Tensor] | None:
    """The tensors that come of the example's values in another order; None where those are none for this module."""
    try:
        return tensors_of(run(module, method, *pytree.tree_map(_shuffled, (args, kwargs))))
    except SpecError:
        return None


def _shuffled(value: Any) -> Any:
    """The values of a tensor in another order; of floating ones, also made smaller, some by half."""
    if not isinstance(value, torch.Tensor) or value.numel() < 2 or value.layout is not torch.strided:
        return value
    order = torch.randperm(value.numel(), generator=torch.Generator().manual_seed(0)).to(value.device)
    shuffled = value.reshape(-1)[order]
    if value.is_floating_point():
        shuffled = shuffled * torch.linspace(0.5, 1.0, value.numel(), dtype=value.dtype, device=value.device)
    return shuffled.reshape(value.shape)


def refuse_frozen_sizes(module: Any, traced: torch.jit.ScriptModule, spec: CompileSpec, name: str) -> None:
    """A trace may hold a size of its example as a constant: the smallest and largest inputs show it.

    Raises:
        ExportError: the trace gives other results than the module at another size.
    """
    from bridge.frontend.load import _on, default_dtype, device_of

    if not any(leaf.is_dynamic for leaf in spec.flat_inputs()):
        return
    for which in ("min", "max"):
        args, kwargs = _on(spec.example_inputs(which, default_dtype=default_dtype(module)), device_of(module))
        expected = tensors_of(run(module, "forward", args, kwargs))
        try:
            with torch.random.fork_rng(devices=[]):
                frozen = not same(_run_traced(traced, args, kwargs), expected)
        except Exception as error:
            frozen, why = True, first_line(error)
        else:
            why = "its results differ from the module's"
        if frozen:
            raise ExportError(
                f"tracing {name} froze a size: the trace does not work at the {which}imum shapes", why=why,
                hint="make the module scriptable or exportable, or compile it for static shapes",
            )  # fmt: skip


def _run_traced(traced: torch.jit.ScriptModule, args: Any, kwargs: Any) -> list[torch.Tensor]:
    result = traced(*copy.deepcopy(args), *copy.deepcopy(tuple(kwargs.values())))
    return tensors_of(result)
