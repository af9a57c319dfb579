"""Singular values, eigenvalues of symmetric matrices, and what follows from them; no vectors: their signs are free."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rewrites import example, lowering, require, tensor

_LARGEST = 64
_SWEEPS = 10
_A = (-2, -1)
_SQUARE = tensor(3, 3, values=[[2.0, 1.0, 0.5], [1.0, -1.0, 3.0], [0.5, 3.0, -3.0]])
_DEFICIENT = tensor(3, 2, values=[[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
_POSITIVE = tensor(3, 3, values=[[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
_LOOSE: dict[str, Any] = {"_rtol": 1e-3, "_atol": 1e-4}
_DYNAMIC = example(A=("n", "n"), because="static")
_DYNAMIC_SELF = example(self=("n", "n"), because="static")


@lru_cache(maxsize=1)
def _rotations() -> Callable[..., Any]:
    """[..., k, n] columns, of whose first `rows` entries the products vanish after rotations of pairs of columns.

    Each turn rotates the first half of the columns with the second, and reorders them so that after n - 1 turns every
    column has met every other. Scripted, so that it is one Loop.
    """
    import torch

    def rotate(w: torch.Tensor, order: torch.Tensor, rows: int, turns: int) -> torch.Tensor:
        half = order.shape[0] // 2
        for _ in range(turns):
            left, right = w[..., :half], w[..., half:]
            a, b = left[..., :rows, :], right[..., :rows, :]
            product = (a * b).sum(-2, keepdim=True)
            none = product == 0
            excess = (b * b).sum(-2, keepdim=True) - (a * a).sum(-2, keepdim=True)
            ratio = excess / (2 * torch.where(none, torch.ones_like(product), product))
            sign = torch.where(ratio >= 0, torch.ones_like(ratio), -torch.ones_like(ratio))
            tangent = sign / (ratio.abs() + torch.sqrt(1 + ratio * ratio))
            tangent = torch.where(none, torch.zeros_like(ratio), tangent)
            cosine = 1 / torch.sqrt(1 + tangent * tangent)
            sine = cosine * tangent
            w = torch.cat([cosine * left - sine * right, sine * left + cosine * right], -1).index_select(-1, order)
        return w

    return torch.jit.script(rotate)


def _jacobi(a: Any) -> tuple[Any, Any]:
    """(A V [..., m, n], V [..., n, n]): V is orthogonal, as the columns of A V, whose lengths are the singular values.

    Columns of zeros may be added when n is odd, so that there are n + 1 columns.

    Source: one-sided Jacobi; Golub and Van Loan, "Matrix Computations", 8.6.3, in the order of Brent and Luk, 1985.
    """
    import torch

    rows, columns = int(a.shape[-2]), int(a.shape[-1])
    require(max(rows, columns) <= _LARGEST, f"matrices of more than {_LARGEST} rows or columns are left to PyTorch")
    even = columns + columns % 2
    half = even // 2
    largest = a.abs().amax((-2, -1), keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    w = torch.cat([a / scale, torch.eye(columns, dtype=a.dtype) + torch.zeros_like(scale)], -2)
    w = w if even == columns else torch.cat([w, torch.zeros_like(w[..., :1])], -1)
    order = [0, half, *range(1, half - 1), *range(half + 1, even), half - 1] if half > 1 else [0, 1]
    w = _rotations()(w, torch.tensor(order), rows, _SWEEPS * (even - 1))
    return w[..., :rows, :] * scale, w[..., rows:, :]


def _lengths(columns: Any) -> Any:
    """[..., m, n] -> [..., n]; of tall columns without overflow."""
    import torch

    size = columns.abs().amax(-2, keepdim=True)
    safe = torch.where(size > 0, size, torch.ones_like(size))
    return ((columns / safe) ** 2).sum(-2).sqrt() * size.squeeze(-2)


def _singular_values(a: Any) -> Any:
    """Descending, [..., min(m, n)]."""
    import torch

    a = a.transpose(-1, -2) if int(a.shape[-2]) < int(a.shape[-1]) else a
    made = _lengths(_jacobi(a)[0]).unsqueeze(0)  # TopK takes no vectors
    return torch.topk(made, int(a.shape[-1]), -1)[0].squeeze(0)


def _symmetric(a: Any, lower: bool) -> Any:
    """The symmetric matrix of which `a` holds a triangle."""
    import torch

    i, j = torch.arange(int(a.shape[-1])).unsqueeze(-1), torch.arange(int(a.shape[-1]))
    return torch.where(i >= j if lower else i <= j, a, a.transpose(-1, -2))


def _spectrum(a: Any) -> tuple[Any, Any]:
    """Eigenvalues [..., n] and eigenvectors [..., n, n] of a symmetric matrix, unordered: it is made positive."""
    import torch

    size = int(a.shape[-1])
    unit = torch.eye(size, dtype=a.dtype)
    bound = a.abs().sum(-1).amax(-1)[..., None, None]  # no eigenvalue is greater
    moved, vectors = _jacobi(a + bound * unit)
    values = _lengths(moved)
    if size % 2:  # the column of zeros that was added may be anywhere
        own = torch.topk(_lengths(vectors).unsqueeze(0), size, -1)[1].squeeze(0)
        values = values.gather(-1, own)
        vectors = vectors.gather(-1, own.unsqueeze(-2).expand(vectors[..., :size].shape))
    return values - bound[..., 0], vectors


def _of_spectrum(a: Any, function: Callable[[Any], Any]) -> Any:
    """The symmetric matrix with the same eigenvectors and other eigenvalues."""
    values, vectors = _spectrum(a)
    return (vectors * function(values).unsqueeze(-2)) @ vectors.transpose(-1, -2)


def _kept(size: Any, rows: int, columns: int, atol: Any, rtol: Any) -> Any:
    """Which of the absolute singular values [..., n] count as more than zero: PyTorch's default tolerances."""
    import torch

    absolute = 0.0 if atol is None else atol
    if rtol is None:
        relative: Any = torch.finfo(size.dtype).eps * max(rows, columns)
        relative = (
            torch.where(atol > 0, 0.0, relative) if isinstance(atol, torch.Tensor) else 0.0 if absolute else relative
        )
    else:
        relative = rtol
    absolute, relative = (x.unsqueeze(-1) if isinstance(x, torch.Tensor) else x for x in (absolute, relative))
    limit = torch.maximum(size.amax(-1, keepdim=True) * relative, torch.zeros_like(size[..., :1]) + absolute)
    return size > limit


