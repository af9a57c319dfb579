"""A TensorRT execution context and what it was last told: a call repeats nothing that the context knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bridge import torch_private as tp
from bridge.errors import EngineError
from bridge.runtime.dtypes import dtype_of
from bridge.runtime.memory import ALIGNMENT, output_allocator
from bridge.runtime.session import RunOptions

if TYPE_CHECKING:
    from bridge.runtime.session_tensorrt import TensorRTSession
    from bridge.runtime.streams import SharedStream

_MOST_SHAPES = 1024
_MISALIGNED = -1  # no address: the next call binds again

Shapes = tuple[torch.Size, ...]
Key = tuple[Shapes, int | None]
"""The shapes of a call, and the profile asked for."""
Form = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Sizes, strides and dtype."""


@dataclass(frozen=True, eq=False)
class CallKind:
    """What calls have in common that run alike: one object for all of them.

    Attributes:
        key: the shapes of the inputs, in the engine's order, and the profile asked for.
        cuda_graphs: see :class:`bridge.runtime.session.RunOptions`.
    """

    key: Key
    cuda_graphs: bool | None

    @classmethod
    def of(cls, shapes: Iterable[torch.Size], options: RunOptions) -> CallKind:
        """The kind of calls with inputs of these shapes."""
        return cls((tuple(shapes), options.profile), options.cuda_graphs)


@dataclass(frozen=True)
class _Layout:
    """What follows from inputs of certain shapes.

    Attributes:
        names: of the inputs, and of the outputs but for those whose shapes the data decide.
        places: in `names`.
        forms: of these outputs.
        unknown: which outputs have shapes that the data decide.
    """

    profile: int
    names: list[str]
    places: range
    forms: list[Form]
    unknown: list[int]


