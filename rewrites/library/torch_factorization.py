"""Factorizations of small matrices, unrolled: LU with row exchanges, Cholesky, Householder QR. No lowering is here."""

from __future__ import annotations

from typing import Any

from rewrites import require

LARGEST = 16


def size_of(x: Any, axis: int) -> int:
    """A static size, small enough to unroll a loop over it.

    Raises:
        Refusal: when it is larger.
    """
    size = int(x.shape[axis])
    require(size <= LARGEST, f"loops over matrices are unrolled up to a size of {LARGEST}, this is {size}")
    return size


def eye_like(x: Any, rows: int) -> Any:
    """Unit matrices of the batch shape of `x`."""
    import torch

    return torch.eye(rows, dtype=x.dtype) + torch.zeros_like(x[..., :1, :1])


def column(x: Any, k: int) -> Any:
    """One column, as a matrix of one column."""
    return x[..., :, k : k + 1]


def exchange_rows(x: Any, k: int, chosen: Any) -> Any:
    """Exchange the row `k` with the one where `chosen`, [..., rows, 1], is 1."""
    import torch

    rows = torch.arange(int(x.shape[-2])).unsqueeze(-1)
    other = (x * chosen).sum(-2, keepdim=True)
    moved = torch.where(chosen > 0, x[..., k : k + 1, :], x)
    return torch.where(rows == k, other, moved)


def chosen_row(index: Any, like: Any) -> Any:
    """[...] row numbers -> [..., rows, 1] ones and zeros."""
    import torch

    rows = torch.arange(int(like.shape[-2]))
    return (index.unsqueeze(-1) == rows).to(like.dtype).unsqueeze(-1)


def _pivot(x: Any, k: int) -> Any:
    """[...]: the row, from `k` on, of the greatest entry of column `k`."""
    import torch

    rows = int(x.shape[-2])
    size = x[..., :, k].abs()
    size = torch.where(torch.arange(rows) < k, torch.full_like(size, -1.0), size)
    return size.unsqueeze(-2).argmax(-1).squeeze(-1)


def lu(a: Any, pivot: bool = True) -> tuple[Any, Any, Any, Any]:
    """LU with partial pivoting as LAPACK's getrf: (LU, row permutation, pivots from 1 [..., k], info [...]).

    The row permutation P has P A = L U; info is the first pivot that is zero, counted from 1, or 0.

    Source: Golub and Van Loan, "Matrix Computations", algorithm 3.4.1.
    """
    import torch

    rows, columns = size_of(a, -2), size_of(a, -1)
    joined, pivots = torch.cat([a, eye_like(a, rows)], -1), []
    info = torch.zeros_like(a[..., 0, 0], dtype=torch.int32)
    below = torch.arange(rows).unsqueeze(-1)
    for k in range(min(rows, columns)):
        index = _pivot(joined, k) if pivot else torch.zeros_like(info, dtype=torch.int64) + k
        pivots.append(index + 1)
        joined = exchange_rows(joined, k, chosen_row(index, joined)) if pivot else joined
        head = joined[..., k : k + 1, k : k + 1]
        info = torch.where((info == 0) & (head[..., 0, 0] == 0), torch.full_like(info, k + 1), info)
        safe = torch.where(head == 0, torch.ones_like(head), head)
        factors = torch.where(below > k, column(joined, k) / safe, torch.zeros_like(column(joined, k)))
        updated = joined[..., :, k + 1 : columns] - factors * joined[..., k : k + 1, k + 1 : columns]
        kept = torch.where(below > k, factors, column(joined, k))
        joined = torch.cat([joined[..., :, :k], kept, updated, joined[..., :, columns:]], -1)
    return joined[..., :columns], joined[..., columns:], torch.stack(pivots, -1).to(torch.int32), info


def triangles(packed: Any) -> tuple[Any, Any]:
    """The unit lower and the upper factor that share one matrix."""
    import torch

    rows, columns = int(packed.shape[-2]), int(packed.shape[-1])
    inner, zero = min(rows, columns), torch.zeros_like(packed)
    i, j = torch.arange(rows).unsqueeze(-1), torch.arange(columns)
    lower = torch.where(i > j, packed, zero) + (i == j).to(packed.dtype)
    return lower[..., :, :inner], torch.where(i <= j, packed, zero)[..., :inner, :]


