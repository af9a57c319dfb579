"""Modules around a user's: other arguments and results, the same parameters and submodules under the same names."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bridge.errors import BridgeError, ExportError
from bridge.spec import CompileSpec, Constant
from bridge.spec.structure import bare, remade


class Around(torch.nn.Module):
    """Calls a method of another module, and holds what that module holds, so that paths and names stay the user's."""

    def __init__(self, module: torch.nn.Module, method: str) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self.held, self.method, self.training = (module,), method, module.training  # in a tuple: no submodule
        self.__class__ = type(type(module).__name__, (type(self),), {})

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method; hooks are part of a call."""
        module = self.held[0]
        return (module if self.method == "forward" else getattr(module, self.method))(*args, **kwargs)


def held_by(module: torch.nn.Module) -> torch.nn.Module:
    """The user's module, whatever stands around it."""
    while isinstance(module, Around):
        module = module.held[0]
    return module


class AsForward(Around):
    """A module whose forward is another method of it."""

    def __init__(self, module: torch.nn.Module, method: str) -> None:
        super().__init__(module, method)
        kind: Any = type(self)
        if inspect.ismethod(called := getattr(module, method)):
            # torch.export names its inputs by the arguments of forward
            kind.forward = _with_signature(kind.forward, inspect.signature(called.__func__))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


class WithoutDataclasses(AsForward):
    """A module whose dataclasses, in arguments and results, are dicts of their fields."""

    def __init__(self, module: torch.nn.Module, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(module, method)
        self.arguments = hollow((args, kwargs))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = restored(self.arguments, (args, kwargs))
        return plainly(self.call(*args, **kwargs))


class InARow(Around):
    """A module whose tensors come in a row and go out in a row, or whose result is ``plain`` as it is."""

    def __init__(self, module: torch.nn.Module, positional: int, names: list[str], plain: bool) -> None:
        super().__init__(module, "forward")
        self.positional, self.names, self.plain = positional, names, plain

    def forward(self, *args: Any) -> Any:
        result = self.call(*args[: self.positional], **dict(zip(self.names, args[self.positional :], strict=True)))
        return result if self.plain else tuple(v for v in pytree.tree_leaves(result) if isinstance(v, torch.Tensor))


class OfTensors(Around):
    """A module that is given its tensors alone, in a row, and gives those of its result as a tuple.

    Args:
        fixed: the other leaves of ``(args, kwargs)``, by their places.
        structure: that of ``(args, kwargs)``.
    """

    def __init__(self, module: torch.nn.Module, fixed: dict[int, Any], structure: pytree.TreeSpec) -> None:
        super().__init__(module, "forward")
        self.fixed, self.structure = fixed, structure

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(tensors)
        leaves = [self.fixed[i] if i in self.fixed else next(given) for i in range(self.structure.num_leaves)]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        result = self.call(*args, **kwargs)
        return tuple(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))


def _with_signature(function: Any, signature: inspect.Signature) -> Any:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    return forward


class Dressed(torch.nn.Module):
    """A compiled module behind the calls of the original, with Python structures that TorchScript has no word for.

    ``torch.save`` saves it whole, ``torch.jit.save`` what is inside: ``.compiled``, with its tensors in a row.
    """

    def __init__(self, compiled: torch.nn.Module) -> None:
        super().__init__()
        self.compiled = compiled

    def save(self, *_: Any, **__: Any) -> None:
        """Raises BridgeError: this is what ``torch.jit.save`` calls."""
        raise BridgeError(
            "TorchScript cannot hold this module",
            why="its arguments or results are Python structures that TorchScript has no word for",
            hint="torch.save, and torch.load(path, weights_only=False); torch.jit.save takes what is in its .compiled",
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Dressed:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value for name, value in self.__dict__.items() if name != "_modules"}
        return _dressed, (type(self), state, _scripted_bytes(self.compiled))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


def _scripted_bytes(compiled: torch.nn.Module) -> Any:
    """A ScriptModule, which does not pickle, as the bytes of its file."""
    if not isinstance(compiled, torch.jit.ScriptModule):
        return compiled
    file = io.BytesIO()
    torch.jit.save(compiled, file)
    return file.getvalue()


def _dressed(kind: type[Dressed], state: dict[str, Any], compiled: Any) -> Dressed:
    made = kind.__new__(kind)
    torch.nn.Module.__init__(made)
    made.__dict__.update(state)
    made.compiled = torch.jit.load(io.BytesIO(compiled)) if isinstance(compiled, bytes) else compiled
    return made


class WithDataclasses(Dressed):
    """One whose arguments and results are the dataclasses of the original again."""

    def __init__(self, compiled: torch.nn.Module, result: Any) -> None:
        super().__init__(compiled)
        self.result = result

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = plainly((args, kwargs))
        return restored(self.result, self.compiled(*args, **kwargs))


def holds_dataclasses(value: Any) -> bool:
    """Whether there is a dataclass in a nest that PyTorch does not know how to take apart."""
    return any(map(_is_foreign, pytree.tree_leaves(value, is_leaf=_is_foreign)))


def plainly(value: Any) -> Any:
    """The nest with dicts of their fields in the place of dataclasses."""
    return _mapped(lambda one: {name: plainly(field) for name, field in _fields(one).items()}, value)


def plain_spec(spec: CompileSpec) -> CompileSpec:
    """A spec for the module without its dataclasses."""
    plain = copy.copy(spec)
    plain.inputs, plain.kwarg_inputs = plainly(spec.inputs), plainly(dict(spec.kwarg_inputs))
    return plain


def hollow(value: Any) -> Any:
    """The nest without its tensors: what `restored` needs to know of it.

    Raises:
        ExportError: a dataclass in it is not to be had from its fields.
    """
    restored(value, plainly(value))
    return _hollow(value)


def _hollow(value: Any) -> Any:
    emptied = _mapped(lambda one: bare(one, {name: _hollow(field) for name, field in _fields(one).items()}), value)
    leaves, structure = pytree.tree_flatten(emptied, is_leaf=_is_foreign)
    return pytree.tree_unflatten([None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], structure)


def restored(like: Any, value: Any) -> Any:
    """What `plainly` has taken apart, put together again as ``like`` is.

    Raises:
        ExportError: a dataclass cannot be made of its fields.
    """
    leaves, structure = pytree.tree_flatten(like, is_leaf=_is_foreign)
    values = structure.flatten_up_to(value)
    made = [_made(one, given) if _is_foreign(one) else given for one, given in zip(leaves, values, strict=True)]
    return pytree.tree_unflatten(made, structure)


def _made(like: Any, values: dict[str, Any]) -> Any:
    fields = {name: restored(field, values[name]) for name, field in _fields(like).items()}
    try:
        return remade(like, fields)
    except Exception as error:
        name = type(like).__name__
        raise ExportError(
            f"{name}, a dataclass, cannot be made of its fields",
            why=f"{type(error).__name__}: {error}",
            hint="leave it out, or register it with torch.utils._pytree",
        ) from error


def _fields(value: Any) -> dict[str, Any]:
    return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}


def _mapped(change: Any, value: Any) -> Any:
    return pytree.tree_map(lambda leaf: change(leaf) if _is_foreign(leaf) else leaf, value, is_leaf=_is_foreign)


def _is_foreign(value: Any) -> bool:
    is_one = dataclasses.is_dataclass(value) and not isinstance(value, type | Constant)
    return is_one and type(value) not in pytree.SUPPORTED_NODES
