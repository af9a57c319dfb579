"""The proof that TensorRT-RTX takes a model: it parses it and builds an engine, which needs no GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx

_PACKAGES = ("tensorrt_rtx", "tensorrt")
_READ = "BFLOAT16 BOOL DOUBLE FLOAT FLOAT16 FLOAT4E2M1 FLOAT8E4M3FN INT32 INT4 INT64 INT8 UINT8 UNDEFINED"
_TYPES = frozenset(_READ.split())  # of doubles the parser makes floats


def builds(model: onnx.ModelProto, inputs: dict[str, np.ndarray[Any, Any]] | None = None) -> str | None:
    """None when TensorRT-RTX parses the model and builds an engine of it, or is not installed; otherwise why not.

    Args:
        model: the model; dynamic axes get a profile.
        inputs: inputs whose shapes the profile must hold; 4 for every dynamic axis without.
    """
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return None
    trt, logger = _tensorrt()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    logger.messages.clear()
    if not parser.parse(model.SerializeToString()):
        return "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)) or "the parser refused"
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network, inputs or {}))
    config.builder_optimization_level = 0
    plan = builder.build_serialized_network(network, config)
    return None if plan is not None else "; ".join(logger.messages[-3:]) or "the builder gave nothing"


@dataclass(frozen=True)
class Unsupported:
    """What the parser refuses, and its reason: a node, or an input or initializer, whose `op` says so.

    `name` is a node's first output's when it has none.
    """

    name: str
    op: str
    domain: str
    reason: str | None


def unsupported(model: onnx.ModelProto) -> list[Unsupported] | None:
    """What the installed TensorRT's parser refuses, in order; None where neither TensorRT is installed."""
    if not any(importlib.util.find_spec(name) for name in _PACKAGES):
        return None
    trt, logger = _tensorrt()
    builder = trt.Builder(logger)
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strong is None else 1 << int(strong))
    parser = trt.OnnxParser(network, logger)
    if parser.parse(model.SerializeToString()):
        return []
    nodes = list(model.graph.node)
    found: dict[int, Unsupported] = {}
    rest: list[str] = []
    for error in (parser.get_error(i) for i in range(parser.num_errors)):
        at, told = error.node(), error.desc().strip()
        if not 0 <= at < len(nodes):
            rest.append(told)
            continue
        reason = told if told not in ("", "false") else f"TensorRT has no importer of {nodes[at].op_type} as it is here"
        found.setdefault(at, Unsupported(label(nodes[at]), nodes[at].op_type, nodes[at].domain, reason))
    values = list(_values_refused(model.graph))
    if not found and not values:
        values = [Unsupported(model.graph.name, "model", "", "; ".join(rest) or "the parser refused")]
    return [*values, *(found[at] for at in sorted(found))]


def _values_refused(graph: onnx.GraphProto) -> Iterator[Unsupported]:
    """Inputs and initializers that no tensor of TensorRT's can be; its parser names neither."""
    for value in graph.input:
        which = value.type.WhichOneof("value") or "tensor_type"
        kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if which != "tensor_type":
            yield Unsupported(value.name, "input", "", f"TensorRT's inputs are tensors, not {which.partition('_')[0]}s")
        elif kind not in _TYPES:
            yield Unsupported(value.name, "input", "", f"TensorRT has no tensors of {kind}")
        elif not value.type.tensor_type.HasField("shape"):
            reason = "its rank is not known, which TensorRT needs: give it a shape, with names for what varies"
            yield Unsupported(value.name, "input", "", reason)
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield Unsupported(tensor.name, "initializer", "", "its values are in a file: onnx.load(path) loads them")
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if kind not in _TYPES:
            yield Unsupported(tensor.name, "initializer", "", f"TensorRT has no tensors of {kind}")


def label(node: onnx.NodeProto) -> str:
    """What a node is called: its name, or its first output's."""
    return node.name or (node.output[0] if node.output else node.op_type)


def _profile(builder: Any, network: Any, inputs: dict[str, np.ndarray[Any, Any]]) -> Any:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        given = inputs.get(tensor.name)
        if tensor.is_shape_tensor:
            values = np.zeros(tensor.shape, np.int64) if given is None else np.asarray(given)
            flat = [int(v) for v in values.ravel()]
            profile.set_shape_input(tensor.name, flat, flat, flat)
        elif any(d < 0 for d in tensor.shape):
            shape = [4 if d < 0 else d for d in tensor.shape] if given is None else list(given.shape)
            profile.set_shape(
                tensor.name, shape, shape, [2 * s if d < 0 else s for s, d in zip(shape, tensor.shape, strict=False)]
            )
    return profile


@lru_cache(maxsize=1)
def _tensorrt() -> tuple[Any, Any]:
    trt: Any = importlib.import_module(next(name for name in _PACKAGES if importlib.util.find_spec(name)))

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.messages.append(message)

    return trt, Logger()
