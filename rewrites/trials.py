"""Runs of a PyTorch function on random tensors, at the sizes at hand and at others, to hold its exports against."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewrites.errors import Refusal
from rewrites.example import SIZES

_MOST_ELEMENTS = 1 << 20
Sizes = dict[tuple[int, int], int]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Operand:
    """A tensor argument.

    Attributes:
        dtype: its element type.
        dims: its dimensions: int, str for a symbol, None.
        fixed: axes that never vary.
        seen: the dimensions that it had in a run of the model, where that is known.
    """

    dtype: str
    dims: tuple[int | str | None, ...]
    fixed: frozenset[int] = frozenset()
    seen: tuple[int, ...] | None = field(default=None, compare=False)

    @property
    def kind(self) -> tuple[str, tuple[int | str | None, ...]]:
        """What an export with dynamic axes depends on: the type, the rank, and the sizes that do not vary."""
        return self.dtype, tuple(d if not self.varies(i) else None for i, d in enumerate(self.dims))

    def varies(self, axis: int, frozen: bool = False) -> bool:
        """Whether a graph must hold for every size of the axis; with `frozen`, only where the size is not known."""
        size = self.dims[axis]
        return type(size) is not int or not (frozen or size < 2 or axis in self.fixed)


@dataclass
class Trial:
    """Arguments, and the function's results with them."""

    samples: tuple[Any, ...]
    results: list[Any]


class CannotRun(Refusal):
    """The function does not run on examples."""


def axes_of(operands: Sequence[Operand]) -> Iterator[tuple[Operand, int]]:
    yield from ((o, i) for o in operands for i in range(len(o.dims)))


def run_trials(function: Function, operands: Sequence[Operand], frozen: bool, trusted: bool) -> list[Trial]:
    """Runs at the sizes at hand and at others, with several kinds of values; none when the others cannot be run.

    Raises:
        Refusal: when the function refuses, or does not run at the sizes at hand.
    """
    if frozen and sum(int(np.prod([d for d in o.dims if type(d) is int])) for o in operands) > _MOST_ELEMENTS:
        raise Refusal("too large to be checked with its sizes frozen")
    for relation in _RELATIONS:
        try:
            first = _attempts(function, operands, _sizes(operands, 0, frozen, relation), trusted)
            break
        except CannotRun:
            if relation == _RELATIONS[-1] and frozen:
                raise
    else:
        return []
    if not any(o.varies(i, frozen) for o, i in axes_of(operands)):
        return first
    for change in (1, 2):
        try:
            return first + _attempts(function, operands, _sizes(operands, change, frozen, relation), trusted)
        except Refusal:
            continue
    return first if trusted and frozen else []


_RELATIONS = ("apart", "as seen", "alike")


def _sizes(operands: Sequence[Operand], change: int, frozen: bool, relation: str) -> Sizes:
    """A size for every axis, by operand and axis; equal dimensions stay equal.

    `change` 0 keeps what is known, 1 adds one, 2 doubles. What is not known is different everywhere ("apart"), the same
    where it was the same in a run of the model ("as seen"), or the same for an axis of all operands, as where they are
    concatenated ("alike").
    """
    chosen: dict[Any, int] = {}
    kept = {o.dims[i] for o, i in axes_of(operands) if not o.varies(i, frozen)}
    places = [(i, j, dim) for i, o in enumerate(operands) for j, dim in enumerate(o.dims)]
    names = [_name(operands[i], i, j, relation, kept) for i, j, _ in places]
    for (i, j, dim), name in zip(places, names, strict=True):
        if name in chosen:
            continue
        seen = operands[i].seen if relation == "as seen" else None
        base = dim if type(dim) is int else seen[j] if seen else SIZES[len(chosen) % len(SIZES)] + 6
        if dim not in kept and base >= 64:
            base = 16 + 2 * len(chosen)
        chosen[name] = base if dim in kept or not change else base + 1 if change == 1 else 2 * base
    return {(i, j): chosen[name] for (i, j, _), name in zip(places, names, strict=True)}


