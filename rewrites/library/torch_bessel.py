"""Bessel functions: ONNX has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rewrites import example, lowering, tensor
from rewrites.library.torch_approximation import approximate, between, beyond
from rewrites.lowering import in_single_precision

_SQUARES, _SMALL, _TWO, _EIGHT = between(0.0, 64.0), between(0.0, 4.0), beyond(2.0), beyond(8.0)
_UP_TO_EIGHT = between(0.0, 8.0)
_SIGNED = tensor(9, values=[-20.0, -8.5, -1.0, 0.0, 0.3, 7.9, 40.0, -math.inf, math.inf])
_POSITIVE = tensor(6, values=[1e-36, 0.5, 1.9, 2.1, 9.0, 50.0])


def _special(name: str) -> Callable[[Any], Any]:
    import torch

    return getattr(torch.special, name)


def _float(x: Any) -> Any:
    import torch

    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


# The functions below are fitted in double precision; what they leave of the function is smooth.


def _i0_near(x: Any) -> Any:
    return _special("i0e")(x)


def _i1_near(x: Any) -> Any:
    return _special("i1e")(x) / x


def _i0_far(x: Any) -> Any:
    return _special("i0e")(x) * x.sqrt()


def _i1_far(x: Any) -> Any:
    return _special("i1e")(x) * x.sqrt()


def _i0e(x: Any) -> Any:
    import torch

    size = x.abs()
    near, far = approximate(size, _i0_near, _UP_TO_EIGHT, 24), approximate(size, _i0_far, _EIGHT, 12)
    return torch.where(size < 8.0, near, far / torch.sqrt(size.clamp(8.0, math.inf)))


def _i1e(x: Any) -> Any:
    import torch

    size = x.abs()
    near, far = approximate(size, _i1_near, _UP_TO_EIGHT, 24), approximate(size, _i1_far, _EIGHT, 12)
    return torch.where(size < 8.0, x * near, torch.sign(x) * far / torch.sqrt(size.clamp(8.0, math.inf)))


@lowering("aten::special_i0e", examples=[example(self=("n", 3)), example(self=_SIGNED)])
@in_single_precision
def special_i0e(x):
    """special_i0e -> two series, below and beyond eight."""
    return _i0e(_float(x))


@lowering("aten::special_i1e", examples=[example(self=("n", 3)), example(self=_SIGNED)])
@in_single_precision
def special_i1e(x):
    """special_i1e -> two series, below and beyond eight."""
    return _i1e(_float(x))


def _i0(x: Any) -> Any:
    import torch

    x = _float(x)
    return torch.exp(x.abs()) * _i0e(x)


def _i1(x: Any) -> Any:
    import torch

    x = _float(x)
    return torch.exp(x.abs()) * _i1e(x)


@lowering("aten::i0", examples=[example(self=("n", 3)), example(self=_SIGNED)])
@in_single_precision
def i0(x):
    """i0 -> Exp times two series, below and beyond eight."""
    return _i0(x)


@lowering("aten::special_modified_bessel_i0", examples=[example(self=("n", 3)), example(self=_SIGNED)])
def special_modified_bessel_i0(x):
    """special_modified_bessel_i0 -> Exp times two series, below and beyond eight."""
    return _i0(x)


@lowering("aten::special_i1", examples=[example(self=("n", 3)), example(self=_SIGNED)])
@in_single_precision
def special_i1(x):
    """special_i1 -> Exp times two series, below and beyond eight."""
    return _i1(x)


@lowering("aten::special_modified_bessel_i1", examples=[example(self=("n", 3)), example(self=_SIGNED)])
def special_modified_bessel_i1(x):
    """special_modified_bessel_i1 -> Exp times two series, below and beyond eight."""
    return _i1(x)


def _k0_near(square: Any) -> Any:
    x = square.sqrt()
    return _special("modified_bessel_k0")(x) + (x / 2).log() * _special("modified_bessel_i0")(x)


def _k1_near(square: Any) -> Any:
    x = square.sqrt()
    return (_special("modified_bessel_k1")(x) - (x / 2).log() * _special("modified_bessel_i1")(x)) * x


def _k0_far(x: Any) -> Any:
    return _special("scaled_modified_bessel_k0")(x) * x.sqrt()


def _k1_far(x: Any) -> Any:
    return _special("scaled_modified_bessel_k1")(x) * x.sqrt()


def _k(x: Any, order: int, scaled: bool) -> Any:
    import torch

    x = _float(x)
    inner, outer = x.clamp(1e-37, 2.0), x.clamp(min=2.0)
    logarithm = torch.log(inner / 2)
    if order == 0:
        near = approximate(inner * inner, _k0_near, _SMALL, 10) - logarithm * torch.exp(inner) * _i0e(inner)
        far = approximate(outer, _k0_far, _TWO, 20)
    else:
        near = approximate(inner * inner, _k1_near, _SMALL, 10) / inner + logarithm * torch.exp(inner) * _i1e(inner)
        far = approximate(outer, _k1_far, _TWO, 20)
    far, near = far / torch.sqrt(outer), near * torch.exp(inner) if scaled else near
    made = torch.where(x <= 2.0, near, far if scaled else far * torch.exp(-outer))
    made = torch.where(x == 0, torch.full_like(x, float("inf")), made)
    return torch.where(x < 0, torch.full_like(x, float("nan")), made)


@lowering("aten::special_modified_bessel_k0", examples=[example(self=("n", 3)), example(self=_POSITIVE)])
def special_modified_bessel_k0(x):
    """special_modified_bessel_k0 -> Log, Exp and series, below and beyond two.

    Source: Abramowitz and Stegun, 9.6.13.
    """
    return _k(x, 0, False)


@lowering("aten::special_modified_bessel_k1", examples=[example(self=("n", 3)), example(self=_POSITIVE)])
def special_modified_bessel_k1(x):
    """special_modified_bessel_k1 -> Log, Exp and series, below and beyond two.

    Source: Abramowitz and Stegun, 9.6.11.
    """
    return _k(x, 1, False)


@lowering("aten::special_scaled_modified_bessel_k0", examples=[example(x=("n", 3)), example(x=_POSITIVE)])
def special_scaled_modified_bessel_k0(x):
    """special_scaled_modified_bessel_k0 -> Log, Exp and series, below and beyond two."""
    return _k(x, 0, True)


@lowering("aten::special_scaled_modified_bessel_k1", examples=[example(x=("n", 3)), example(x=_POSITIVE)])
def special_scaled_modified_bessel_k1(x):
    """special_scaled_modified_bessel_k1 -> Log, Exp and series, below and beyond two."""
    return _k(x, 1, True)
