"""Runs of plain modules while they are compiled: without a trace in the module, errors told, results compared."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bridge.errors import SpecError, users_line
from bridge.frontend.around import held_by
from bridge.frontend.observe import told

_LONGEST = 60  # letters of what is told of a value
_CONTAINERS = (list, dict, set, OrderedDict, deque)


class Before:
    """What a module, and all inside it, was before a run: attributes, buffers, and what lists and dicts held."""

    def __init__(self, module: torch.nn.Module) -> None:
        parts = held_by(module).named_modules()
        plain = [(path, child) for path, child in parts if not isinstance(child, torch.jit.ScriptModule)]
        self._kept = [(path, child, dict(child.__dict__), _tables(child)) for path, child in plain]
        self._held = {id(child): _contents(child) for _, child in plain}
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]

    def numbers(self) -> list[str]:
        """Names of numbers and texts that are others now."""
        return [name for name, before, now in self._others() if isinstance(before, (int, float, str))]

    def buffers(self) -> list[str]:
        """Names of buffers, and of other tensors, in whose place there are others now."""
        return [name for name, before, _ in self._others() if isinstance(before, torch.Tensor)]

    def others(self) -> list[str]:
        """Names of what else is new, or holds something else now."""
        seen = (int, float, str, torch.Tensor)
        filled = [
            f"{path}.{name}".lstrip(".")
            for path, child, _, _ in self._kept
            for name, (container, held) in self._held[id(child)].items()
            if not _holds(container, held)
        ]
        return [*(name for name, before, _ in self._others() if not isinstance(before, seen)), *filled]

    def _others(self) -> Iterator[tuple[str, Any, Any]]:
        for path, child, attributes, tables in self._kept:
            now = {**child.__dict__, **child._buffers}
            before = {**attributes, **tables["_buffers"]}
            for name in now:
                if _is_other(now[name], before.get(name)):
                    yield f"{path}.{name}".lstrip("."), before.get(name), now[name]

    def restore(self) -> None:
        """Makes the module what it was."""
        for _, child, attributes, tables in self._kept:
            child.__dict__.clear()
            child.__dict__.update(attributes)
            for container, held in self._held[id(child)].values():
                if not _holds(container, held):
                    container.clear()
                    (container.extend if isinstance(container, list | deque) else container.update)(held)
            for name, table in tables.items():
                getattr(child, name).clear()
                getattr(child, name).update(table)
        with torch.no_grad():
            for buffer, copied in self._buffers:
                if not torch.equal(buffer, copied):
                    buffer.copy_(copied)


@contextmanager
def as_before(module: torch.nn.Module) -> Iterator[Before]:
    """What a module, and all inside it, is changed in by runs is afterwards what it was."""
    before = Before(module)
    try:
        yield before
    finally:
        before.restore()


def _tables(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    return {name: dict(getattr(module, name)) for name in ("_parameters", "_buffers", "_modules")}


def _contents(module: torch.nn.Module) -> dict[str, tuple[Any, Any]]:
    """The user's containers among a module's attributes, each with a copy of what is in it."""
    own = {name: value for name, value in vars(module).items() if type(value) in _CONTAINERS}
    return {name: (value, copy.copy(value)) for name, value in own.items() if name not in _TORCHS}


def _holds(container: Any, held: Any) -> bool:
    """Whether the very same things are in both."""
    if len(container) != len(held) or isinstance(container, set):
        return bool(container == held)
    if isinstance(container, dict):
        return all(name in held and held[name] is value for name, value in container.items())
    return all(one is other for one, other in zip(container, held, strict=True))


def _is_other(now: Any, before: Any) -> bool:
    if isinstance(before, (int, float, str)):
        return type(now) is not type(before) or now != before
    return now is not before


_TORCHS = frozenset(vars(torch.nn.Module()))


def run(module: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    called = module if method == "forward" else getattr(module, method)  # hooks are part of a call
    try:
        with torch.random.fork_rng(devices=[]):
            return called(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except Exception as error:
        given = pytree.tree_leaves((args, kwargs))
        raise SpecError(
            "the module does not run on inputs of the given shapes and dtypes",
            where="; ".join(filter(None, [users_line(error), ", ".join(map(_described, given))])),
            why=f"{type(error).__name__}: {told(error)}",
            hint="give real tensors as inputs: spec=[tensor, ...] or bridge.Input(example=tensor); "
            "bridge.Input(value_range=...) for indices",
        ) from error


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)[:_LONGEST]
    tensor = value
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