class Context:
    """An execution context without memory of its own for activations.

    Args:
        profiler: one of TensorRT's (``IProfiler``), told the time of every layer; runs are then waited for.

    Attributes:
        kind: of the call that it is set for; None where it is unknown.
        scratch_size: bytes that `use_scratch` must give it.
        scratch_address: of those that it has.
        waits_for_values: whether values of inputs on the host decide shapes.
    """

    def __init__(self, session: TensorRTSession, profiler: Any = None) -> None:
        self._trt, self._device, self._profiles = session.trt, session.device, session.profiles
        self._context, self.scratch_size = session.create_context()
        if profiler is not None:
            self._context.profiler = profiler
        self._execute, self._set_address = self._context.execute_async_v3, self._context.set_tensor_address
        self.kind: CallKind | None = None
        self._settled: CallKind | None = None  # the kind of calls that need to be told nothing but addresses
        self._layouts: dict[Key, _Layout] = {}
        self._layout = _Layout(0, [], range(0), [], [])
        self._input_names = [binding.name for binding in session.inputs]
        self._output_names = [binding.name for binding in session.outputs]
        self._dtypes = [dtype_of(binding.dtype) for binding in session.outputs]
        self._formats = session.output_formats
        self._empty = tp.empty_cuda if session.device.type == "cuda" else tp.empty_cpu
        self._on_host = [index for index, device in enumerate(session.input_devices) if device.type == "cpu"]
        self.waits_for_values = bool(self._on_host)
        self.scratch_address = _MISALIGNED
        self._nothing = torch.empty(ALIGNMENT, dtype=torch.uint8, device=session.device)
        self._nowhere = self._nothing.data_ptr()  # an empty tensor has no address, and TensorRT wants one
        self._addresses: list[int] = []
        self._allocators: dict[str, Any] = {}
        self._held: list[torch.Tensor] = []

    @property
    def told(self) -> Key | None:
        """The shapes and the profile that the context is set for."""
        return None if self.kind is None else self.kind.key

    @property
    def forms(self) -> list[Form] | None:
        """Sizes, strides and dtypes of the outputs, for the inputs that were told last; None where the data decide."""
        return None if self._layout.unknown else self._layout.forms

    def tell(self, inputs: list[torch.Tensor], kind: CallKind, stream: int) -> None:
        """Sets shapes, as far as they are not those of the call before."""
        is_new = kind is not self.kind and kind.key != self.told
        if is_new:
            self._tell_shapes(kind.key, stream)
        for index in self._on_host:
            self._set_address(self._input_names[index], inputs[index].data_ptr() or self._nowhere)
        if is_new or self.waits_for_values:
            self._lay_out(kind.key)
        self.kind, self._settled = kind, None if self.waits_for_values else kind

    def use_scratch(self, memory: torch.Tensor) -> None:
        """Gives the next run ``scratch_size`` bytes for activations; the caller keeps them until all is enqueued."""
        address = memory.data_ptr()
        if self.scratch_size and address != self.scratch_address:
            self._context.set_device_memory(address, memory.numel())
            self.scratch_address = address

    def run(
        self,
        inputs: list[torch.Tensor],
        kind: CallKind,
        street: SharedStream,
        outputs: list[torch.Tensor] | None = None,
        scratch: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Enqueues a run; what the context knows from the one before is not said again.

        All in one place, and without `enumerate` or `zip`: what a call of a small engine costs would show each of them.

        Args:
            outputs: tensors of the shapes in `forms`; None: new ones.
            scratch: memory for activations, which the caller keeps until all is enqueued; None: the stream's.

        Returns:
            The outputs, in the engine's order.
        """
        if kind is not self._settled:
            self.tell(inputs, kind, street.handle)
        if scratch is not None:
            self.use_scratch(scratch)
        elif self.scratch_address != street.scratch_address and self.scratch_size:
            self.use_scratch(street.scratch(self.scratch_size))
        layout = self._layout
        if outputs is None:
            empty = self._empty
            outputs = [empty(*form) for form in layout.forms]
        tensors, known = inputs + outputs, self._addresses
        for index in layout.places:
            address = tensors[index].data_ptr()
            if address != known[index]:
                known[index] = address
                if address % ALIGNMENT:
                    address = self._aligned(index, tensors[index])
                self._set_address(layout.names[index], address or self._nowhere)
        if not (self._execute(street.handle) if street.is_direct else street.execute(self._execute)):
            raise EngineError(
                "TensorRT failed to run an engine", hint="TensorRT's own message is in the log, logger bridge.tensorrt"
            )
        if layout.unknown or self._held:
            self._finish(outputs, layout.unknown)
        return outputs

    def repeat(self, stream: int) -> None:
        """Enqueues what the last run enqueued, to the same addresses, on another stream."""
        if not self._execute(stream):
            raise EngineError("TensorRT failed to run an engine")

    def _aligned(self, index: int, tensor: torch.Tensor) -> int:
        """The address of a copy of an input that is not where TensorRT asks it to be; what is on the host may stay."""
        if not tensor.is_cuda or index >= len(self._input_names):
            return tensor.data_ptr()
        self._addresses[index] = _MISALIGNED
        self._held.append(tensor.clone())
        return self._held[-1].data_ptr()

    def _forget_addresses(self) -> None:
        self._addresses = [_MISALIGNED] * len(self._layout.places)

    def _finish(self, outputs: list[torch.Tensor], unknown: list[int]) -> None:
        """Puts those outputs between the others whose shapes were not known before the run."""
        self._held = []
        for index in unknown:
            outputs.insert(index, self._allocators[self._output_names[index]].result(self._dtypes[index]))

    def _tell_shapes(self, key: Key, stream: int) -> None:
        shapes, wanted = key
        known = self._layouts.get(key)
        profile = known.profile if known is not None else self._choose_profile(shapes, wanted)
        self.kind = self._settled = None
        if profile != self._context.active_optimization_profile:
            self._context.set_optimization_profile_async(profile, stream)
            # another profile may have bindings and memory of its own
            self._forget_addresses()
            self.scratch_address = _MISALIGNED
        for name, shape in zip(self._input_names, shapes, strict=True):
            if not self._context.set_input_shape(name, tuple(shape)):
                raise EngineError(f"TensorRT does not take shape {tuple(shape)} for input {name!r}")

    def _lay_out(self, key: Key) -> None:
        layout = self._layouts.get(key)
        if layout is None or self.waits_for_values:
            if len(self._layouts) >= _MOST_SHAPES:
                self._layouts.clear()
            layout = self._layouts[key] = self._infer()
        is_other, self._layout = layout.names != self._layout.names, layout
        if is_other:
            self._forget_addresses()

    def _infer(self) -> _Layout:
        self._context.infer_shapes()
        names, forms, unknown = self._input_names[:], [], []
        for index, name in enumerate(self._output_names):
            shape, wanted = tuple(self._context.get_tensor_shape(name)), self._formats[index]
            if -1 not in shape:
                names.append(name)
                forms.append((shape, _strides(shape, wanted), self._dtypes[index]))
                continue
            if wanted is not torch.contiguous_format:
                raise EngineError("the data decide the shape of an output that has its channels last")
            unknown.append(index)
            if name not in self._allocators:
                self._allocators[name] = output_allocator(self._trt, self._device)
                self._context.set_output_allocator(name, self._allocators[name])
        return _Layout(self._context.active_optimization_profile, names, range(len(names)), forms, unknown)

    def _choose_profile(self, shapes: Shapes, wanted: int | None) -> int:
        for index, profile in enumerate(self._profiles):
            if wanted in (None, index) and all(
                _within(shape, profile[name]) for name, shape in zip(self._input_names, shapes, strict=True)
            ):
                return index
        got = ", ".join(f"{name}={tuple(shape)}" for name, shape in zip(self._input_names, shapes, strict=True))
        which = "no profile" if wanted is None else f"profile {wanted} does not exist or does not fit: no profile"
        raise EngineError(f"{which} of this engine fits {got}", why=f"its profiles (min, opt, max): {self._profiles}")


def _strides(shape: Sequence[int], wanted: torch.memory_format) -> tuple[int, ...]:
    """The strides of a tensor of this shape and format, in elements."""
    return torch.empty(tuple(shape), device="meta", memory_format=wanted).stride()


def _within(shape: torch.Size, limits: tuple[tuple[int, ...], ...]) -> bool:
    low, _, high = limits
    return len(shape) == len(low) and all(a <= size <= b for size, a, b in zip(shape, low, high, strict=True))
