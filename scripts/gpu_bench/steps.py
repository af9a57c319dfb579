"""The steps of scripts/bench_gpu, each in a process of its own.

usage: echo go | python -m gpu_bench.steps build|time|peer MODEL COMPILER BUILD BUILDS SECONDS FOLDER

``build``: one compiler builds the model BUILDS times, from number BUILD on, and saves it; ``time``: all that is built
of the model is measured in turns; ``peer``: torch.compile, in turns with what is built of ours. Rows go to
FOLDER/MODEL.STEP.COMPILER.BUILD.jsonl. Libraries are loaded and the model is made at once, all else when ``go`` has
come.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bridge
from bridge.backends import get
from bridge.runtime import Plan, load
from bridge.runtime.calls import engine_calls
from bridge.runtime.native import implementation
from gpu_bench.building import BACKEND, build
from gpu_bench.measuring import ON_GPU, Call, Figure, call_figures, in_turns, kernels, own_stream, wait
from gpu_bench.models import half_of, make

Found = dict[str, Any]
Inputs = list[torch.Tensor]
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")


class Measured:
    """Something that was built: its row, its figures, and the plain call."""

    def __init__(self, compiler: str, index: int, call: Call, expected: torch.Tensor) -> None:
        self.compiler, self.call = compiler, call
        self.row: Found = {"step": "time", "compiler": compiler, "build": index}
        self.row["error"] = float((call().float() - expected).abs().max())
        self.figures = call_figures(call)


def eager(half: torch.nn.Module, cast: Inputs, expected: torch.Tensor) -> Measured:
    found = Measured("eager", 0, lambda: half(*cast), expected)
    found.figures = {"ms": found.figures["ms"]}
    return found


def of_ours(path: Path, compiler: str, index: int, inputs: Inputs, expected: torch.Tensor) -> Measured:
    """The saved module as it is, the same with CUDA graphs never and always, and its engine alone."""
    memory = memory_of(path, inputs) if ON_GPU else {}
    compiled, plain, graphed = (torch.jit.load(path) for _ in range(3))
    found = Measured(compiler, index, lambda: compiled(*inputs), expected)
    found.row |= memory
    if ON_GPU:
        bridge.configure(plain, cuda_graphs=False)
        bridge.configure(graphed, cuda_graphs=True)
        found.figures |= call_figures(lambda: plain(*inputs), "plain_")
        found.figures |= call_figures(lambda: graphed(*inputs), "graph_")
        calls = engine_calls(compiled)
        if len(calls) == 1:
            found.figures |= raw(calls[0].plan, inputs)
    return found


def raw(plan: torch.Tensor, inputs: Inputs) -> dict[str, Figure]:
    """The same engine through TensorRT's own interface: addresses set once, nothing else done."""
    session: Any = load(Plan.from_tensor(plan), DEVICE)
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
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()

    def call(*, of: list[torch.Tensor] = kept) -> None:  # with the call live the tensors that it reads and writes
        context.execute_async_v3(stream.cuda_stream)

    def on_stream() -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    call()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return {
        "raw_ms": Figure(call),
        "raw_us_back_to_back": Figure(call, in_series=True),
        "raw_graph_ms": Figure(graph.replay, on_stream),
        "raw_graph_us_back_to_back": Figure(graph.replay, on_stream, in_series=True),
    }


