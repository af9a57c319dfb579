"""Inputs to compare with, and the names of what goes in and comes out."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from bridge import torch_private as tp
from bridge.errors import BridgeError, SpecError, users_line


@dataclass(frozen=True)
class InputSet:
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def leaves(self, argument_names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Every tensor by a dotted name, in order."""
        names = [*argument_names, *(f"input_{i}" for i in range(len(argument_names), len(self.args)))]
        pairs = [*zip(names, self.args, strict=False), *self.kwargs.items()]
        return {key: value for name, item in pairs for key, value in tensors_in(item, name).items()}

    def filled(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with these tensors, in order, in the places of its own."""
        remaining = iter(tensors)
        args, kwargs = pytree.tree_map(
            lambda v: next(remaining) if isinstance(v, torch.Tensor) else v, (self.args, self.kwargs)
        )
        return args, kwargs


def input_sets(inputs: Any, limit: int | None = None) -> list[InputSet]:
    """One set, or several: a list whose items are all tuples or dicts holds one set an item.

    So does a file (Polygraphy's .json, .pt, .npz), by its path, and anything that is iterated over and is no list,
    tuple, dict or tensor: Polygraphy's and PyTorch's data loaders, a generator; their items may be lists too.

    Args:
        limit: take so many sets at most.

    Raises:
        SpecError: there are none, or nothing is a tensor.
        BridgeError: the file cannot be read.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise SpecError(f"limit: expected a whole number of at least 1, got {limit!r}")
    if isinstance(inputs, str | Path):
        inputs = from_file(Path(inputs))
    several = isinstance(inputs, list) and inputs and all(isinstance(item, tuple | dict | InputSet) for item in inputs)
    items = inputs if several or _is_loader(inputs) else [inputs]
    found = [_input_set(item) for item in itertools.islice(items, limit)]
    if not found or not all(one.args or one.kwargs for one in found):
        raise SpecError("inputs: nothing to compare with", hint="give a tuple of tensors, or a list of such tuples")
    if isinstance(inputs, bool | int | float | bytes):
        told = f"inputs: expected tensors, got {inputs!r} ({type(inputs).__name__})"
        raise SpecError(told, hint="a tensor, a tuple of arguments, a dict by name, a list of these, or a file's path")
    return found


def one_set(inputs: Any) -> InputSet:
    """The arguments of one call.

    Raises:
        SpecError: there are none, or those of several calls.
    """
    sets = input_sets(inputs)
    if len(sets) != 1:
        raise SpecError(f"inputs: {len(sets)} sets of inputs, but this is one call", hint="give a tuple of tensors")
    return sets[0]


def from_file(path: Path) -> Any:
    """Inputs kept in a file: Polygraphy's JSON, what torch.save wrote (.pt), or named arrays (.npz).

    Raises:
        BridgeError: there is no such file, or it holds none.
    """
    if not path.is_file():
        raise BridgeError(f"there is no file {path}")
    if path.suffix == ".json":
        return from_json(path)
    try:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return torch.load(path, weights_only=True)
    except Exception as error:  # pickle's, zip's and NumPy's have no common base
        told = str(error).strip().splitlines() or [type(error).__name__]
        hint = "torch.save((tensor, ...), path), or numpy.savez(path, name=array, ...)"
        raise BridgeError(f"{path} holds no tensors", why=told[0], hint=hint) from error


def _is_loader(inputs: Any) -> bool:
    held = isinstance(inputs, list | tuple | Mapping | torch.Tensor | np.ndarray) or dataclasses.is_dataclass(inputs)
    return not held and (hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__"))


def _input_set(given: Any) -> InputSet:
    if isinstance(given, InputSet):
        return given
    given = pytree.tree_map(lambda v: torch.from_numpy(v) if isinstance(v, np.ndarray) else v, given)
    if isinstance(given, Mapping):
        return InputSet((), dict(given))
    return InputSet(tuple(given), {}) if isinstance(given, tuple | list) else InputSet((given,), {})


def argument_names(module: torch.nn.Module) -> list[str]:
    """The names of forward's arguments, without self."""
    if isinstance(module, torch.jit.ScriptModule):
        if not tp.has_method(module, "forward"):
            raise SpecError("a module without forward cannot be called", hint=f"it has {tp.method_names(module)}")
        return [argument.name for argument in tp.schema_of(module).arguments[1:]]
    parameters = inspect.signature(module.forward).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def tensors_in(value: Any, name: str = "", numbers: tuple[type, ...] = ()) -> dict[str, torch.Tensor]:
    """Every tensor in a nest by a dotted name: keys, fields, positions; results go by ``output`` and ``output_0``.

    Args:
        numbers: types of numbers that are taken too, as tensors without dimensions.
    """
    if isinstance(value, torch.Tensor):
        return {name or "output": value}
    if isinstance(value, numbers):
        return {name or "output": torch.tensor(value)}
    found: dict[str, torch.Tensor] = {}
    for part, child in _children(value):
        label = f"{name}.{part}" if name else f"output_{part}" if isinstance(part, int) else str(part)
        found.update(tensors_in(child, label, numbers))
    return found


def _children(value: Any) -> list[tuple[int | str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), child) for key, child in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []


def from_json(path: Path) -> list[dict[str, Any]]:
    """Sets of inputs by name from Polygraphy's JSON."""
    from polygraphy.exception import PolygraphyException
    from polygraphy.json import load_json

    from bridge.compare.outputs import quiet_polygraphy

    try:
        with quiet_polygraphy():
            sets = load_json(str(path))
            return [{name: torch.as_tensor(array) for name, array in one.items()} for one in sets]
    except (PolygraphyException, ValueError, AttributeError, TypeError) as error:
        raise SpecError(f"{path} holds no inputs in Polygraphy's JSON", why=str(error).splitlines()[0]) from error


def from_script(text: str) -> Any:
    """What a function in a script gives: ``file.py`` or ``file.py:function``, by default ``load_data``, as Polygraphy.

    Raises:
        SpecError: there is no such script or function, or it fails.
    """
    from polygraphy.backend.common import InvokeFromScript

    path, colon, function = text.rpartition(":")
    path, function = (path, function) if colon and path.endswith(".py") else (text, "load_data")
    if not Path(path).is_file():
        raise SpecError(f"there is no script {path}")
    if Path(path).suffix != ".py":
        raise SpecError(f"{path} is no script of Python's", hint="file.py, or file.py:function")
    try:
        return InvokeFromScript(path, function)()
    except Exception as error:  # the script's own among them
        told = str(error).strip().splitlines() or [""]
        why = f"{type(error).__name__}: {told[0]}"
        line = users_line(error) or ""
        where = line if line.startswith(Path(path).name) else None
        raise SpecError(f"{path}: {function}() gives no inputs", where=where, why=why) from error
