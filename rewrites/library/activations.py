"""Activations in the types that parsers refuse."""

from __future__ import annotations

import numpy as np

from rewrites import example, rule, tensor


@rule(
    name="onnx/celu-half-to-exp",
    matches="Celu",
    needed_by={"tensorrt": "all versions"},
    opsets=(12, 10**6),
    examples=[
        example(X=tensor(5, dtype="float16"), alpha=2.0, _opset=28),
        example(X=tensor("n", 3, dtype="float16"), alpha=0.5, _opset=28),
    ],
)
class CeluHalfToExp:
    """Celu of 16 bits -> Cast Max Exp Min Add Cast: max(0, x) + alpha * (exp(min(0, x) / alpha) - 1), at 32 bits.

    Source: the definition in the ONNX specification, opset 28; onnx-tensorrt's importer makes its constant at 32 bits.
    """

    def applies(X):
        return X.known_dtype is not None and X.dtype.itemsize == 2

    def rewrite(op, X, alpha):
        x = op.Cast(X, to=np.float32)
        falling = op.Mul(op.Sub(op.Exp(op.Div(op.Min(x, 0.0), alpha)), 1.0), alpha)
        return op.Cast(op.Add(op.Max(x, 0.0), falling), to=X.dtype)
