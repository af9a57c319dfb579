"""One compiler builds one model, and saves the module beside what that took."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import bridge
from bridge.runtime.calls import engine_calls
from gpu_bench.measuring import median_ms
from gpu_bench.models import half_of

Found = dict[str, Any]
Inputs = list[torch.Tensor]
BACKEND = "tensorrt" if torch.cuda.is_available() else "onnxruntime"
_BUILDS = ("build_serialized_network", "build_engine_with_config")


class BuildClock:
    """Adds up the seconds in TensorRT's own builder, whoever calls it."""

    def __enter__(self) -> BuildClock:
        self.seconds = 0.0
        self._builder: Any = import_module("tensorrt").Builder if BACKEND == "tensorrt" else None
        self._own = {name: getattr(self._builder, name) for name in _BUILDS if hasattr(self._builder, name)}
        for name, build in self._own.items():
            setattr(self._builder, name, self._timed(build))
        return self

    def __exit__(self, *_: object) -> None:
        for name, build in self._own.items():
            setattr(self._builder, name, build)

    def _timed(self, build: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return build(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def timed(compile: Callable[[], Any]) -> tuple[Any, Found]:
    """What it compiles, the seconds that took, and those of it that TensorRT took."""
    with BuildClock() as clock:
        start = time.perf_counter()
        compiled = compile()
        set_up = time.perf_counter() - start
    return compiled, {"set_up_s": set_up, "build_s": clock.seconds, "beyond_build_s": set_up - clock.seconds}


def ours(model: torch.nn.Module, inputs: Inputs, cache: Path) -> tuple[Any, Found]:
    """As a user of ours calls it: an FP32 module and FP32 inputs, computed in half precision."""
    traced = torch.jit.trace(model, inputs, check_trace=False, strict=False)
    settings = {"backend": BACKEND, "precision": torch.half, "timing_cache": cache}
    compiled, found = timed(lambda: bridge.compile(traced, inputs, **settings))
    return compiled, {**found, "engines": len(engine_calls(compiled))}


def ours_half(model: torch.nn.Module, inputs: Inputs, cache: Path) -> tuple[Any, Found]:
    """As Torch-TensorRT gets it: a half module, half inputs."""
    return ours(*half_of(model, inputs), cache)


def torch_tensorrt(model: torch.nn.Module, inputs: Inputs, cache: Path) -> tuple[Any, Found]:
    """Torch-TensorRT's default frontend in the module's own dtypes, with its runtime in C++; saved as TorchScript.

    Attention is decomposed: its own way to translate it needs a later TensorRT than 10.6.
    """
    import torch_tensorrt as theirs

    half, cast = half_of(model, inputs)
    settings = {"use_python_runtime": False, "timing_cache_path": str(cache), "decompose_attention": True}
    compiled, found = timed(lambda: theirs.compile(half, ir="dynamo", inputs=cast, **settings))
    found["as_returned_ms"] = median_ms(lambda: compiled(*cast), 0.3)
    return torch.jit.trace(compiled, cast, check_trace=False, strict=False), found


def torch_tensorrt_ts(model: torch.nn.Module, inputs: Inputs, cache: Path) -> tuple[Any, Found]:
    """Torch-TensorRT's TorchScript frontend, which keeps no timing cache."""
    import torch_tensorrt as theirs

    half, cast = half_of(model, inputs)
    traced = torch.jit.trace(half, cast, check_trace=False, strict=False)
    settings = {"enabled_precisions": {torch.half}, "truncate_long_and_double": True}
    return timed(lambda: theirs.compile(traced, ir="torchscript", inputs=cast, **settings))


COMPILERS = {build.__name__: build for build in (ours, ours_half, torch_tensorrt, torch_tensorrt_ts)}


def build(compiler: str, model: torch.nn.Module, inputs: Inputs, name: str, index: str, folder: Path) -> Found:
    """Builds and saves ``NAME.COMPILER.INDEX.ts``; builds of one model share a timing cache, ours and theirs apart."""
    cache = folder / f"{name}.{'ours' if compiler.startswith('ours') else compiler}.cache"
    compiled, found = COMPILERS[compiler](model, inputs, cache)
    torch.jit.save(compiled, folder / f"{name}.{compiler}.{index}.ts")
    return found
