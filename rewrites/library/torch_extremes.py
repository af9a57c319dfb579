"""The greatest and the smallest elements, and where they are: of floating numbers, NaN is both.

ONNX and TensorRT leave open what ReduceMax and ArgMax give where there is NaN; PyTorch answers NaN, and its first
place. Floating tensors alone come here: for others `torch.onnx` writes ReduceMax and ArgMax themselves.
"""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, require, tensor

_NAN, _INF = float("nan"), float("inf")
_SOME = tensor(4, 3, values=[[1.0, _NAN, _NAN], [_INF, _INF, -_INF], [-_INF, _NAN, 0.5], [2.0, 0.5, 2.0]])
_OVERALL = [example(self=_SOME), example(self=("n", 3)), example(self=())]
_ALONG = [
    example(self=_SOME, dim=1),
    example(self=("n", 5), dim=-1, keepdim=True),
    example(self=(), dim=0),
    example(self=tensor("n", 3, dtype="float16"), dim=0),
]
_OF_AXES = [
    example(self=_SOME, dim=[0]),
    example(self=("n", 5, 2), dim=[-1, 0], keepdim=True),
    example(self=(2, 3), dim=[]),
    example(self=(), dim=[0]),
]
_PLACES = [
    example(self=_SOME, dim=1),
    example(self=_SOME),
    example(self=("n", 5, 2), dim=-2, keepdim=True),
    example(self=(2, "n"), keepdim=True),
    example(self=(), dim=0),
    example(self=tensor("n", 3, dtype="float16"), dim=0),
]


def _nan_in(x: Any, dim: Any, keepdim: bool) -> Any:
    """NaN where there is one along `dim`, 0 where there is none; infinite elements leave no trace."""
    import torch

    if not x.is_floating_point():
        return 0
    return torch.where(torch.isnan(x), x, torch.zeros((), dtype=x.dtype)).sum(dim, keepdim)


def greatest(x: Any, dim: Any, keepdim: bool = False) -> Any:
    """The greatest element along axes, NaN where there is one."""
    return x.amax(dim, keepdim) + _nan_in(x, dim, keepdim) if x.dim() else x.clone()


def smallest(x: Any, dim: Any, keepdim: bool = False) -> Any:
    """The smallest element along axes, NaN where there is one."""
    return x.amin(dim, keepdim) + _nan_in(x, dim, keepdim) if x.dim() else x.clone()


def _places(x: Any, dim: int | None, keepdim: bool, sign: int) -> Any:
    """Where the greatest (`sign` 1) or smallest (-1) is first, by one ArgMax: of NaN marks where there are any.

    TensorRT's ArgMax takes no vectors: one is a row.
    """
    import torch

    if x.dim() == 0:
        return torch.zeros_like(x, dtype=torch.int64)
    flat = dim is None or x.dim() == 1
    rows, axis = (x.reshape(1, -1), 1) if flat else (x, dim)
    marks = torch.isnan(rows).to(x.dtype)
    marked = torch.where(marks.amax(axis, keepdim=True) > 0, sign * marks, rows)
    found = marked.argmax(axis, keepdim) if sign > 0 else marked.argmin(axis, keepdim)
    return found.reshape([1] * x.dim() if keepdim else []) if flat else found


@lowering("aten::argmax", examples=_PLACES)
def argmax(x, dim=None, keepdim=False):
    """argmax -> IsNaN ReduceMax Where ArgMax: the first NaN, where there is one."""
    return _places(x, dim, keepdim, 1)


@lowering("aten::argmin", examples=_PLACES)
def argmin(x, dim=None, keepdim=False):
    """argmin -> IsNaN ReduceMax Where ArgMin: the first NaN, where there is one."""
    return _places(x, dim, keepdim, -1)


@lowering("aten::max", examples=_OVERALL)
def max_(x):
    """max -> ReduceMax IsNaN Where ReduceSum Add: NaN, where there is one."""
    return greatest(x, list(range(x.dim())))


@lowering("aten::min", examples=_OVERALL)
def min_(x):
    """min -> ReduceMin IsNaN Where ReduceSum Add: NaN, where there is one."""
    return smallest(x, list(range(x.dim())))


@lowering("aten::max.dim", examples=_ALONG)
def max_dim(x, dim, keepdim=False):
    """max.dim -> ReduceMax ArgMax: NaN and its first place, where there is one."""
    return greatest(x, dim, keepdim), _places(x, dim, keepdim, 1)


@lowering("aten::min.dim", examples=_ALONG)
def min_dim(x, dim, keepdim=False):
    """min.dim -> ReduceMin ArgMin: NaN and its first place, where there is one."""
    return smallest(x, dim, keepdim), _places(x, dim, keepdim, -1)


@lowering("aten::amax", examples=_OF_AXES)
def amax(x, dim=(), keepdim=False):
    """amax -> ReduceMax IsNaN Where ReduceSum Add: NaN, where there is one."""
    return greatest(x, dim or list(range(x.dim())), keepdim)


@lowering("aten::amin", examples=_OF_AXES)
def amin(x, dim=(), keepdim=False):
    """amin -> ReduceMin IsNaN Where ReduceSum Add: NaN, where there is one."""
    return smallest(x, dim or list(range(x.dim())), keepdim)


@lowering(
    "aten::aminmax",
    examples=[example(self=_SOME, dim=1), example(self=("n", 5), keepdim=True), example(self=(), dim=0)],
)
def aminmax(x, *, dim=None, keepdim=False):
    """aminmax -> ReduceMin ReduceMax IsNaN Where ReduceSum Add: NaN twice, where there is one."""
    axes = list(range(x.dim())) if dim is None else dim
    return smallest(x, axes, keepdim), greatest(x, axes, keepdim)


@lowering(
    "aten::linalg_vector_norm",
    examples=[
        example(self=_SOME, ord=_INF, dim=[1]),
        example(self=("n", 5), ord=-_INF, dim=[0], keepdim=True),
        example(self=(2, 3), ord=_INF),
    ],
    refuses=[example(self=(2, 3), ord=3.0, because="infinite")],
)
def linalg_vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None):
    """linalg_vector_norm of infinite order -> Abs ReduceMax IsNaN Where ReduceSum Add: NaN, where there is one.

    In a wider type -> Cast, and the norm in that type: the exporter rounds what it gives before it widens it.
    """
    import torch

    x = x if dtype is None else x.to(dtype)
    if ord not in (_INF, -_INF):
        require(dtype is not None, "only norms of infinite order, which are maxima and minima, or in a wider type")
        return torch.linalg.vector_norm(x, ord, dim, keepdim)
    return (greatest if ord > 0 else smallest)(x.abs(), dim or list(range(x.dim())), keepdim)
