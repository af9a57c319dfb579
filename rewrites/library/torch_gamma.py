"""Gamma functions: ONNX has none."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.library.torch_approximation import approximate, between

_ANY = tensor(9, values=[-2.5, -1.25, -0.5, 0.25, 1.0, 1.75, 4.5, 12.0, 300.0])
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30)
_ONE_TO_THREE, _THREE_TO_EIGHT = between(1.0, 3.0), between(3.0, 8.0)


def _float(x: Any) -> Any:
    import torch

    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _sine_pi(x: Any) -> Any:
    """sin(pi x), exact also where x is large, but for its sign."""
    import torch

    return torch.sin(math.pi * (x - torch.round(x)))


def _near_roots(x: Any) -> Any:
    import torch

    return torch.lgamma(x) / ((x - 1) * (x - 2))


def _lgamma(x: Any) -> Any:
    import torch

    size = torch.where(x < 0.5, 1 - x, x)  # by reflection at least one half
    near = torch.where(size < 1.0, size + 1, size)
    small = (near - 1) * (near - 2) * approximate(near, _near_roots, _ONE_TO_THREE, 18)
    small = small - torch.where(size < 1.0, torch.log(size), torch.zeros_like(x))
    middle = approximate(size, torch.lgamma, _THREE_TO_EIGHT, 14)
    z = size.clamp(min=8.0)
    large = (z - 0.5) * torch.log(z) - z + 0.9189385332046727 + (1 / 12 - 1 / (360 * z * z)) / z
    made = torch.where(size < 3.0, small, torch.where(size < 8.0, middle, large))
    reflected = 1.1447298858494002 - torch.log(_sine_pi(x).abs()) - made
    made = torch.where(x < 0.5, reflected, made)
    return torch.where((x <= 0) & (x == torch.floor(x)), torch.full_like(x, float("inf")), made)


@lowering("aten::lgamma", examples=[example(self=("n", 3), _atol=1e-4), example(self=_ANY)])
def lgamma(x):
    """lgamma -> Log and series; Stirling's beyond eight, the reflection formula below one half."""
    return _lgamma(_float(x))


@lowering(
    "aten::mvlgamma",
    examples=[example(self=tensor("n", 3, low=1.5, high=9.0), p=3), example(self=tensor(4, low=1.0, high=9.0), p=2)],
)
def mvlgamma(x, p):
    """mvlgamma -> a sum of p lgamma."""
    x = _float(x)
    return sum(_lgamma(x - i / 2) for i in range(p)) + p * (p - 1) / 4 * math.log(math.pi)


def _polygamma_positive(x: Any, n: int) -> Any:
    """Up by eight by the recurrence, then the asymptotic series; `x` at least one half, no sign."""
    import torch

    z = x + 8
    below = sum(math.factorial(n) / (x + k) ** (n + 1) for k in range(8))
    lead = -torch.log(z) if n == 0 else math.factorial(n - 1) / z**n
    made = lead + math.factorial(n) / (2 * z ** (n + 1))
    for k, number in enumerate(_BERNOULLI, start=1):
        made = made + number * math.factorial(2 * k + n - 1) / math.factorial(2 * k) / z ** (2 * k + n)
    return made + below


def _cotangent(x: Any, n: int) -> Any:
    """The n-th derivative of pi cot(pi x), n <= 4."""
    import torch

    sine = _sine_pi(x)
    cot, csc2 = torch.cos(math.pi * (x - torch.round(x))) / sine, 1 / (sine * sine)
    derivative = (
        cot, -csc2, 2 * cot * csc2, -(4 * cot * cot + 2 * csc2) * csc2, (8 * cot**3 + 16 * cot * csc2) * csc2
    )[n]  # fmt: skip
    return math.pi ** (n + 1) * derivative


def _polygamma(x: Any, n: int) -> Any:
    import torch

    size = torch.where(x < 0.5, 1 - x, x)
    made = (-1.0) ** (n + 1) * _polygamma_positive(size, n)
    made = torch.where(x < 0.5, (-1.0) ** n * made - _cotangent(x, n), made)
    pole = (x <= 0) & (x == torch.floor(x))
    if n == 0:
        return torch.where(pole, torch.where(x == 0, -1 / x, torch.full_like(x, float("nan"))), made)
    return torch.where(pole, torch.full_like(x, (-1.0) ** (n + 1) * float("inf")), made)


@lowering("aten::digamma", examples=[example(self=("n", 3), _rtol=1e-3, _atol=1e-4), example(self=_ANY, _rtol=1e-3)])
def digamma(x):
    """digamma -> Log and the asymptotic series, the reflection formula below one half.

    Source: Abramowitz and Stegun, 6.3.
    """
    return _polygamma(_float(x), 0)


@lowering(
    "aten::polygamma",
    examples=[example(n=1, self=("m", 3), _rtol=1e-3, _atol=1e-3), example(n=3, self=_ANY, _rtol=1e-3, _atol=1e-2)],
    refuses=[example(n=7, self=(2, 3), because="4")],
)
def polygamma(n, x):
    """polygamma -> the asymptotic series, the reflection formula below one half.

    Source: Abramowitz and Stegun, 6.4.
    """
    require(n <= 4, "derivatives up to order 4 are written out")
    return _polygamma(_float(x), n)
