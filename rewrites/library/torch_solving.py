"""Determinants, inverses and linear systems of small matrices: ONNX has the determinant only."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.library.torch_factorization import (
    eye_like,
    lu,
    size_of,
    solve,
    solve_triangular,
)

_A = (-2, -1)
_SQUARE = tensor(3, 3, values=[[2.0, 1.0, 0.5], [4.0, -1.0, 3.0], [1.0, 0.5, -3.0]])
_BATCH = ("n", 4, 4)
_LOWER = tensor(3, 3, values=[[2.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.5, -1.0, 1.5]])
_DYNAMIC = example(A=("n", "n"), because="static")
_LOOSE: dict[str, Any] = {"_rtol": 1e-3, "_atol": 1e-3}


def _is_vector(a: Any, b: Any) -> bool:
    return b.dim() == 1 or (a.dim() - 1 == b.dim() and list(b.shape) == list(a.shape[:-1]))


def _diagonal(x: Any) -> Any:
    import torch

    size = int(x.shape[-1])
    return (x * torch.eye(size, dtype=x.dtype)).sum(-1)


def _sign(pivots: Any) -> Any:
    """1 or -1: whether the number of row exchanges is even."""
    import torch

    kept = pivots == torch.arange(1, int(pivots.shape[-1]) + 1)
    return torch.where(kept, torch.ones_like(pivots), -torch.ones_like(pivots)).to(torch.float32)


def _product(x: Any, size: int) -> Any:
    made = x[..., 0]
    for i in range(1, size):
        made = made * x[..., i]
    return made


@lowering(
    "aten::linalg_det", static={"A": _A}, examples=[example(A=_SQUARE), example(A=_BATCH, **_LOOSE)], refuses=[_DYNAMIC]
)
def linalg_det(A):
    """linalg_det -> the product of the diagonal of an unrolled LU."""
    packed, _, pivots, _ = lu(A)
    return _product(_diagonal(packed) * _sign(pivots).to(A.dtype), size_of(A, -1))


@lowering(
    "aten::linalg_slogdet",
    static={"A": _A},
    examples=[example(A=_SQUARE), example(A=_BATCH, **_LOOSE)],
    refuses=[_DYNAMIC],
)
def linalg_slogdet(A):
    """linalg_slogdet -> the signs and logarithms of the diagonal of an unrolled LU."""
    return _sign_and_logarithm(A)


def _sign_and_logarithm(a: Any) -> tuple[Any, Any]:
    """Of the determinant, by LU."""
    import torch

    packed, _, pivots, _ = lu(a)
    diagonal = _diagonal(packed)
    return _product(torch.sign(diagonal) * _sign(pivots).to(a.dtype), size_of(a, -1)), torch.log(diagonal.abs()).sum(-1)


@lowering(
    "aten::logdet",
    static={"a": _A},
    examples=[example(self=_SQUARE), example(self=tensor(2, 2, values=[[1.0, 2.0], [3.0, 4.0]]))],
    refuses=[example(self=("n", "n"), because="static")],
)
def logdet(a):
    """logdet -> the logarithms of the diagonal of an unrolled LU; NaN where the determinant is negative."""
    import torch

    sign, logarithm = _sign_and_logarithm(a)
    return torch.where(sign < 0, torch.full_like(logarithm, float("nan")), logarithm)


@lowering(
    "aten::linalg_inv", static={"A": _A}, examples=[example(A=_SQUARE), example(A=_BATCH, **_LOOSE)], refuses=[_DYNAMIC]
)
def linalg_inv(A):
    """linalg_inv -> an unrolled LU, and substitution with the unit matrix."""
    return solve(A, eye_like(A, size_of(A, -1)))


@lowering(
    "aten::linalg_inv_ex",
    static={"A": _A},
    examples=[example(A=_SQUARE), example(A=_BATCH, **_LOOSE)],
    refuses=[_DYNAMIC],
)
def linalg_inv_ex(A, *, check_errors=False):
    """linalg_inv_ex -> an unrolled LU, and substitution with the unit matrix."""
    require(not check_errors, "an engine cannot raise errors")
    return solve(A, eye_like(A, size_of(A, -1))), lu(A)[3]


def _solve_either(A: Any, B: Any, left: bool) -> Any:
    if _is_vector(A, B):
        return solve(A, B.unsqueeze(-1)).squeeze(-1)
    return solve(A, B) if left else solve(A.transpose(-1, -2), B.transpose(-1, -2)).transpose(-1, -2)


@lowering(
    "aten::linalg_solve",
    static={"A": None, "B": None},
    examples=[example(A=_SQUARE, B=(3, 2)), example(A=_SQUARE, B=(3,)), example(A=_SQUARE, B=(2, 3), left=False)],
    refuses=[example(A=_SQUARE, B=(3, "n"), because="static")],
)
def linalg_solve(A, B, *, left=True):
    """linalg_solve -> an unrolled LU and substitution."""
    return _solve_either(A, B, left)


@lowering(
    "aten::linalg_solve_ex",
    static={"A": None, "B": None},
    examples=[example(A=_SQUARE, B=(3, 2)), example(A=_SQUARE, B=(3,))],
    refuses=[example(A=_SQUARE, B=(3, "n"), because="static")],
)
def linalg_solve_ex(A, B, *, left=True, check_errors=False):
    """linalg_solve_ex -> an unrolled LU and substitution."""
    require(not check_errors, "an engine cannot raise errors")
    return _solve_either(A, B, left), lu(A)[3]


@lowering(
    "aten::linalg_solve_triangular",
    static={"A": _A},
    examples=[
        example(self=_LOWER, B=(3, "m"), upper=False),
        example(self=(4, 4), B=("n", 4, 2), upper=True, unitriangular=True, **_LOOSE),
        example(self=_LOWER, B=("m", 3), upper=False, left=False),
    ],
    refuses=[example(self=("n", "n"), B=(3, 2), upper=False, because="static", _sizes={"n": 3})],
)
def linalg_solve_triangular(A, B, *, upper, left=True, unitriangular=False):
    """linalg_solve_triangular -> unrolled substitution."""
    if left:
        return solve_triangular(A, B, upper, unitriangular)
    made = solve_triangular(A.transpose(-1, -2), B.transpose(-1, -2), not upper, unitriangular)
    return made.transpose(-1, -2)


@lowering(
    "aten::triangular_solve",
    static={"A": _A},
    examples=[
        example(self=(3, "m"), A=_LOWER, upper=False),
        example(self=("n", 3, 2), A=_LOWER, transpose=True, upper=False),
    ],
    refuses=[example(self=(3, 2), A=("n", "n"), because="static", _sizes={"n": 3})],
)
def triangular_solve(b, A, upper=True, transpose=False, unitriangular=False):
    """triangular_solve -> unrolled substitution."""
    import torch

    factor = A.transpose(-1, -2) if transpose else A
    made = solve_triangular(factor, b, upper != transpose, unitriangular)
    batch = torch.zeros_like(made[..., :1, :1])
    return made, A + batch
