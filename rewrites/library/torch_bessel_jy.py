"""Bessel functions of the first and second kind: ONNX has none."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, tensor
from rewrites.library.torch_approximation import approximate, between, beyond

_SQUARES, _EIGHT = between(0.0, 64.0), beyond(8.0)
_SIGNED = tensor(9, values=[-20.0, -8.5, -1.0, 0.0, 0.3, 7.9, 40.0, -math.inf, math.inf])
_POSITIVE = tensor(7, values=[1e-36, 0.5, 1.9, 2.1, 9.0, 50.0, math.inf])


def _float(x: Any) -> Any:
    import torch

    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _amplitude(x: Any, order: int, quadrature: bool) -> Any:
    """What the asymptotic form multiplies with the cosine, or with the sine, of the phase."""
    from torch import special

    j, y = (getattr(special, f"bessel_{kind}{order}")(x) for kind in "jy")
    phase = x - math.pi * (2 * order + 1) / 4
    cosine, sine = phase.cos(), phase.sin()
    return (x * (math.pi / 2)).sqrt() * (y * cosine - j * sine if quadrature else j * cosine + y * sine)


def _p0(x: Any) -> Any:
    return _amplitude(x, 0, False)


def _q0(x: Any) -> Any:
    return _amplitude(x, 0, True)


def _p1(x: Any) -> Any:
    return _amplitude(x, 1, False)


def _q1(x: Any) -> Any:
    return _amplitude(x, 1, True)


def _j0_near(square: Any) -> Any:
    from torch import special

    return special.bessel_j0(square.sqrt())


def _j1_near(square: Any) -> Any:
    from torch import special

    return special.bessel_j1(square.sqrt()) / square.sqrt()


def _y0_near(square: Any) -> Any:
    from torch import special

    x = square.sqrt()
    return special.bessel_y0(x) - 2 / math.pi * x.log() * special.bessel_j0(x)


def _y1_near(square: Any) -> Any:
    from torch import special

    x = square.sqrt()
    return (special.bessel_y1(x) - 2 / math.pi * (x.log() * special.bessel_j1(x) - 1 / x)) / x


def _far(x: Any, order: int, second: bool) -> Any:
    import torch

    far = x.clamp(8.0, math.inf)
    phase = far - math.pi * (2 * order + 1) / 4
    p = approximate(far, (_p0, _p1)[order], _EIGHT, 14)
    q = approximate(far, (_q0, _q1)[order], _EIGHT, 14)
    wave = p * torch.sin(phase) + q * torch.cos(phase) if second else p * torch.cos(phase) - q * torch.sin(phase)
    return wave * torch.sqrt(2 / math.pi / far)


def _j(x: Any, order: int) -> Any:
    import torch

    size = x.abs()
    if order == 0:
        return torch.where(size < 8.0, approximate(x * x, _j0_near, _SQUARES, 18), _far(size, 0, False))
    return torch.where(size < 8.0, x * approximate(x * x, _j1_near, _SQUARES, 18), torch.sign(x) * _far(size, 1, False))


def _y(x: Any, order: int) -> Any:
    import torch

    inner = x.clamp(1e-37, 8.0)
    logarithm = 2 / math.pi * torch.log(inner) * _j(inner, order)
    if order == 0:
        near = approximate(inner * inner, _y0_near, _SQUARES, 18) + logarithm
    else:
        near = inner * approximate(inner * inner, _y1_near, _SQUARES, 18) + logarithm - 2 / math.pi / inner
    made = torch.where(x < 8.0, near, _far(x, order, True))
    made = torch.where(x == 0, torch.full_like(x, float("-inf")), made)
    return torch.where(x < 0, torch.full_like(x, float("nan")), made)


@lowering("aten::special_bessel_j0", examples=[example(self=("n", 3)), example(self=_SIGNED)])
def special_bessel_j0(x):
    """special_bessel_j0 -> a series below eight, Cos and Sin beyond.

    Source: Abramowitz and Stegun, 9.2.5.
    """
    return _j(_float(x), 0)


@lowering("aten::special_bessel_j1", examples=[example(self=("n", 3)), example(self=_SIGNED)])
def special_bessel_j1(x):
    """special_bessel_j1 -> a series below eight, Cos and Sin beyond.

    Source: Abramowitz and Stegun, 9.2.5.
    """
    return _j(_float(x), 1)


@lowering("aten::special_bessel_y0", examples=[example(self=("n", 3)), example(self=_POSITIVE)])
def special_bessel_y0(x):
    """special_bessel_y0 -> Log and a series below eight, Cos and Sin beyond.

    Source: Abramowitz and Stegun, 9.1.13 and 9.2.6.
    """
    return _y(_float(x), 0)


@lowering("aten::special_bessel_y1", examples=[example(self=("n", 3)), example(self=_POSITIVE)])
def special_bessel_y1(x):
    """special_bessel_y1 -> Log and a series below eight, Cos and Sin beyond.

    Source: Abramowitz and Stegun, 9.1.11 and 9.2.6.
    """
    return _y(_float(x), 1)


@lowering("aten::special_spherical_bessel_j0", examples=[example(x=("n", 3)), example(x=_SIGNED)])
def special_spherical_bessel_j0(x):
    """special_spherical_bessel_j0 -> Sin Div, its series about zero, zero at infinity."""
    import torch

    x = _float(x)
    square, safe = x * x, torch.where(x.abs() < 0.5, torch.ones_like(x), x)
    near = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    far = torch.sin(torch.where(torch.isinf(safe), torch.ones_like(x), safe)) / safe
    return torch.where(x.abs() < 0.5, near, far)
