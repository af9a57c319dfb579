"""QR of small matrices, and the exponential."""

from __future__ import annotations

import math
from typing import Any

from rewrites import example, lowering, require, tensor
from rewrites.library.torch_factorization import eye_like, householder, reflect, size_of, solve

_A = (-2, -1)
_LOOSE: dict[str, Any] = {"_rtol": 1e-3, "_atol": 1e-3}


@lowering(
    "aten::geqrf", static={"a": _A}, examples=[example(self=(4, 3), **_LOOSE), example(self=("n", 3, 3), **_LOOSE)]
)
def geqrf(a):
    """geqrf -> unrolled Householder reflections."""
    return householder(a)


@lowering(
    "aten::linalg_qr",
    static={"A": _A},
    examples=[
        example(A=(4, 3), **_LOOSE), example(A=("n", 3, 4), **_LOOSE), example(A=(4, 3), mode="complete", **_LOOSE),
    ],
    refuses=[example(A=("n", "n"), because="static"), example(A=(20, 20), because="unrolled")],
)  # fmt: skip
def linalg_qr(A, mode="reduced"):
    """linalg_qr -> unrolled Householder reflections."""
    import torch

    require(mode != "r", "an empty Q is left to PyTorch")
    packed, factors = householder(A)
    rows, columns = size_of(A, -2), size_of(A, -1)
    width = rows if mode == "complete" else min(rows, columns)
    upper = torch.arange(rows).unsqueeze(-1) <= torch.arange(columns)
    r = torch.where(upper, packed, torch.zeros_like(packed))[..., :width, :]
    return reflect(packed, factors, eye_like(A, rows)[..., :, :width], False), r


@lowering(
    "aten::linalg_householder_product",
    static={"a": _A, "tau": (-1,)},
    examples=[example(input=(4, 3), tau=(3,), **_LOOSE), example(input=("n", 3, 3), tau=("n", 2), **_LOOSE)],
)
def linalg_householder_product(a, tau):
    """linalg_householder_product -> unrolled reflections of the unit matrix."""
    return reflect(a, tau, eye_like(a, size_of(a, -2))[..., :, : size_of(a, -1)], False)


@lowering(
    "aten::ormqr",
    static={"a": _A, "tau": (-1,)},
    examples=[
        example(self=(4, 3), input2=(3,), input3=(4, "m"), **_LOOSE),
        example(self=(4, 3), input2=(3,), input3=(2, 4), left=False, transpose=True, **_LOOSE),
    ],
)
def ormqr(a, tau, other, left=True, transpose=False):
    """ormqr -> unrolled reflections."""
    if left:
        return reflect(a, tau, other, transpose)
    return reflect(a, tau, other.transpose(-1, -2), not transpose).transpose(-1, -2)


@lowering(
    "aten::linalg_matrix_exp",
    static={"x": _A},
    examples=[example(self=(3, 3), **_LOOSE), example(self=("n", 2, 2), **_LOOSE)],
    refuses=[example(self=("n", "n"), because="static")],
)
def linalg_matrix_exp(x):
    """linalg_matrix_exp -> MatMul: a Taylor polynomial of the scaled matrix, squared as often as it was halved.

    All squares are taken and one chosen: over squares of choices, TensorRT-RTX builds for hours.
    Source: Higham, "The scaling and squaring method for the matrix exponential revisited", 2005; the degree and
    the norm up to which it is enough are PyTorch's own.
    """
    import torch

    one = torch.eye(int(x.shape[-1]), dtype=x.dtype)
    norm = x.abs().sum(-2, keepdim=True).amax(-1, keepdim=True)
    halvings = torch.ceil(torch.log(norm.clamp(min=1e-30) / 3.0) / math.log(2.0)).clamp(0, 16)
    scaled = x * torch.exp(-halvings * math.log(2.0))
    made = one
    for k in range(18, 0, -1):
        made = one + scaled @ made / k
    chosen = made
    for k in range(16):
        made = made @ made
        chosen = torch.where(halvings > k, made, chosen)
    return chosen


@lowering(
    "aten::linalg_matrix_power",
    static={"a": _A},
    examples=[
        example(self=("n", 3, 3), n=5, **_LOOSE),
        example(self=(3, 3), n=0),
        example(self=tensor(2, 2, values=[[2.0, 1.0], [0.5, -3.0]]), n=-3, **_LOOSE),
    ],
    refuses=[example(self=("n", "n"), n=2, because="static")],
)
def linalg_matrix_power(a, n):
    """linalg_matrix_power -> MatMul of squares; of the inverse by an unrolled LU when n is negative."""
    import torch

    one = torch.eye(int(a.shape[-1]), dtype=a.dtype) + torch.zeros_like(a[..., :1, :1])
    if n < 0:
        size_of(a, -1)
    square, made, left = a if n >= 0 else solve(a, one), None, abs(n)
    while left:
        if left % 2:
            made = square if made is None else made @ square
        left //= 2
        square = square @ square if left else square
    return one if made is None else made


@lowering(
    "aten::linalg_tensorinv",
    static={"x": None},
    examples=[example(self=(2, 3, 6), ind=2, **_LOOSE), example(self=(6, 2, 3), ind=1, **_LOOSE)],
    refuses=[example(self=("n", 3, 6), because="static")],
)
def linalg_tensorinv(x, ind=2):
    """linalg_tensorinv -> Reshape and an unrolled LU."""
    import torch

    shape = [int(s) for s in x.shape]
    flat = x.reshape(math.prod(shape[:ind]), math.prod(shape[ind:]))
    size_of(flat, 0)
    return solve(flat, torch.eye(int(flat.shape[0]), dtype=x.dtype)).reshape(shape[ind:] + shape[:ind])


@lowering(
    "aten::linalg_tensorsolve",
    static={"a": None, "b": None},
    examples=[example(self=(2, 3, 6), other=(2, 3), **_LOOSE), example(self=(4, 2, 2), other=tensor(4), **_LOOSE)],
    refuses=[example(self=("n", 3, 6), other=(2, 3), because="static")],
)
def linalg_tensorsolve(a, b, dims=None):
    """linalg_tensorsolve -> Reshape, an unrolled LU and substitution."""
    if dims is not None:
        last = [d % a.dim() for d in dims]
        a = a.permute([d for d in range(a.dim()) if d not in last] + last)
    size = math.prod(int(s) for s in b.shape)
    flat = a.reshape(size, size)
    size_of(flat, 0)
    return solve(flat, b.reshape(size, 1)).reshape([int(s) for s in a.shape[b.dim() :]])
