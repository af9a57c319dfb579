"""Orthogonal polynomials of any degree: Chebyshev's in closed form, the others by their recurrences in a loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rewrites import example, lowering, tensor
from rewrites.lowering import Lowering

_X = tensor(6, values=[-3.0, -1.0, -0.5, 0.25, 1.0, 2.0])
_N = tensor(6, values=[3.0, 4.0, 5.0, 0.0, 7.0, -1.0])
_NARROW = tensor("m", 3, low=-1.0, high=1.0)
_DEGREES = tensor("m", 3, low=0.0, high=9.0)
_EXAMPLES = [
    example(x=_NARROW, n=_DEGREES, _rtol=1e-3, _atol=1e-3),
    example(x=_X, n=_N, _rtol=1e-3),
    example(x=tensor(3, values=[0.5, 0.5, 2.0]), n=tensor(3, values=[float("inf"), float("nan"), 3e38])),
]


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
    """Without its fraction; -1 where it is NaN or beyond int64, to which PyTorch casts it."""
    import torch

    size = torch.floor(torch.abs(n))
    return torch.where(size < 2.0**63, torch.sign(n) * size, torch.full_like(n, -1.0))


def _numbers(x: Any, n: Any) -> tuple[Any, Any]:
    """The argument, and the degree without its fraction, in one floating-point type."""
    import torch

    x = torch.as_tensor(x)
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return x, _whole(torch.as_tensor(n).to(x.dtype))


def _chebyshev(kind: str, x: Any, n: Any) -> Any:
    import torch

    x, n = _numbers(x, n)
    at_one = {"t": n * 0 + 1, "u": n + 1, "v": n * 0 + 1, "w": 2 * n + 1}
    at_minus_one = {"t": n * 0 + 1, "u": n + 1, "v": 2 * n + 1, "w": n * 0 + 1}[kind]
    odd = n - 2 * torch.floor(n / 2)
    border = torch.where(x > 0, at_one[kind], at_minus_one * (1 - 2 * odd))
    made = torch.where(x.abs() < 1, _inside(kind, n, x), _outside(kind, n, x.abs(), x < 0))
    made = torch.where(x.abs() == 1, border, made)
    return torch.where(n < 0, torch.zeros_like(made), made)


def _chebyshev_lowering(kind: str, shifted: bool) -> Lowering:
    def chebyshev(x, n):
        """chebyshev polynomials of every kind -> cosines, hyperbolic beyond -1..1.

        Source: Abramowitz and Stegun, 22.3; the shifted ones are those of 2 x - 1.
        """
        return _chebyshev(kind, 2 * x - 1 if shifted else x, n)

    name = f"aten::special_{'shifted_' if shifted else ''}chebyshev_polynomial_{kind}"
    return lowering(name, examples=_EXAMPLES)(chebyshev)


chebyshev_polynomials = [_chebyshev_lowering(kind, shifted) for shifted in (False, True) for kind in "tuvw"]


@lru_cache(maxsize=1)
def _recurrence() -> Callable[..., Any]:
    """The polynomials of degree n by p[k + 1] = ((a k + b) x + c k + d) p[k] - e k p[k - 1], over k + 1 if `divided`.

    Scripted, so that it is one Loop, which ends at the highest degree that is asked for.
    """
    import torch

    def climb(x: torch.Tensor, n: torch.Tensor, factors: list[float], divided: bool) -> torch.Tensor:
        a, b, c, d, e = factors
        below, last = torch.ones_like(x), b * x + d
        made = torch.where(n == 0, below, last)
        k, top = torch.ones_like(n.amax()), n.amax()
        while bool(k < top):
            above = ((a * k + b) * x + (c * k + d)) * last - e * k * below
            above = above / (k + 1) if divided else above
            k = k + 1
            made = torch.where(n == k, above, made)
            below = last
            last = above
        return torch.where(n < 0, torch.zeros_like(made), made)

    climb.__annotations__ = {
        "x": torch.Tensor,
        "n": torch.Tensor,
        "factors": list[float],
        "divided": bool,
        "return": torch.Tensor,
    }
    return torch.jit.script(climb)


_RECURRENCES: dict[str, tuple[list[float], bool, int | None]] = {
    "hermite_polynomial_h": ([0.0, 2.0, 0.0, 0.0, 2.0], False, 128),
    "hermite_polynomial_he": ([0.0, 1.0, 0.0, 0.0, 1.0], False, 128),
    "laguerre_polynomial_l": ([0.0, -1.0, 2.0, 1.0, 1.0], True, None),
    "legendre_polynomial_p": ([2.0, 1.0, 0.0, 0.0, 1.0], True, None),
}


def _recurrence_lowering(name: str) -> Lowering:
    factors, divided, end = _RECURRENCES[name]

    def polynomial(x, n):
        """hermite, laguerre and legendre polynomials -> Loop over the recurrence between three of them.

        Source: Abramowitz and Stegun, 22.7. PyTorch has no Hermite polynomials of degrees from 128 on: they are NaN.
        """
        import torch

        x, n = torch.broadcast_tensors(*_numbers(x, n))
        n = n if end is None else n.clamp(max=end)
        made = _recurrence()(x, n, factors, divided)
        return made if end is None else torch.where(n >= end, torch.full_like(made, float("nan")), made)

    return lowering(f"aten::special_{name}", examples=_EXAMPLES)(polynomial)


recurrent_polynomials = [_recurrence_lowering(name) for name in _RECURRENCES]
