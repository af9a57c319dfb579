"""Runs of plain modules while they are compiled: without a trace in the module, errors told, results compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bridge.errors import SpecError, users_line
from bridge.frontend.observe import told


@contextmanager
def as_before(module: torch.nn.Module) -> Iterator[dict[str, bool]]:
    """Attributes and buffers of a module, and of all inside it, are afterwards what they were.

    Gives what is filled on the way out: by name, whether what was set is a buffer; else it is a number or a text.
    """
    plain = [(path, child) for path, child in module.named_modules() if not isinstance(child, torch.jit.ScriptModule)]
    kept = [(path, child, dict(child.__dict__), _tables(child)) for path, child in plain]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    changed: dict[str, bool] = {}
    try:
        yield changed
    finally:
        for path, child, attributes, tables in kept:
            now = {**child.__dict__, **child._buffers}
            before = {**attributes, **tables["_buffers"]}
            other = [name for name, value in before.items() if _is_other(now.get(name), value)]
            changed |= {f"{path}.{name}".lstrip("."): isinstance(before[name], torch.Tensor) for name in other}
            child.__dict__.clear()
            child.__dict__.update(attributes)
            for name, table in tables.items():
                getattr(child, name).clear()
                getattr(child, name).update(table)
        with torch.no_grad():
            for buffer, copied in buffers:
                if not torch.equal(buffer, copied):
                    buffer.copy_(copied)


def _tables(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    return {name: dict(getattr(module, name)) for name in ("_parameters", "_buffers", "_modules")}


def _is_other(now: Any, before: Any) -> bool:
    if isinstance(before, torch.Tensor):
        return now is not before
    return isinstance(before, (int, float, str)) and (type(now) is not type(before) or now != before)


def run(module: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    called = module if method == "forward" else getattr(module, method)  # hooks are part of a call
    try:
        with torch.random.fork_rng(devices=[]):
            return called(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except Exception as error:
        given = (v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor))
        raise SpecError(
            "the module does not run on inputs of the given shapes and dtypes",
            where="; ".join(filter(None, [users_line(error), ", ".join(map(_described, given))])),
            why=f"{type(error).__name__}: {told(error)}",
            hint="give real tensors as inputs: spec=[tensor, ...] or bridge.Input(example=tensor); "
            "bridge.Input(value_range=...) for indices",
        ) from error


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape)) or 'scalar'}"


def tensors_of(result: Any) -> list[torch.Tensor]:
    """The tensors in a nest, in order."""
    return [value for value in pytree.tree_leaves(result) if isinstance(value, torch.Tensor)]


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


def first_line(error: BaseException) -> str:
    """An error in one line: its type, and what it says first."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:200]
