"""What is in a compiled module, a saved one, a plan or an engine: as an object, as text and as JSON."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from bridge.errors import BridgeError, SpecError
from bridge.runtime.bindings import TITLES
from bridge.runtime.calls import engine_calls
from bridge.runtime.files import open_module
from bridge.runtime.plan import Binding, Plan, PlanHeader, Profile
from bridge.runtime.raw_engine import plan_of_engine
from bridge.runtime.session import load, session_device
from bridge.runtime.signature import Signature

_MODULES = (".ts", ".pt", ".pth", ".pt2")
_TITLES = {**TITLES, "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True)
class EngineInspection:
    """One engine.

    Attributes:
        header: backend, version, bindings, profiles, settings and notes, as they stand in the plan.
        digest: SHA-256 of the plan.
        size: bytes of the plan.
        signature: what the module says about the call, its options too; None for a plan or an engine by itself.
        calls: how many places of the module call it.
        layers: a dict for each layer, with its name, type and origin as far as the backend tells; None where the engine
            cannot be opened here.
        why_no_layers: why there are none.
        cuda_graphs: which calls are launched as CUDA graphs, or why none is; None where it cannot be opened here.
        device_memory: bytes that a run needs on the GPU for activations; None where the backend does not tell.
    """

    header: PlanHeader
    digest: str
    size: int
    signature: Signature | None = None
    calls: int = 1
    layers: list[dict[str, Any]] | None = None
    why_no_layers: str | None = None
    device_memory: int | None = None
    cuda_graphs: str | None = None

    def __str__(self) -> str:
        header = self.header
        where = f" for {header.device['name']} ({header.device['capability']})" if header.device else ""
        lines = [f"{_TITLES.get(header.backend, header.backend)} {header.version} engine{where}, {_bytes(self.size)}"]
        lines += [f"  input   {_binding(item)}" for item in header.inputs]
        lines += [f"  output  {_binding(item)}" for item in header.outputs]
        for index, profile in enumerate(header.profiles):
            lines += [f"  profile {index}: {_profile(profile)}"]
        lines += [f"  setting {name} = {value}" for name, value in header.settings.items()]
        if self.signature is not None:
            lines += [f"  option  {name} = {value}" for name, value in self.signature.options.items()]
        lines += [f"  note    {note}" for note in header.notes]
        lines += [f"  memory  {_bytes(self.device_memory)} for activations"] if self.device_memory is not None else []
        lines += [f"  graphs  {self.cuda_graphs}"] if self.cuda_graphs is not None else []
        lines += [f"  made with {', '.join(f'{name} {version}' for name, version in header.made_with.items())}"]
        lines += [f"  called in {self.calls} places"] if self.calls > 1 else []
        return "\n".join([*lines, *self._layer_lines()])

    def _layer_lines(self) -> list[str]:
        if self.layers is None:
            return [f"  layers: {self.why_no_layers}"]
        return [f"  {len(self.layers)} layers", *[f"    {_layer(layer)}" for layer in self.layers]]


@dataclass(frozen=True)
class Inspection:
    """The engines of a module; ``inputs``, ``outputs``, ``profiles`` and ``layers`` are those of its only engine."""

    engines: tuple[EngineInspection, ...]

    @property
    def inputs(self) -> tuple[Binding, ...]:
        """The only engine's inputs."""
        return self._only().header.inputs

    @property
    def outputs(self) -> tuple[Binding, ...]:
        """The only engine's outputs."""
        return self._only().header.outputs

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The only engine's profiles."""
        return self._only().header.profiles

    @property
    def layers(self) -> list[dict[str, Any]] | None:
        """The only engine's layers; None where it cannot be opened here."""
        return self._only().layers

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {"engines": [asdict(engine) for engine in self.engines]}

    def __str__(self) -> str:
        count = len(self.engines)
        title = [] if count == 1 else [f"{count} engines" if count else "no engine: all of it runs in PyTorch"]
        return "\n".join([*title, *map(str, self.engines)])

    def _only(self) -> EngineInspection:
        if len(self.engines) != 1:
            raise BridgeError(f"this module has {len(self.engines)} engines", hint="look at .engines[i].header")
        return self.engines[0]


