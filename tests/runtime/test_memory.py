"""PyTorch's allocator behind TensorRT's interface, against stand-ins for both."""

import contextlib
import threading
from types import SimpleNamespace

import pytest
import torch

from bridge import torch_private
from bridge.runtime.memory import gpu_allocator, lasting, output_allocator, refused

GPU = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch):
    """PyTorch's names as they are on a GPU: which thread allocated what, and what was given back."""
    told = SimpleNamespace(threads=[], freed=[], waited=0, full=False)

    def allocate(size, device, stream):
        told.threads.append(threading.get_ident())
        if told.full:
            raise torch.OutOfMemoryError("no room")
        return 512 * size

    def wait(device):
        told.waited += 1

    for name, value in {
        "caching_allocator_alloc": allocate,
        "caching_allocator_delete": told.freed.append,
        "synchronize": wait,
        "is_current_stream_capturing": lambda: False,
        "default_stream": lambda device: None,
        "device": lambda device: contextlib.nullcontext(),
        "stream": lambda stream: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch_private, "is_capturing", lambda: False)
    return told


def bindings(name: str) -> SimpleNamespace:
    return SimpleNamespace(**{name: type("Base", (), {"__init__": lambda self: None})})


def test_what_lasts_is_allocated_in_a_thread_of_its_own(cuda, monkeypatch):
    here = threading.get_ident()
    assert lasting(GPU, None, threading.get_ident) != here
    assert lasting(torch.device("cpu"), None, threading.get_ident) == here
    monkeypatch.setattr(torch_private, "is_capturing", lambda: True)  # then the graph's own pool is the place
    assert lasting(GPU, None, threading.get_ident) == here


def test_failures_come_back_from_that_thread(cuda):
    def fail():
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        lasting(GPU, None, fail)


def test_tensorrt_allocates_from_pytorch(cuda, caplog):
    allocator = gpu_allocator(bindings("IGpuAllocator"), GPU)
    assert (allocator.allocate(3, 256, 0), allocator.allocate_async(4, 256, 0, 7)) == (1536, 2048)
    assert threading.get_ident() not in cuda.threads
    assert allocator.deallocate(1536) and allocator.deallocate_async(2048, 7)
    assert (cuda.freed, cuda.waited) == ([1536, 2048], 2)
    assert allocator.reallocate(1536, 256, 9) == 0
    cuda.full = True
    assert allocator.allocate(5, 256, 0) == 0
    assert "TensorRT asked for 5 bytes of cuda:0: no room" in caplog.text
    cuda.full = False
    with refused():
        assert allocator.allocate_async(4, 256, 0, 7) == 0
    assert allocator.allocate_async(4, 256, 0, 7) == 2048


def test_outputs_grow_and_are_the_callers():
    allocator = output_allocator(bindings("IOutputAllocator"), torch.device("cpu"))
    address = allocator.reallocate_output("y", 0, 8, 256)
    assert allocator.reallocate_output("y", address, 4, 256) == address
    allocator.reallocate_output_async("y", address, 24, 256, 0)
    allocator.notify_shape("y", (2, 3))
    first = allocator.result(torch.float32)
    assert first.shape == (2, 3)
    allocator.notify_shape("y", (0, 3))
    assert allocator.result(torch.float32).shape == (0, 3)
    allocator.reallocate_output("y", 0, 24, 256)
    allocator.notify_shape("y", (6,))
    assert allocator.result(torch.float32).data_ptr() != first.data_ptr()
