"""Products of matrices of integers, of vectors with stacks of matrices, and small determinants."""

from __future__ import annotations

from rewrites import example, require, rule, tensor

_NEEDED = {"tensorrt": "all versions"}
_MOST = 2**26


@rule(
    name="onnx/det-closed-form",
    matches="Det",
    needed_by=_NEEDED,
    examples=[example(X=(2, 2)), example(X=("n", 3, 3)), example(X=(2, "n", 1, 1))],
    refuses=[example(X=(2, 4, 4), because="3 by 3")],
)
class DetClosedForm:
    """Det -> Slice Mul Sub: the closed form of determinants up to 3 by 3.

    Source: Leibniz' formula; onnx-tensorrt's list of operators.
    """

    def check(X):
        require(X.shape.is_static(-1) and X.shape[-1] <= 3, "only matrices up to 3 by 3 have a closed form here")

    def rewrite(op, X):
        size = X.shape[-1]
        rows = [op.Gather(X, i, axis=-2) for i in range(size)]
        a = [[op.Gather(row, j, axis=-1) for j in range(size)] for row in rows]
        if size == 1:
            return a[0][0]
        if size == 2:
            return minor(op, a, (0, 1), (0, 1))
        parts = [op.Mul(a[0][j], minor(op, a, (1, 2), others(j))) for j in range(3)]
        return op.Add(op.Sub(parts[0], parts[1]), parts[2])


def others(column):
    return tuple(j for j in range(3) if j != column)


def minor(op, a, rows, columns):
    (r, s), (c, d) = rows, columns
    return op.Sub(op.Mul(a[r][c], a[s][d]), op.Mul(a[r][d], a[s][c]))


@rule(
    name="onnx/matmul-vector",
    matches="MatMul",
    needed_by=_NEEDED,
    examples=[example(A=(3,), B=(2, 3, 4)), example(A=("n", 2, 3), B=(3,)), example(A=(4,), B=("n", 5, 4, 3))],
)
class MatMulVector:
    """MatMul of a vector -> Unsqueeze MatMul Squeeze: a stack of matrices on the other side.

    Source: onnx-tensorrt reshapes the vector wrongly ("reshape changes volume"); measured on TensorRT-RTX 1.7.
    """

    def applies(A, B):
        ranks = [v.dims and len(v.dims) for v in (A, B)]
        return 1 in ranks and None not in ranks and max(ranks) > 2 and A.known_dtype and A.dtype.kind == "f"

    def rewrite(op, A, B):
        if A.rank == 1:
            return op.Squeeze(op.MatMul(op.Unsqueeze(A, [0]), B), [-2])
        return op.Squeeze(op.MatMul(A, op.Unsqueeze(B, [1])), [-1])


@rule(
    name="onnx/integer-matmul-to-sum",
    matches="MatMul",
    needed_by=_NEEDED,
    examples=[
        example(A=tensor(3, 4, dtype="int32", low=-9), B=tensor(4, 5, dtype="int32", low=-9)),
        example(A=tensor("n", 3, 4, dtype="int64"), B=tensor(4, 5, dtype="int64")),
        example(A=tensor(4, dtype="int64"), B=tensor("n", 4, 5, dtype="int64")),
    ],
    refuses=[example(A=tensor(999, 999, dtype="int32"), B=tensor(999, 999, dtype="int32"), because="memory")],
)
class IntegerMatMulToSum:
    """MatMul of integers -> Unsqueeze Mul ReduceSum: exact, where floats lose what needs more than 24 bits.

    Source: TensorRT multiplies matrices of floats only.
    """

    def applies(A):
        return A.known_dtype is not None and A.dtype in ("int32", "int64")

    def check(A, B):
        sizes = [d if isinstance(d, int) else 64 for d in (*A.shape, B.shape[-1])]
        total = 1
        for size in sizes:
            total *= size
        require(total <= _MOST, "all products at once would take too much memory")

    def rewrite(op, A, B):
        left = op.Unsqueeze(A, [-1])
        right = op.Unsqueeze(B, [-1]) if B.rank == 1 else op.Unsqueeze(B, [-3]) if A.rank > 1 else B
        made = op.ReduceSum(op.Mul(left, right), [-2], keepdims=0)
        return op.Squeeze(made, [-1]) if B.rank == 1 else made


