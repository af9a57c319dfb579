"""The factors of small matrices themselves: LU, Cholesky, QR."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.library.torch_factorization import (
    cholesky,
    chosen_row,
    exchange_rows,
    eye_like,
    lu,
    size_of,
    solve_lower,
    solve_triangular,
    triangles,
)  # fmt: skip

_A = (-2, -1)
_SQUARE = tensor(3, 3, values=[[2.0, 1.0, 0.5], [4.0, -1.0, 3.0], [1.0, 0.5, -3.0]])
_POSITIVE = tensor(3, 3, values=[[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
_LOWER = tensor(3, 3, values=[[2.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.5, -1.0, 1.5]])
_PIVOTS = tensor(3, values=[2, 3, 3], dtype="int32")
_LOOSE: dict[str, Any] = {"_rtol": 1e-3, "_atol": 1e-3}
_DYNAMIC = example(A=("n", "n"), because="static")


@lowering(
    "aten::linalg_lu",
    static={"A": _A},
    examples=[example(A=_SQUARE), example(A=("n", 3, 5), **_LOOSE)],
    refuses=[_DYNAMIC],
)
def linalg_lu(A, *, pivot=True):
    """linalg_lu -> unrolled elimination with row exchanges."""
    packed, permutation, _, _ = lu(A, pivot)
    lower, upper = triangles(packed)
    return (permutation.transpose(-1, -2) if pivot else permutation[..., :0, 0]), lower, upper


@lowering(
    "aten::linalg_lu_factor",
    static={"A": _A},
    examples=[example(A=_SQUARE), example(A=("n", 3, 4), **_LOOSE)],
    refuses=[_DYNAMIC],
)
def linalg_lu_factor(A, *, pivot=True):
    """linalg_lu_factor -> unrolled elimination with row exchanges."""
    packed, _, pivots, _ = lu(A, pivot)
    return packed, pivots


@lowering(
    "aten::linalg_lu_factor_ex",
    static={"A": _A},
    examples=[example(A=_SQUARE), example(A=("n", 3, 4), **_LOOSE)],
    refuses=[_DYNAMIC],
)
def linalg_lu_factor_ex(A, *, pivot=True, check_errors=False):
    """linalg_lu_factor_ex -> unrolled elimination with row exchanges."""
    require(not check_errors, "an engine cannot raise errors")
    packed, _, pivots, info = lu(A, pivot)
    return packed, pivots, info


@lowering(
    "aten::_lu_with_info", static={"A": _A}, examples=[example(self=_SQUARE), example(self=("n", 3, 4), **_LOOSE)]
)
def lu_with_info(A, pivot=True, check_errors=False):
    """_lu_with_info -> unrolled elimination with row exchanges."""
    packed, _, pivots, info = lu(A, pivot)
    return packed, pivots, info


def _permute(x: Any, pivots: Any, backwards: bool) -> Any:
    """Carry out the row exchanges that LAPACK's pivots name."""
    import torch

    count = int(pivots.shape[-1])
    for k in reversed(range(count)) if backwards else range(count):
        x = exchange_rows(x, k, chosen_row(pivots[..., k].to(torch.int64) - 1, x))
    return x


def _lu_solve(packed: Any, pivots: Any, b: Any, adjoint: bool) -> Any:
    if not adjoint:
        return solve_triangular(packed, solve_lower(packed, _permute(b, pivots, False), True), True, False)
    turned = packed.transpose(-1, -2)
    return _permute(solve_triangular(turned, solve_lower(turned, b, False), True, True), pivots, True)


@lowering(
    "aten::linalg_lu_solve",
    static={"LU": None, "pivots": None, "B": None},
    examples=[
        example(LU=_SQUARE, pivots=_PIVOTS, B=(3, 2)),
        example(LU=_SQUARE, pivots=_PIVOTS, B=(3, 2), adjoint=True),
        example(LU=_SQUARE, pivots=_PIVOTS, B=(2, 3), left=False),
    ],
    refuses=[example(LU=_SQUARE, pivots=_PIVOTS, B=(3, "n"), because="static")],
)
def linalg_lu_solve(LU, pivots, B, *, left=True, adjoint=False):
    """linalg_lu_solve -> row exchanges and unrolled substitution."""
    if left:
        return _lu_solve(LU, pivots, B, adjoint)
    return _lu_solve(LU, pivots, B.transpose(-1, -2), not adjoint).transpose(-1, -2)


