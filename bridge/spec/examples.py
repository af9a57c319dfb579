"""Tensors to run a module with while it is compiled."""

from __future__ import annotations

import torch

from bridge.spec.inputs import Input, Shape


def example_tensor(wanted: Input, shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """A tensor of that shape and dtype, on the CPU unless the Input's own example is elsewhere.

    The Input's example is used as it is where the shape is its own, else cut or repeated to the shape. Without one:
    normal floats, integers 0 or 1, any bools; or uniform ones from ``value_range``.
    """
    example = wanted.example
    if example is not None and tuple(example.shape) == shape:
        return example
    if example is not None and example.numel():
        return _stretched(example.detach(), shape)
    if wanted.value_range is not None and dtype is not torch.bool:
        return _within(wanted.value_range, shape, dtype, generator)
    if dtype is torch.bool or not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(0, 2, shape, generator=generator).to(dtype)
    wide = torch.complex64 if dtype.is_complex else torch.float32
    return torch.randn(shape, generator=generator, dtype=wide).to(dtype)


def _within(bounds: tuple[float, float], shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    low, high = bounds
    if dtype.is_floating_point:
        return (torch.rand(shape, generator=generator) * (high - low) + low).to(dtype)
    return torch.randint(int(low), int(high), shape, generator=generator).to(dtype)


def _stretched(example: torch.Tensor, shape: Shape) -> torch.Tensor:
    for axis, size in enumerate(shape):
        rows = torch.arange(size, device=example.device) % example.shape[axis]
        example = example.index_select(axis, rows)
    return example