def memory_of(path: Path, inputs: Inputs) -> Found:
    """The most device memory of a call, the engines included, beside the engines' own sizes; MiB."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with own_stream():
        compiled = torch.jit.load(path)
        result = compiled(*inputs)
        torch.cuda.reset_peak_memory_stats()
        compiled(*inputs)
        torch.cuda.synchronize()
    grown = torch.cuda.max_memory_allocated() - before - 2 * result.nbytes
    calls = engine_calls(compiled)
    sessions: list[Any] = [load(Plan.from_tensor(call.plan), DEVICE) for call in calls]
    plans = sum(call.plan.numel() for call in calls)
    activations = max((session.engine.device_memory_size_v2 for session in sessions), default=0)
    names = ("engines_mib", "activations_mib", "allocated_mib")
    sizes = dict(zip(names, (plans / 2**20, activations / 2**20, grown / 2**20), strict=True))
    return {**sizes, "beyond": grown / (plans + activations) - 1}


@contextmanager
def their_graphs() -> Iterator[None]:
    import torch_tensorrt as theirs

    theirs.runtime.set_cudagraphs_mode(True)
    try:
        yield
    finally:
        theirs.runtime.set_cudagraphs_mode(False)


def of_theirs(path: Path, compiler: str, index: int, inputs: Inputs, expected: torch.Tensor) -> Measured:
    import torch_tensorrt  # noqa: F401 - registers their operator

    compiled = torch.jit.load(path)
    found = Measured(compiler, index, lambda: compiled(*inputs), expected)
    found.figures |= call_figures(found.call, "graph_", their_graphs)
    return found


def of_torch_compile(half: torch.nn.Module, cast: Inputs, expected: torch.Tensor) -> Measured:
    start = time.perf_counter()
    compiled = torch.compile(half, mode="max-autotune")
    for _ in range(3):  # compiles, warms up, captures
        compiled(*cast)
    wait()
    set_up = time.perf_counter() - start
    found = Measured("torch_compile", 0, lambda: compiled(*cast), expected)
    found.row["set_up_s"] = set_up
    return found


class Steps:
    """The steps of one model."""

    def __init__(self, name: str, seconds: float, folder: Path, result: Path) -> None:
        self.name, self.seconds, self.folder, self.result = name, seconds, folder, result
        self.model, self.inputs = make(name)

    def on_device(self) -> None:
        """Puts the model where it runs, and takes its own results in FP32, without TF32, for the truth."""
        self.model, self.inputs = self.model.to(DEVICE), [x.to(DEVICE) for x in self.inputs]

    def build(self, compiler: str, first: str, count: str) -> None:
        self.on_device()
        for index in range(int(first), int(first) + int(count)):
            found = build(compiler, self.model, self.inputs, self.name, index, self.folder)
            self.keep({"step": "build", "compiler": compiler, "build": index, **found})

    def time(self, *_: str) -> None:
        """Everything that is built, in turns; then layers and kernels of the first builds."""
        self.prepare()
        measured = [self.attempt("eager", 0, partial(eager, self.half, self.cast, self.expected))]
        for path in sorted(self.folder.glob(f"{self.name}.*.ts")):
            compiler, index = path.name.removeprefix(f"{self.name}.").removesuffix(".ts").split(".")
            opened = of_theirs if compiler.startswith("torch_tensorrt") else of_ours
            inputs = self.inputs if compiler == "ours" else self.cast
            making = partial(opened, path, compiler, int(index), inputs, self.expected)
            measured.append(self.attempt(compiler, int(index), making))
        self.take([found for found in measured if found])

    def peer(self, *_: str) -> None:
        """torch.compile, in turns with our first build; a row of its own says what ours took beside it."""
        self.prepare()
        found = self.attempt("torch_compile", 0, partial(of_torch_compile, self.half, self.cast, self.expected))
        path = self.folder / f"{self.name}.ours_half.0.ts"
        beside = []
        if found and path.exists():
            beside = [of_ours(path, "ours_half_beside_torch_compile", 0, self.cast, self.expected)]
        self.take([found, *beside] if found else [])

    def prepare(self) -> None:
        self.on_device()
        self.half, self.cast = half_of(self.model, self.inputs)
        self.expected = self.model(*self.inputs).float()
        del self.model

    def attempt(self, compiler: str, index: int, make: Callable[[], Measured]) -> Measured | None:
        try:
            return make()
        except Exception as failure:
            told = f"{type(failure).__name__}: {failure}"[:600]
            self.keep({"step": "time", "compiler": compiler, "build": index, "failed": told})
            return None

    def take(self, measured: list[Measured]) -> None:
        figures = {(found, name): figure for found in measured for name, figure in found.figures.items()}
        keys = {f"{position}": key for position, key in enumerate(figures)}
        times = in_turns({position: figures[key] for position, key in keys.items()}, self.seconds)
        for position, (found, name) in keys.items():
            found.row[name] = times[position]
        for found in measured:
            self.keep({**found.row, "versions": versions()})
        for found in measured:
            if found.row["build"] == 0 and found.compiler != "eager":
                self.tell(found)

    def tell(self, found: Measured) -> None:
        """Layers and kernels, for those who look for lost time; what fails here costs no figure."""
        told: Found = {}
        try:
            told["kernels"] = kernels(found.call)
            path = self.folder / f"{self.name}.{found.compiler}.0.ts"
            if found.compiler.startswith("ours") and path.exists():
                inputs = self.inputs if found.compiler == "ours" else self.cast
                told["layers"] = layers(torch.jit.load(path), inputs)
        except Exception as failure:
            told["failed"] = f"{type(failure).__name__}: {failure}"[:600]
        folder = self.folder.with_suffix(".layers")
        folder.mkdir(exist_ok=True)
        (folder / f"{self.name}.{found.compiler}.json").write_text(json.dumps(told, indent=0))

    def keep(self, row: Found) -> None:
        with self.result.open("a") as file:
            file.write(json.dumps(rounded({"model": self.name, **row})) + "\n")


def layers(compiled: torch.nn.Module, inputs: Inputs) -> list[Found]:
    """Every layer with its milliseconds, the longest first, as TensorRT's inspector describes it."""
    told: dict[str, Found] = {}
    for call in engine_calls(compiled):
        told |= {layer["name"]: layer for layer in load(Plan.from_tensor(call.plan), DEVICE).describe()}
    parts = bridge.profile(compiled, tuple(inputs), runs=5).parts
    names = ("precision", "tactic", "from")
    return [
        {"ms": round(part.ms, 5), "type": part.type, "name": part.name[:300]}
        | {name: str(told.get(part.name, {}).get(name, ""))[:300] for name in names}
        for part in parts
    ]


def versions() -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if ON_GPU else "none"
    return {"torch": torch.__version__, BACKEND: get(BACKEND).version(), "gpu": gpu, "runtime": implementation()}


def rounded(row: Found) -> Found:
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}


def main(step: str, name: str, compiler: str, index: str, count: str, seconds: str, folder: str) -> None:
    logging.getLogger("bridge").setLevel(logging.ERROR)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    told = ".".join(part for part in (name, step, compiler, index) if part != "None")
    with torch.no_grad():
        steps = Steps(name, float(seconds), Path(folder), Path(folder) / f"{told}.jsonl")
        if compiler.startswith("torch_tensorrt"):
            import torch_tensorrt  # noqa: F401 - takes seconds
        if ON_GPU:
            get(BACKEND).require()
            torch.zeros(1, device=DEVICE)
        if sys.stdin.readline().strip() == "go":
            getattr(steps, step)(compiler, index, count)


if __name__ == "__main__":
    main(*sys.argv[1:])
