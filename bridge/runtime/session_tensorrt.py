"""Running TensorRT engines: a context per stream, outputs from PyTorch's allocator, nothing waited for."""

from __future__ import annotations

import atexit
import json
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import torch
from torch.autograd.profiler import record_function

from bridge import torch_private as tp
from bridge.errors import BridgeError, EngineError
from bridge.runtime.bindings import TITLES, bindings, logger
from bridge.runtime.context import CallKind, Context, Key
from bridge.runtime.lane import Lane
from bridge.runtime.memory import gpu_allocator
from bridge.runtime.plan import Plan
from bridge.runtime.session import PLAIN, LayerTime, RunOptions
from bridge.runtime.streams import shared_stream

ENGINE = "engine"
_CHANNELS_LAST = {"HWC": 1, "HWC8": 8, "HWC16": 16}  # TensorRT's formats, and to what they pad the channels
_DIGITS = 12  # of a plan's digest, in the name of its range in profiles

_alive: weakref.WeakSet[TensorRTSession] = weakref.WeakSet()


def open_session(plan: Plan, device: torch.device) -> TensorRTSession:
    """Loads the engine on the GPU; the plan's bytes are not needed afterwards.

    Raises:
        EngineError: no GPU, another kind of GPU, another version of TensorRT, or a failure that TensorRT explains.
    """
    name = plan.header.backend
    if device.type != "cuda" or not torch.cuda.is_available():
        raise EngineError(
            f"a {TITLES[name]} engine runs on an NVIDIA GPU, not on {device}",
            why=None if torch.cuda.is_available() else "there is no GPU",
            hint='move the inputs to the GPU, or compile with backend="onnxruntime"',
        )
    _check_gpu(plan, device)
    try:
        trt = bindings(name)
    except BridgeError as error:
        raise EngineError(
            f"this module needs {TITLES[name]} {plan.header.version}", why=error.what, hint=error.hint
        ) from error
    with torch.cuda.device(device):
        return TensorRTSession(trt, plan, device)


def _check_gpu(plan: Plan, device: torch.device) -> None:
    built_for = plan.header.device.get("capability")
    properties = torch.cuda.get_device_properties(device)
    here = f"{properties.major}.{properties.minor}"
    if built_for not in (None, here) and not plan.header.settings.get("hardware_compatible"):
        raise EngineError(
            f"this engine was built for {plan.header.device.get('name')} (compute capability {built_for}); "
            f"{device} is a {properties.name} ({here})",
            hint="compile on this machine, or with hardware_compatible=True",
        )


def _described(layer: dict[str, Any]) -> dict[str, Any]:
    """What the engine inspector says of a layer, in the words of :meth:`Session.describe`."""
    told = {"name": layer["Name"], "type": layer.get("LayerType", ""), "from": layer.get("Metadata", "")}
    outputs = layer.get("Outputs") or [{}]
    kind = next((text for key, text in outputs[0].items() if "datatype" in key.lower()), "")
    found = re.search("|".join(_PRECISIONS), str(kind), re.IGNORECASE)
    told["precision"] = _PRECISIONS[found[0].upper()] if found else ""
    told["tactic"] = layer.get("TacticName", "")
    return told


