"""PyTorch's caching allocator in TensorRT's terms."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import torch

from bridge import torch_private as tp

log = logging.getLogger("bridge.runtime")

Made = TypeVar("Made")

ALIGNMENT = 256
"""Bytes; TensorRT asks it of every address, so that an input elsewhere is copied."""


def lasting(device: torch.device, stream: Any, make: Callable[[], Made]) -> Made:
    """What ``make`` gives, in memory that may outlive the call: allocated in a thread of its own, on this stream.

    The caller's thread may allocate from a pool that does not last: torch.compile's CUDA graphs warm up in one, and
    take it for an error when something that they do not know stays in it.
    """
    if device.type != "cuda" or tp.is_capturing():
        return make()

    def run() -> Made:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            return make()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


_thread = threading.local()


@contextmanager
def refused() -> Iterator[None]:
    """While it is entered, TensorRT gets no memory on this thread.

    What it gave back after a capture would be another's when the graph is launched.
    """
    _thread.refuses = True
    try:
        yield
    finally:
        _thread.refuses = False


def gpu_allocator(trt: ModuleType, device: torch.device) -> Any:
    """Gives TensorRT device memory of PyTorch's, so that one pool serves both and its figures include engines."""

    class Allocator(trt.IGpuAllocator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IGpuAllocator.__init__(self)

        def allocate(self, size: int, alignment: int, flags: int) -> int:
            return self.allocate_async(size, alignment, flags, 0)

        def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
            if getattr(_thread, "refuses", False):
                return 0
            try:  # PyTorch aligns to 512 bytes; TensorRT never asks for more
                own = torch.cuda.default_stream(device)
                return int(lasting(device, own, lambda: torch.cuda.caching_allocator_alloc(size, device, stream)))
            except RuntimeError as error:
                log.error("TensorRT asked for %d bytes of %s: %s", size, device, error)
                return 0

        def reallocate(self, address: int, alignment: int, new_size: int) -> int:
            return 0  # "not supported": TensorRT then allocates anew

        def deallocate(self, memory: int) -> bool:
            # PyTorch would hand it out again at once, while kernels of an engine that is being freed may still run
            if not torch.cuda.is_current_stream_capturing():
                torch.cuda.synchronize(device)
            torch.cuda.caching_allocator_delete(memory)
            return True

        def deallocate_async(self, memory: int, stream: int) -> bool:
            return self.deallocate(memory)

    return Allocator()


def output_allocator(trt: ModuleType, device: torch.device) -> Any:
    """Gives TensorRT memory of PyTorch's for an output whose size only its data decide."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
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
            """The output of the call that has just been enqueued; its memory is the caller's from now on."""
            memory, self._memory = self._memory, None
            count = torch.Size(self._shape).numel()
            if memory is None:
                return torch.empty(self._shape, dtype=dtype, device=device)
            return memory[: count * dtype.itemsize].view(dtype).view(self._shape)

    return Allocator()
