"""Histograms of two tensors' values and of their difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bridge.compare.arrays import Array
from bridge.compare.figures import comparable

BINS = 48
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
    counts = [np.histogram(side, BINS, (low, high if high > low else low + 1.0))[0] for side in finite]
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
