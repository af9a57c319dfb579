"""What can be compared, each as a Polygraphy runner."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx.reference import ReferenceEvaluator
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnx.util import get_input_metadata
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.common import TensorMetadata

from bridge.compare.arrays import as_numpy
from bridge.compare.inputs import InputSet, argument_names, tensors_in
from bridge.errors import BridgeError, SpecError
from bridge.logging import quiet_exporter
from bridge.runtime.session_onnxruntime import session_options

Opened = torch.nn.Module | torch.export.ExportedProgram | onnx.ModelProto
_ENGINES = (".engine", ".plan", ".trt")


class Contender:
    """One side of a comparison.

    Attributes:
        label: what it is called in reports.
        source: it, opened.
        module: what PyTorch runs of it; None when ONNX Runtime runs it.
        model: what ONNX Runtime runs of it.
    """

    def __init__(self, thing: Any, role: str) -> None:
        opened = _opened(thing, role)
        self.label = _label(thing, role)
        self.source = opened
        if isinstance(opened, torch.export.ExportedProgram):
            opened = opened.module()
        self.module = None if isinstance(opened, onnx.ModelProto) else opened
        self.model = opened if isinstance(opened, onnx.ModelProto) else None
        if self.model is not None:
            source = _source(thing, self.model)
            self.session = ort.InferenceSession(source, session_options(), providers=["CPUExecutionProvider"])

    @property
    def input_names(self) -> list[str]:
        """The inputs by name, in order."""
        return [i.name for i in self.session.get_inputs()] if self.module is None else argument_names(self.module)

    def runner(self, inputs: InputSet, names: list[str]) -> BaseRunner:
        """A runner for that one set of inputs, whose tensors go by these names."""
        if self.module is None:
            return OnnxrtRunner(self.session, name=self.label)
        return ModuleRunner(self.module, inputs, names, self.label)


class ModuleRunner(BaseRunner):  # type: ignore[misc]
    """Any nn.Module, compiled or not; nested arguments and results are flat outside."""

    def __init__(self, module: torch.nn.Module, inputs: InputSet, names: list[str], name: str) -> None:
        super().__init__(name=name, prefix="module-runner")
        self.module, self.inputs, self.names = module, inputs, names
        self.home = _home(module)

    def activate_impl(self) -> None:
        """The module is loaded already."""

    def deactivate_impl(self) -> None:
        """The module goes on living."""

    def get_input_metadata_impl(self) -> TensorMetadata:
        tensors = self.inputs.leaves([]).values()
        return TensorMetadata().from_feed_dict(dict(zip(self.names, tensors, strict=True)))

    def infer_impl(self, feed_dict: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
        tensors = [torch.as_tensor(feed_dict[name]) for name in self.names]
        args, kwargs = self.inputs.filled([t.to(self.home or t.device).clone() for t in tensors])
        start = time.perf_counter()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(self.module):
            result = self.module(*args, **kwargs)
        self.inference_time = time.perf_counter() - start
        return OrderedDict((name, value.detach().cpu()) for name, value in tensors_in(result).items())


class ReferenceRunner(BaseRunner):  # type: ignore[misc]
    """An ONNX model in ONNX's reference evaluator, which computes each operator as it is defined, in NumPy."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        super().__init__(name=name, prefix="onnx-reference-runner")
        self.model = model

    def activate_impl(self) -> None:
        """Reads the model."""
        self.evaluator = ReferenceEvaluator(self.model)

    def deactivate_impl(self) -> None:
        """Lets go of it."""
        del self.evaluator

    def get_input_metadata_impl(self) -> TensorMetadata:
        return get_input_metadata(self.model.graph)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        feeds = {name: as_numpy(value) for name, value in feed_dict.items()}
        start = time.perf_counter()
        with np.errstate(all="ignore"):
            results = self.evaluator.run(None, feeds)
        self.inference_time = time.perf_counter() - start
        return OrderedDict(zip(self.evaluator.output_names, results, strict=True))


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """In eval mode, as it is compiled; every submodule gets its mode back."""
    fixed = isinstance(module, torch.fx.GraphModule)  # exported: in the mode it was exported in
    training = [child for child in module.modules() if not fixed and getattr(child, "training", False)]
    if training:
        module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True


def _home(module: torch.nn.Module) -> torch.device | None:
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    from bridge import inspect

    kinds = {engine.header.backend for engine in inspect(module, layers=False).engines}
    return torch.device("cuda") if kinds & {"tensorrt", "tensorrt_rtx"} else None


def _label(thing: Any, role: str) -> str:
    if isinstance(thing, str | Path):
        return f"{role}: {Path(thing).name}"
    if isinstance(thing, onnx.ModelProto):
        return f"{role}: ONNX {thing.graph.name}".strip()
    return f"{role}: {getattr(thing, 'original_name', type(thing).__name__)}"


def _opened(thing: Any, role: str) -> Opened:
    if isinstance(thing, onnx.ModelProto):
        return thing
    if isinstance(thing, torch.export.ExportedProgram | torch.nn.Module):
        return thing
    if isinstance(thing, bytes | bytearray | memoryview):
        return _engine(bytes(thing))
    if isinstance(thing, str | Path):
        return _from_file(Path(thing))
    raise SpecError(
        f"{role}: {type(thing).__name__} cannot be compared",
        hint="give a module, an ONNX model, a TensorRT engine's bytes, or a path to one of them",
    )


def _from_file(path: Path) -> Opened:
    if not path.is_file():
        raise BridgeError(f"there is no file {path}")
    if path.suffix == ".onnx":
        return onnx.load(path)
    if path.suffix in _ENGINES:
        return _engine(path.read_bytes())
    with quiet_exporter():
        if path.suffix == ".pt2":
            return torch.export.load(path)
        try:
            loaded: torch.nn.Module = torch.jit.load(path, map_location="cpu")
            return loaded
        except RuntimeError as error:
            raise BridgeError(f"{path} is no TorchScript module", why=str(error).strip().splitlines()[0]) from error


def _engine(content: bytes) -> torch.nn.Module:
    from bridge.runtime.module import embed_engine_in_new_module

    return embed_engine_in_new_module(content)


def _source(thing: Any, model: onnx.ModelProto) -> Any:
    """A path where there is one: weights in files beside it are found, and of any size."""
    return str(thing) if isinstance(thing, str | Path) else model.SerializeToString()
