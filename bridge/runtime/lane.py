"""One stream's way through a TensorRT engine: an execution context, and what it was last told."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from bridge.errors import EngineError
from bridge.runtime.dtypes import dtype_of
from bridge.runtime.session import RunOptions

if TYPE_CHECKING:
    from bridge.runtime.session_tensorrt import TensorRTSession

log = logging.getLogger("bridge.runtime")

_ALIGNMENT = 256  # bytes; TensorRT asks it of every address
_MOST_SHAPES = 1024
_MOST_GRAPHS = 8

_Shapes = tuple[torch.Size, ...]
_Key = tuple[_Shapes, int | None]  # the shapes of a call, and the profile asked for


@dataclass(frozen=True)
class _Layout:
    """What follows from inputs of certain shapes: the profile, and each output's shape, None where the data decide."""

    profile: int
    outputs: list[torch.Size | None]


class Lane:
    """Calls from one stream, one at a time; the lock is held while work is enqueued, never while it runs.

    From the default stream the engine runs on a stream of its own, ordered before and after by events: on the default
    stream itself TensorRT would synchronise the device.
    """

    def __init__(self, session: TensorRTSession, stream: torch.cuda.Stream) -> None:
        # the session owns its lanes, and must be freed at once with the last module
        self._session = weakref.ref(session)
        self._trt, self._device, self._profiles = session.trt, session.device, session.profiles
        self.stream, self._lock = stream, threading.Lock()
        self._own = _new_stream(session.device) if stream.cuda_stream == 0 else None
        self._handle = (self._own or stream).cuda_stream
        self._before = torch.cuda.Event()
        self._after = torch.cuda.Event()
        self._context = session.engine.create_execution_context()
        self._told: _Key | None = None
        self._layouts: dict[_Key, _Layout] = {}
        self._graphs: OrderedDict[_Key, CapturedCall | None] = OrderedDict()
        self._input_names = [binding.name for binding in session.inputs]
        self._outputs = [(binding.name, dtype_of(binding.dtype)) for binding in session.outputs]
        self._host_inputs = any(device.type == "cpu" for device in session.input_devices)
        self._addresses: dict[str, int] = {}
        self._nothing = torch.empty(_ALIGNMENT, dtype=torch.uint8, device=session.device)
        self._allocators: dict[str, Any] = {}

    def run(self, inputs: list[torch.Tensor], options: RunOptions) -> list[torch.Tensor]:
        """See :meth:`bridge.runtime.session.Session.run`."""
        with self._lock:
            if options.cuda_graphs and not torch.cuda.is_current_stream_capturing():
                captured = self._captured(inputs, options)
                if captured is not None:
                    return captured.replay(inputs)
            layout, held = self._prepare(inputs, options)
            outputs = [
                self._bind_output(name, dtype, shape)
                for (name, dtype), shape in zip(self._outputs, layout.outputs, strict=True)
            ]
            self._execute()
            del held
            return [
                self._allocators[name].result(dtype) if output is None else output
                for output, (name, dtype) in zip(outputs, self._outputs, strict=True)
            ]

    def _captured(self, inputs: list[torch.Tensor], options: RunOptions) -> CapturedCall | None:
        """The CUDA graph for these shapes, captured on first use; None where that was impossible."""
        key = (tuple([tensor.shape for tensor in inputs]), options.profile)
        if key not in self._graphs:
            if len(self._graphs) >= _MOST_GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[key] = self._capture(inputs, options)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _capture(self, inputs: list[torch.Tensor], options: RunOptions) -> CapturedCall | None:
        twin = Lane(self._owner(), _new_stream(self._device))  # a graph needs a context that nothing else changes
        if self._host_inputs:
            why = "the values of an input decide shapes"
        elif None in twin.layout(inputs, options).outputs:
            why = "the data decide the shape of an output"
        else:
            try:
                return CapturedCall(twin, inputs, replace(options, cuda_graphs=False))
            except RuntimeError as error:
                why = str(error)
        log.warning("an engine runs without CUDA graphs: %s", why)
        return None

    def _owner(self) -> TensorRTSession:
        session = self._session()
        if session is None:
            raise EngineError("this engine was closed")
        return session

    def layout(self, inputs: list[torch.Tensor], options: RunOptions) -> _Layout:
        """What follows from these inputs' shapes."""
        return self._prepare(inputs, options)[0]

    def _prepare(self, inputs: list[torch.Tensor], options: RunOptions) -> tuple[_Layout, list[torch.Tensor]]:
        """Tells the context the inputs, as far as it does not know them; the layout, and the tensors to keep alive."""
        key = (tuple([tensor.shape for tensor in inputs]), options.profile)
        if key != self._told:
            self._tell_shapes(key)
        held = [self._bind_input(name, tensor) for name, tensor in zip(self._input_names, inputs, strict=True)]
        layout = self._layouts.get(key)
        if layout is None or self._host_inputs:
            if len(self._layouts) >= _MOST_SHAPES:
                self._layouts.clear()
            layout = self._layouts[key] = self._lay_out()
        return layout, held

    def _execute(self) -> None:
        if self._own is not None:
            self._before.record(self.stream)
            self._own.wait_event(self._before)
        enqueued = self._context.execute_async_v3(self._handle)
        if self._own is not None:
            self._after.record(self._own)
            self.stream.wait_event(self._after)
        if not enqueued:
            raise EngineError(
                "TensorRT failed to run an engine", hint="TensorRT's own message is in the log, logger bridge.tensorrt"
            )

    def _bind_input(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.data_ptr()
        if address % _ALIGNMENT and tensor.is_cuda:
            tensor = tensor.clone()
            address = tensor.data_ptr()
        self._set_address(name, address)
        return tensor

    def _bind_output(self, name: str, dtype: torch.dtype, shape: torch.Size | None) -> torch.Tensor | None:
        if shape is None:
            self._allocators[name].begin()
            return None
        output = torch.empty(shape, dtype=dtype, device=self._device)
        self._set_address(name, output.data_ptr())
        return output

    def _set_address(self, name: str, address: int) -> None:
        address = address or self._nothing.data_ptr()  # an empty tensor has none, and TensorRT wants one
        if self._addresses.get(name) != address:
            self._context.set_tensor_address(name, address)
            self._addresses[name] = address

    def _tell_shapes(self, key: _Key) -> None:
        shapes, wanted = key
        known = self._layouts.get(key)
        profile = known.profile if known is not None else self._choose_profile(shapes, wanted)
        self._told = None
        if profile != self._context.active_optimization_profile:
            self._context.set_optimization_profile_async(profile, self._handle)
            self._addresses.clear()  # another profile may have bindings of its own
        for name, shape in zip(self._input_names, shapes, strict=True):
            if not self._context.set_input_shape(name, tuple(shape)):
                raise EngineError(f"TensorRT does not take shape {tuple(shape)} for input {name!r}")
        self._told = key

    def _lay_out(self) -> _Layout:
        self._context.infer_shapes()
        outputs: list[torch.Size | None] = []
        for name, _ in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            outputs.append(None if -1 in shape else torch.Size(shape))
            if -1 in shape and name not in self._allocators:
                self._allocators[name] = output_allocator(self._trt, self._device)
                self._context.set_output_allocator(name, self._allocators[name])
        return _Layout(self._context.active_optimization_profile, outputs)

    def _choose_profile(self, shapes: _Shapes, wanted: int | None) -> int:
        for index, profile in enumerate(self._profiles):
            if wanted in (None, index) and all(
                _within(shape, profile[name]) for name, shape in zip(self._input_names, shapes, strict=True)
            ):
                return index
        got = ", ".join(f"{name}={tuple(shape)}" for name, shape in zip(self._input_names, shapes, strict=True))
        which = "no profile" if wanted is None else f"profile {wanted} does not exist or does not fit: no profile"
        raise EngineError(f"{which} of this engine fits {got}", why=f"its profiles (min, opt, max): {self._profiles}")


class CapturedCall:
    """A CUDA graph of one engine call, with memory of its own for inputs and outputs."""

    def __init__(self, lane: Lane, inputs: list[torch.Tensor], options: RunOptions) -> None:
        self._lane = lane
        self._inputs = [tensor.clone() for tensor in inputs]
        stream = lane.stream
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            lane.run(
                self._inputs, options
            )  # TensorRT prepares at the first call with new shapes, which cannot be captured
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._outputs = lane.run(self._inputs, options)

    def replay(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Runs on the current stream; the results are copies, as the next replay overwrites its own."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return [output.clone() for output in self._outputs]


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _within(shape: torch.Size, limits: tuple[tuple[int, ...], ...]) -> bool:
    low, _, high = limits
    return len(shape) == len(low) and all(a <= size <= b for size, a, b in zip(shape, low, high, strict=True))


def output_allocator(trt: ModuleType, device: torch.device) -> Any:
    """Gives TensorRT memory of PyTorch's for an output whose size only its data decide."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.begin()

        def begin(self) -> None:
            """Lets go of the memory of the call before: it is the caller's."""
            self._memory: torch.Tensor | None = None
            self._shape: tuple[int, ...] = ()

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            if self._memory is None or self._memory.numel() < size:
                self._memory = torch.empty(max(size, 1), dtype=torch.uint8, device=device)
            return self._memory.data_ptr()

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self._shape = tuple(shape)

        def result(self, dtype: torch.dtype) -> torch.Tensor:
            """The output of the call that has just been enqueued."""
            count = torch.Size(self._shape).numel()
            if self._memory is None:
                return torch.empty(self._shape, dtype=dtype, device=device)
            return self._memory[: count * dtype.itemsize].view(dtype).view(self._shape)

    return Allocator()
