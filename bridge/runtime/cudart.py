"""CUDA graphs by CUDA's own functions.

While PyTorch captures, no other thread may draw random numbers ("Offset increment outside graph capture"): what is
captured without being asked for must not do that to anybody.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

_NON_BLOCKING, _THREAD_LOCAL = 1, 1  # cudaStreamNonBlocking, cudaStreamCaptureModeThreadLocal
_POINTERS = {  # how many pointers a function takes, in its first arguments
    "cudaStreamCreateWithFlags": 1, "cudaStreamDestroy": 1, "cudaStreamBeginCapture": 1, "cudaStreamEndCapture": 2,
    "cudaGraphInstantiate": 2, "cudaGraphLaunch": 2, "cudaGraphDestroy": 1, "cudaGraphExecDestroy": 1,
}  # fmt: skip
_FLAGS = {"cudaStreamCreateWithFlags": ctypes.c_uint, "cudaStreamBeginCapture": ctypes.c_int,
          "cudaGraphInstantiate": ctypes.c_ulonglong}  # fmt: skip


@cache
def _runtime() -> ctypes.CDLL:
    """The library that PyTorch has loaded.

    Raises:
        RuntimeError: it has none of that name.
    """
    try:
        library = ctypes.CDLL(f"libcudart.so.{str(torch.version.cuda).partition('.')[0]}")
    except OSError as error:
        raise RuntimeError(f"CUDA's runtime library is not found: {error}") from error
    for name, count in _POINTERS.items():
        flags = [_FLAGS[name]] if name in _FLAGS else []
        getattr(library, name).argtypes = [ctypes.c_void_p] * count + flags
    return library


def _call(name: str, *arguments: Any) -> None:
    code = getattr(_runtime(), name)(*arguments)
    if code:
        _runtime().cudaGetLastError()  # so that nobody else takes it for theirs
        raise RuntimeError(f"{name}: CUDA error {code}")


@contextmanager
def _stream() -> Any:
    """A stream of its own: on the caller's, what other threads enqueue meanwhile would be captured, too."""
    handle = ctypes.c_void_p()
    _call("cudaStreamCreateWithFlags", ctypes.byref(handle), _NON_BLOCKING)
    try:
        yield handle.value
    finally:
        _call("cudaStreamDestroy", handle)


class Graph:
    """What a function enqueues on the stream that it is given, to be launched again and again.

    Raises:
        RuntimeError: it cannot be captured.
    """

    def __init__(self, enqueue: Callable[[int], None]) -> None:
        self._graph = ctypes.c_void_p()
        captured = ctypes.c_void_p()
        with _stream() as stream:
            _call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)
            try:
                enqueue(stream)
            except BaseException:
                _runtime().cudaStreamEndCapture(stream, ctypes.byref(captured))
                if captured:
                    _runtime().cudaGraphDestroy(captured)
                _runtime().cudaGetLastError()
                raise
            _call("cudaStreamEndCapture", stream, ctypes.byref(captured))
        try:
            _call("cudaGraphInstantiate", ctypes.byref(self._graph), captured, 0)
        finally:
            _call("cudaGraphDestroy", captured)
        self._launch = _runtime().cudaGraphLaunch

    def launch(self, stream: int) -> None:
        """Enqueues it on a stream.

        Raises:
            RuntimeError: CUDA refuses.
        """
        if code := self._launch(self._graph, stream):
            raise RuntimeError(f"cudaGraphLaunch: CUDA error {code}")

    def __del__(self) -> None:
        if self._graph:
            _runtime().cudaGraphExecDestroy(self._graph)
