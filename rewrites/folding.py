"""Constants by value: small computations of shapes, axes and indices are evaluated when a rule asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rewrites.errors import RewriteError
from rewrites.protos import node_proto

if TYPE_CHECKING:
    from rewrites.graph import Editor

LARGEST = 4096
DEEPEST = 40
_FOLDED = """
    Abs Add And Cast Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather GatherND Greater GreaterOrEqual
    Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Pow Range ReduceMax ReduceMin ReduceProd
    ReduceSum Reshape Round ScatterElements ScatterND Shape Sign Size Slice Split Sqrt Squeeze Sub Tile
    Transpose Unsqueeze Where Xor
"""
FOLDABLE = frozenset(_FOLDED.split())


class Folder:
    """Values of constant tensors, each computed once. Only small constants are ever read; weights are not."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._known: dict[int, tuple[gs.Tensor, np.ndarray[Any, Any] | None]] = {}

    def forget(self, tensor: gs.Tensor) -> None:
        self._known.pop(id(tensor), None)

    def value(self, tensor: gs.Tensor, depth: int = 0) -> np.ndarray[Any, Any] | None:
        """The constant value of a tensor, or None."""
        if isinstance(tensor, gs.Constant):
            try:
                values = tensor.values
            except (OSError, onnx.checker.ValidationError) as error:
                told = f"the value of {tensor.name!r} is in another file, which cannot be read: {error}"
                hint = "onnx.load(path) reads what is beside the model; else work in the folder that it is in"
                raise RewriteError(told, hint=hint) from error
            return values if isinstance(values, np.ndarray) else None
        if id(tensor) not in self._known:
            self._known[id(tensor)] = (tensor, self._fold(tensor, depth))
        return self._known[id(tensor)][1]

    def _fold(self, tensor: gs.Tensor, depth: int) -> np.ndarray[Any, Any] | None:
        node = self._editor.producer(tensor)
        if node is None or depth > DEEPEST or node.op not in FOLDABLE or node.domain not in (None, "", "ai.onnx"):
            return None
        if node.op in ("Shape", "Size"):
            return self._fold_shape(node)
        if node.op == "Gather":
            found = self._gather_of_shape(node, depth)
            if found is not None:
                return found
        inputs = {}
        for source in node.inputs:
            if not source.name:
                continue
            if isinstance(source, gs.Constant) and int(np.prod(source.shape)) > LARGEST:
                return None
            value = self.value(source, depth + 1)
            if value is None or value.size > LARGEST:
                return None
            inputs[source.name] = value
        result = evaluate(node_proto(node, self._editor.opset), inputs, self._editor.opset)
        return result if result is not None and result.size <= LARGEST else None

    def _fold_shape(self, node: gs.Node) -> np.ndarray[Any, Any] | None:
        dims = node.inputs[0].shape
        if dims is None:
            return None
        if node.op == "Shape":
            dims = list(dims)[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))]
        if not all(isinstance(d, (int, np.integer)) and d >= 0 for d in dims):
            return None
        return np.array(dims if node.op == "Shape" else np.prod(dims, dtype=np.int64), np.int64)

    def _gather_of_shape(self, node: gs.Node, depth: int) -> np.ndarray[Any, Any] | None:
        """Gather(Shape(x), i) where only the gathered dimensions are static."""
        source = self._editor.producer(node.inputs[0])
        indices = self.value(node.inputs[1], depth + 1)
        if source is None or source.op != "Shape" or source.attrs or indices is None or source.inputs[0].shape is None:
            return None
        dims = [source.inputs[0].shape[int(i)] for i in indices.ravel()]
        if not all(isinstance(d, (int, np.integer)) and d >= 0 for d in dims):
            return None
        return np.array(dims, np.int64).reshape(indices.shape)


def evaluate(
    node: onnx.NodeProto, inputs: Mapping[str, np.ndarray[Any, Any]], opset: int
) -> np.ndarray[Any, Any] | None:
    """What a node with one output computes from these values, by ONNX's reference; None where that fails.

    Quotients of negative integers are left: versions of the reference round them down, ONNX towards zero.
    """
    output = node.output[0]
    if node.op_type == "Div" and any(value.dtype.kind == "i" and (value < 0).any() for value in inputs.values()):
        return None
    graph = onnx.GraphProto(name="fold", node=[node], output=[onnx.ValueInfoProto(name=output)])
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in inputs.items())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    with np.errstate(all="ignore"):
        try:
            result: Any = next(iter(ReferenceEvaluator(model).run(None, {})))
        except (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError):
            return None
    return np.asarray(result)