@lowering(
    "aten::linalg_svdvals",
    static={"A": _A},
    examples=[example(A=_SQUARE), example(A=("n", 3, 5), **_LOOSE), example(A=("n", 4, 2), **_LOOSE)],
    refuses=[_DYNAMIC],
)
def linalg_svdvals(A, *, driver=None):
    """linalg_svdvals -> Loop over rotations of columns, TopK.

    Source: one-sided Jacobi; Golub and Van Loan, "Matrix Computations", 8.6.3.
    """
    del driver
    return _singular_values(A)


@lowering(
    "aten::linalg_eigvalsh",
    static={"a": _A},
    examples=[example(self=_SQUARE, **_LOOSE), example(self=("n", 4, 4), UPLO="U", **_LOOSE)],
    refuses=[_DYNAMIC_SELF],
)
def linalg_eigvalsh(a, UPLO="L"):
    """linalg_eigvalsh -> Loop over rotations of columns, TopK: of the matrix shifted to be positive."""
    import torch

    values = _spectrum(_symmetric(a, UPLO.upper() == "L"))[0].unsqueeze(0)
    return torch.topk(values, int(a.shape[-1]), -1, largest=False)[0].squeeze(0)


@lowering(
    "aten::linalg_matrix_norm",
    static={"a": ("dim",)},
    examples=[
        example(self=_SQUARE, ord=2, **_LOOSE),
        example(self=("n", 3, 5), ord=-2, keepdim=True, **_LOOSE),
        example(op_type="aten::linalg_matrix_norm.str_ord", self=(3, "n", 2), ord="nuc", dim=[0, 2], **_LOOSE),
    ],
    refuses=[example(self=(3, 3), ord=1, because="singular values")],
)
def linalg_matrix_norm(a, ord="fro", dim=(-2, -1), keepdim=False, *, dtype=None):
    """linalg_matrix_norm of order 2, -2 or nuc -> the greatest, the smallest, or the sum of the singular values."""
    require(ord in (2, -2, "nuc"), f"the norm of order {ord} does not need singular values")
    return _matrix_norm(a.to(dtype or a.dtype), ord, dim, keepdim)


