"""Gamma functions: ONNX has none."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.library.torch_approximation import approximate, between
from rewrites.lowering import in_single_precision

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


def log_gamma(x: Any) -> Any:
    """The logarithm of the size of the gamma function."""
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
@in_single_precision
def lgamma(x):
    """lgamma -> Log and series; Stirling's beyond eight, the reflection formula below one half."""
    return log_gamma(_float(x))


@lowering(
    "aten::mvlgamma",
    examples=[example(self=tensor("n", 3, low=1.5, high=9.0), p=3), example(self=tensor(4, low=1.0, high=9.0), p=2)],
)
@in_single_precision
def mvlgamma(x, p):
    """mvlgamma -> a sum of p lgamma."""
    x = _float(x)
    return sum(log_gamma(x - i / 2) for i in range(p)) + p * (p - 1) / 4 * math.log(math.pi)


def _hurwitz_tail(s: Any, z: Any) -> Any:
    """The Hurwitz zeta function of s > 1 at `z` >= 8 by the asymptotic series; its terms come from each other."""
    power = z**-s
    made = power * (z / (s - 1) + 0.5)
    term = s * power / z
    for k, number in enumerate(_BERNOULLI, start=1):
        made = made + number / math.factorial(2 * k) * term
        term = term * ((s + 2 * k - 1) / z) * ((s + 2 * k) / z)
    return made


def _hurwitz(s: Any, q: Any) -> Any:
    """The Hurwitz zeta function of s > 1 and q > 0: eight terms, and the asymptotic series of the rest."""
    return sum(((q + k) ** -s for k in range(8)), start=_hurwitz_tail(s, q + 8))


def _zeta(s: Any, q: Any) -> Any:
    """As PyTorch has it for all s and q: below zero for whole s, by the terms above zero, which differ in sign."""
    import torch

    below, fraction = q <= 0, q - torch.floor(q)
    upwards = _hurwitz(s, torch.where(below, torch.where(fraction > 0, fraction, torch.ones_like(q)), q))
    mirror, beyond = torch.where(below, 1 - fraction, torch.ones_like(q)), torch.where(below, 1 - q, torch.ones_like(q))
    sign = 1 - 2 * torch.abs(s - 2 * torch.floor(s / 2))
    made = torch.where(below, upwards + sign * (_hurwitz(s, mirror) - _hurwitz(s, beyond)), upwards)
    undefined, infinite = torch.full_like(made, float("nan")), torch.full_like(made, float("inf"))
    made = torch.where(below & (s != torch.floor(s)), undefined, made)
    made = torch.where(below & (fraction == 0), infinite, made)
    return torch.where(s == 1, infinite, torch.where(s < 1, undefined, made))


_ZETA = [
    example(self=tensor("n", 3, low=1.5, high=9.0), other=tensor("n", 3, low=0.1, high=20.0), _rtol=1e-3, _atol=1e-4),
    example(
        self=tensor(9, values=[2.0, 3.0, 1.0, 0.5, 2.5, 2.0, 30.0, 3.0, 1.5]),
        other=tensor(9, values=[-0.5, -2.25, 3.0, 2.0, -1.5, -3.0, 0.75, -40.3, 1e6]), _rtol=1e-3, _atol=1e-4,
    ),
]  # fmt: skip


@lowering(
    "aten::special_zeta",
    examples=[
        *_ZETA,
        example(op_type="aten::special_zeta.other_scalar", self=tensor("n", low=1.5, high=9.0), other=2.5),
    ],
)
def special_zeta(s, q):
    """special_zeta -> eight terms and the asymptotic series of the rest.

    Source: the Euler-Maclaurin formula, https://dlmf.nist.gov/25.11 (25.11.3 to go below zero).
    """
    import torch

    s, q = torch.as_tensor(s), torch.as_tensor(q)
    given = s if s.dim() or not q.dim() else q
    kind = given.dtype if given.is_floating_point() else torch.get_default_dtype()
    return _zeta(*torch.broadcast_tensors(s.to(kind), q.to(kind)))


def _digamma(x: Any) -> Any:
    """Up by eight by the recurrence, then the asymptotic series; by reflection below one half."""
    import torch

    size = torch.where(x < 0.5, 1 - x, x)
    z = size + 8
    made = torch.log(z) - 1 / (2 * z)
    for k, number in enumerate(_BERNOULLI, start=1):
        made = made - number / (2 * k) / z ** (2 * k)
    made = made - sum(1 / (size + k) for k in range(8))
    cotangent = torch.cos(math.pi * (x - torch.round(x))) / _sine_pi(x)
    made = torch.where(x < 0.5, made - math.pi * cotangent, made)
    pole = (x <= 0) & (x == torch.floor(x))
    return torch.where(pole, torch.where(x == 0, -1 / x, torch.full_like(x, float("nan"))), made)


def _polygamma(x: Any, n: int) -> Any:
    import torch

    if n == 0:
        return _digamma(x)
    if n == 1:  # the only one that PyTorch has a limit of
        return torch.where(x == math.inf, torch.zeros_like(x), _zeta(torch.full_like(x, 2.0), x))
    return (-1.0) ** (n + 1) * math.factorial(n) * _zeta(torch.full_like(x, float(n + 1)), x)


@lowering("aten::digamma", examples=[example(self=("n", 3), _rtol=1e-3, _atol=1e-4), example(self=_ANY, _rtol=1e-3)])
@in_single_precision
def digamma(x):
    """digamma -> Log and the asymptotic series, the reflection formula below one half.

    Source: Abramowitz and Stegun, 6.3.
    """
    return _digamma(_float(x))


@lowering(
    "aten::polygamma",
    examples=[
        example(n=1, self=("m", 3), _rtol=1e-3, _atol=1e-3),
        example(n=1, self=tensor(3, values=[math.inf, math.nan, 2.5]), _rtol=1e-3, _atol=1e-3),
        example(n=3, self=_ANY, _rtol=1e-3, _atol=1e-2),
        example(n=7, self=tensor("m", low=0.5, high=9.0), _rtol=1e-3, _atol=1e-2),
    ],
    refuses=[example(n=40, self=(2, 3), because="single precision")],
)
@in_single_precision
def polygamma(n, x):
    """polygamma -> digamma, or the Hurwitz zeta function of n + 1.

    Source: Abramowitz and Stegun, 6.4.10.
    """
    require(n < 34, "the factorial is beyond single precision")
    return _polygamma(_float(x), n)
