"""Inputs in the corners of a spec's ranges of shapes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch

from bridge.compare.inputs import InputSet
from bridge.errors import SpecError
from bridge.spec import CompileSpec, Leaf
from bridge.spec.examples import example_tensor

MOST = 27
_PLACES = ("opt", "min", "max")

Corner = Mapping[str, str]
"""For each dynamic dimension, by its name, which end of its range."""


def corner_sets(spec: CompileSpec, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[InputSet]:
    """One set of inputs for each combination of the smallest, usual and largest size of each dynamic dimension.

    Where those are more than `MOST`: all at the usual, all at one end, and each dimension at its ends by itself.

    Args:
        seed: of the values that are drawn.
        dtype: of floating inputs that state none.

    Raises:
        SpecError: the spec has no inputs.
    """
    leaves = spec.flat_inputs(dtype)
    if not leaves:
        raise SpecError("inputs: nothing to compare with", hint="give inputs, or a spec that has some")
    names = list(dict.fromkeys(dim for leaf in leaves for dim in leaf.dims if isinstance(dim, str)))
    generator = torch.Generator().manual_seed(seed)
    return [InputSet(*spec.nest([_value(leaf, corner, generator) for leaf in leaves])) for corner in _corners(names)]


def _corners(names: list[str]) -> list[Corner]:
    if len(_PLACES) ** len(names) <= MOST:
        return [dict(zip(names, places, strict=True)) for places in itertools.product(_PLACES, repeat=len(names))]
    usual = dict.fromkeys(names, "opt")
    ends = [dict.fromkeys(names, place) for place in ("min", "max")]
    return [usual, *ends, *({**usual, name: place} for name in names for place in ("min", "max"))]


def _value(leaf: Leaf, corner: Corner, generator: torch.Generator) -> object:
    if not leaf.is_tensor:
        return leaf.value
    assert leaf.dtype is not None
    shapes = {"min": leaf.min_shape, "opt": leaf.opt_shape, "max": leaf.max_shape}
    places = [corner[dim] if isinstance(dim, str) else "opt" for dim in leaf.dims]
    shape = tuple(shapes[place][axis] for axis, place in enumerate(places))
    return example_tensor(leaf.value, shape, leaf.dtype, generator)
