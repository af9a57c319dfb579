"""Running an ONNX Runtime plan on the CPU, its weights shared with the plan.

Inputs and outputs cross by DLPack, without a copy.
"""

from __future__ import annotations

import bisect
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.capi import _pybind_state as ort_state
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined]

from bridge.errors import EngineError
from bridge.runtime.plan import Plan
from bridge.runtime.session import PLAIN, LayerTime, RunOptions

MODEL = "model"
WEIGHT = "weight:"
_TIMED = "_kernel_time"
"""What ONNX Runtime's profile adds to a node's name."""
_NOWHERE = "."
"""Where weights are said to be that the session is given: ONNX Runtime asks for a path that is there, no more."""


def check_plan(plan: Plan) -> None:
    """Finds out whether ONNX Runtime can run the plan, without the time and memory that a fast session takes.

    Raises:
        EngineError: it cannot; with its own words.
    """
    OnnxRuntimeSession(plan, torch.device("cpu"), prepack=False)


def open_session(plan: Plan, device: torch.device) -> OnnxRuntimeSession:
    """Loads the plan; it stays in memory for as long as the session lives, since the weights are used in place."""
    return OnnxRuntimeSession(plan, device)


class OnnxRuntimeSession:
    """See :class:`bridge.runtime.session.Session`."""

    def __init__(
        self, plan: Plan, device: torch.device, *, prepack: bool = True, options: ort.SessionOptions | None = None
    ) -> None:
        self.inputs, self.outputs, self.device = plan.header.inputs, plan.header.outputs, device
        self.input_devices = [device] * len(self.inputs)
        self.input_formats = [torch.contiguous_format] * len(self.inputs)
        self._plan = plan
        model = onnx.ModelProto.FromString(plan.section(MODEL).tobytes())
        self._weights = _weights(plan, model)
        options = options or session_options()
        options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
        for name, value in self._weights.items():
            options.add_initializer(name, value)
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this
            raise EngineError("ONNX Runtime could not load this plan", why=str(error)) from error
        self._layers = [(node.name, node.op_type) for node in model.graph.node]
        self._run = self._session._sess.run_with_ort_values
        self._feeds = [(binding.name, binding.dtype == "bool") for binding in self.inputs]
        self._output_names = [binding.name for binding in self.outputs]
        self._results = [(index, binding.dtype == "bool") for index, binding in enumerate(self.outputs)]

    def prepare(
        self, shapes: Sequence[torch.Size], options: RunOptions
    ) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
        return self.run

    def run(self, inputs: list[torch.Tensor], options: RunOptions = PLAIN) -> list[torch.Tensor]:
        feeds = {}
        for tensor, (name, is_bool) in zip(inputs, self._feeds, strict=True):
            feeds[name] = _to_ort(tensor, is_bool)
        try:
            values = self._run(feeds, self._output_names, None)
        except Exception as error:  # see above
            raise EngineError("ONNX Runtime failed while it ran an engine", why=str(error)) from error
        # by index: iterating this vector costs 30 us
        return [_to_torch(values.dlpack_at(index), is_bool) for index, is_bool in self._results]

    def describe(self) -> list[dict[str, Any]]:
        return [{"name": name, "type": kind} for name, kind in self._layers]

    def timed(self) -> TimedOnnxRuntime:
        """A twin that times its nodes."""
        return TimedOnnxRuntime(self._plan, self.device)


class TimedOnnxRuntime:
    """See :class:`bridge.runtime.timing.TimedSession`; the times are those of ONNX Runtime's own profiler."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bridge-")
        options = session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        self._session = OnnxRuntimeSession(plan, device, options=options)

    def run(self, inputs: list[torch.Tensor], options: RunOptions = PLAIN) -> list[torch.Tensor]:
        return self._session.run(inputs, options)

    def close(self) -> list[list[LayerTime]]:
        events = json.loads(Path(self._session._session.end_profiling()).read_text())
        self._folder.cleanup()
        starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
        runs: list[list[LayerTime]] = [[] for _ in starts]
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_TIMED):
                index = bisect.bisect_right(starts, event["ts"]) - 1
                start, name = (event["ts"] - starts[index]) / 1e3, event["name"].removesuffix(_TIMED)
                runs[index].append(LayerTime(name, event["args"]["op_name"], start, event["dur"] / 1e3))
        return [sorted(run, key=lambda layer: layer.start) for run in runs]


def session_options() -> ort.SessionOptions:
    """Options under which the numbers are those of the graph: no optimisations; as many threads as PyTorch uses."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # weights in FP16 are cast where they are used; in the default order all of them are cast first, and held
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.intra_op_num_threads = torch.get_num_threads()
    # idle workers of one engine must not take the cores from the next engine or from PyTorch
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _weights(plan: Plan, model: onnx.ModelProto) -> dict[str, ort.OrtValue]:
    """The weights that the model leaves outside, each over the plan's own bytes; the model is told of no place."""
    weights = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raw = plan.section(WEIGHT + tensor.name)
            carrier = np.dtype(f"u{_itemsize(tensor.data_type)}")
            array = raw.view(carrier).reshape(tuple(tensor.dims))
            weights[tensor.name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, tensor.data_type)
            tensor.external_data[0].value = _NOWHERE
    return weights


def _itemsize(onnx_type: int) -> int:
    return int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx_type)).itemsize)


def _to_ort(tensor: torch.Tensor, is_bool: bool) -> Any:
    if is_bool:
        tensor = tensor.view(torch.uint8)
    return ort_state.OrtValue.from_dlpack(to_dlpack(tensor), is_bool)


def _to_torch(capsule: Any, is_bool: bool) -> torch.Tensor:
    tensor = from_dlpack(capsule)
    return tensor.view(torch.bool) if is_bool else tensor
