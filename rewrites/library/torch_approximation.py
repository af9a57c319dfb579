"""Chebyshev series for functions that ONNX lacks, fitted when needed to PyTorch's own double precision results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

Function = Callable[[Any], Any]


def series(u: Any, function: Function, inverse: Function, terms: int) -> Any:
    """The Chebyshev series in `u` of `function`, by Clenshaw's recurrence; exact to single precision when it is smooth.

    Args:
        u: where to evaluate, within -1..1.
        function: takes and gives double precision tensors.
        inverse: u -> the argument of `function`.
        terms: how many terms.

    Source: Press et al., "Numerical Recipes", 5.8.
    """
    import torch

    coefficients = _fit(function, inverse, terms)
    u = u.clamp(-1.0, 1.0)
    later, last = torch.zeros_like(u), torch.zeros_like(u)
    for coefficient in coefficients[:0:-1]:
        later, last = 2.0 * u * later - last + coefficient, later
    return u * later - last + coefficients[0]


@lru_cache(maxsize=256)
def _fit(function: Function, inverse: Function, terms: int) -> Sequence[float]:
    import torch

    angles = (np.arange(4 * terms) + 0.5) * math.pi / (4 * terms)
    with torch.no_grad():
        values = function(inverse(torch.from_numpy(np.cos(angles)))).numpy()
    found = [2.0 / len(angles) * float(np.sum(values * np.cos(k * angles))) for k in range(terms)]
    return [found[0] / 2, *found[1:]]


def between(low: float, high: float) -> tuple[Function, Function]:
    """Maps of low..high to -1..1, and back."""
    return (lambda x: (x - (low + high) / 2) * (2 / (high - low)), lambda u: u * ((high - low) / 2) + (low + high) / 2)


def beyond(low: float) -> tuple[Function, Function]:
    """Maps of low..infinity to 1..-1, and back."""
    return (lambda x: 2 * low / x - 1, lambda u: 2 * low / (u + 1))


def approximate(x: Any, function: Function, maps: tuple[Function, Function], terms: int) -> Any:
    """`function(x)` by a series over the range that `maps` brings to -1..1; outside it, the value at the border."""
    there, back = maps
    return series(there(x), function, back, terms)
