"""Models in and out: an `onnx.ModelProto` becomes a typed graph whose weights stay where they are, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import inliner, shape_inference
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from rewrites.errors import RewriteError
from rewrites.opsets import to_opset
from rewrites.protos import forget_strange_types, model_proto, recall_strange_types, uncollected
from rewrites.targets import Target
from rewrites.tidying import all_nodes, tidy

SMALL = 1024
_DEFAULTS = 4  # the first version of ONNX in which callers may give what initializers hold; before, all were inputs
_KEPT = ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version")
G_LOGGER.severity = G_LOGGER.ERROR


def load(model: onnx.ModelProto, target: Target, notes: list[str], least: int = 0) -> gs.Graph:
    """A graph with every type and shape that ONNX's inference finds; functions inlined, the opset one the target reads.

    Args:
        model: left as it is; its large initializers are shared with the graph.
        target: what decides the opset.
        notes: gets a sentence for everything done to the model.
        least: the oldest opset that it may be at, where the target reads that.

    Raises:
        RewriteError: the model is broken, its functions cannot be inlined, or its opset cannot be changed.
    """
    light, weights = _without_weights(model)
    given = {value.name for value in model.graph.input} & {tensor.name for tensor in model.graph.initializer}
    if given and model.ir_version >= _DEFAULTS:
        notes.append(f"inputs with a default value are constants: {', '.join(sorted(given))}")
    if light.functions:
        light = _inlined(light, notes)
    tidy(light, notes)
    light = to_opset(light, target, notes, least)
    try:
        light = shape_inference.infer_shapes(light, data_prop=True)
    except shape_inference.InferenceError as error:
        notes.append(f"shape inference failed: {error}")
    forget_strange_types(light.graph)
    with uncollected():
        graph = gs.import_onnx(light)
    for tensor in list(graph.inputs):
        if tensor.name in weights:
            tensor.to_constant(LazyValues(weights[tensor.name]))
    graph.inputs = [t for t in graph.inputs if not isinstance(t, gs.Constant)]
    return graph


def _inlined(model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    try:
        made = inliner.inline_local_functions(model, convert_version=True)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        raise _not_inlined(model, model.functions, str(error)) from error
    called = {(node.domain, node.op_type) for node in all_nodes(made.graph)}
    if left := [function for function in model.functions if (function.domain, function.name) in called]:
        raise _not_inlined(model, left, "it is written in another opset than the model")
    notes.append("model-local functions were inlined")
    return made


def _not_inlined(model: onnx.ModelProto, functions: Iterable[onnx.FunctionProto], why: str) -> RewriteError:
    own = {entry.domain: entry.version for entry in model.opset_import}
    strange = [f for f in functions if any(own.get(o.domain, o.version) != o.version for o in f.opset_import)]
    told = ", ".join(f"{f.domain}::{f.name}" for f in strange or functions)
    hint = "export the model so that its functions are of its own opset"
    return RewriteError(f"a function of the model cannot be inlined: {told}: {why}", hint=hint)


def complete(graph: gs.Graph) -> None:
    """Infer the types and shapes that the graph lacks, in place; nothing is done when it lacks none."""
    if all(t.shape is not None and t.dtype is not None for n in graph.nodes for t in n.outputs if t.name):
        return
    known = {t.name: t for n in graph.nodes for t in (*n.inputs, *n.outputs)}
    constants = {n: t for n, t in known.items() if isinstance(t, gs.Constant) and np.prod(t.shape) > SMALL}
    values = {n: (t._values, t.data_location, t._export_dtype) for n, t in constants.items()}
    for tensor in constants.values():
        tensor.to_variable(tensor.dtype, tensor.shape)
        tensor.type = "tensor_type"
    graph.inputs += list(constants.values())
    try:
        found = shape_inference.infer_shapes(model_proto(graph), data_prop=True)
    finally:
        graph.inputs = [t for t in graph.inputs if t.name not in constants]
        for name, tensor in constants.items():
            tensor.to_constant(values[name][0])
            tensor.data_location, tensor._export_dtype = values[name][1:]
    for name, (dtype, shape) in _types(found.graph):
        tensor = known.get(name)
        if isinstance(tensor, gs.Variable):
            tensor.dtype = dtype if tensor.dtype is None else tensor.dtype
            tensor.shape = shape if tensor.shape is None else tensor.shape


def _types(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[object, object]]]:
    imported = gs.import_onnx(onnx.helper.make_model(graph))
    yield from ((t.name, (t.dtype, t.shape)) for t in imported.tensors().values())


def save(graph: gs.Graph, original: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as a model with the original's metadata."""
    model = model_proto(graph)
    recall_strange_types(model.graph, original.graph)
    for field in _KEPT:
        setattr(model, field, getattr(original, field))
    model.metadata_props.extend(original.metadata_props)
    model.graph.metadata_props.extend(original.graph.metadata_props)
    model.ir_version = max(model.ir_version, 10 if graph.opset >= 21 else 8)
    return model


def _without_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """A copy in which large initializers are graph inputs, and these initializers by name."""
    light = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    source, graph = model.graph, light.graph
    graph.name, graph.doc_string = source.name, source.doc_string
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    graph.sparse_initializer.extend(source.sparse_initializer)
    given, weights = {i.name for i in source.input}, {}
    for tensor in source.initializer:
        if int(np.prod(tensor.dims, dtype=np.int64)) <= SMALL:
            graph.initializer.append(tensor)
            continue
        weights[tensor.name] = tensor
        if tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light, weights