def _matrix_norm(a: Any, order: Any, dim: Any, keepdim: bool) -> Any:
    axes = sorted(axis % a.dim() for axis in dim)
    values = _singular_values(a.movedim(tuple(axis % a.dim() for axis in dim), (-2, -1)))
    made = values.sum(-1) if order == "nuc" else values[..., 0] if order == 2 else values[..., -1]
    for axis in axes if keepdim else ():
        made = made.unsqueeze(axis)
    return made


@lowering(
    "aten::linalg_norm",
    static={"a": None},
    examples=[
        example(self=_SQUARE, ord=2, **_LOOSE),
        example(op_type="aten::linalg_norm.ord_str", self=(3, 4, 2), ord="nuc", dim=[0, 2], **_LOOSE),
    ],
    refuses=[example(self=(3,), ord=2, because="singular values")],
)
def linalg_norm(a, ord=None, dim=None, keepdim=False, *, dtype=None):
    """linalg_norm of order 2, -2 or nuc of matrices -> the greatest, the smallest, the sum of the singular values."""
    matrices = a.dim() == 2 if dim is None else not isinstance(dim, int) and len(dim) == 2
    require(matrices and ord in (2, -2, "nuc"), f"the norm of order {ord} does not need singular values")
    return _matrix_norm(a.to(dtype or a.dtype), ord, dim or (-2, -1), keepdim)


@lowering(
    "aten::linalg_cond",
    static={"a": _A},
    examples=[
        example(self=_POSITIVE, **_LOOSE),
        example(self=_POSITIVE, p=-2, **_LOOSE),
        example(self=_POSITIVE, p=1, **_LOOSE),
        example(op_type="aten::linalg_cond.p_str", self=_POSITIVE, p="nuc", **_LOOSE),
    ],
    refuses=[_DYNAMIC_SELF],
)
def linalg_cond(a, p=None):
    """linalg_cond -> the ratio of singular values, or the norm of the matrix times that of its inverse."""
    if p in (None, 2, -2):
        values = _singular_values(a)
        return values[..., -1] / values[..., 0] if p == -2 else values[..., 0] / values[..., -1]
    values = _singular_values(a)
    if p == "nuc":
        return values.sum(-1) * (1 / values).sum(-1)
    if p == "fro":
        return (values * values).sum(-1).sqrt() * (1 / (values * values)).sum(-1).sqrt()
    made = _row_norm(a, p) * _row_norm(_pseudo_inverse(a, 0.0, 0.0), p)
    return made / (values[..., -1] != 0).to(made.dtype)  # without an inverse it is infinite


def _row_norm(a: Any, order: float) -> Any:
    """The norm of order 1, -1, infinity or minus infinity."""
    sums = a.abs().sum(-2 if abs(order) == 1 else -1)
    return sums.amax(-1) if order > 0 else sums.amin(-1)


def _rank(a: Any, atol: Any, rtol: Any, hermitian: bool) -> Any:
    import torch

    size = _spectrum(_symmetric(a, lower=True))[0].abs() if hermitian else _singular_values(a)
    return _kept(size, int(a.shape[-2]), int(a.shape[-1]), atol, rtol).to(torch.int64).sum(-1)


@lowering(
    "aten::linalg_matrix_rank",
    static={"a": _A},
    examples=[
        example(op_type="aten::linalg_matrix_rank.atol_rtol_float", self=_DEFICIENT),
        example(op_type="aten::linalg_matrix_rank.atol_rtol_float", self=_SQUARE, atol=4.0, hermitian=True),
        example(op_type="aten::linalg_matrix_rank.atol_rtol_tensor", input=_DEFICIENT, rtol=tensor(values=0.1)),
        example(op_type="aten::linalg_matrix_rank.tol_tensor", input=("n", 3, 3), tol=tensor("n", low=0.1, high=2.0)),
        example(self=_DEFICIENT, tol=0.5),
    ],
)
def linalg_matrix_rank(a, tol=None, *, atol=None, rtol=None, hermitian=False):
    """linalg_matrix_rank -> how many singular values are greater than the tolerance."""
    import torch

    size = _spectrum(_symmetric(a, lower=True))[0].abs() if hermitian else _singular_values(a)
    atol, rtol = (atol, rtol) if tol is None else (tol, 0.0)
    return _kept(size, int(a.shape[-2]), int(a.shape[-1]), atol, rtol).to(torch.int64).sum(-1)


