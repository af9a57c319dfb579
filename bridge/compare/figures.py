"""How far two arrays are apart, in figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bridge.compare.arrays import Array


@dataclass(frozen=True)
class Figures:
    """The distance of an array from its reference; elements that are NaN or the same infinity in both count as equal.

    Attributes:
        max_absolute, mean_absolute: of the elements' differences.
        relative: norm of the difference over the norm of the reference.
        cosine: of the angle between the two, as vectors; 1 for the same direction.
        snr: signal to noise, in decibels; infinite when they are equal.
    """

    max_absolute: float
    mean_absolute: float
    relative: float
    cosine: float
    snr: float


def figures_of(reference: Array, other: Array) -> Figures:
    """The figures of two arrays of one shape."""
    expected, found = comparable(reference, other)
    if not expected.size:
        return Figures(0.0, 0.0, 0.0, 1.0, math.inf)
    difference = _distance(reference, other, expected, found)
    if not np.isfinite(difference).all():
        return Figures(math.inf, math.inf, math.inf, math.nan, -math.inf)
    signal, noise = float(np.linalg.norm(expected)), float(np.linalg.norm(difference))
    relative = noise / signal if signal else math.inf if noise else 0.0
    largest, mean = float(difference.max()), float(difference.mean())
    return Figures(largest, mean, relative, _cosine(expected, found, signal), _decibels(relative))


@dataclass(frozen=True)
class Wrong:
    """Elements that are outside both tolerances.

    Attributes:
        count, of: how many, of how many.
        index: where the worst of them is.
        expected, found: the two values there.
    """

    count: int
    of: int
    index: tuple[int, ...]
    expected: complex
    found: complex

    def __str__(self) -> str:
        place = f" at {list(self.index)}" if self.index else ""
        counted = f"{self.count} of {self.of} element{'s' * (self.of != 1)}"
        return f"{counted}, at worst {self.found:.6g}{place} in the place of {self.expected:.6g}"


def wrong_elements(reference: Array, other: Array, rtol: float, atol: float) -> Wrong | None:
    """Which elements of two arrays of one shape are outside both tolerances; None where all are right."""
    expected, found = comparable(reference, other)
    with np.errstate(invalid="ignore"):
        distance = _distance(reference, other, expected, found)
        excess = np.where(np.isnan(distance), np.inf, distance) - np.maximum(atol, rtol * np.abs(expected))
    excess = np.where(np.isnan(excess), np.inf, excess)
    if np.iscomplexobj(reference):
        excess = excess.reshape(-1, 2).max(1)
    is_wrong = excess > 0
    if not is_wrong.any():
        return None
    worst = np.unravel_index(int(excess.argmax()), reference.shape)
    values = (array[worst].astype(np.complex128) for array in (reference, other))
    left, right = (value if np.iscomplexobj(reference) else value.real for value in values)
    return Wrong(int(is_wrong.sum()), is_wrong.size, tuple(map(int, worst)), left, right)


def comparable(reference: Array, other: Array) -> tuple[Array, Array]:
    """Both in double precision and flat, with zeros where both are NaN or the same infinity."""
    expected, found = _wide(reference), _wide(other)
    odd = ~np.isfinite(expected)
    if odd.any():
        same = odd & ((expected == found) | (np.isnan(expected) & np.isnan(found)))
        expected, found = np.where(same, 0.0, expected), np.where(same, 0.0, found)
    return expected, found


def _distance(reference: Array, other: Array, expected: Array, found: Array) -> Array:
    """Of each element, flat; integers that differ are at least 1 apart, also beyond what a double can tell.

    Args:
        expected, found: what `comparable` makes of the two.
    """
    distance: Array = np.abs(found - expected)
    if reference.dtype.kind in "iu" and other.dtype.kind in "iu":
        return np.where((reference == other).reshape(-1), 0.0, np.maximum(distance, 1.0))
    return distance


def _wide(array: Array) -> Array:
    if np.iscomplexobj(array):
        array = np.ascontiguousarray(array).reshape(-1).view(array.real.dtype)
    return np.asarray(array).astype(np.float64).reshape(-1)


def _cosine(expected: Array, found: Array, signal: float) -> float:
    length = float(np.linalg.norm(found))
    if not signal or not length:
        return 1.0 if signal == length else 0.0
    return max(-1.0, min(1.0, float(expected @ found) / (signal * length)))


def _decibels(relative: float) -> float:
    if relative == 0:
        return math.inf
    return -math.inf if math.isinf(relative) else -20 * math.log10(relative)