@lowering(
    "aten::lu_solve",
    static={"LU_data": None, "LU_pivots": None, "b": None},
    examples=[
        example(self=(3, 2), LU_data=_SQUARE, LU_pivots=_PIVOTS),
        example(self=(3, 1), LU_data=_SQUARE, LU_pivots=_PIVOTS),
    ],
    refuses=[example(self=(3, "n"), LU_data=_SQUARE, LU_pivots=_PIVOTS, because="static")],
)
def lu_solve(b, LU_data, LU_pivots):
    """lu_solve -> row exchanges and unrolled substitution."""
    return _lu_solve(LU_data, LU_pivots, b, False)


@lowering(
    "aten::lu_unpack",
    static={"LU_data": None, "LU_pivots": None},
    examples=[
        example(LU_data=_SQUARE, LU_pivots=_PIVOTS),
        example(LU_data=(2, 3, 4), LU_pivots=tensor(2, 3, values=[[3, 2, 3], [1, 2, 3]], dtype="int32")),
    ],
    refuses=[example(LU_data=(3, "n"), LU_pivots=_PIVOTS, because="static", _sizes={"n": 3})],
)
def lu_unpack(LU_data, LU_pivots, unpack_data=True, unpack_pivots=True):
    """lu_unpack -> row exchanges of the unit matrix; the triangles."""
    require(unpack_data and unpack_pivots, "both the factors and the permutation are unpacked")
    lower, upper = triangles(LU_data)
    return _permute(eye_like(LU_data, size_of(LU_data, -2)), LU_pivots, True), lower, upper


def _cholesky(x: Any, upper: bool) -> tuple[Any, Any]:
    lower, info = cholesky(x.transpose(-1, -2) if upper else x)
    return (lower.transpose(-1, -2) if upper else lower), info


@lowering(
    "aten::linalg_cholesky",
    static={"x": _A},
    examples=[
        example(self=_POSITIVE),
        example(self=tensor("n", 2, 2, values=[[[2.0, 0.5], [0.5, 1.0]]] * 3), upper=True, _sizes={"n": 3}),
    ],
)
def linalg_cholesky(x, *, upper=False):
    """linalg_cholesky -> unrolled Sqrt, Div and MatMul, column by column."""
    return _cholesky(x, upper)[0]


@lowering(
    "aten::linalg_cholesky_ex",
    static={"x": _A},
    examples=[example(self=_POSITIVE), example(self=_POSITIVE, upper=True)],
)
def linalg_cholesky_ex(x, *, upper=False, check_errors=False):
    """linalg_cholesky_ex -> unrolled Sqrt, Div and MatMul, column by column."""
    require(not check_errors, "an engine cannot raise errors")
    return _cholesky(x, upper)


def _cholesky_solve(b: Any, factor: Any, upper: bool) -> Any:
    lower = factor.transpose(-1, -2) if upper else factor
    return solve_triangular(lower.transpose(-1, -2), solve_lower(lower, b, False), True, False)


@lowering(
    "aten::cholesky_solve",
    static={"factor": _A},
    examples=[example(self=(3, "m"), input2=_LOWER), example(self=("n", 3, 2), input2=_LOWER)],
)
def cholesky_solve(b, factor, upper=False):
    """cholesky_solve -> two unrolled substitutions."""
    return _cholesky_solve(b, factor, upper)


@lowering(
    "aten::cholesky_inverse",
    static={"factor": _A},
    examples=[
        example(self=_LOWER),
        example(self=tensor("n", 2, 2, values=[[[2.0, 0.0], [0.5, 1.0]]] * 3), _sizes={"n": 3}),
    ],
)
def cholesky_inverse(factor, upper=False):
    """cholesky_inverse -> two unrolled substitutions with the unit matrix."""
    return _cholesky_solve(eye_like(factor, size_of(factor, -1)), factor, upper)
