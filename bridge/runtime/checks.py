"""Whether a call's inputs are what an engine takes; every refusal names the input, what it got and what it may be."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bridge.errors import EngineError
from bridge.runtime.dtypes import dtype_of, name_of
from bridge.runtime.signature import InputSignature, Range, Signature


def check_inputs(signature: Signature, inputs: Sequence[torch.Tensor]) -> None:
    """Checks number, dtype, rank and shape of every input.

    Raises:
        EngineError: the first that does not fit.
    """
    if len(inputs) != len(signature.inputs):
        names = ", ".join(item.name for item in signature.inputs) or "none"
        raise EngineError(f"the engine takes {len(signature.inputs)} inputs ({names}); it got {len(inputs)}")
    seen: dict[str, tuple[str, int]] = {}
    for wanted, tensor in zip(signature.inputs, inputs, strict=True):
        _check_dtype(wanted, tensor)
        _check_shape(wanted, tuple(tensor.shape), seen)


def check_devices(signature: Signature, inputs: Sequence[torch.Tensor], device: torch.device) -> None:
    """Checks that every input is on the engine's GPU; sizes and indices of up to 64 integers may come from the CPU.

    Raises:
        EngineError: the first that is elsewhere.
    """
    for wanted, tensor in zip(signature.inputs, inputs, strict=True):
        small = tensor.is_cpu and tensor.numel() <= 64 and not tensor.is_floating_point()
        if tensor.device != device and not small:
            raise EngineError(
                f"input {wanted.name!r} is on {tensor.device}; this engine runs on {device}",
                hint=f"pass {wanted.name}.to({str(device)!r})",
            )


def _check_dtype(wanted: InputSignature, tensor: torch.Tensor) -> None:
    name = name_of(tensor.dtype)
    if name != wanted.dtype and name not in wanted.accepts:
        choices = " or ".join(dict.fromkeys((wanted.dtype, *wanted.accepts)))
        raise EngineError(
            f"input {wanted.name!r} has dtype {name}; it may be {choices}",
            hint=f"pass {wanted.name}.to({dtype_of(wanted.dtype)})",
        )


def _check_shape(wanted: InputSignature, shape: tuple[int, ...], seen: dict[str, tuple[str, int]]) -> None:
    if wanted.dims is None:
        return
    if len(shape) != len(wanted.dims):
        raise EngineError(
            f"input {wanted.name!r} has rank {len(shape)} ({_text(shape)}); "
            f"the engine takes rank {len(wanted.dims)}: {_may_be(wanted)}"
        )
    for axis, dim in enumerate(wanted.dims):
        _check_size(wanted, shape, axis)
        if isinstance(dim, Range) and dim.name is not None:
            first, size = seen.setdefault(dim.name, (f"{wanted.name!r}, dimension {axis}", shape[axis]))
            if shape[axis] != size:
                raise EngineError(
                    f"input {wanted.name!r} has shape {_text(shape)}; "
                    f"dimension {axis} ({dim.name!r}) is {shape[axis]}, but {size} in {first}",
                    why="dimensions of one name have one size",
                )


def _check_size(wanted: InputSignature, shape: tuple[int, ...], axis: int) -> None:
    dim = wanted.dims[axis] if wanted.dims is not None else shape[axis]
    low, high = (dim.min, dim.max) if isinstance(dim, Range) else (dim, dim)
    if low <= shape[axis] <= high:
        return
    is_range = low != high
    raise EngineError(
        f"input {wanted.name!r} has shape {_text(shape)}; "
        f"dimension {axis} is {shape[axis]} and may be {f'{low} to {high}' if is_range else low}",
        why=f"the engine was built for {_may_be(wanted)}",
        hint=f"compile with {'a min and max that include it' if is_range else 'a range for this dimension'}",
    )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _may_be(wanted: InputSignature) -> str:
    return "(" + ", ".join(map(str, wanted.dims or ())) + ")"