_PRECISIONS = {
    "BF16": "bfloat16", "BFLOAT16": "bfloat16", "FP16": "float16", "HALF": "float16", "FP8": "float8", "FP4": "float4",
    "FP32": "float32", "FLOAT": "float32", "INT8": "int8", "INT64": "int64", "INT32": "int32", "INT4": "int4",
    "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""How TensorRT's engine inspector writes element types, in its several versions."""


class TensorRTSession:
    """See :class:`bridge.runtime.session.Session`."""

    def __init__(self, trt: ModuleType, plan: Plan, device: torch.device) -> None:
        self.inputs, self.outputs, self.device = plan.header.inputs, plan.header.outputs, device
        self.trt, self._name = trt, plan.header.backend
        self._runtime = trt.Runtime(logger(self._name))
        self._allocator = gpu_allocator(trt, device)
        self._runtime.gpu_allocator = self._allocator
        if plan.header.settings.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True
        with logger(self._name).errors() as errors:
            self.engine = self._runtime.deserialize_cuda_engine(plan.section(ENGINE).data)
        if self.engine is None:
            raise EngineError(
                f"{TITLES[self._name]} {trt.__version__} could not load this engine, built with {plan.header.version}",
                why="\n".join(errors),
                hint="compile again with the version that is installed",
            )
        host = trt.TensorLocation.HOST
        names = [binding.name for binding in self.inputs]
        cpu = torch.device("cpu")
        self.input_devices = [cpu if self.engine.get_tensor_location(name) == host else device for name in names]
        self.input_formats = [self._memory_format(name, "input") for name in names]
        self.output_formats = [self._memory_format(binding.name, "output") for binding in self.outputs]
        self.why_not_repeated = self._why_not_repeated()
        self.profiles = [
            {name: tuple(map(tuple, self.engine.get_tensor_profile_shape(name, index))) for name in names}
            for index in range(self.engine.num_optimization_profiles)
        ]
        self._range = f"engine {plan.digest[:_DIGITS]}"
        self._is_only_gpu = torch.cuda.device_count() == 1
        self._lanes: dict[int, Lane] = {}
        self._given_away: set[Context] = set()
        self._lock = threading.Lock()
        _alive.add(self)

    def prepare(
        self, shapes: Sequence[torch.Size], options: RunOptions
    ) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
        kind, index, is_only_gpu, lanes = (
            CallKind.of(shapes, options),
            self.device.index,
            self._is_only_gpu,
            self._lanes,
        )

        def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            try:
                lane = lanes[tp.current_stream(index)]
            except KeyError:
                lane = self._new_lane()
            if tp.profiler._is_profiler_enabled and tp.is_profiling():
                with torch.cuda.device(index), record_function(self._range):
                    return lane.run(inputs, kind)
            if is_only_gpu or tp.current_device() == index:
                return lane.run(inputs, kind)
            with torch.cuda.device(index):
                return lane.run(inputs, kind)

        return run

    def run(self, inputs: list[torch.Tensor], options: RunOptions = PLAIN) -> list[torch.Tensor]:
        return self.prepare([tensor.shape for tensor in inputs], options)(inputs)

    def _new_lane(self) -> Lane:
        """A lane for the current stream."""
        stream = torch.cuda.current_stream(self.device)
        with self._lock:
            return self._lanes.setdefault(stream.cuda_stream, Lane(self, stream))

    def _memory_format(self, name: str, kind: str) -> torch.memory_format:
        """How a tensor of the engine lies in memory, in PyTorch's terms.

        Raises:
            EngineError: PyTorch has no word for it.
        """
        said, shape = self.engine.get_tensor_format(name).name, tuple(self.engine.get_tensor_shape(name))
        if said == "LINEAR":
            return torch.contiguous_format
        if said in _CHANNELS_LAST and len(shape) == 4 and shape[1] > 0 and shape[1] % _CHANNELS_LAST[said] == 0:
            return torch.channels_last
        raise EngineError(
            f"{kind} {name!r} of this engine, of shape {shape}, is in TensorRT's format {said}, "
            "which no tensor of PyTorch has",
            hint="build it with linear inputs and outputs, or with channels last and no padding",
        )

    def errors(self) -> AbstractContextManager[list[str]]:
        """The errors that TensorRT says while it is entered; they are details in the log."""
        result: AbstractContextManager[list[str]] = logger(self._name).errors()
        return result

    def _why_not_repeated(self) -> str:
        """Why calls that repeat are not captured of themselves; empty: they are."""
        if self._name != "tensorrt":
            return f"{TITLES[self._name]} captures by itself"
        if any(device.type == "cpu" for device in self.input_devices):
            return "the values of an input decide shapes"
        host = self.trt.TensorLocation.HOST
        on_host = any(self.engine.get_tensor_location(binding.name) == host for binding in self.outputs)
        return "an output is on the host" if on_host else ""

    def create_context(self) -> tuple[Any, int]:
        """An execution context of TensorRT's, and the bytes for activations that it must be given; 0 if it has its own.

        Raises:
            EngineError: TensorRT gives none.
        """
        takes_memory = hasattr(self.trt.IExecutionContext, "set_device_memory")  # not before 10.1
        size = int(self.engine.device_memory_size_v2) if takes_memory else 0
        if size:
            context = self.engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:
            context = self.engine.create_execution_context()
        if context is None:
            raise EngineError(f"{TITLES[self._name]} gave no execution context", hint="is the GPU's memory full?")
        return context, size

    def give_away(self, key: Key, asking: Lane) -> Context | None:
        """A context that has run these shapes and is not in use; the lane that had it makes itself another.

        Args:
            asking: the lane that gets it, its stream locked.
        """
        with self._lock:
            lanes = list(self._lanes.values())
        for lane in lanes:
            is_own = lane.street is asking.street
            if not is_own and not lane.street.lock.acquire(blocking=False):
                continue
            try:
                context = lane.give_away(key)
                if context is not None:
                    return context
            finally:
                if not is_own:
                    lane.street.lock.release()
        return None

    def keep(self, context: Context) -> None:
        """Keeps a context that a caller's CUDA graph uses as long as the engine lives: nothing tells when it ends."""
        self._given_away.add(context)

    def describe(self) -> list[dict[str, Any]]:
        inspector = self.engine.create_engine_inspector()
        layers = json.loads(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON)).get("Layers", [])
        return [{"name": layer, "type": ""} if isinstance(layer, str) else _described(layer) for layer in layers]

    @property
    def device_memory(self) -> int:
        """Bytes of GPU memory that a run needs for activations."""
        size = getattr(self.engine, "device_memory_size_v2", None)  # 10.0 has the first version only
        return int(self.engine.device_memory_size if size is None else size)

    def timed(self) -> TimedTensorRT:
        """A twin that times its layers, with a context of its own."""
        return TimedTensorRT(self)

    def close(self) -> None:
        """Frees contexts, engine and runtime, in this order."""
        self._lanes.clear()
        self._given_away.clear()
        self.engine = self._runtime = None