def _pseudo_inverse(a: Any, atol: Any, rtol: Any) -> Any:
    import torch

    if int(a.shape[-2]) < int(a.shape[-1]):
        return _pseudo_inverse(a.transpose(-1, -2), atol, rtol).transpose(-1, -2)
    moved, vectors = _jacobi(a)
    size = _lengths(moved)
    kept = _kept(size, int(a.shape[-2]), int(a.shape[-1]), atol, rtol)
    factor = torch.where(kept, 1 / torch.where(kept, size, torch.ones_like(size)), torch.zeros_like(size)).unsqueeze(-2)
    return (vectors * factor) @ (moved * factor).transpose(-1, -2)


@lowering(
    "aten::linalg_pinv",
    static={"a": _A},
    examples=[
        example(op_type="aten::linalg_pinv.atol_rtol_float", self=_DEFICIENT, **_LOOSE),
        example(op_type="aten::linalg_pinv.atol_rtol_float", self=_SQUARE, hermitian=True, **_LOOSE),
        example(op_type="aten::linalg_pinv.atol_rtol_tensor", self=_SQUARE, atol=tensor(values=0.5), **_LOOSE),
        example(self=("n", 2, 4), rcond=1e-4, **_LOOSE),
    ],
)
def linalg_pinv(a, rcond=None, *, atol=None, rtol=None, hermitian=False):
    """linalg_pinv -> Loop over rotations of columns, MatMul: singular values above the tolerance are inverted."""
    atol, rtol = (atol, rtol) if rcond is None else (0.0, rcond)
    return _pseudo_inverse(_symmetric(a, lower=True) if hermitian else a, atol, rtol)


@lowering(
    "aten::pinverse", static={"a": _A}, examples=[example(self=_POSITIVE, **_LOOSE), example(self=(4, 2), **_LOOSE)]
)
def pinverse(a, rcond=1e-15):
    """pinverse -> Loop over rotations of columns, MatMul: singular values above the tolerance are inverted."""
    return _pseudo_inverse(a, 0.0, rcond)


@lowering(
    "aten::linalg_matrix_sqrth",
    static={"a": _A},
    examples=[
        example(self=_POSITIVE, **_LOOSE),
        example(self=tensor(2, 2, 2, values=[[[2.0, 0.3], [0.3, 1.0]], [[1.0, 0.0], [0.0, 9.0]]]), **_LOOSE),
    ],
    refuses=[_DYNAMIC_SELF],
)
def linalg_matrix_sqrth(a):
    """linalg_matrix_sqrth -> the roots of the eigenvalues, between the eigenvectors and their transpose."""
    return _of_spectrum(_symmetric(a, lower=True), lambda values: values.clamp(min=0).sqrt())


@lowering(
    "aten::linalg_lstsq",
    static={"a": _A},
    examples=[
        example(self=(5, 3), b=(5, 2), _outputs=1, **_LOOSE),
        example(self=("n", 2, 4), b=("n", 2, 3), driver="gelsy", _outputs=1, **_LOOSE),
        example(self=_DEFICIENT, b=(3, 1), rcond=1e-3, _outputs=1, **_LOOSE),
        example(self=(5, 3), b=(5, 2), driver="gels", _outputs=2, **_LOOSE),
        example(self=(2, 3), b=(2, 2), driver="gelsd", _outputs=1, **_LOOSE),
    ],
    refuses=[example(self=(5, 3), b=(5, 2), driver="gelsd", because="residuals")],
)
def linalg_lstsq(a, b, rcond=None, *, driver=None):
    """linalg_lstsq -> Loop over rotations of columns, MatMul: by the pseudo-inverse, the shortest best solution.

    Source: Golub and Van Loan, "Matrix Computations", 5.5.2.
    """
    import torch

    rows, columns = int(a.shape[-2]), int(a.shape[-1])
    known = driver in (None, "gelsy", "gels") or rows <= columns
    require(known, "with this driver the shape of the residuals depends on the rank")
    vectors = b.dim() == 1 or (b.dim() == a.dim() - 1 and b.shape == a.shape[:-1])
    b = b.unsqueeze(-1) if vectors else b
    solution = _pseudo_inverse(a, 0.0, rcond) @ b
    nothing = torch.zeros(0, dtype=a.dtype)
    residuals, rank, values = nothing, nothing.to(torch.int64), _singular_values(a)
    if driver == "gels":
        residuals = ((a @ solution - b) ** 2).sum(-2) if rows > columns else nothing
    else:
        rank = _kept(values, rows, columns, 0.0, rcond).to(torch.int64).sum(-1)
    told = values if driver in ("gelsd", "gelss") else nothing
    return solution.squeeze(-1) if vectors else solution, residuals, rank, told
