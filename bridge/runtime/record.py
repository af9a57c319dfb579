"""How a compiled module came to be: what its engines are made of, what stayed in PyTorch, and under which settings.

The record is a string attribute of the module, so that it goes where the module goes: through `torch.jit.save`, into a
C++ process, into the modules that hold this one. Nothing that runs reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from bridge import torch_private as tp

ATTRIBUTE = "bridge_record"
VERSION = 1


@dataclass(frozen=True)
class OriginRecord:
    """Where a node came from: operator, module path and type, ``file.py:12 in forward``."""

    operator: str
    module_path: str = ""
    module_type: str = ""
    source: str = ""

    def __str__(self) -> str:
        inside = f" in {self.module_path}" if self.module_path else ""
        return f"{self.operator}{inside}" + (f" ({self.source})" if self.source else "")


@dataclass(frozen=True)
class EngineRecord:
    """One engine.

    Attributes:
        digest: of its plan.
        nodes: identities of the TorchScript nodes in it, in order.
        block: where it is called: ``"graph"``, or the If or Loop whose body it is in.
        onnx_nodes: (name, operator, element type of the first result) of every ONNX node that the backend got.
        exported: number of ONNX nodes of each operator before rewriting.
        rules: how often each rewrite rule fired.
    """

    digest: str
    nodes: tuple[int, ...]
    block: str
    onnx_nodes: tuple[tuple[str, str, str], ...]
    exported: Mapping[str, int]
    rules: Mapping[str, int]


@dataclass(frozen=True)
class Record:
    """A compilation.

    Attributes:
        spec: settings that are not at their default, as text, and the inputs.
        checked_by: whose parser decided what goes into engines.
        origins: where each node came from, by identity: those in engines and those in PyTorch.
        engines: in the order in which they are called in the graph.
        in_torch: why a node stayed in PyTorch, by identity.
    """

    method: str
    spec: Mapping[str, str]
    checked_by: str
    origins: Mapping[int, OriginRecord]
    engines: tuple[EngineRecord, ...]
    in_torch: Mapping[int, str]
    versions: Mapping[str, str] = field(default_factory=dict)

    def engine(self, digest: str) -> EngineRecord | None:
        """The engine of this plan."""
        return next((engine for engine in self.engines if engine.digest == digest), None)

    def to_json(self) -> str:
        """The record as the module keeps it."""
        return json.dumps({"version": VERSION, **asdict(self)}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Record | None:
        """The record in this text; None when it is of another version."""
        data: dict[str, Any] = json.loads(text)
        if data.pop("version", None) != VERSION:
            return None
        data["origins"] = {int(key): OriginRecord(**value) for key, value in data["origins"].items()}
        data["in_torch"] = {int(key): reason for key, reason in data["in_torch"].items()}
        data["engines"] = tuple(_engine(item) for item in data["engines"])
        return Record(**data)


def _engine(data: dict[str, Any]) -> EngineRecord:
    nodes = tuple((name, kind, dtype) for name, kind, dtype in data["onnx_nodes"])
    return EngineRecord(**{**data, "nodes": tuple(data["nodes"]), "onnx_nodes": nodes})


def remember(module: torch.jit.ScriptModule, record: Record) -> None:
    """Gives a module its record."""
    tp.set_text(module, ATTRIBUTE, record.to_json())


def records_of(module: torch.nn.Module) -> list[Record]:
    """The records of a module and of those inside it; modules that were compiled elsewhere have none."""
    texts = [getattr(part, ATTRIBUTE, None) for part in module.modules() if isinstance(part, torch.jit.ScriptModule)]
    records = [Record.from_json(text) for text in dict.fromkeys(texts) if isinstance(text, str)]
    return [record for record in records if record is not None]


def replace_digests(module: torch.nn.Module, digests: Mapping[str, str]) -> None:
    """Lets the records of a module speak of other plans, new digests by the old ones."""
    for part in module.modules():
        text = getattr(part, ATTRIBUTE, None) if isinstance(part, torch.jit.ScriptModule) else None
        record = Record.from_json(text) if isinstance(text, str) else None
        if record is not None and isinstance(part, torch.jit.ScriptModule):
            engines = tuple(replace(e, digest=digests.get(e.digest, e.digest)) for e in record.engines)
            remember(part, replace(record, engines=engines))
