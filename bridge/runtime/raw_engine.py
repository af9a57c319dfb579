"""Plans around engines that TensorRT made elsewhere: what the header says is read from the engine."""

from __future__ import annotations

from typing import Any

import torch

from bridge.errors import EngineError
from bridge.runtime.bindings import TITLES, bindings, logger
from bridge.runtime.dtypes import NAMES_OF_TENSORRT
from bridge.runtime.plan import Binding, Plan, PlanHeader, Profile
from bridge.runtime.session_tensorrt import ENGINE


def plan_of_engine(engine: bytes | bytearray | memoryview, backend: str = "tensorrt", device: int = 0) -> Plan:
    """A plan around a serialized engine.

    Raises:
        BridgeError: the backend is not installed here.
        EngineError: there is no GPU, or TensorRT does not take these bytes.
    """
    trt = bindings(backend)
    if not torch.cuda.is_available():
        raise EngineError(f"a raw {TITLES[backend]} engine can be opened on an NVIDIA GPU only", why="there is no GPU")
    with torch.cuda.device(device), logger(backend).errors() as errors:
        runtime = trt.Runtime(logger(backend))
        opened = runtime.deserialize_cuda_engine(engine)
        if opened is None:
            raise EngineError(f"{TITLES[backend]} {trt.__version__} does not take these bytes", why="\n".join(errors))
        return Plan.pack(_header(trt, opened, backend, device), {ENGINE: engine})


def _header(trt: Any, engine: Any, backend: str, device: int) -> PlanHeader:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
    properties = torch.cuda.get_device_properties(device)
    capability = f"{properties.major}.{properties.minor}"
    return PlanHeader(
        backend=backend,
        version=str(trt.__version__),
        inputs=tuple(_binding(engine, name) for name in names if is_input[name]),
        outputs=tuple(_binding(engine, name) for name in names if not is_input[name]),
        profiles=_profiles(engine, [name for name in names if is_input[name]]),
        device={"name": properties.name, "capability": capability} if backend == "tensorrt" else {},
        notes=("built outside bridge",),
    )


def _binding(engine: Any, name: str) -> Binding:
    shape = tuple(engine.get_tensor_shape(name))
    dims = None if len(shape) and shape[0] < -1 else tuple(size if size >= 0 else "?" for size in shape)
    return Binding(name, NAMES_OF_TENSORRT[engine.get_tensor_dtype(name).name], dims)


def _profiles(engine: Any, inputs: list[str]) -> tuple[Profile, ...]:
    """The engine's profiles; none where every input has one shape only."""
    if all(-1 not in tuple(engine.get_tensor_shape(name)) for name in inputs):
        return ()
    result: list[Profile] = []
    for index in range(engine.num_optimization_profiles):
        shapes = {name: [tuple(item) for item in engine.get_tensor_profile_shape(name, index)] for name in inputs}
        result.append({name: (low, best, high) for name, (low, best, high) in shapes.items()})
    return tuple(result)
