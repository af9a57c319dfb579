"""Matching by values: for graphs that say nothing of where their nodes came from.

A value of one graph stands for one of the other where they are close, both graphs in their order. All values are seen
once; what is kept of each is a sketch, a few random projections, which keep distances (Johnson and Lindenstrauss,
"Extensions of Lipschitz mappings into a Hilbert space", 1984). The alignment is that of two sequences with the largest
sum of scores (Needleman and Wunsch, 1970): values that are equal outweigh those that are only near.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bridge.compare.arrays import Array
from bridge.compare.layers import batches
from bridge.compare.steps import Key, Step, leaving

_PROJECTIONS, _COLUMNS = 64, 1 << 14
_FARTHEST = 0.5
"""The relative distance beyond which two values are no longer taken for the same."""


class Valued(Protocol):
    """A graph that can be run for chosen values."""

    results: list[str]

    @property
    def deep(self) -> list[Step]: ...
    def values(self, names: Sequence[str]) -> dict[str, Array]: ...


@dataclass(frozen=True)
class _Sketch:
    shape: tuple[int, ...]
    kind: str
    norm: float
    projected: Array


def keys_by_values(
    reference: Valued, other: Valued, sizes: tuple[Callable[[str], int], Callable[[str], int]]
) -> dict[str, Key]:
    """The reference's key of each value of the other's that stands for one of its own, by the other's name.

    Args:
        sizes: bytes of a value, of the reference and of the other.
    """
    single = {names[0]: key for key, names in leaving(reference.deep, reference.results).items() if len(names) == 1}
    ours = _sketches(reference, list(single), sizes[0])
    computed = [name for step in other.deep if step.inputs for name in step.outputs]
    theirs = _sketches(other, computed, sizes[1])
    pairs = _aligned(_scores(list(ours.values()), list(theirs.values())))
    left, right = list(ours), list(theirs)
    return {right[j]: single[left[i]] for i, j in pairs}


def _sketches(side: Valued, names: Sequence[str], size: Callable[[str], int]) -> dict[str, _Sketch]:
    found: dict[str, _Sketch] = {}
    for batch in batches(dict.fromkeys(names), size):
        values = side.values(batch)
        found.update({name: _sketch(values[name]) for name in batch if name in values and values[name].size})
    return found


def _sketch(array: Array) -> _Sketch:
    kind = {"u": "i", "V": "f"}.get(array.dtype.kind, array.dtype.kind)
    flat = array.reshape(-1)
    flat = flat.view(flat.real.dtype) if kind == "c" else flat
    wide = np.nan_to_num(flat.astype(np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
    norm = float(np.linalg.norm(wide))
    if wide.size <= _PROJECTIONS:
        return _Sketch(array.shape, kind, norm, wide)
    projected = np.zeros(_PROJECTIONS)
    for start in range(0, wide.size, _COLUMNS):
        part = wide[start : start + _COLUMNS]
        bits = np.frombuffer(np.random.default_rng(start).bytes(_PROJECTIONS * _COLUMNS // 8), np.uint8)
        signs = np.unpackbits(bits).reshape(_PROJECTIONS, _COLUMNS)[:, : part.size].astype(np.float64)
        projected += 2 * (signs @ part) - part.sum()
    return _Sketch(array.shape, kind, norm, projected / np.sqrt(_PROJECTIONS))


def _scores(ours: Sequence[_Sketch], theirs: Sequence[_Sketch]) -> Array:
    """How much it speaks for each pair that its two are the same; 0 where they are too far apart."""
    scores = np.zeros((len(ours), len(theirs)), np.float32)
    groups: dict[tuple[object, ...], list[int]] = {}
    for j, one in enumerate(theirs):
        groups.setdefault((one.shape, one.kind), []).append(j)
    stacked = {key: np.stack([theirs[j].projected for j in columns]) for key, columns in groups.items()}
    for i, one in enumerate(ours):
        columns = groups.get((one.shape, one.kind))
        if columns:
            distance = np.linalg.norm(stacked[one.shape, one.kind] - one.projected, axis=1)
            relative = distance / (one.norm or 1.0)
            scores[i, columns] = np.where(relative < _FARTHEST, np.log10(relative + 1e-7) ** 2, 0.0)
    return scores


def _aligned(scores: Array) -> list[tuple[int, int]]:
    """The pairs, ascending on both sides, with the largest sum."""
    rows, columns = scores.shape
    best = np.zeros((rows + 1, columns + 1), np.float32)
    for i in range(rows):
        with_this = best[i, :-1] + np.where(scores[i] > 0, scores[i], -np.inf)
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], with_this))
    pairs = []
    i, j = rows, columns
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]
