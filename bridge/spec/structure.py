"""Nested inputs: what each item of a spec's ``inputs`` means, and the same nest as a flat list of leaves.

An item is read by the first of these that fits:

- an `Input` or a `Constant`: itself;
- a tensor or a numpy array: an example, its shape and dtype static;
- a torch.Size, or a list or tuple of nothing but ints (the empty one too): a shape;
- a dict with the keys "min", "opt" and "max": a range of shapes;
- another list, tuple, dict, named tuple or dataclass: a nest of items;
- a number, bool, string, None, torch.dtype or torch.device: a constant that is passed to the module as it is.

`Constant` passes on what would be read as something else: ``Constant((4, 5))`` is a tuple of two ints.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy
import torch

from bridge.errors import SpecError
from bridge.spec.complaints import nearest, wrong
from bridge.spec.inputs import Dims, Input, Shape

_RANGE = ("min", "opt", "max")
_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device)

Key = int | str
Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Constant:
    """A Python value that the module is called with as it is."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One input tensor or constant of the flat view.

    Args:
        name: unique and dotted: "x", "states.0", "features.mask".
        path: the argument (its position, or its name for a keyword), then the keys inside it.
        field: where the spec holds it, for messages: "inputs[1]['mask']".
        value: the `Input`, or the constant's Python value.
        dtype: the tensor's dtype; None for a constant.
        dims: per axis the size, or the dimension's name where it is dynamic.
    """

    name: str
    path: Path
    field: str
    value: Any
    dtype: torch.dtype | None
    dims: Dims

    @property
    def is_tensor(self) -> bool:
        """Whether this is a tensor, not a constant."""
        return self.dtype is not None

    @property
    def is_dynamic(self) -> bool:
        """Whether any of its dimensions has a range."""
        return self.is_tensor and self.value.is_dynamic

    @property
    def min_shape(self) -> Shape:
        """The smallest shape; () for a constant."""
        return self.value.min_shape if self.is_tensor else ()

    @property
    def opt_shape(self) -> Shape:
        """The shape to optimise for; () for a constant."""
        return self.value.opt_shape if self.is_tensor else ()

    @property
    def max_shape(self) -> Shape:
        """The largest shape; () for a constant."""
        return self.value.max_shape if self.is_tensor else ()


def normalized(item: Any, field: str, around: tuple[Any, ...] = ()) -> Any:
    """The item with Inputs and Constants as its only leaves; the rules are at the top of this page.

    Args:
        around: the nests that it is in.

    Raises:
        SpecError: naming ``field`` and the place inside it.
    """
    if isinstance(item, Input | Constant):
        return item
    if isinstance(item, torch.Tensor):
        return Input.at(field, example=item)
    if isinstance(item, numpy.ndarray):
        return Input.at(field, example=_from_numpy(item, field))
    if isinstance(item, _PLAIN):
        return Constant(item)
    if isinstance(item, numpy.generic):
        return Constant(item.item())
    if hasattr(item, "shape_mode"):
        return _torch_tensorrt_input(item, field)
    if isinstance(item, Mapping) and _is_range(item, field):
        return Input.at(field, **{f"{kind}_shape": item[kind] for kind in _RANGE})
    if is_shape(item):
        return Input.at(field, shape=tuple(item))
    _refuse_half_a_shape(item, field)
    if not is_nest(item):
        raise wrong(field, item, "an Input, a tensor, a shape, a range or a nest of these")
    if any(item is one for one in around):
        raise SpecError(f"{field}: the nest is in itself")
    return mapped_children(item, lambda key, child: normalized(child, f"{field}[{key!r}]", (*around, item)))


def _from_numpy(item: numpy.ndarray[Any, Any], field: str) -> torch.Tensor:
    try:
        return torch.from_numpy(numpy.array(item))  # a copy: negative strides and read-only memory are PyTorch's limits
    except TypeError as error:
        raise wrong(field, item, "an array of numbers", hint=f"PyTorch has no dtype for {item.dtype}") from error


def is_shape(item: object) -> bool:
    """Whether the item is a list or tuple of nothing but ints (also torch.Size)."""
    plain = isinstance(item, list | tuple) and not hasattr(item, "_fields")
    return plain and all(isinstance(size, Integral) and not isinstance(size, bool) for size in item)  # type: ignore[attr-defined]


def is_nest(item: object) -> bool:
    """Whether the item holds other items."""
    return isinstance(item, list | tuple | Mapping) or (dataclasses.is_dataclass(item) and not isinstance(item, type))


def children(item: Any) -> Iterator[tuple[Any, Any]]:
    """The (key, child) pairs of a nest."""
    if isinstance(item, Mapping):
        yield from item.items()
    elif isinstance(item, list | tuple):
        yield from enumerate(item)
    else:
        yield from ((field.name, getattr(item, field.name)) for field in dataclasses.fields(item))


def mapped_children(item: Any, change: Callable[[Any, Any], Any]) -> Any:
    """The same nest with ``change(key, child)`` in the place of each child."""
    changed = {key: change(key, child) for key, child in children(item)}
    if isinstance(item, Mapping):
        return OrderedDict(changed) if isinstance(item, OrderedDict) else changed
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        try:
            return remade(item, changed)
        except Exception:  # its constructor may refuse what only describes a tensor
            return bare(item, changed)
    if hasattr(item, "_fields"):
        return type(item)(*changed.values())
    return list(changed.values()) if isinstance(item, list) else tuple(changed.values())


def remade(item: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass like ``item``, made by its own constructor, with a value for each field; raises what that raises."""
    made = dataclasses.replace(item, **{one.name: values[one.name] for one in dataclasses.fields(item) if one.init})
    for one in dataclasses.fields(item):
        if not one.init:
            object.__setattr__(made, one.name, values[one.name])
    return made


