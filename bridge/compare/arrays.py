"""Tensors as NumPy arrays and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bridge.export.export import as_array

Array = np.ndarray[Any, np.dtype[Any]]


def as_numpy(value: Any) -> Array:
    """A tensor or an array as an array; bfloat16 stays what it is."""
    array: Array = as_array(value) if isinstance(value, torch.Tensor) else np.asarray(value)
    return array


def as_tensor(array: Array) -> torch.Tensor:
    """An array as a tensor, bfloat16 too."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
