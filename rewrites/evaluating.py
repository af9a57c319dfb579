"""Numbers that a rule computes while it rewrites, by the very operators that it would add for values of run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from rewrites.builder import Builder
from rewrites.graph import Editor, Value

Array = np.ndarray[Any, Any]


def evaluate(op: Builder, function: Callable[..., Value], *given: Value | Array | float) -> Value:
    """`function(op, *given)`: as nodes, or as one constant of 64-bit precision where all that is given is known.

    Args:
        op: the builder.
        function: takes a builder and the values, and gives one value; numbers in it take the values' types.
        given: values and numbers. Constants must be floats.
    """
    known = [g.constant if isinstance(g, Value) else np.asarray(g) for g in given]
    unknown = [g for g in given if isinstance(g, Value) and g.constant is None]
    if unknown:
        dtype = unknown[0].dtype
        return function(op, *(op.constant(k, dtype) if k is not None else g for g, k in zip(given, known, strict=True)))
    return op.constant(_run(op, function, [k.astype(np.float64) for k in known if k is not None]))


def _run(op: Builder, function: Callable[..., Value], arrays: Sequence[Array]) -> Array:
    graph = gs.Graph(opset=op.opset, name="evaluated", ir_version=10)
    editor = Editor(graph)
    graph.inputs = [gs.Variable(f"in{i}", a.dtype, a.shape) for i, a in enumerate(arrays)]
    made = function(Builder(editor, graph, "evaluated"), *(Value(t, editor) for t in graph.inputs))
    graph.outputs = [made.tensor]
    model = gs.export_onnx(editor.finish(), do_type_check=False)
    found: Any = ReferenceEvaluator(model).run(
        None, {str(t.name): a for t, a in zip(graph.inputs, arrays, strict=True)}
    )
    return np.asarray(found[0])