def bare(item: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass like ``item`` that has nothing but these values in its fields; its constructor is not called."""
    made = object.__new__(type(item))
    for one in dataclasses.fields(item):
        object.__setattr__(made, one.name, values[one.name])
    return made


def leaves_of(item: Any, name: str, path: Path, field: str) -> Iterator[tuple[str, Path, str, Input | Constant]]:
    """(name, path, field, value) of each leaf, depth first, in order."""
    if isinstance(item, Input | Constant):
        own = item.name if isinstance(item, Input) and item.name else name
        yield own, path, field, item
        return
    for key, child in children(item):
        yield from leaves_of(child, f"{name}.{key}", (*path, key), f"{field}[{key!r}]")


def filled(item: Any, values: Iterator[Any]) -> Any:
    """The nest with the next of ``values`` in the place of each leaf."""
    if isinstance(item, Input | Constant):
        return next(values)
    return mapped_children(item, lambda _, child: filled(child, values))


def _is_range(item: Mapping[Any, Any], field: str) -> bool:
    if set(item) == set(_RANGE):
        return True
    looks_it = bool(item) and all(is_shape(value) for value in item.values())
    if not looks_it or not set(item) & set(_RANGE):
        return False
    for key in item:
        if key not in _RANGE:
            meant = nearest(str(key), [kind for kind in _RANGE if kind not in item])
            hint = f'did you mean "{meant}"?' if meant else "give Inputs when this is a nest of three inputs"
            raise SpecError(f'{field}: a range has "min", "opt" and "max", not {key!r}', hint=hint)
    missing = next(kind for kind in _RANGE if kind not in item)
    raise SpecError(f'{field}: the range has no "{missing}"', hint='a range has "min", "opt" and "max"')


def _refuse_half_a_shape(item: object, field: str) -> None:
    plain = isinstance(item, list | tuple) and not hasattr(item, "_fields")
    if not plain or not all(isinstance(size, int | str) for size in item):  # type: ignore[attr-defined]
        return
    kinds = {type(size) for size in item}  # type: ignore[attr-defined]
    if kinds == {int, str}:
        raise SpecError(
            f"{field}: {item!r} is a shape with named dimensions, which need a range",
            hint=f"Input({item!r}, min_shape=..., opt_shape=..., max_shape=...), or Constant({item!r})",
        )


def _torch_tensorrt_input(item: Any, field: str) -> Input:
    """Torch-TensorRT's Input as ours."""
    shape = item.shape
    example = getattr(item, "torch_tensor", None)
    shared = {"dtype": getattr(item, "dtype", None), "name": getattr(item, "name", None) or None}
    if isinstance(shape, Mapping):
        shapes = {kind: tuple(shape[kind]) for kind in ("min_shape", "opt_shape", "max_shape")}
        return Input.at(field, **shapes, **shared)
    fits = isinstance(example, torch.Tensor) and tuple(example.shape) == tuple(shape)
    return Input.at(field, shape=tuple(shape), example=example if fits else None, **shared)


def check_names(found: Sequence[Leaf]) -> None:
    """No two leaves have one name, and inputs that share a dimension give it one range.

    Raises:
        SpecError: naming both fields.
    """
    owners: dict[str, Leaf] = {}
    ranges: dict[str, tuple[tuple[int, int, int], str]] = {}
    for leaf in found:
        if leaf.name in owners:
            told = f"{leaf.field}.name: {leaf.name!r} is also the name of {owners[leaf.name].field}"
            raise SpecError(told, hint="give each Input a name of its own")
        owners[leaf.name] = leaf
        for axis, bounds in dynamic_axes(leaf).items():
            name, place = str(leaf.dims[axis]), f"{leaf.field}.shape[{axis}]"
            known, owner = ranges.setdefault(name, (bounds, place))
            if known != bounds:
                told = f"{place}: the dimension {name!r} ranges over {_told(bounds)}, but {_told(known)} in {owner}"
                raise SpecError(told, hint="inputs that share a dimension's name share its range")


def dynamic_axes(leaf: Leaf) -> dict[int, tuple[int, int, int]]:
    """(min, opt, max) of each dynamic axis."""
    bounds = zip(leaf.min_shape, leaf.opt_shape, leaf.max_shape, strict=True)
    return {axis: sizes for axis, sizes in enumerate(bounds) if isinstance(leaf.dims[axis], str)}


def _told(bounds: tuple[int, int, int]) -> str:
    return "min {}, opt {}, max {}".format(*bounds)
