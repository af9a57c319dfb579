"""One stream's way through a TensorRT engine: an execution context, and what it was last told."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from bridge.errors import EngineError
from bridge.runtime.dtypes import dtype_of

if TYPE_CHECKING:
    from bridge.runtime.session_tensorrt import TensorRTSession

_ALIGNMENT = 256  # bytes; TensorRT asks it of every address
_MOST_SHAPES = 1024

_Shapes = tuple[torch.Size, ...]


@dataclass(frozen=True)
class _Layout:
    """What the engine does with inputs of certain shapes: the profile that fits, and each output's shape, None where its data decide."""

    profile: int
    outputs: list[torch.Size | None]


class Lane:
    """Calls from one stream, one at a time; the lock is held while work is enqueued, never while it runs.

    From the default stream the engine runs on a stream of its own, ordered before and after by events: on the default stream itself
    TensorRT would synchronise the device.
    """

    def __init__(self, session: TensorRTSession, stream: torch.cuda.Stream) -> None:
        # not the session itself: it owns its lanes, and must be freed at once with the last module
        self._trt, self._device, self._profiles = session.trt, session.device, session.profiles
        self._caller, self._lock = stream, threading.Lock()
        self._own = torch.cuda.Stream(session.device) if stream.cuda_stream == 0 else None
        self._handle = (self._own or stream).cuda_stream
        self._before, self._after = torch.cuda.Event(), torch.cuda.Event()
        self._context = session.engine.create_execution_context()
        self._shapes: _Shapes | None = None
        self._layout: _Layout | None = None
        self._layouts: dict[_Shapes, _Layout] = {}
        self._input_names = [binding.name for binding in session.inputs]
        self._outputs = [(binding.name, dtype_of(binding.dtype)) for binding in session.outputs]
        self._host_inputs = any(device.type == "cpu" for device in session.input_devices)
        self._addresses: dict[str, int] = {}
        self._nothing = torch.empty(_ALIGNMENT, dtype=torch.uint8, device=session.device)
        self._allocators: dict[str, Any] = {}

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        with self._lock:
            held = [self._bind_input(name, tensor) for name, tensor in zip(self._input_names, inputs, strict=True)]
            layout = self._set_shapes(tuple([tensor.shape for tensor in inputs]))
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

    def _execute(self) -> None:
        if self._own is not None:
            self._before.record(self._caller)
            self._own.wait_event(self._before)
        enqueued = self._context.execute_async_v3(self._handle)
        if self._own is not None:
            self._after.record(self._own)
            self._caller.wait_event(self._after)
        if not enqueued:
            raise EngineError("TensorRT failed to run an engine", hint="TensorRT's own message is in the log, logger bridge.tensorrt")

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

    def _set_shapes(self, shapes: _Shapes) -> _Layout:
        """Tells the context the shapes, when they are not those of the call before."""
        if self._layout is not None and shapes == self._shapes and not self._host_inputs:
            return self._layout
        known = self._layouts.get(shapes)
        profile = known.profile if known is not None else self._choose_profile(shapes)
        if profile != self._context.active_optimization_profile:
            self._context.set_optimization_profile_async(profile, self._handle)
        for name, shape in zip(self._input_names, shapes, strict=True):
            if not self._context.set_input_shape(name, tuple(shape)):
                raise EngineError(f"TensorRT does not take shape {tuple(shape)} for input {name!r}")
        if known is None or self._host_inputs:
            known = self._lay_out(profile)
            if len(self._layouts) >= _MOST_SHAPES:
                self._layouts.clear()
            self._layouts[shapes] = known
        self._shapes, self._layout = shapes, known
        return known

    def _lay_out(self, profile: int) -> _Layout:
        self._context.infer_shapes()
        outputs: list[torch.Size | None] = []
        for name, _ in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            outputs.append(None if -1 in shape else torch.Size(shape))
            if -1 in shape and name not in self._allocators:
                self._allocators[name] = output_allocator(self._trt, self._device)
                self._context.set_output_allocator(name, self._allocators[name])
        return _Layout(profile, outputs)

    def _choose_profile(self, shapes: _Shapes) -> int:
        for index, profile in enumerate(self._profiles):
            if all(_within(shape, profile[name]) for name, shape in zip(self._input_names, shapes, strict=True)):
                return index
        got = ", ".join(f"{name}={tuple(shape)}" for name, shape in zip(self._input_names, shapes, strict=True))
        raise EngineError(f"no profile of this engine fits {got}", why=f"its profiles (min, opt, max): {self._profiles}")


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
