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


class BuildClock:
    """Adds up the seconds in TensorRT's own builder: in its constructor, and in its builds, whoever calls them."""

    _TIMED = {"__init__": "builder_s", "build_serialized_network": "build_s", "build_engine_with_config": "build_s"}

    def __enter__(self) -> BuildClock:
        self.seconds: dict[str, float] = {}
        self._builder: Any = import_module("tensorrt").Builder if BACKEND == "tensorrt" else None
        names = [name for name in self._TIMED if self._builder and hasattr(self._builder, name)]
        self._own = {name: getattr(self._builder, name) for name in names}
        for name, method in self._own.items():
            setattr(self._builder, name, self._timed(self._TIMED[name], method))
        return self

    def __exit__(self, *_: object) -> None:
        for name, method in self._own.items():
            setattr(self._builder, name, method)

    def _timed(self, key: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - start

        return timed


def timed(compile: Callable[[], Any]) -> tuple[Any, Found]:
    """What it compiles, the seconds that took, and those of it in TensorRT, where it is called from Python.

    ``beyond_build_s`` is all but the builds, ``beyond_s`` all but the builds and the constructor of TensorRT's builder.
    """
    with BuildClock() as clock:
        start = time.perf_counter()
        compiled = compile()
        found = {"set_up_s": time.perf_counter() - start, **clock.seconds}
    if clock.seconds:
        found["beyond_build_s"] = found["set_up_s"] - found.get("build_s", 0.0)
        found["beyond_s"] = found["beyond_build_s"] - found.get("builder_s", 0.0)
    return compiled, found


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


def build(compiler: str, model: torch.nn.Module, inputs: Inputs, name: str, index: int, folder: Path) -> Found:
    """Builds and saves ``NAME.COMPILER.INDEX.ts``; builds of one model share a timing cache, ours and theirs apart."""
    cache = folder / f"{name}.{'ours' if compiler.startswith('ours') else compiler}.cache"
    compiled, found = COMPILERS[compiler](model, inputs, cache)
    torch.jit.save(compiled, folder / f"{name}.{compiler}.{index}.ts")
    return found
