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

from bridge.backends.element_types import opset
from bridge.backends.ort_substitutes import substitute
from bridge.compare.arrays import as_numpy
from bridge.compare.child import ChildRunner
from bridge.compare.inputs import InputSet, argument_names, tensors_in
from bridge.errors import BridgeError, SpecError, told_by_torch
from bridge.runtime.calls import engine_calls
from bridge.runtime.files import open_module
from bridge.runtime.module import embed_engine_in_new_module
from bridge.runtime.plan import Plan
from bridge.runtime.record import records_of
from bridge.runtime.session_onnxruntime import session_options

Opened = torch.nn.Module | torch.export.ExportedProgram | onnx.ModelProto
_NUMBERS = (bool, int, float, complex)
_ENGINES = (".engine", ".plan", ".trt")
_SUBSTITUTED = 13
_COPIED = 1 << 30


class Contender:
    """One side of a comparison.

    Args:
        thing: what the user gave.
        role: what it is called in messages.
        evaluator: what runs an ONNX model: ``"onnxruntime"`` or ``"reference"``, ONNX's own evaluator.
        python: an interpreter: it is run there, in a process of its own, and not opened here.

    Attributes:
        label: what it is called in reports.
        source: it, opened; None where it runs in a process of its own.
        module: what PyTorch runs of it; None when ONNX Runtime or another process runs it.
        model: what ONNX Runtime runs of it.
        bindings: the names of an engine's inputs and outputs, in order.
    """

    def __init__(self, thing: Any, role: str, evaluator: str = "onnxruntime", python: str | None = None) -> None:
        self.thing, self.evaluator, self.python = thing, evaluator, python
        self.label = _label(thing, role)
        self.source = opened = _opened(thing, role) if python is None else None
        if isinstance(opened, torch.export.ExportedProgram):
            opened = opened.module()
        self.module = opened if isinstance(opened, torch.nn.Module) else None
        self.model = opened if isinstance(opened, onnx.ModelProto) else None
        self.bindings = _bindings(self.module) if self.module is not None and _is_engine(thing) else None
        if self.model is not None and evaluator == "onnxruntime":
            self.session = _session(_source(thing, self.model), self.label)

    @property
    def input_names(self) -> list[str]:
        """The inputs by name, in order; none where another process knows them."""
        if self.bindings is not None:
            return self.bindings[0]
        if self.model is not None:
            constants = {tensor.name for tensor in self.model.graph.initializer}
            return [value.name for value in self.model.graph.input if value.name not in constants]
        return argument_names(self.module) if self.module is not None else []

    @property
    def kinds(self) -> set[str]:
        """The backends of its engines, as far as they are told without opening one."""
        return _kinds(self.module if self.module is not None and self.bindings is None else self.thing)

    @property
    def has_engines(self) -> bool:
        """Whether it is a compiled module."""
        return self.module is not None and self.bindings is None and bool(engine_calls(self.module))

    @property
    def precision(self) -> str:
        """What a compiled module was compiled for; empty where that is not known."""
        records = records_of(self.module) if self.module is not None else []
        return next((record.spec["precision"] for record in records if "precision" in record.spec), "")

    def is_other(self, reference: Contender) -> bool:
        """Whether it is another thing than the reference, not the same object or file."""
        if isinstance(self.thing, str | Path) and isinstance(reference.thing, str | Path):
            return Path(self.thing).resolve() != Path(reference.thing).resolve()
        return self.thing is not reference.thing

    def runner(self, inputs: InputSet, names: list[str]) -> BaseRunner:
        """A runner for that one set of inputs, whose tensors go by these names."""
        if self.python is not None:
            return ChildRunner(self.thing, inputs, names, self.label, self.python)
        if self.model is not None:
            reference = self.evaluator == "reference"
            return ReferenceRunner(self.model, self.label) if reference else OnnxrtRunner(self.session, name=self.label)
        assert self.module is not None
        return ModuleRunner(self.module, inputs, names, self.label, self.bindings)


def needs_own_process(reference: Contender, compiled: Any) -> bool:
    """Whether one has an engine of TensorRT and the other one of TensorRT-RTX: a process takes one of the two."""
    return {"tensorrt", "tensorrt_rtx"} <= reference.kinds | _kinds(compiled)


def _kinds(thing: Any) -> set[str]:
    if isinstance(thing, torch.nn.Module):
        return {Plan.from_tensor(call.plan).header.backend for call in engine_calls(thing)}
    if isinstance(thing, str | Path) and _is_engine(thing):
        thing = Path(thing).read_bytes()
    if isinstance(thing, bytes | bytearray | memoryview):
        content = bytes(thing)
        return {Plan.from_bytes(content).header.backend if Plan.is_plan(content) else _flavour(content)}
    if isinstance(thing, str | Path) and Path(thing).suffix in (".ts", ".pt"):
        return _kinds(_from_file(Path(thing)))
    return set()