def inspect(
    subject: torch.nn.Module | Plan | bytes | bytearray | memoryview | str | PathLike[str],
    *,
    layers: bool = True,
    backend: str = "tensorrt",
) -> Inspection:
    """What a compiled module or an engine is made of.

    Args:
        subject: a compiled or loaded module, a plan, the bytes of a plan or of a serialized engine, or the path of a
            file that holds a saved module, a plan or an engine.
        layers: also ask the engines for their layers, which loads them: TensorRT's need their GPU.
        backend: ``"tensorrt"`` or ``"tensorrt_rtx"``: what a serialized engine is for.

    Raises:
        BridgeError: the file or the bytes are none of these, or a serialized engine cannot be opened here.
    """
    if isinstance(subject, torch.nn.Module):
        return _of_module(subject, layers)
    if isinstance(subject, Plan):
        return Inspection((_of_plan(subject, layers=layers),))
    if isinstance(subject, bytes | bytearray | memoryview):
        plan = Plan.from_bytes(subject) if Plan.is_plan(subject) else plan_of_engine(subject, backend)
        return Inspection((_of_plan(plan, layers=layers),))
    if not isinstance(subject, str | PathLike):
        raise SpecError(
            f"subject: a {type(subject).__name__} cannot be inspected",
            hint="give a compiled module, a plan, the bytes of one or of an engine, or the path of a file with one",
        )
    return _of_file(Path(subject), layers, backend)


def _of_file(path: Path, layers: bool, backend: str) -> Inspection:
    if not path.is_file():
        raise BridgeError(f"there is no file {path}", why="that is a folder" if path.is_dir() else None)
    if path.suffix == ".onnx":
        hint = "bridge.compare, bridge.diff and `bridge rules explain` read ONNX models"
        raise BridgeError(f"{path} is an ONNX model, which has no engines to be inspected", hint=hint)
    if not path.stat().st_size:
        raise BridgeError(f"{path} is no module and no engine", why="it is empty")
    if not zipfile.is_zipfile(path) and path.suffix not in _MODULES:
        return inspect(path.read_bytes(), layers=layers, backend=backend)
    module = open_module(path)
    return _of_module(module.module() if isinstance(module, torch.export.ExportedProgram) else module, layers)


def _of_module(module: torch.nn.Module, layers: bool) -> Inspection:
    """One entry for each engine, however many calls share it."""
    found: dict[str, tuple[Plan, Signature, int]] = {}
    for call in engine_calls(module):
        plan = Plan.from_tensor(call.plan)
        calls = found[plan.digest][2] if plan.digest in found else 0
        found[plan.digest] = (plan, call.signature, calls + 1)
    return Inspection(tuple(_of_plan(*entry, layers=layers) for entry in found.values()))


def _of_plan(plan: Plan, signature: Signature | None = None, calls: int = 1, *, layers: bool) -> EngineInspection:
    told = _opened(plan, signature) if layers else {"why_no_layers": "not asked for"}
    return EngineInspection(plan.header, plan.digest, plan.to_tensor().numel(), signature, calls, **told)


def _opened(plan: Plan, signature: Signature | None) -> dict[str, Any]:
    """What the engine itself tells, or why it cannot be asked here."""
    try:
        session = load(plan, session_device(plan.header.backend, []))
        told = {"layers": session.describe(), "device_memory": getattr(session, "device_memory", None)}
    except BridgeError as error:
        return {"why_no_layers": error.why or error.what}
    if isinstance(why_not := getattr(session, "why_not_repeated", None), str):
        told["cuda_graphs"] = _graphs(signature, why_not)
    return told


def _graphs(signature: Signature | None, why_not: str) -> str:
    wanted = signature.options.get("cuda_graphs") if signature is not None else None
    if wanted is not None:
        return "all calls, with copies of inputs and outputs" if wanted else "none: cuda_graphs=False"
    return f"none of themselves: {why_not}" if why_not else "calls that come again with the same addresses"


def _binding(binding: Binding) -> str:
    shape = "of any rank" if binding.shape is None else "x".join(map(str, binding.shape)) or "scalar"
    return f"{binding.name}: {binding.dtype} {shape}"


def _profile(profile: Mapping[str, tuple[tuple[int, ...], ...]]) -> str:
    return "; ".join(
        f"{name} {' / '.join('x'.join(map(str, shape)) or 'scalar' for shape in shapes)}"
        for name, shapes in profile.items()
    )


def _layer(layer: Mapping[str, Any]) -> str:
    return "  ".join(str(layer[key]) for key in ("name", "type", "precision", "from") if layer.get(key))


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
