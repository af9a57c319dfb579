"""Data types by every name that users give them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bridge.spec.complaints import unknown, wrong

_SHORT = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "float": torch.float32,
    "half": torch.float16,
    "double": torch.float64,
    "long": torch.int64,
    "int": torch.int32,
}
_FLOATS = ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2")
_OTHERS = ("int64", "int32", "int16", "int8", "uint8", "bool", "complex64", "complex128")
NAMED: dict[str, torch.dtype] = {**{name: getattr(torch, name) for name in _FLOATS + _OTHERS}, **_SHORT}


def as_dtype(value: object, field: str, told: Iterable[str] = NAMED) -> torch.dtype:
    """A torch.dtype from a torch.dtype, a numpy dtype, a name such as "fp16", or Torch-TensorRT's enumeration.

    Args:
        told: the names that an error suggests.

    Raises:
        SpecError: naming ``field``, when the value is none of these.
    """
    if isinstance(value, torch.dtype):
        return value
    name = _name_of(value)
    if name is None:
        raise wrong(field, value, "a torch.dtype", hint="for example torch.float16")
    name = name.removeprefix("torch.").lower()
    if name not in NAMED:
        raise unknown(field, name, told)
    return NAMED[name]


def _name_of(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, type) and value in (float, int, bool):
        return {float: "float32", int: "int64", bool: "bool"}[value]
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    return name if isinstance(name, str) else None
