"""The steps of scripts/bench_gpu, each in a process of its own.

usage: python -m gpu_bench.steps build COMPILER MODEL INDEX FOLDER RESULT   builds, saves the module and a JSON about it
       python -m gpu_bench.steps time MODELS SECONDS FOLDER RESULT [PEER]   measures what was built; a JSON a line
"""

from __future__ import annotations

import copy
import gc
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bridge
from bridge.backends import get
from bridge.runtime import Plan, load
from bridge.runtime.calls import engine_calls
from bridge.runtime.native import implementation
from gpu_bench.models import make

Found = dict[str, Any]
Call = Callable[[], Any]


def half_of(model: torch.nn.Module, inputs: list[torch.Tensor]) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """The module and its inputs in half precision, as Torch-TensorRT's users give them."""
    return copy.deepcopy(model).half(), [x.half() if x.is_floating_point() else x for x in inputs]


# Building ------------------------------------------------------------------------------------------------------------


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


def ours(model: torch.nn.Module, inputs: list[Any]) -> tuple[Any, Found]:
    """As a user of ours calls it: an FP32 module and FP32 inputs, computed in half precision."""
    traced = torch.jit.trace(model, inputs, check_trace=False, strict=False)
    with _BuildClock() as clock:
        start = time.perf_counter()
        compiled = bridge.compile(traced, inputs, backend="tensorrt", precision=torch.half)
        set_up = time.perf_counter() - start
    engines = len(engine_calls(compiled))
    found = {"set_up_s": set_up, "build_s": clock.seconds, "beyond_build_s": set_up - clock.seconds, "engines": engines}
    return compiled, found


def ours_half(model: torch.nn.Module, inputs: list[Any]) -> tuple[Any, Found]:
    """As Torch-TensorRT gets it: a half module, half inputs."""
    return ours(*half_of(model, inputs))


def torch_tensorrt(model: torch.nn.Module, inputs: list[Any]) -> tuple[Any, Found]:
    """Torch-TensorRT's default frontend, with its runtime in C++, called from TorchScript."""
    import torch_tensorrt as theirs

    half, cast = half_of(model, inputs)
    start = time.perf_counter()
    compiled = theirs.compile(half, ir="dynamo", inputs=cast, use_python_runtime=False)  # in the module's own dtypes
    found = {"set_up_s": time.perf_counter() - start}
    return torch.jit.trace(compiled, cast, check_trace=False, strict=False), found


def torch_tensorrt_ts(model: torch.nn.Module, inputs: list[Any]) -> tuple[Any, Found]:
    """Torch-TensorRT's TorchScript frontend."""
    import torch_tensorrt as theirs

    half, cast = half_of(model, inputs)
    traced = torch.jit.trace(half, cast, check_trace=False, strict=False)
    settings = {"enabled_precisions": {torch.half}, "truncate_long_and_double": True}
    start = time.perf_counter()
    compiled = theirs.compile(traced, ir="torchscript", inputs=cast, **settings)
    return compiled, {"set_up_s": time.perf_counter() - start}


def build(compiler: str, name: str, index: str, folder: str, result: str) -> None:
    compiled, found = globals()[compiler](*make(name))
    torch.jit.save(compiled, Path(folder) / f"{name}.{compiler}.{index}.ts")
    Path(result).write_text(json.dumps(rounded(found)))


# Measuring -----------------------------------------------------------------------------------------------------------


def median_ms(call: Call, seconds: float) -> float:
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


def back_to_back_us(call: Call, seconds: float) -> float:
    """Microseconds a call when calls follow each other without waiting; the best of five series."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        call()
    torch.cuda.synchronize()
    count = max(20, int(seconds / 5 / ((time.perf_counter() - start) / 20)))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            call()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / count * 1e6)
    return best


def measured(call: Call, seconds: float, prefix: str = "") -> Found:
    """Synchronised calls on the default stream, and calls back to back on a stream of their own."""
    found = {f"{prefix}ms": median_ms(call, seconds)}
    with torch.cuda.stream(torch.cuda.Stream()):
        found[f"{prefix}own_stream_ms"] = median_ms(call, seconds)
        found[f"{prefix}us_back_to_back"] = back_to_back_us(call, seconds)
    return found


def raw(plan: torch.Tensor, inputs: list[Any], seconds: float) -> Found:
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
    call = partial(context.execute_async_v3, stream.cuda_stream)
    found = {"raw_ms": median_ms(call, seconds), "raw_us_back_to_back": back_to_back_us(call, seconds)}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    with torch.cuda.stream(stream):
        found["raw_graph_ms"] = median_ms(graph.replay, seconds)
        found["raw_graph_us_back_to_back"] = back_to_back_us(graph.replay, seconds)
    return found


def time_ours(path: Path, inputs: list[Any], seconds: float) -> tuple[torch.Tensor, Found]:
    """The first call's result, and the figures."""
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        before = torch.cuda.memory_allocated()
        compiled = torch.jit.load(path)
        result = compiled(*inputs)
        torch.cuda.reset_peak_memory_stats()
        compiled(*inputs)
        torch.cuda.synchronize()
        found = _memory(compiled, torch.cuda.max_memory_allocated() - before - 2 * result.nbytes)
    found.update(measured(lambda: compiled(*inputs), seconds))
    calls = engine_calls(compiled)
    if len(calls) == 1:
        found.update(raw(calls[0].plan, inputs, seconds))
    bridge.configure(compiled, cuda_graphs=True)
    return result, {**found, **measured(lambda: compiled(*inputs), seconds, "graph_")}


