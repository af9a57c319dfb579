"""Weights in sixteen bits: what fits, what is lost, and the conversion itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from bridge.precision.types import NUMPY_TYPES

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Underflow:
    """Weights whose values became zero in sixteen bits.

    Attributes:
        name: the constant's name in the graph.
        fraction: of its elements, how many were non-zero and are zero now (0 to 1).
    """

    name: str
    fraction: float


def fits(constant: gs.Constant, element_type: int) -> bool:
    """Whether every finite value can be represented, and a lone number (an epsilon) keeps its precision."""
    values = constant.values
    if values.size == 0:
        return True
    limits = ml_dtypes.finfo(NUMPY_TYPES[element_type])  # type: ignore[no-untyped-call]
    largest = largest_finite(values)
    if largest > float(limits.max):
        return False
    return values.size > 1 or largest == 0.0 or largest >= float(limits.tiny)


def largest_finite(values: Array) -> float:
    """The largest absolute value that is neither infinite nor NaN, without a copy where all are finite."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            return 0.0
        low, high = float(finite.min()), float(finite.max())
    return max(abs(low), abs(high))


def convert(constant: gs.Constant, element_type: int) -> tuple[Array, Underflow | None]:
    """The values in ``element_type``, and what became zero on the way."""
    values = constant.values
    with np.errstate(over="ignore", under="ignore"):
        converted = values.astype(NUMPY_TYPES[element_type])
    lost = _nonzero(values) - _nonzero(converted)
    return converted, Underflow(constant.name, lost / values.size) if lost else None


def _nonzero(values: Array) -> int:
    """How many floating values are not zero: of zero no bit but the sign is set, and NumPy counts bits faster."""
    bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    return int(np.count_nonzero(bits << 1))
