"""What all engines that run on one CUDA stream share: their order, the events around them, and their scratch memory."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch

from bridge.runtime.memory import lasting

_streams: weakref.WeakValueDictionary[tuple[int | None, int], SharedStream] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def shared_stream(device: torch.device, stream: Any) -> SharedStream:
    """The one object for this stream of this device, kept for as long as an engine runs there."""
    key = (device.index, stream.cuda_stream)
    with _lock:
        found = _streams.get(key)
        if found is None:
            found = _streams[key] = SharedStream(device, stream)
        return found


class SharedStream:
    """One stream of one device.

    Engines on a stream run one after the other, so that one piece of scratch memory serves them all. The lock is held
    while the work of one call is enqueued: two threads that enqueued at once would mix the kernels of two engines.

    From the default stream engines run on a stream beside it, ordered before and after by events: on the default stream
    itself TensorRT would synchronise the device.

    Attributes:
        lock: held while a call is enqueued.
        stream: the caller's.
        device: where it is.
        scratch_address: of the memory that `scratch` gives.
        is_direct: whether engines are enqueued on the caller's stream itself.
        handle: of the stream that engines are enqueued on.
    """

    def __init__(self, device: torch.device, stream: Any) -> None:
        self.lock, self.stream, self.device = threading.Lock(), stream, device
        self._beside = torch.cuda.Stream(device) if stream.cuda_stream == 0 else None
        self.is_direct = self._beside is None
        self.handle: int = (self._beside or stream).cuda_stream
        self._before, self._after = torch.cuda.Event(), torch.cuda.Event()
        self._scratch = torch.empty(0, dtype=torch.uint8, device=device)
        self.scratch_address = 0

    def execute(self, enqueue: Callable[[int], Any]) -> bool:
        """Enqueues an engine's run after all that the caller's stream holds, and before what comes next."""
        if self._beside is None:
            return bool(enqueue(self.handle))
        self._before.record(self.stream)
        self._beside.wait_event(self._before)
        enqueued = enqueue(self.handle)
        self._after.record(self._beside)
        self.stream.wait_event(self._after)
        return bool(enqueued)

    def scratch(self, size: int) -> torch.Tensor:
        """At least ``size`` bytes that nothing else uses while the lock is held."""
        if self._scratch.numel() < size:
            self._scratch = empty = self._scratch.new_empty(0)  # the smaller one goes before the larger one comes
            self._scratch = lasting(self.device, self.stream, lambda: empty.new_empty(size))
            self.scratch_address = self._scratch.data_ptr()
        return self._scratch
