"""Graphs without their weights: a small ModelProto, and the arrays beside it, not copied."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from bridge.runtime.dtypes import NAMES_OF_ONNX_NUMBERS, ONNX_NUMBERS, name_of_onnx
from bridge.runtime.plan import ALIGNMENT, Binding
from rewrites.tidying import all_nodes, bodies

SMALL = 1024
"""Constants of up to this many bytes stay inside the model: shapes, axes and scalars, which parsers must see."""

NEWEST_IR = 10
"""The newest ONNX file format that TensorRT 10's parser was made for."""

Array = np.ndarray[Any, np.dtype[Any]]


def detach_weights(graph: gs.Graph) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The graph's model, and its large constants by the names of the main graph's initializers that stand for them.

    Args:
        graph: left as it was. Constants of If and Loop bodies become initializers of the main graph.
    """
    weights: dict[str, Array] = {}
    with _detached(graph, weights):
        model = gs.export_onnx(graph)
    _hoist(model.graph)
    model.ir_version = min(model.ir_version, NEWEST_IR)
    return model, weights


def bindings(tensors: list[gs.Variable]) -> tuple[Binding, ...]:
    """Name, dtype and shape of graph inputs or outputs; unnamed dynamic dimensions become ``"?"``."""
    return tuple(
        Binding(tensor.name, name_of_onnx(tensor.dtype), None if tensor.shape is None else _named(tensor.shape))
        for tensor in tensors
    )


def _named(shape: list[int | str | None]) -> tuple[int | str, ...]:
    return tuple(dim if isinstance(dim, str) or (isinstance(dim, int) and dim >= 0) else "?" for dim in shape)


@contextmanager
def _detached(graph: gs.Graph, weights: dict[str, Array]) -> Iterator[None]:
    """While it lasts, the large constants hold a reference in place of their values, under names of their own."""
    changed: list[tuple[gs.Constant, Any, str]] = []
    try:
        for constant in _large_constants(graph):
            changed.append((constant, constant._values, constant.name))
            array = _values(constant)
            constant.name = _free_name(constant.name, weights)
            weights[constant.name] = array
            constant._values = LazyValues(_reference(constant.name, array))
        yield
    finally:
        for constant, values, name in changed:
            constant._values, constant.name = values, name


def _large_constants(graph: gs.Graph) -> list[gs.Constant]:
    """Each object once; gs compares tensors by name, so identity is asked for."""
    found: dict[int, gs.Constant] = {}
    for scope in (graph, *graph.subgraphs(recursive=True)):
        for tensor in itertools.chain.from_iterable(node.inputs for node in scope.nodes):
            if isinstance(tensor, gs.Constant) and not isinstance(tensor._values, SparseValues):
                found.setdefault(id(tensor), tensor)
        for tensor in scope.outputs:
            if isinstance(tensor, gs.Constant):
                found.setdefault(id(tensor), tensor)
    return [constant for constant in found.values() if constant._values.nbytes > SMALL and _is_plain(constant)]


def _is_plain(constant: gs.Constant) -> bool:
    """Whether an element is a whole number of bytes: 4-bit types are packed in ONNX, not in NumPy."""
    dtype = constant.export_dtype
    return (dtype in NAMES_OF_ONNX_NUMBERS) if isinstance(dtype, int) else name_of_onnx(dtype) in ONNX_NUMBERS


def _values(constant: gs.Constant) -> Array:
    values = constant._values.load() if isinstance(constant._values, LazyValues) else constant._values
    target = constant.export_dtype
    dtype = onnx.helper.tensor_dtype_to_np_dtype(target) if isinstance(target, int) else np.dtype(target)
    return np.ascontiguousarray(values if values.dtype == dtype else values.astype(dtype)).reshape(values.shape)


def _free_name(name: str, taken: dict[str, Array]) -> str:
    if name not in taken:
        return name
    return next(other for other in (f"{name}.{number}" for number in itertools.count(1)) if other not in taken)


def _reference(name: str, array: Array) -> onnx.TensorProto:
    tensor = onnx.TensorProto(
        name=name,
        dims=array.shape,
        data_type=ONNX_NUMBERS[name_of_onnx(array.dtype)],
        data_location=onnx.TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value="weights")
    return tensor


def _hoist(main: onnx.GraphProto) -> None:
    """Moves references out of bodies: runtimes look for outside data in the main graph only."""
    known = {tensor.name for tensor in main.initializer}
    for body in (body for node in all_nodes(main) for body in bodies(node)):
        for tensor in [item for item in body.initializer if item.data_location == onnx.TensorProto.EXTERNAL]:
            body.initializer.remove(tensor)
            if tensor.name not in known:
                main.initializer.append(tensor)
                known.add(tensor.name)


def with_weights(model: onnx.ModelProto, weights: dict[str, Array]) -> onnx.ModelProto:
    """The model with copies of its weights inside; a message of more than 2 GB can be neither written nor read."""
    for tensor in _references(model):
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = weights[tensor.name].tobytes()
    return model


def save_model(model: onnx.ModelProto, weights: dict[str, Array], folder: Path) -> Path:
    """Writes ``model.onnx`` and, beside it, its weights in one file of any size; gives back the path of the first."""
    with (folder / "weights").open("wb") as file:
        for tensor in _references(model):
            array = weights[tensor.name]
            file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
            for key, value in (("offset", file.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(array.reshape(-1).view(np.uint8).data)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _references(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
