"""One step of a model, in a process of its own: what it measured goes to a JSON file.

usage: python -m gpu_bench.steps STEP MODEL RESULT TIMING_CACHE FOLDER
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import bridge
from bridge.backends import get
from bridge.runtime import Plan, load
from bridge.runtime.calls import engine_calls
from gpu_bench.models import make

Found = dict[str, Any]


def median_ms(call: Callable[[], Any], seconds: float = 1.0) -> float:
    """Median milliseconds of one synchronised call."""
    for _ in range(10):
        call()
    torch.cuda.synchronize()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 20:
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def back_to_back_us(call: Callable[[], Any], seconds: float = 1.0) -> float:
    """Microseconds a call when calls follow each other without waiting; the best of five series."""
    for _ in range(100):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(100):
        call()
    torch.cuda.synchronize()
    count = max(20, int(seconds / 5 / ((time.perf_counter() - start) / 100)))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            call()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / count * 1e6)
    return best


class _BuildClock:
    """Adds up the time that the backend itself takes to build."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.backend = get("tensorrt")
        self._build = self.backend.build

    def __enter__(self) -> _BuildClock:
        def build(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return self._build(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        self.backend.build = build  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.build = self._build  # type: ignore[method-assign]


def half_of(model: torch.nn.Module, inputs: list[torch.Tensor]) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """The module and its inputs in half precision, as Torch-TensorRT's users give them."""
    return copy.deepcopy(model).half(), [x.half() if x.is_floating_point() else x for x in inputs]


def eager(name: str, _: Path, __: Path) -> Found:
    model, inputs = make(name)
    half, cast = half_of(model, inputs)
    expected, rough = model(*inputs), half(*cast)
    return {
        "ms": median_ms(lambda: half(*cast)),
        "us_back_to_back": back_to_back_us(lambda: half(*cast)),
        "error": float((rough.float() - expected).abs().max()),
    }


def ours(name: str, cache: Path, folder: Path) -> Found:
    """As a user of ours calls it: an FP32 module, FP32 inputs, computed in half precision."""
    model, inputs = make(name)
    return _ours(model, inputs, model(*inputs), cache, folder / f"{name}.ts")


def ours_half(name: str, cache: Path, folder: Path) -> Found:
    """As Torch-TensorRT gets it: a half module, half inputs."""
    model, inputs = make(name)
    expected = model(*inputs)
    return _ours(*half_of(model, inputs), expected, cache, folder / f"{name}-half.ts")


def _ours(model: torch.nn.Module, inputs: list[Any], expected: torch.Tensor, cache: Path, saved: Path) -> Found:
    settings = {"backend": "tensorrt", "precision": torch.half, "timing_cache": cache}
    traced = torch.jit.trace(model, inputs, check_trace=False, strict=False)
    with _BuildClock() as clock:
        start = time.perf_counter()
        compiled = bridge.compile(traced, inputs, **settings)
        set_up = time.perf_counter() - start
    saved.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.save(compiled, saved)
    engines = engine_calls(compiled)
    row: Found = {"set_up_s": set_up, "build_s": clock.seconds, "beyond_build_s": set_up - clock.seconds}
    row["engines"] = len(engines)
    row["error"] = float((compiled(*inputs).float() - expected.float()).abs().max())
    row["ms"] = median_ms(lambda: compiled(*inputs))
    with torch.cuda.stream(torch.cuda.Stream()):
        row["own_stream_ms"] = median_ms(lambda: compiled(*inputs))
        row["us_back_to_back"] = back_to_back_us(lambda: compiled(*inputs))
    if len(engines) == 1:
        row.update(_raw(engines[0].plan, inputs))
    bridge.configure(compiled, cuda_graphs=True)
    row["graph_ms"] = median_ms(lambda: compiled(*inputs))
    row["graph_us_back_to_back"] = back_to_back_us(lambda: compiled(*inputs))
    return row


def _raw(plan: torch.Tensor, inputs: list[Any]) -> Found:
    """The same engine through TensorRT's own interface: addresses set once, nothing else done."""
    session: Any = load(Plan.from_tensor(plan), torch.device("cuda", 0))
    context = session.engine.create_execution_context()
    kept = []
    for binding, tensor in zip(session.inputs, inputs, strict=True):
        fitting = tensor.to(getattr(torch, binding.dtype)).contiguous()
        context.set_input_shape(binding.name, tuple(fitting.shape))
        context.set_tensor_address(binding.name, fitting.data_ptr())
        kept.append(fitting)
    context.infer_shapes()
    for binding in session.outputs:
        shape = tuple(context.get_tensor_shape(binding.name))
        kept.append(torch.empty(shape, dtype=getattr(torch, binding.dtype), device="cuda"))
        context.set_tensor_address(binding.name, kept[-1].data_ptr())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call = lambda: context.execute_async_v3(stream.cuda_stream)  # noqa: E731
        row = {"raw_ms": median_ms(call), "raw_us_back_to_back": back_to_back_us(call)}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        context.execute_async_v3(stream.cuda_stream)
    row["raw_graph_ms"], row["raw_graph_us_back_to_back"] = median_ms(graph.replay), back_to_back_us(graph.replay)
    return row


def memory(name: str, _: Path, folder: Path) -> Found:
    """Device memory of the loaded module in a process that does nothing else."""
    another = folder / "mlp.ts"
    if another.exists() and name != "mlp":  # what TensorRT loads once a process is not the module's
        torch.jit.load(another)(torch.rand(8, 64, device="cuda"))
    _, inputs = make(name)
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    allocated, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    compiled = torch.jit.load(folder / f"{name}.ts")
    result = compiled(*inputs)
    torch.cuda.synchronize()
    calls = engine_calls(compiled)
    sessions: list[Any] = [load(Plan.from_tensor(call.plan), torch.device("cuda", 0)) for call in calls]
    sizes = {"plans": sum(call.plan.numel() for call in calls), "activations": _most_scratch(sessions)}
    grown = torch.cuda.memory_allocated() - allocated - result.numel() * result.element_size()
    needed = sum(sizes.values())
    return {
        **{f"{key}_mib": value / 2**20 for key, value in sizes.items()},
        "allocated_mib": grown / 2**20,
        "taken_from_gpu_mib": (free - torch.cuda.mem_get_info()[0]) / 2**20,
        "beyond_engine_and_activations": grown / needed - 1,
    }


def _most_scratch(sessions: list[Any]) -> int:
    return max((session.engine.device_memory_size_v2 for session in sessions), default=0)


def torch_tensorrt(name: str, _: Path, __: Path) -> Found:
    """Torch-TensorRT's default frontend."""
    model, inputs = make(name)
    half, cast = half_of(model, inputs)
    return _theirs("dynamo", half, cast, model(*inputs))


def torch_tensorrt_ts(name: str, _: Path, __: Path) -> Found:
    """Torch-TensorRT's TorchScript frontend."""
    model, inputs = make(name)
    half, cast = half_of(model, inputs)
    traced = torch.jit.trace(half, cast, check_trace=False, strict=False)
    return _theirs("torchscript", traced, cast, model(*inputs))


def _theirs(ir: str, module: Any, cast: list[Any], expected: torch.Tensor) -> Found:
    import torch_tensorrt as theirs

    start = time.perf_counter()
    settings: Found = {"enabled_precisions": {torch.half}, "inputs": cast}
    if ir == "torchscript":
        settings["truncate_long_and_double"] = True
    compiled = theirs.compile(module, ir=ir, **settings)
    row: Found = {"set_up_s": time.perf_counter() - start}
    row["error"] = float((compiled(*cast).float() - expected.float()).abs().max())
    row["ms"] = median_ms(lambda: compiled(*cast))
    with torch.cuda.stream(torch.cuda.Stream()):
        row["own_stream_ms"] = median_ms(lambda: compiled(*cast))
        row["us_back_to_back"] = back_to_back_us(lambda: compiled(*cast))
    theirs.runtime.set_cudagraphs_mode(True)
    row["graph_ms"] = median_ms(lambda: compiled(*cast))
    row["graph_us_back_to_back"] = back_to_back_us(lambda: compiled(*cast))
    return row


def torch_compile(name: str, _: Path, __: Path) -> Found:
    model, inputs = make(name)
    half, cast = half_of(model, inputs)
    start = time.perf_counter()
    compiled = torch.compile(half, mode="max-autotune")
    compiled(*cast)
    row: Found = {"set_up_s": time.perf_counter() - start}
    return {
        **row,
        "ms": median_ms(lambda: compiled(*cast)),
        "us_back_to_back": back_to_back_us(lambda: compiled(*cast)),
    }


def versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "tensorrt": get("tensorrt").version(),
        "gpu": torch.cuda.get_device_name(),
    }


def main() -> None:
    step, model, result, cache, folder = sys.argv[1:]
    logging.getLogger("bridge").setLevel(logging.ERROR)
    with torch.no_grad():
        found = globals()[step](model, Path(cache), Path(folder))
    rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in found.items()}
    Path(result).write_text(json.dumps({**rounded, "versions": versions()}))


if __name__ == "__main__":
    main()
