"""Engine calls as CUDA graphs: captured for one set of shapes, replayed with other values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch

from bridge.runtime.memory import lasting
from bridge.runtime.streams import SharedStream

if TYPE_CHECKING:
    from bridge.runtime.context import CallKind, Context


def why_not_captured(context: Context) -> str | None:
    """What stands against capturing a call with the shapes that the context was told; None when nothing does."""
    if context.waits_for_values:
        return "the values of an input decide shapes"
    if context.forms is None:
        return "the data decide the shape of an output"
    return None


@contextmanager
def capture(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> Iterator[None]:
    """Captures what this thread enqueues on the stream; other threads may go on working.

    After a capture that fails, PyTorch's generator of random numbers believes itself in it still (seen with 2.11:
    "Offset increment outside graph capture"). One that succeeds takes it out again.
    """
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            yield
    except BaseException:
        with suppress(RuntimeError), torch.cuda.stream(stream):
            value = torch.zeros(1, device=stream.device)
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local"):
                value.add_(1)
        raise


class CapturedCall:
    """A CUDA graph of one engine call, with memory of its own for inputs and outputs.

    Its scratch memory is the stream's: on one stream calls and replays follow one another.
    """

    def __init__(self, context: Context, inputs: list[torch.Tensor], kind: CallKind, street: SharedStream) -> None:
        self._context = context
        self._inputs = lasting(street.device, street.stream, lambda: [tensor.clone() for tensor in inputs])
        self._scratch = street.scratch(context.scratch_size)
        side = torch.cuda.Stream(street.device)
        side.wait_stream(street.stream)
        beside = SharedStream(street.device, side)
        with torch.cuda.stream(side):
            # TensorRT prepares in the first run with new shapes, which cannot be captured
            context.run(self._inputs, kind, beside, scratch=self._scratch)
        self._graph = torch.cuda.CUDAGraph()
        with capture(self._graph, side):
            self._outputs = context.run(self._inputs, kind, beside, scratch=self._scratch)
        street.stream.wait_stream(side)

    def replay(self, inputs: list[torch.Tensor], outputs: list[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """Runs on the current stream; the results are copies, as the next replay overwrites its own.

        Args:
            outputs: where the results go; None: new tensors.
        """
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._graph.replay()
        if outputs is None:
            return [output.clone() for output in self._outputs]
        for given, mine in zip(outputs, self._outputs, strict=True):
            given.copy_(mine)
        return outputs
