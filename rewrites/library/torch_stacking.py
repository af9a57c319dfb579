"""Stacking tensors and splitting them: without sequences, which TensorRT does not have."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering

_SCALARS = example(tensors=[(), ()])
_VECTORS = example(tensors=[(3,), (3,), (3,)])


def _with_rank(x: Any, shape: Any) -> Any:
    """Scalars and vectors with the axes that `shape` has; -1 stands for a vector's size."""
    return x.reshape(shape) if x.dim() < len(shape) else x


@lowering("aten::hstack", examples=[_SCALARS, _VECTORS, example(tensors=[(2, "n", 2), (2, 3, 2)])])
def hstack(tensors):
    """hstack -> Concat: over the second axis, vectors over their only one."""
    import torch

    parts = [_with_rank(x, [1]) for x in tensors]
    return torch.cat(parts, 0 if parts[0].dim() == 1 else 1)


@lowering("aten::vstack", examples=[_SCALARS, _VECTORS, example(tensors=[("n", 2), (3, 2)])])
def vstack(tensors):
    """vstack -> Reshape Concat: over the first axis, vectors as rows."""
    import torch

    return torch.cat([_with_rank(x, [1, -1]) for x in tensors], 0)


@lowering("aten::dstack", examples=[_SCALARS, _VECTORS, example(tensors=[("n", 2), ("n", 2)])])
def dstack(tensors):
    """dstack -> Reshape Concat: over the third axis, vectors as rows."""
    import torch

    return torch.cat([x.unsqueeze(2) if x.dim() == 2 else _with_rank(x, [1, -1, 1]) for x in tensors], 2)


@lowering(
    "aten::column_stack", examples=[_SCALARS, example(tensors=[("n",), ("n", 2)]), example(tensors=[(2, 3), (2,)])]
)
def column_stack(tensors):
    """column_stack -> Reshape Concat: over the second axis, vectors as columns."""
    import torch

    return torch.cat([_with_rank(x, [-1, 1]) for x in tensors], 1)


@lowering(
    "aten::tensor_split",
    examples=[
        example(op_type="aten::tensor_split.sections", self=(2, 7), sections=3, dim=1, _outputs=3),
        example(op_type="aten::tensor_split.indices", self=("n", 5), indices=[2, 4], dim=-1, _outputs=3),
        example(op_type="aten::tensor_split.indices", self=(6, 2), indices=[-4, 5], _outputs=3),
    ],
)
def tensor_split(x, sections, dim=0):
    """tensor_split -> Slice: at given places, or into parts that differ by one element at most."""
    dim = dim % x.dim()
    size = x.shape[dim]
    if isinstance(sections, int):
        whole, rest = int(size) // sections, int(size) % sections
        places = [i * whole + min(i, rest) for i in range(1, sections)]
    else:
        places = list(sections)
    moved = x.movedim(dim, 0)
    bounds = zip([0, *places], [*places, None], strict=True)
    return [moved[start:end].movedim(0, dim) for start, end in bounds]


@lowering(
    "aten::squeeze_copy",
    static={"x": None},
    examples=[
        example(self=(2, 1, 3, 1)),
        example(op_type="aten::squeeze_copy.dim", self=(2, 1, 3), dim=0),
        example(op_type="aten::squeeze_copy.dims", self=(2, 1, 3, 1), dim=[1, -2]),
    ],
    refuses=[example(self=(2, "n", 1), because="static")],
)
def squeeze_copy(x, dim=None):
    """squeeze_copy -> Reshape: without the chosen axes that have one element."""
    chosen = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {axis % max(x.dim(), 1) for axis in chosen}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in gone or int(size) != 1])