class TimedTensorRT:
    """See :class:`bridge.runtime.session.TimedSession`; the times are those that TensorRT tells its IProfiler.

    With a profiler TensorRT runs one layer at a time, so that layers which would overlap follow one another.
    """

    def __init__(self, session: TensorRTSession) -> None:
        self._session = session
        self._types = {layer["name"]: layer["type"] for layer in session.describe()}
        self._listener = _listener(session.trt)
        self._context = Context(session, self._listener)
        self._runs: list[list[LayerTime]] = []

    def run(self, inputs: list[torch.Tensor], options: RunOptions = PLAIN) -> list[torch.Tensor]:
        self._listener.heard.clear()
        with torch.cuda.device(self._session.device):
            street = shared_stream(self._session.device, torch.cuda.current_stream())
            with street.lock:
                kind = CallKind.of([tensor.shape for tensor in inputs], options)
                outputs = self._context.run(inputs, kind, street)
            torch.cuda.synchronize()
        layers, start = [], 0.0
        for name, ms in self._listener.heard:
            layers.append(LayerTime(name, self._types.get(name, ""), start, ms))
            start += ms
        self._runs.append(layers)
        return outputs

    def close(self) -> list[list[LayerTime]]:
        del self._context
        return self._runs


def _listener(trt: ModuleType) -> Any:
    class Listener(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.heard: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.heard.append((layer_name, ms))

    return Listener()


@atexit.register
def _close_all() -> None:
    """Before CUDA shuts down: an engine that is freed after it ends the process with an error."""
    for session in list(_alive):
        session.close()
