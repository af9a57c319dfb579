"""The regularized incomplete gamma functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rewrites import example, lowering, tensor
from rewrites.library.torch_gamma import log_gamma
from rewrites.lowering import in_single_precision

_TERMS = 64
_SERIES_UP_TO = 30.0
_A = tensor(12, values=[0.1, 0.5, 1.0, 2.5, 9.0, 30.0, 31.0, 100.0, 100.0, 1e4, 0.0, -1.0])
_X = tensor(12, values=[0.05, 3.0, 0.0, 2.0, 9.5, 40.0, 31.0, 95.0, 120.0, 1.01e4, 2.0, 1.0])
_EXAMPLES = [
    example(self=tensor("n", 3, low=0.1, high=8.0), other=tensor("n", 3, low=0.0, high=9.0), _rtol=1e-3, _atol=1e-5),
    example(self=_A, other=_X, _rtol=1e-3, _atol=1e-5),
    example(self=tensor("n", 1, low=20.0, high=60.0), other=tensor(5, low=20.0, high=60.0), _rtol=1e-3, _atol=1e-5),
]


def _log_of_one_and(x: Any) -> Any:
    """log(1 + x), exact for small x too.

    Source: W. Kahan; N. Higham, "Accuracy and Stability of Numerical Algorithms", 1.14.1.
    """
    import torch

    u = 1 + x
    rounded = u == 1
    return torch.where(rounded, x, torch.log(u) * x / torch.where(rounded, torch.ones_like(u), u - 1))


def _density(a: Any, x: Any) -> Any:
    """x^a exp(-x) / gamma(a); by Stirling's series where a is large."""
    import torch

    direct = torch.exp(a * torch.log(x) - x - log_gamma(a.clamp(max=8.0)))
    large = a.clamp(min=8.0)
    off = (x - large) / large
    exponent = large * (_log_of_one_and(off) - off) - (1 / 12 - 1 / (360 * large * large)) / large
    return torch.where(a < 8, direct, torch.sqrt(large / (2 * math.pi)) * torch.exp(exponent))


def _series(a: Any, x: Any) -> Any:
    """Of the lower function, over the density: the sum of x^n / (a (a + 1) ... (a + n))."""
    import torch

    a, x = a.unsqueeze(-1), x.unsqueeze(-1)
    logs = torch.log(x) - torch.log(a + torch.arange(1, _TERMS + 1, dtype=a.dtype))
    return (1 + torch.exp(torch.cumsum(logs, -1)).sum(-1)) / a.squeeze(-1)


def _integral(a: Any, x: Any, length: Any, sign: float) -> Any:
    """Over the density times x: of (1 + sign v / x)^(a - 1) exp(-sign v) for v up to `length`, by Gauss-Legendre."""
    import torch

    nodes, weights = np.polynomial.legendre.leggauss(_TERMS)
    at, share = (torch.tensor(values / 2, dtype=a.dtype) for values in (nodes + 1, weights))
    v = length.unsqueeze(-1) * at
    inside = (1 + sign * v / x.unsqueeze(-1)).clamp(min=1e-30)
    exponent = (a.unsqueeze(-1) - 1) * torch.log(inside) - sign * v
    return (torch.exp(exponent) * share).sum(-1) * length / x


def _both(a: Any, x: Any) -> tuple[Any, Any]:
    """The lower and the upper function, each exact where it is the smaller."""
    import torch

    a, x = torch.broadcast_tensors(a, x)
    nan, inf = torch.full_like(a, math.nan), math.inf
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    plain = (a > 0) & (x > 0) & (a < inf) & (x < inf)
    p, y = torch.where(plain, a, one), torch.where(plain, x, one)
    density, width = _density(p, y), 12 * torch.sqrt(p)
    short = p <= _SERIES_UP_TO
    lower = torch.where(
        short,
        _series(torch.where(short, p, one), torch.where(short, y.clamp(max=_SERIES_UP_TO + 1), one)),
        _integral(p, y, torch.minimum(width, y), -1.0),
    )
    upper = density * _integral(p, y, width + 24, 1.0)
    below = y < p + 1
    lower = torch.where(below, density * lower, 1 - upper)
    upper = torch.where(below, 1 - lower, upper)
    edges = (
        ((x == inf) & (a < inf), one, zero), ((a == inf) & (x < inf), zero, one), ((a == inf) & (x == inf), nan, nan),
        ((x == 0) & (a > 0), zero, one), (a == 0, one, zero), ((a == 0) & ~(x > 0), nan, nan),
        (~(a >= 0) | ~(x >= 0), nan, nan),
    )  # fmt: skip
    for edge, below_it, above_it in edges:
        lower, upper = torch.where(edge, below_it, lower), torch.where(edge, above_it, upper)
    return lower, upper


@lowering("aten::igamma", examples=_EXAMPLES)
@in_single_precision
def igamma(a, x):
    """igamma -> a power series where x is below a + 1, an integral beyond, and for a above 30.

    Source: Press et al., "Numerical Recipes", 6.2: the series, and the integral for large a.
    """
    return _both(a, x)[0]


@lowering("aten::igammac", examples=_EXAMPLES)
@in_single_precision
def igammac(a, x):
    """igammac -> an integral where x is above a + 1, one less the lower function below.

    Source: Press et al., "Numerical Recipes", 6.2: the series, and the integral for large a.
    """
    return _both(a, x)[1]