@rule(
    name="onnx/integer-einsum-to-sum",
    matches="Einsum",
    needed_by=_NEEDED,
    examples=[
        example(Inputs=[tensor(3, 4, dtype="int32", low=-9), tensor(4, 5, dtype="int32")], equation="ij,jk->ki"),
        example(Inputs=[tensor("n", 4, dtype="int64"), tensor("n", 4, dtype="int64")], equation="bi,bi"),
        example(Inputs=[tensor(3, "n", dtype="int64")], equation="ij->j", _sizes={"n": 4}),
    ],
    refuses=[example(Inputs=[tensor(3, 3, dtype="int64")], equation="ii->i", because="twice")],
)
class IntegerEinsumToSum:
    """Einsum of integers -> Transpose Unsqueeze Mul ReduceSum: exact, and TensorRT's Einsum takes floats only.

    Source: the ONNX specification of Einsum; onnx-tensorrt's importer; NVIDIA/TensorRT#1617.
    """

    def applies(Inputs):
        return Inputs[0].known_dtype is not None and Inputs[0].dtype in ("int32", "int64")

    def check(equation):
        require("." not in equation, "an ellipsis is not handled")
        terms, _ = parts(equation)
        require(all(len(set(t)) == len(t) for t in terms), "an index stands twice in one operand")

    def rewrite(op, Inputs, equation):
        terms, result = parts(equation)
        every = [*result, *sorted({i for t in terms for i in t} - set(result))]
        product = None
        for value, term in zip(Inputs, terms, strict=True):
            present = [i for i in every if i in term]
            order = [term.index(i) for i in present]
            turned = op.Transpose(value, perm=order) if order != sorted(order) else value
            missing = [k for k, i in enumerate(every) if i not in term]
            spread = op.Unsqueeze(turned, missing) if missing else turned
            product = spread if product is None else op.Mul(product, spread)
        summed = list(range(len(result), len(every)))
        return op.ReduceSum(product, summed, keepdims=0) if summed else op.Identity(product)


def parts(equation):
    """The operands' indices and the result's; without an arrow, those that stand once, in alphabetical order."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    once = sorted(i for i in set(left) - {","} if left.count(i) == 1)
    return terms, list(right) if arrow else once


@rule(
    name="onnx/einsum-in-small-letters",
    matches="Einsum",
    needed_by=_NEEDED,
    examples=[
        example(Inputs=[(2, 3), (4, "n")], equation="ij, Ab -> ijAb"),
        example(Inputs=[("n", 3), (4, 3)], equation="iZ,AZ"),
    ],
)
class EinsumInSmallLetters:
    """Einsum -> Einsum whose indices are small letters; the result's order is written out, for it is alphabetical.

    Source: TensorRT's IEinsumLayer, which takes a to z.
    """

    def applies(equation):
        return any(letter.isupper() for letter in equation)

    def check(equation):
        require("." not in equation, "an ellipsis is not handled")
        require(len({letter for letter in equation if letter.isalpha()}) <= 26, "there are only 26 small letters")

    def rewrite(op, Inputs, equation):
        terms, result = parts(equation)
        every = dict.fromkeys(letter for term in terms for letter in term)
        small = dict(zip(every, "abcdefghijklmnopqrstuvwxyz", strict=False))
        left = ",".join("".join(small[letter] for letter in term) for term in terms)
        return op.Einsum(*Inputs, equation=f"{left}->{''.join(small[letter] for letter in result)}")
