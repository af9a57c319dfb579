"""Chebyshev polynomials of any degree, in closed form: a recurrence would need to know the degree."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, tensor

_X = tensor(6, values=[-3.0, -1.0, -0.5, 0.25, 1.0, 2.0])
_N = tensor(6, values=[3.0, 4.0, 5.0, 0.0, 7.0, -1.0])
_NARROW = tensor("m", 3, low=-1.0, high=1.0)
_DEGREES = tensor("m", 3, low=0.0, high=9.0)


def _inside(kind: str, n: Any, x: Any) -> Any:
    """Within -1..1: sines and cosines of multiples of an angle."""
    import torch

    angle = torch.acos(x.clamp(-0.99999994, 0.99999994))
    half = angle / 2
    if kind == "t":
        return torch.cos(n * angle)
    if kind == "u":
        return torch.sin((n + 1) * angle) / torch.sin(angle)
    over = (n + 0.5) * angle
    return torch.cos(over) / torch.cos(half) if kind == "v" else torch.sin(over) / torch.sin(half)


def _outside(kind: str, n: Any, size: Any, negative: Any) -> Any:
    """Beyond: the same with hyperbolic sines and cosines; the third and fourth kind change places for negative x."""
    import torch

    size = size.clamp(min=1.0000001)
    t = torch.log(size + torch.sqrt((size - 1) * (size + 1)))

    def twice(of: Any, sign: int) -> Any:
        return torch.exp(of) + sign * torch.exp(-of)

    if kind == "t":
        made = twice(n * t, 1) / 2
    elif kind == "u":
        made = twice((n + 1) * t, -1) / twice(t, -1)
    else:
        over = (n + 0.5) * t
        third, fourth = twice(over, 1) / twice(t / 2, 1), twice(over, -1) / twice(t / 2, -1)
        third, fourth = torch.where(negative, fourth, third), torch.where(negative, third, fourth)
        made = third if kind == "v" else fourth
    odd = torch.abs(n - 2 * torch.floor(n / 2))
    return torch.where(negative, made * (1 - 2 * odd), made)


def _whole(n: Any) -> Any:
    import torch

    return torch.sign(n) * torch.floor(torch.abs(n))


def _chebyshev(kind: str, x: Any, n: Any) -> Any:
    import torch

    x = torch.as_tensor(x)
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    n = _whole(torch.as_tensor(n).to(x.dtype))
    at_one = {"t": n * 0 + 1, "u": n + 1, "v": n * 0 + 1, "w": 2 * n + 1}
    at_minus_one = {"t": n * 0 + 1, "u": n + 1, "v": 2 * n + 1, "w": n * 0 + 1}[kind]
    odd = n - 2 * torch.floor(n / 2)
    border = torch.where(x > 0, at_one[kind], at_minus_one * (1 - 2 * odd))
    made = torch.where(x.abs() < 1, _inside(kind, n, x), _outside(kind, n, x.abs(), x < 0))
    made = torch.where(x.abs() == 1, border, made)
    return torch.where(n < 0, torch.zeros_like(made), made)


@lowering(
    "aten::special_chebyshev_polynomial_t",
    examples=[example(x=_NARROW, n=_DEGREES, _rtol=1e-3, _atol=1e-3), example(x=_X, n=_N, _rtol=1e-3)],
)
def special_chebyshev_polynomial_t(x, n):
    """special_chebyshev_polynomial_t -> cosines, hyperbolic beyond -1..1.

    Source: Abramowitz and Stegun, 22.3; the first kind.
    """
    return _chebyshev("t", x, n)


@lowering(
    "aten::special_chebyshev_polynomial_u",
    examples=[example(x=_NARROW, n=_DEGREES, _rtol=1e-3, _atol=1e-3), example(x=_X, n=_N, _rtol=1e-3)],
)
def special_chebyshev_polynomial_u(x, n):
    """special_chebyshev_polynomial_u -> cosines, hyperbolic beyond -1..1.

    Source: Abramowitz and Stegun, 22.3; the second kind.
    """
    return _chebyshev("u", x, n)


@lowering(
    "aten::special_chebyshev_polynomial_v",
    examples=[example(x=_NARROW, n=_DEGREES, _rtol=1e-3, _atol=1e-3), example(x=_X, n=_N, _rtol=1e-3)],
)
def special_chebyshev_polynomial_v(x, n):
    """special_chebyshev_polynomial_v -> cosines, hyperbolic beyond -1..1.

    Source: Abramowitz and Stegun, 22.3; the third kind.
    """
    return _chebyshev("v", x, n)


@lowering(
    "aten::special_chebyshev_polynomial_w",
    examples=[example(x=_NARROW, n=_DEGREES, _rtol=1e-3, _atol=1e-3), example(x=_X, n=_N, _rtol=1e-3)],
)
def special_chebyshev_polynomial_w(x, n):
    """special_chebyshev_polynomial_w -> cosines, hyperbolic beyond -1..1.

    Source: Abramowitz and Stegun, 22.3; the fourth kind.
    """
    return _chebyshev("w", x, n)


@lowering(
    "aten::special_shifted_chebyshev_polynomial_t",
    examples=[example(x=_NARROW, n=_DEGREES, _rtol=1e-3, _atol=1e-3), example(x=_X, n=_N, _rtol=1e-3)],
)
def special_shifted_chebyshev_polynomial_t(x, n):
    """special_shifted_chebyshev_polynomial_t -> cosines of the shifted argument, hyperbolic beyond -1..1.

    Source: Abramowitz and Stegun, 22.3; the first kind.
    """
    return _chebyshev("t", 2 * x - 1, n)


@lowering(
    "aten::special_shifted_chebyshev_polynomial_u",
    examples=[example(x=_NARROW, n=_DEGREES, _rtol=1e-3, _atol=1e-3), example(x=_X, n=_N, _rtol=1e-3)],
)
def special_shifted_chebyshev_polynomial_u(x, n):
    """special_shifted_chebyshev_polynomial_u -> cosines of the shifted argument, hyperbolic beyond -1..1.

    Source: Abramowitz and Stegun, 22.3; the second kind.
    """
    return _chebyshev("u", 2 * x - 1, n)


@lowering(
    "aten::special_shifted_chebyshev_polynomial_v",
    examples=[example(x=_NARROW, n=_DEGREES, _rtol=1e-3, _atol=1e-3), example(x=_X, n=_N, _rtol=1e-3)],
)
def special_shifted_chebyshev_polynomial_v(x, n):
    """special_shifted_chebyshev_polynomial_v -> cosines of the shifted argument, hyperbolic beyond -1..1.

    Source: Abramowitz and Stegun, 22.3; the third kind.
    """
    return _chebyshev("v", 2 * x - 1, n)


@lowering(
    "aten::special_shifted_chebyshev_polynomial_w",
    examples=[example(x=_NARROW, n=_DEGREES, _rtol=1e-3, _atol=1e-3), example(x=_X, n=_N, _rtol=1e-3)],
)
def special_shifted_chebyshev_polynomial_w(x, n):
    """special_shifted_chebyshev_polynomial_w -> cosines of the shifted argument, hyperbolic beyond -1..1.

    Source: Abramowitz and Stegun, 22.3; the fourth kind.
    """
    return _chebyshev("w", 2 * x - 1, n)