def _flavour(engine: bytes) -> str:
    """Which TensorRT a serialized engine is of: the files of TensorRT-RTX begin with ``vtrt``."""
    return "tensorrt_rtx" if engine[:4] == b"vtrt" else "tensorrt"


def _is_engine(thing: Any) -> bool:
    is_file = isinstance(thing, str | Path) and Path(thing).suffix in _ENGINES
    return is_file or isinstance(thing, bytes | bytearray | memoryview)


def _bindings(module: torch.nn.Module) -> tuple[list[str], list[str]]:
    """The names of an embedded engine's inputs and outputs."""
    (call,) = engine_calls(module)
    return [one.name for one in call.signature.inputs], [one.name for one in call.signature.outputs]


class ModuleRunner(BaseRunner):  # type: ignore[misc]
    """Any nn.Module, compiled or not; nested arguments and results are flat outside.

    Args:
        names: of the tensors in ``inputs``, in order.
        bindings: the names of an engine's inputs and outputs: where the tensors have the first, they go by name.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: InputSet,
        names: list[str],
        name: str,
        bindings: tuple[list[str], list[str]] | None = None,
    ) -> None:
        super().__init__(name=name, prefix="module-runner")
        self.module, self.inputs, self.names, self.bindings = module, inputs, names, bindings
        self.home = _home(module)

    def activate_impl(self) -> None:
        """The module is loaded already."""

    def deactivate_impl(self) -> None:
        """The module goes on living."""

    def get_input_metadata_impl(self) -> TensorMetadata:
        tensors = self.inputs.leaves([]).values()
        return TensorMetadata().from_feed_dict(dict(zip(self.names, tensors, strict=True)))

    def infer_impl(self, feed_dict: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
        names = self.bindings[0] if self.bindings and set(self.bindings[0]) <= set(feed_dict) else self.names
        tensors = [torch.as_tensor(feed_dict[name]) for name in names]
        tensors = [tensor.to(self.home or tensor.device).clone() for tensor in tensors]
        args, kwargs = (tuple(tensors), {}) if self.bindings else self.inputs.filled(tensors)
        start = time.perf_counter()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(self.module):
            result = self._called(args, kwargs)
        self.inference_time = time.perf_counter() - start
        found = {name: value.detach().cpu() for name, value in tensors_in(result, numbers=_NUMBERS).items()}
        return OrderedDict(zip(self.bindings[1] if self.bindings else found, found.values(), strict=True))

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self.module(*args, **kwargs)
        except Exception as error:  # the module's own among them
            if isinstance(error, BridgeError):
                raise
            told = told_by_torch(error).partition(" Declaration: ")[0]
            raise BridgeError(f"{self.name} does not run on these inputs", why=told) from error


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
    if not torch.cuda.is_available():
        return None
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
        return onnx_model(path)
    if path.suffix in _ENGINES:
        return _engine(path.read_bytes())
    return open_module(path)


def onnx_model(path: Path) -> onnx.ModelProto:
    """The ONNX model in a file, with its weights.

    Raises:
        BridgeError: it holds none, or its weights are in files that are not there or cut short.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own errors among them
        raise BridgeError(f"{path} is no ONNX model", why=str(error)) from error
    if not model.HasField("graph"):
        raise BridgeError(f"{path} is no ONNX model", why="it has no graph")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # of every kind, by what is wrong with the files
        raise BridgeError(f"{path} keeps weights in other files, which cannot be read", why=str(error)) from error
    return model


def _engine(content: bytes) -> torch.nn.Module:
    if not content:
        raise BridgeError("an engine of no bytes cannot be compared")
    return embed_engine_in_new_module(content, backend=_flavour(content))


def _session(source: Any, label: str) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(source, session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        hint = 'evaluator="reference" runs what ONNX itself defines; TensorRT\'s own operators run in its engines only'
        raise BridgeError(f"ONNX Runtime does not run {label}", why=str(error).strip(), hint=hint) from error


def _source(thing: Any, model: onnx.ModelProto) -> Any:
    """A path where there is one: weights in files beside it are found, and of any size.

    What ONNX Runtime's kernels of int64 compute wrongly is in other operators, from the opset on that has those.
    """
    if (opset(model, "") or 1) >= _SUBSTITUTED and sum(len(t.raw_data) for t in model.graph.initializer) < _COPIED:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        if substitute(changed):
            return changed.SerializeToString()
    return str(thing) if isinstance(thing, str | Path) else model.SerializeToString()
