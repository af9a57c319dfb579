"""A TensorRT execution context and what it was last told: a call repeats nothing that the context knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bridge.errors import EngineError
from bridge.runtime.dtypes import dtype_of
from bridge.runtime.memory import output_allocator
from bridge.runtime.session import RunOptions

if TYPE_CHECKING:
    from bridge.runtime.session_tensorrt import TensorRTSession
    from bridge.runtime.streams import SharedStream

_ALIGNMENT = 256  # bytes; TensorRT asks it of every address
_MOST_SHAPES = 1024
_MISALIGNED = -1  # no address: the next call binds again

Shapes = tuple[torch.Size, ...]
Key = tuple[Shapes, int | None]
"""The shapes of a call, and the profile asked for."""


def key_of(inputs: list[torch.Tensor], options: RunOptions) -> Key:
    """What decides how a context must be set for these inputs."""
    return tuple([tensor.shape for tensor in inputs]), options.profile


@dataclass(frozen=True)
class _Layout:
    """What follows from inputs of certain shapes.

    Attributes:
        outputs: the outputs' shapes; None where the data decide.
        patterns: a tensor of each output's shape and dtype that takes no room; None where the data decide.
        unknown: which outputs those are.
    """

    profile: int
    outputs: list[torch.Size | None]
    patterns: list[torch.Tensor | None]
    unknown: list[int]


class Context:
    """An execution context without memory of its own for activations.

    Args:
        profiler: one of TensorRT's (``IProfiler``), told the time of every layer; runs are then waited for.

    Attributes:
        scratch_size: bytes that `use_scratch` must give it.
        waits_for_values: whether values of inputs on the host decide shapes.
    """

    def __init__(self, session: TensorRTSession, profiler: Any = None) -> None:
        self._trt, self._device, self._profiles = session.trt, session.device, session.profiles
        self._context, self.scratch_size = session.create_context()
        if profiler is not None:
            self._context.profiler = profiler
        self._told: Key | None = None
        self._layouts: dict[Key, _Layout] = {}
        self._layout = _Layout(0, [], [], [])
        self._input_names = [binding.name for binding in session.inputs]
        self._output_names = [binding.name for binding in session.outputs]
        self._dtypes = [dtype_of(binding.dtype) for binding in session.outputs]
        self._elements = [torch.empty((), dtype=dtype, device=session.device) for dtype in self._dtypes]
        self.waits_for_values = any(device.type == "cpu" for device in session.input_devices)
        self._from = [_MISALIGNED] * len(self._input_names)
        self._to = [_MISALIGNED] * len(self._output_names)
        self._scratch = _MISALIGNED
        self._nothing = torch.empty(_ALIGNMENT, dtype=torch.uint8, device=session.device)
        self._allocators: dict[str, Any] = {}
        self._held: list[torch.Tensor] = []

    @property
    def told(self) -> Key | None:
        """The shapes and the profile that the context is set for."""
        return self._told

    @property
    def output_shapes(self) -> list[torch.Size | None]:
        """Those of the inputs that were told last; None where the data decide."""
        return self._layout.outputs

    def tell(self, inputs: list[torch.Tensor], options: RunOptions, stream: int) -> None:
        """Sets shapes and addresses, as far as they are not those of the call before."""
        key = (tuple([tensor.shape for tensor in inputs]), options.profile)
        is_new = key != self._told
        if is_new:
            self._tell_shapes(key, stream)
        known = self._from
        for index, tensor in enumerate(inputs):
            if tensor.data_ptr() != known[index]:
                self._bind(index, tensor)
        if is_new or self.waits_for_values:
            self._lay_out(key)

    def use_scratch(self, memory: torch.Tensor) -> None:
        """Gives the next run ``scratch_size`` bytes for activations; the caller keeps them until all is enqueued."""
        address = memory.data_ptr()
        if self.scratch_size and address != self._scratch:
            self._context.set_device_memory(address, memory.numel())
            self._scratch = address

    def run(self, street: SharedStream) -> list[torch.Tensor]:
        """Enqueues a run on what was told; new tensors, in the engine's order."""
        outputs: list[Any] = []
        for index, pattern in enumerate(self._layout.patterns):
            if pattern is None:
                self._allocators[self._output_names[index]].begin()
                outputs.append(None)
                continue
            output = torch.empty_like(pattern, memory_format=torch.contiguous_format)  # in half the time of `empty`
            outputs.append(output)
            address = output.data_ptr()
            if address != self._to[index]:
                self._to[index] = address
                self._set_address(self._output_names[index], address)
        if not street.execute(self._context):
            raise EngineError(
                "TensorRT failed to run an engine", hint="TensorRT's own message is in the log, logger bridge.tensorrt"
            )
        if self._held:
            self._held = []
        for index in self._layout.unknown:
            outputs[index] = self._allocators[self._output_names[index]].result(self._dtypes[index])
        return outputs

    def _bind(self, index: int, tensor: torch.Tensor) -> None:
        address = tensor.data_ptr()
        self._from[index] = address
        if address % _ALIGNMENT and tensor.is_cuda:
            tensor = tensor.clone()
            self._held.append(tensor)
            self._from[index], address = _MISALIGNED, tensor.data_ptr()
        self._set_address(self._input_names[index], address)

    def _set_address(self, name: str, address: int) -> None:
        # an empty tensor has none, and TensorRT wants one
        self._context.set_tensor_address(name, address or self._nothing.data_ptr())

    def _tell_shapes(self, key: Key, stream: int) -> None:
        shapes, wanted = key
        known = self._layouts.get(key)
        profile = known.profile if known is not None else self._choose_profile(shapes, wanted)
        self._told = None
        if profile != self._context.active_optimization_profile:
            self._context.set_optimization_profile_async(profile, stream)
            # another profile may have bindings and memory of its own
            self._from, self._to = [_MISALIGNED] * len(self._from), [_MISALIGNED] * len(self._to)
            self._scratch = _MISALIGNED
        for name, shape in zip(self._input_names, shapes, strict=True):
            if not self._context.set_input_shape(name, tuple(shape)):
                raise EngineError(f"TensorRT does not take shape {tuple(shape)} for input {name!r}")

    def _lay_out(self, key: Key) -> None:
        layout = self._layouts.get(key)
        if layout is None or self.waits_for_values:
            if len(self._layouts) >= _MOST_SHAPES:
                self._layouts.clear()
            layout = self._layouts[key] = self._infer()
        self._layout, self._told = layout, key

    def _infer(self) -> _Layout:
        self._context.infer_shapes()
        outputs: list[torch.Size | None] = []
        for name in self._output_names:
            shape = tuple(self._context.get_tensor_shape(name))
            outputs.append(None if -1 in shape else torch.Size(shape))
            if -1 in shape and name not in self._allocators:
                self._allocators[name] = output_allocator(self._trt, self._device)
                self._context.set_output_allocator(name, self._allocators[name])
        unknown = [index for index, shape in enumerate(outputs) if shape is None]
        pairs = zip(self._elements, outputs, strict=True)
        patterns = [None if shape is None else element.expand(shape) for element, shape in pairs]
        return _Layout(self._context.active_optimization_profile, outputs, patterns, unknown)

    def _choose_profile(self, shapes: Shapes, wanted: int | None) -> int:
        for index, profile in enumerate(self._profiles):
            if wanted in (None, index) and all(
                _within(shape, profile[name]) for name, shape in zip(self._input_names, shapes, strict=True)
            ):
                return index
        got = ", ".join(f"{name}={tuple(shape)}" for name, shape in zip(self._input_names, shapes, strict=True))
        which = "no profile" if wanted is None else f"profile {wanted} does not exist or does not fit: no profile"
        raise EngineError(f"{which} of this engine fits {got}", why=f"its profiles (min, opt, max): {self._profiles}")


def _within(shape: torch.Size, limits: tuple[tuple[int, ...], ...]) -> bool:
    low, _, high = limits
    return len(shape) == len(low) and all(a <= size <= b for size, a, b in zip(shape, low, high, strict=True))