def solve_lower(a: Any, b: Any, unit: bool) -> Any:
    """Forward substitution; reads only the lower triangle of `a`, and not its diagonal when `unit`."""
    import torch

    found = b[..., :1, :] if unit else b[..., :1, :] / a[..., :1, :1]
    found = found + torch.zeros_like(a[..., :1, :1])
    for i in range(1, size_of(a, -2)):
        row = b[..., i : i + 1, :] - a[..., i : i + 1, :i] @ found
        found = torch.cat([found, row if unit else row / a[..., i : i + 1, i : i + 1]], -2)
    return found


def solve_triangular(a: Any, b: Any, upper: bool, unit: bool) -> Any:
    """Back or forward substitution."""
    return solve_lower(a.flip(-2, -1), b.flip(-2), unit).flip(-2) if upper else solve_lower(a, b, unit)


def solve(a: Any, b: Any) -> Any:
    """Solve by LU; `b` holds columns."""
    packed, permutation, _, _ = lu(a)
    return solve_triangular(packed, solve_lower(packed, permutation @ b, True), True, False)


def cholesky(a: Any) -> tuple[Any, Any]:
    """The lower factor, and which leading minor is the first not positive, from 1, or 0. Reads the lower triangle.

    Source: Golub and Van Loan, "Matrix Computations", algorithm 4.2.1.
    """
    import torch

    size = size_of(a, -1)
    lower, info = a[..., :, :0], torch.zeros_like(a[..., 0, 0], dtype=torch.int32)
    for j in range(size):
        rest = a[..., j:, j : j + 1]
        if j:
            rest = rest - lower[..., j:, :] @ lower[..., j : j + 1, :].transpose(-1, -2)
        head = rest[..., :1, :]
        info = torch.where((info == 0) & ~(head[..., 0, 0] > 0), torch.full_like(info, j + 1), info)
        made = rest / torch.sqrt(head)
        made = torch.cat([torch.zeros_like(a[..., :j, :1]), made], -2) if j else made
        lower = torch.cat([lower, made], -1) if j else made
    return lower, info


def householder(a: Any) -> tuple[Any, Any]:
    """QR as LAPACK's geqrf: (R with the reflectors below its diagonal, their factors [..., k]).

    Source: LAPACK's larfg and geqr2.
    """
    import torch

    rows, columns, factors = size_of(a, -2), size_of(a, -1), []
    for k in range(min(rows, columns)):
        head, tail = a[..., k : k + 1, k : k + 1], a[..., k + 1 :, k : k + 1]
        if k == rows - 1:
            factors.append(torch.zeros_like(head))
            break
        squares = (tail * tail).sum(-2, keepdim=True)
        length = torch.sqrt(head * head + squares)
        new = torch.where(head < 0, length, -length)
        none = squares == 0
        safe = torch.where(none, torch.ones_like(new), new)
        factor = torch.where(none, torch.zeros_like(head), (safe - head) / safe)
        reflector = tail / torch.where(none, torch.ones_like(head), head - safe)
        vector = torch.cat([torch.ones_like(head), reflector], -2)
        block = a[..., k:, k + 1 :]
        block = block - factor * vector @ (vector.transpose(-1, -2) @ block) if k + 1 < columns else block
        first = torch.cat([torch.where(none, head, new), reflector], -2)
        bottom = torch.cat([a[..., k:, :k], first, block], -1)
        a = torch.cat([a[..., :k, :], bottom], -2) if k else bottom
        factors.append(factor)
    return a, torch.cat(factors, -1).squeeze(-2)


def reflect(a: Any, factors: Any, x: Any, transpose: bool) -> Any:
    """Multiply `x` from the left by the orthogonal matrix of reflectors, or its transpose."""
    import torch

    rows, count = int(a.shape[-2]), int(factors.shape[-1])
    i = torch.arange(rows).unsqueeze(-1)
    for k in range(count) if transpose else reversed(range(count)):
        vector = torch.where(i > k, column(a, k), torch.zeros_like(column(a, k))) + (i == k).to(a.dtype)
        factor = factors[..., k : k + 1].unsqueeze(-1)
        x = x - factor * vector @ (vector.transpose(-1, -2) @ x)
    return x
