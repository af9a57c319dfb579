"""Types and shapes of one new node, by ONNX's own inference on a one-node model (about 20 microseconds)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

SMALL = 4096
Dims = tuple["int | str | None", ...]
Typed = tuple["np.dtype[Any] | None", "Dims | None"]
_SHAPE_INPUT = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Tile": 1}


def elem_type(dtype: np.dtype[Any]) -> int:
    """The ONNX element type of a numpy (or ml_dtypes) dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def numpy_type(dtype: Any) -> np.dtype[Any] | None:
    """The numpy dtype of what graphsurgeon keeps as dtype: a numpy type or an ONNX element type."""
    if dtype is None or dtype == 0:
        return None
    return np.dtype(helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else dtype)


def infer(
    node: onnx.NodeProto,
    inputs: Sequence[tuple[str, Typed, np.ndarray[Any, Any] | None]],
    imports: Sequence[tuple[str, int]],
) -> list[Typed]:
    """The (dtype, dims) of each output of `node`; None where inference does not know.

    Args:
        node: the node; its bodies may not capture outer values.
        inputs: name, type and small constant value of each input.
        imports: (domain, version) pairs.

    Raises:
        onnx.shape_inference.InferenceError: when the node is wrong for these inputs.
    """
    graph = onnx.GraphProto(name="one", node=[node])
    seen: set[str] = set()
    for name, (dtype, dims), value in inputs:
        if name in seen or not name:
            continue
        seen.add(name)
        if value is not None and value.size <= SMALL:
            graph.initializer.append(numpy_helper.from_array(value, name))
        elif dtype is not None:
            graph.input.append(helper.make_tensor_value_info(name, elem_type(dtype), dims))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    model = onnx.ModelProto(ir_version=10, graph=graph)
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in imports)
    found = {v.name: v for v in shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output}
    given = {d for _, (_, dims), _ in inputs for d in dims or ()}
    types = [_known(_typed(found[name]), given) if name else (None, None) for name in node.output]
    return [_with_rank(node.op_type, types[0], inputs), *types[1:]] if types else types


def _known(typed: Typed, given: set[int | str | None]) -> Typed:
    """Without the names that inference made up: they would be taken for those it made up for other nodes."""
    dtype, dims = typed
    return dtype, dims and tuple(d if isinstance(d, int) or d in given else None for d in dims)


def _typed(info: onnx.ValueInfoProto) -> Typed:
    tensor = info.type.tensor_type
    if not tensor.elem_type:
        return None, None
    if not tensor.HasField("shape"):
        return numpy_type(tensor.elem_type), None
    return numpy_type(tensor.elem_type), tuple(dim_of(d) for d in tensor.shape.dim)


def dim_of(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """A dimension as int (static), str (symbolic) or None (unknown)."""
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None


def _with_rank(op: str, typed: Typed, inputs: Sequence[tuple[str, Typed, Any]]) -> Typed:
    """Reshape and its like: the length of the shape input is the rank, which ONNX's inference does not use."""
    position = _SHAPE_INPUT.get(op)
    if typed[1] is not None or position is None or position >= len(inputs):
        return typed
    dims = inputs[position][1][1]
    if dims is None or len(dims) != 1 or not isinstance(dims[0], int):
        return typed
    return typed[0], (None,) * dims[0]
