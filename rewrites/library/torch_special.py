"""Error functions and their inverses that ONNX lacks, by series fitted to PyTorch's own results."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, tensor
from rewrites.library.torch_approximation import approximate, between
from rewrites.lowering import in_single_precision

_CENTRE, _FAR = between(0.0, 5.0), between(math.sqrt(5.0), 4.2)
_ERFCX = (lambda x: (x - 3.75) / (x + 3.75), lambda u: 3.75 * (1 + u) / (1 - u))
_MIDDLE, _TAIL = between(0.0, 0.1325), (lambda z: (1 / z - 0.288) / 0.213, lambda u: 1 / (u * 0.213 + 0.288))


def _float(x: Any) -> Any:
    import torch

    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _erfinv_near(w: Any) -> Any:
    import torch

    x = torch.sqrt(-torch.expm1(-w))
    return torch.erfinv(x) / x


def _erfinv_far(s: Any) -> Any:
    return _erfinv_near(s * s)


@lowering(
    "aten::erfinv",
    examples=[
        example(self=tensor("n", 3, low=-1.0, high=1.0)),
        example(self=tensor(6, values=[-1.0, -0.9999, 0.0, 1e-3, 1.0, 1.5])),
    ],
)
@in_single_precision
def erfinv(x):
    """erfinv -> Log Sqrt and a series.

    Source: Giles, "Approximating the erfinv function", 2010: the variable of the series.
    """
    import torch

    x = _float(x)
    w = -torch.log(((1 - x) * (1 + x)).clamp(min=1e-9))
    near, far = approximate(w, _erfinv_near, _CENTRE, 12), approximate(torch.sqrt(w), _erfinv_far, _FAR, 12)
    made = x * torch.where(w < 5.0, near, far)
    made = torch.where(x.abs() == 1.0, x * float("inf"), made)
    return torch.where(x.abs() > 1.0, torch.full_like(x, float("nan")), made)


def _scaled_erfcx(x: Any) -> Any:
    import torch

    return torch.special.erfcx(x) * (1 + 2 * x)


def _erfcx(x: Any) -> Any:
    import torch

    size = x.abs()
    right = approximate(size.clamp(max=1e9), _scaled_erfcx, _ERFCX, 18) / (1 + 2 * size)
    return torch.where(x < 0, 2 * torch.exp(x * x) - right, right)


@lowering(
    "aten::special_erfcx",
    examples=[example(self=("n", 3)), example(self=tensor(6, values=[-3.0, -0.5, 0.0, 4.0, 1000.0, math.inf]))],
)
def special_erfcx(x):
    """special_erfcx -> Exp Div and a series.

    Source: Shepherd and Laframboise, "Chebyshev approximation of (1+2x)exp(x^2)erfc x", 1981.
    """
    return _erfcx(_float(x))


@lowering(
    "aten::erfc",
    examples=[
        example(self=("n", 3)),
        example(self=tensor(6, values=[-3.0, 0.5, 0.51, 3.0, 6.0, 9.0]), _rtol=2e-4, _atol=0.0),
        example(self=tensor(3, values=[math.inf, -math.inf, math.nan])),
        example(self=tensor(3, dtype="float16", values=[2.5, -1.0, 3.0]), _rtol=2e-3, _atol=0.0),
    ],
)
@in_single_precision
def erfc(x):
    """erfc -> Erf Sub, or Exp times the scaled erfc, where little is left of one; `torch.onnx` writes 1 - Erf."""
    import torch

    x = _float(x)
    positive = torch.relu(x)
    return torch.where(x < 0.5, 1 - torch.erf(x), torch.exp(-positive * positive) * _erfcx(positive))


@lowering(
    "aten::special_log_ndtr",
    examples=[example(self=("n", 3)), example(self=tensor(5, values=[-30.0, -2.0, 0.0, 4.0, 9.0]))],
)
def special_log_ndtr(x):
    """special_log_ndtr -> Log Erf, or the scaled erfc where that vanishes."""
    import torch

    x = _float(x)
    scaled = x * math.sqrt(0.5)
    low = torch.log(_erfcx(-torch.minimum(scaled, torch.zeros_like(x))) / 2) - scaled * scaled
    return torch.where(x < -1.0, low, torch.log((1 + torch.erf(scaled)) / 2))


def _ndtri_middle(square: Any) -> Any:
    import torch

    root = torch.sqrt(square)
    return torch.special.ndtri(root + 0.5) / root


def _ndtri_tail(z: Any) -> Any:
    import torch

    return torch.special.ndtri(torch.exp(-z * z / 2)) / z


@lowering(
    "aten::special_ndtri",
    examples=[
        example(self=tensor("n", 3, low=0.0, high=1.0)),
        example(self=tensor(7, values=[-0.1, 0.0, 1e-20, 0.01, 0.5, 0.99, 1.0])),
    ],
)
def special_ndtri(x):
    """special_ndtri -> Log Sqrt and a series: of the square, or of the root of the logarithm in the tails."""
    import torch

    x = _float(x)
    centred, low = x - 0.5, torch.minimum(x, 1 - x)
    z = torch.sqrt(-2 * torch.log(low.clamp(min=1e-37, max=0.15)))
    tail = z * approximate(z, _ndtri_tail, _TAIL, 16)
    middle = centred * approximate(centred * centred, _ndtri_middle, _MIDDLE, 16)
    made = torch.where(low < 0.14, torch.where(centred < 0, tail, -tail), middle)
    made = torch.where(low == 0, torch.sign(centred) * float("inf"), made)
    return torch.where(low < 0, torch.full_like(x, float("nan")), made)
