"""What is inside a compiled module: its engines, what they take and give, and how they were made."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bridge.report.terminal import amount, grid, to_text
from bridge.runtime.calls import EngineCall, engine_calls
from bridge.runtime.plan import Plan
from bridge.runtime.session import load, session_device
from bridge.runtime.signature import Signature


@dataclasses.dataclass(frozen=True)
class EngineReport:
    """One engine of a module.

    Attributes:
        signature: what its callers must know: names, dtypes and shapes.
        plan: the plan, whose header says how it was made.
        layers: its layers as far as the backend tells them; empty unless asked for.
    """

    signature: Signature
    plan: Plan
    layers: tuple[dict[str, Any], ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the plan."""
        return self.plan.to_tensor().numel()

    def to_dict(self) -> dict[str, Any]:
        """The same, JSON-able."""
        header = dataclasses.asdict(self.plan.header)
        header["inputs"] = [dataclasses.asdict(item) for item in self.signature.inputs]
        header["outputs"] = [dataclasses.asdict(item) for item in self.signature.outputs]
        return {**header, "bytes": self.size, "digest": self.plan.digest, "layers": list(self.layers)}


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The engines of a module, in the order of their calls; `str` gives the report as text."""

    engines: tuple[EngineReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return {"engines": [engine.to_dict() for engine in self.engines]}

    def __str__(self) -> str:
        if not self.engines:
            return "No engines: this module runs in PyTorch."
        parts: list[object] = []
        for index, engine in enumerate(self.engines):
            parts += _told(index, len(self.engines), engine)
        return to_text(*parts)


def inspect(module: torch.nn.Module, *, layers: bool = False) -> Inspection:
    """What a compiled or loaded module holds.

    Args:
        module: what `bridge.compile` or `torch.jit.load` gave.
        layers: also ask the engines for their layers, which loads them: TensorRT's need their GPU.
    """
    return Inspection(tuple(_report(call, layers) for call in engine_calls(module)))


def _report(call: EngineCall, layers: bool) -> EngineReport:
    plan = Plan.from_tensor(call.plan)
    if not layers:
        return EngineReport(call.signature, plan)
    session = load(plan, session_device(plan.header.backend, []))
    return EngineReport(call.signature, plan, tuple(session.describe()))


def _told(index: int, count: int, engine: EngineReport) -> list[object]:
    header = engine.plan.header
    where = f" for {header.device['name']}" if header.device.get("name") else ""
    made = ", ".join(f"{name} {version}" for name, version in header.made_with.items())
    lines: list[object] = [
        f"Engine {index + 1} of {count}: {header.backend} {header.version}{where}, {amount(engine.size)}",
        f"made with {made}" + (f"; settings: {_settings(header.settings)}" if header.settings else ""),
    ]
    lines += [f"note: {note}" for note in header.notes]
    bindings = [("input", item.name, item.dtype, _dims(item.dims)) for item in engine.signature.inputs]
    bindings += [("output", item.name, item.dtype, _dims(item.dims)) for item in engine.signature.outputs]
    lines.append(grid("", ("", "name", "dtype", "shape"), bindings))
    profiles = [
        (number + 1, name, *(_dims(shape) for shape in shapes))
        for number, profile in enumerate(header.profiles)
        for name, shapes in profile.items()
    ]
    if profiles:
        lines.append(grid("Profiles", ("profile", "input", "min", "opt", "max"), profiles))
    if engine.layers:
        rows = [(layer.get("name", layer.get("Name", "")), _kind(layer)) for layer in engine.layers]
        lines.append(grid("Layers", ("name", "kind"), rows))
    return lines


def _kind(layer: dict[str, Any]) -> str:
    return next((str(layer[key]) for key in ("op_type", "LayerType", "type", "kind") if key in layer), "")


def _dims(dims: tuple[Any, ...] | None) -> str:
    return "any" if dims is None else "(" + ", ".join(str(size) for size in dims) + ")"


def _settings(settings: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