def _memory(compiled: torch.nn.Module, grown: int) -> Found:
    """The most device memory of a call, the engines included, beside the engines' own sizes; MiB."""
    calls = engine_calls(compiled)
    sessions: list[Any] = [load(Plan.from_tensor(call.plan), torch.device("cuda", 0)) for call in calls]
    plans = sum(call.plan.numel() for call in calls)
    activations = max((session.engine.device_memory_size_v2 for session in sessions), default=0)
    names = ("engines_mib", "activations_mib", "allocated_mib")
    sizes = dict(zip(names, (plans / 2**20, activations / 2**20, grown / 2**20), strict=True))
    return {**sizes, "beyond": grown / (plans + activations) - 1}


def time_theirs(path: Path, inputs: list[Any], seconds: float) -> tuple[torch.Tensor, Found]:
    import torch_tensorrt as theirs

    compiled = torch.jit.load(path)
    result, found = compiled(*inputs), measured(lambda: compiled(*inputs), seconds)
    theirs.runtime.set_cudagraphs_mode(True)
    try:
        return result, {**found, **measured(lambda: compiled(*inputs), seconds, "graph_")}
    finally:
        theirs.runtime.set_cudagraphs_mode(False)


def time_torch_compile(half: torch.nn.Module, cast: list[Any], seconds: float) -> tuple[torch.Tensor, Found]:
    start = time.perf_counter()
    compiled = torch.compile(half, mode="max-autotune")
    result = compiled(*cast).clone()
    set_up = time.perf_counter() - start
    return result, {"set_up_s": set_up, **measured(lambda: compiled(*cast), seconds)}


def rows_of(name: str, folder: Path, seconds: float, peers: list[str]) -> Iterator[Found]:
    """Every figure of a model: eager, what was built, and torch.compile where it is asked for."""
    model, inputs = make(name)
    half, cast = half_of(model, inputs)
    expected = model(*inputs).float()

    def row(compiler: str, index: int, measure: Callable[[], tuple[torch.Tensor, Found]]) -> Found:
        told: Found = {"model": name, "compiler": compiler, "build": index}
        try:
            result, found = measure()
        except Exception as failure:
            return {**told, "failed": f"{type(failure).__name__}: {failure}"[:600]}
        error = float((result.float() - expected).abs().max())
        return {**told, "error": error, **found, "versions": versions()}

    yield row("eager", 0, lambda: (half(*cast), measured(lambda: half(*cast), seconds)))
    for path in sorted(folder.glob(f"{name}.*.ts")):
        compiler, index = path.name.removeprefix(f"{name}.").removesuffix(".ts").split(".")
        measure = time_theirs if compiler.startswith("torch_tensorrt") else time_ours
        if measure is time_theirs:
            import torch_tensorrt  # noqa: F401 - registers their operator
        yield row(compiler, int(index), partial(measure, path, inputs if compiler == "ours" else cast, seconds))
        gc.collect()
    if "torch_compile" in peers:
        yield row("torch_compile", 0, partial(time_torch_compile, half, cast, seconds))


def time_models(models: str, seconds: str, folder: str, result: str, *peers: str) -> None:
    with Path(result).open("a") as file:
        for name in models.split(","):
            file.write(json.dumps({"begun": name}) + "\n")
            for row in rows_of(name, Path(folder), float(seconds), list(peers)):
                file.write(json.dumps(rounded(row)) + "\n")
                file.flush()
            torch.cuda.empty_cache()


def versions() -> dict[str, str]:
    gpu = torch.cuda.get_device_name()
    return {"torch": torch.__version__, "tensorrt": get("tensorrt").version(), "gpu": gpu, "runtime": implementation()}


def rounded(row: Found) -> Found:
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}


if __name__ == "__main__":
    logging.getLogger("bridge").setLevel(logging.ERROR)
    step, *words = sys.argv[1:]
    with torch.no_grad():
        {"build": build, "time": time_models}[step](*words)