def _name(operand: Operand, position: int, axis: int, relation: str, kept: Set[Any]) -> Any:
    """What equal dimensions share; what was seen as large as a dimension that is kept may vary all the same."""
    dim = operand.dims[axis]
    if type(dim) is int:
        return dim
    if relation == "alike":
        return (axis,)
    if relation == "as seen" and operand.seen:
        size = operand.seen[axis]
        return ("seen", size) if size in kept else size
    return (position, axis) if dim is None else dim


_RANGES = ((-3, 4), (0, 3), (0, 1))
_WIDER = ((-200, 200), (-9, 10))  # exponentials overflow
_FEW = 16
_WIDE = 64
_MOST_APART = 1024


def _attempts(function: Function, operands: Sequence[Operand], sizes: Sizes, trusted: bool) -> list[Trial]:
    """A run for each kind of values that the function takes; more where it is not ours, or where numbers are few."""
    import torch

    found, problem = [], ""
    few = sum(int(np.prod([sizes[i, axis] for axis in range(len(o.dims))])) for i, o in enumerate(operands)) < _FEW
    for seed, (low, high) in enumerate(_RANGES if trusted else _RANGES + _WIDER * (6 if few else 1)):
        torch.manual_seed(seed)
        samples = tuple(_sample(i, o, sizes, low, high) for i, o in enumerate(operands))
        try:
            with torch.no_grad():
                made = function(*(s.clone() for s in samples))
        except Refusal:
            raise
        except Exception as error:
            problem = brief(error)
            continue
        found.append(Trial(samples, list(flat(made))))
    if not found:
        raise CannotRun(f"PyTorch does not run it on examples of these types and shapes: {problem}")
    return found


def _sample(position: int, operand: Operand, sizes: Sizes, low: int, high: int) -> Any:
    """Random values: floats normal, of the deviation ``high`` / 4, when negative ones are wanted, otherwise in 0..1;
    integers from ``low`` up to ``high``. Wide matrices are scaled as weights are, that sums over them stay small.
    """
    import torch

    shape = [sizes[position, axis] for axis in range(len(operand.dims))]
    dtype = getattr(torch, operand.dtype)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape).to(dtype)
    if dtype.is_floating_point:
        made = torch.randn(shape) * (high / 4) if low < 0 else torch.rand(shape)
        wide = len(shape) == 2 and shape[1] >= _WIDE
        return _apart((made / shape[1] ** 0.5 if wide else made).to(dtype))
    return torch.randint(low if dtype.is_signed else 0, high, shape).to(dtype)


def _apart(x: Any) -> Any:
    """The numbers, those of sixteen bits and equal size moved towards zero until they differ: they sort in one way."""
    import torch

    if x.dtype.itemsize != 2 or x.numel() > _MOST_APART:
        return x
    bits = x.reshape(-1).view(torch.int16).to(torch.int32)
    sizes, places = (bits & 0x7FFF).sort(descending=True)  # whole numbers that are ordered as the sizes are
    steps = torch.arange(len(sizes), dtype=torch.int32)
    sizes = ((sizes + steps).cummin(0)[0] - steps).clamp(min=0)
    moved = torch.empty_like(sizes).scatter(0, places, sizes)
    return torch.where(bits < 0, moved - 0x8000, moved).to(torch.int16).view(x.dtype).reshape(x.shape)


def flat(made: Any) -> Iterator[Any]:
    for item in made if isinstance(made, (tuple, list)) else (made,):
        if isinstance(item, (tuple, list)):
            yield from flat(item)
        else:
            yield item


def brief(error: BaseException) -> str:
    text = " ".join(re.sub(r"\x1b\[\d+m", "", str(error)).split())
    cause = f" ({brief(error.__cause__)})" if "Next steps" in text and error.__cause__ else ""
    return f"{type(error).__name__}: {text.partition(' This is step')[0][:200]}{cause}"
