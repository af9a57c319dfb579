"""Products added to a tensor of which nothing is wanted: `torch.baddbmm(torch.empty(...), q, k, beta=0)`."""

from __future__ import annotations

from rewrites import example, lowering, require, tensor

_NAN = float("nan")
_MATRIX = tensor(2, 3, values=[[_NAN] * 3] * 2)
_WITH_BETA = "only products to which nothing is added"


def _scaled(product, alpha, beta):
    require(beta == 0, _WITH_BETA)
    return product if alpha == 1 else product * alpha


@lowering(
    "aten::baddbmm",
    examples=[
        example(self=tensor(1, 2, 3, values=[[[_NAN] * 3] * 2]), batch1=(1, 2, 4), batch2=(1, 4, 3), beta=0, alpha=0.5),
        example(self=("n", 2, 3), batch1=("n", 2, 4), batch2=("n", 4, 3), beta=0),
    ],
    refuses=[example(self=("n", 2, 3), batch1=("n", 2, 4), batch2=("n", 4, 3), beta=2, because=_WITH_BETA)],
    priority=-1,
)
def baddbmm(self_, batch1, batch2, *, beta=1, alpha=1):
    """baddbmm -> MatMul where beta is 0: PyTorch does not read what it then adds nothing of, not even where it is NaN.

    Source: PyTorch's documentation of torch.baddbmm.
    """
    return _scaled(batch1 @ batch2, alpha, beta)


@lowering(
    "aten::addmm",
    examples=[
        example(self=_MATRIX, mat1=(2, 4), mat2=(4, 3), beta=0, alpha=2),
        example(self=(3,), mat1=("n", 4), mat2=(4, 3), beta=0),
    ],
    refuses=[example(self=(2, 3), mat1=(2, 4), mat2=(4, 3), because=_WITH_BETA)],
    priority=-1,
)
def addmm(self_, mat1, mat2, *, beta=1, alpha=1):
    """addmm -> MatMul where beta is 0, as `baddbmm`."""
    return _scaled(mat1 @ mat2, alpha, beta)


@lowering(
    "aten::addbmm",
    examples=[
        example(self=_MATRIX, batch1=(5, 2, 4), batch2=(5, 4, 3), beta=0),
        example(self=(2, 3), batch1=("n", 2, 4), batch2=("n", 4, 3), beta=0, alpha=3),
    ],
    refuses=[example(self=(2, 3), batch1=(5, 2, 4), batch2=(5, 4, 3), because=_WITH_BETA)],
    priority=-1,
)
def addbmm(self_, batch1, batch2, *, beta=1, alpha=1):
    """addbmm -> MatMul ReduceSum where beta is 0, as `baddbmm`."""
    return _scaled((batch1 @ batch2).sum(0), alpha, beta)


@lowering(
    "aten::addmv",
    examples=[
        example(self=tensor(2, values=[_NAN, 1.0]), mat=(2, 4), vec=(4,), beta=0),
        example(self=("n",), mat=("n", 4), vec=(4,), beta=0, alpha=3),
    ],
    refuses=[example(self=(2,), mat=(2, 4), vec=(4,), because=_WITH_BETA)],
    priority=-1,
)
def addmv(self_, mat, vec, *, beta=1, alpha=1):
    """addmv -> MatMul where beta is 0, as `baddbmm`."""
    return _scaled(mat @ vec, alpha, beta)


@lowering(
    "aten::addr",
    examples=[
        example(self=_MATRIX, vec1=(2,), vec2=(3,), beta=0),
        example(self=("n", 3), vec1=("n",), vec2=(3,), beta=0, alpha=3),
    ],
    refuses=[example(self=(2, 3), vec1=(2,), vec2=(3,), because=_WITH_BETA)],
    priority=-1,
)
def addr(self_, vec1, vec2, *, beta=1, alpha=1):
    """addr -> Mul where beta is 0, as `baddbmm`."""
    return _scaled(vec1.unsqueeze(1) * vec2, alpha, beta)


@lowering(
    "aten::einsum",
    examples=[
        example(equation="b...,b...->b", tensors=[(2, 3, 4), (2, 3, 4)]),
        example(equation="...i,ij->j", tensors=[("n", 2, 3), (3, 5)]),
    ],
    refuses=[
        example(equation="...i,...i->...", tensors=[(2, 3), (2, 3)], because="ellipsis"),
        example(equation="...i,...i->i", tensors=[(2, 4, 3), (4, 3)], because="as many axes"),
    ],
)
def einsum(equation, tensors, path=None):
    """einsum over an ellipsis -> Einsum over letters: ONNX's gives the axes of every ellipsis.

    Source: ONNX specification, Einsum.
    """
    import string

    import torch

    terms, _, result = equation.replace(" ", "").partition("->")
    require("..." in terms and "->" in equation and "..." not in result, "only an ellipsis that is summed up")
    given = zip(terms.split(","), tensors, strict=True)
    ranks = {t.dim() - len(term.replace("...", "")) for term, t in given if "..." in term}
    require(len(ranks) == 1, "the ellipsis does not stand for as many axes everywhere")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    return torch.einsum(equation.replace("...", "".join(free[: ranks.pop()])), *tensors)
