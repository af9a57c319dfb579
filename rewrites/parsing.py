"""The proof that TensorRT-RTX takes a model: it parses it and builds an engine, which needs no GPU."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import numpy as np
import onnx


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
    import tensorrt_rtx as trt

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.messages.append(message)

    return trt, Logger()
