"""Histograms of two tensors' values and of their difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from bridge.compare.arrays import Array
from bridge.compare.figures import comparable
from bridge.compare.steps import Key

BINS = 48
KEPT = 6
FIRST_DECADE = -12
_DECADES = 14


@dataclass(frozen=True)
class Histogram:
    """Of one result, in the reference and in a stage.

    Attributes:
        order: the row that it belongs to.
        stage: the name of the stage.
        low, high: the range of the finite values of both, cut into equal parts.
        reference, other: how many of each side's values are in each part.
        not_finite: how many of each are NaN or infinite.
        first_decade: power of ten of the first of ``errors``; smaller errors that are not zero count there too.
        errors: how many absolute differences are in each decade; larger ones count in the last.
        exact: how many elements do not differ.
    """

    order: int
    stage: str
    low: float
    high: float
    reference: tuple[int, ...]
    other: tuple[int, ...]
    not_finite: tuple[int, int]
    first_decade: int
    errors: tuple[int, ...]
    exact: int


def histogram_of(order: int, stage: str, reference: Array, other: Array) -> Histogram:
    """The histograms of two arrays of one shape."""
    expected, found = comparable(reference, other)
    finite = [side[np.isfinite(side)] for side in (expected, found)]
    values = np.concatenate(finite) if any(side.size for side in finite) else np.zeros(1)
    low, high = float(values.min()), float(values.max())
    counts = [np.histogram(side - low, BINS, (0.0, high - low or 1.0))[0] for side in finite]
    with np.errstate(invalid="ignore"):
        difference = np.abs(found - expected)
    difference = difference[np.isfinite(difference)]
    nonzero = difference[difference > 0]
    places = np.clip(np.floor(np.log10(nonzero)).astype(int) - FIRST_DECADE, 0, _DECADES - 1)
    errors = np.bincount(places, minlength=_DECADES)
    return Histogram(
        order, stage, low, high, _plain(counts[0]), _plain(counts[1]),
        (expected.size - finite[0].size, found.size - finite[1].size),
        FIRST_DECADE, _plain(errors), int(difference.size - nonzero.size),
    )  # fmt: skip


def _plain(counts: Array) -> tuple[int, ...]:
    return tuple(int(count) for count in counts)


class Worst:
    """Keeps the histograms of the results with the largest errors."""

    def __init__(self) -> None:
        self.found: dict[Key, tuple[float, Histogram]] = {}

    def offer(self, key: Key, relative: float, stage: str, expected: Array, other: Array) -> None:
        """A result, with its relative error."""
        least = min((error for error, _ in self.found.values()), default=0.0)
        if len(self.found) < KEPT or relative > least:
            self.found[key] = relative, histogram_of(0, stage, expected, other)
        if len(self.found) > KEPT:
            del self.found[min(self.found, key=lambda key: self.found[key][0])]

    def histograms(self, orders: Mapping[Key, int]) -> list[Histogram]:
        """In the order of execution, which is given by key."""
        kept = sorted((key for key in self.found if key in orders), key=lambda key: orders[key])
        return [replace(self.found[key][1], order=orders[key]) for key in kept]
