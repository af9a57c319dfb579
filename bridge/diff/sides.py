"""One side of a diff: what a compiled module, an engine or an ONNX model is made of, in words that can be compared."""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch

from bridge.backends.element_types import element_types
from bridge.compare.inputs import InputSet
from bridge.compare.runners import Contender, evaluating
from bridge.errors import BridgeError, SpecError, told_by_torch
from bridge.frontend.provenance import METADATA, Provenance, identity_of
from bridge.runtime.bindings import TITLES
from bridge.runtime.dtypes import NAMES_OF_ONNX_NUMBERS
from bridge.runtime.inspection import EngineInspection, inspect
from bridge.runtime.module import embed_engine_in_new_module
from bridge.runtime.plan import Plan
from bridge.runtime.record import EngineRecord, OriginRecord, Record, records_of
from bridge.runtime.timing import Recorder
from rewrites.tidying import all_nodes

_ORIGIN = re.compile(r"(?P<path>[\w.]+)/(?P<operator>\w+::\w+)#(?P<identity>\d+)")
_TITLES = {**TITLES, "onnxruntime": "ONNX Runtime"}
INTERFACES = "Inputs, outputs, profiles"
_WARM_UP = 3  # calls: TorchScript looks at the first ones before it compiles
_RECORD = 10**7
"""More than a module has nodes: identities of a second compiled module inside one start here."""


@dataclass(frozen=True)
class Layer:
    """One layer of an engine, or one node of the ONNX graph that it was made of.

    Attributes:
        engine: which engine of the side, from 0.
        name: the backend's name for it.
        kind: the backend's word for what it does.
        precision: what its first result is held in: ``"float16"``; empty where the backend does not tell.
        origins: identities of the TorchScript nodes that it computes.
        ms: the median time of a run, in milliseconds; None where it was not measured.
    """

    engine: int
    name: str
    kind: str
    precision: str = ""
    origins: tuple[int, ...] = ()
    ms: float | None = None


@dataclass
class Side:
    """What one side is made of.

    Attributes:
        label: what it is called in reports.
        engines: how many engines it has.
        facts: section -> name -> value: what is compared word by word.
        sizes: name -> bytes.
        layers: what the engines tell; None where they cannot be opened here.
        nodes: nodes of the ONNX graphs that the engines were made of; None where there is no record of them.
        origins: where each node came from, by identity.
        in_torch: why nodes stayed in PyTorch, by identity.
        ms: the median time of a call, in milliseconds; None where it was not measured.
    """

    label: str
    engines: int
    facts: dict[str, dict[str, str]]
    sizes: dict[str, int] = field(default_factory=dict)
    layers: list[Layer] | None = None
    nodes: list[Layer] | None = None
    origins: dict[int, OriginRecord] = field(default_factory=dict)
    in_torch: dict[int, str] = field(default_factory=dict)
    ms: float | None = None


def opened(thing: Any, role: str, inputs: InputSet | None, runs: int, backend: str) -> Side:
    """The side that a user's argument comes to.

    Args:
        thing: a compiled module, a plan, a serialized engine's bytes, an ONNX model, or the path of one of them.
        role: what it is called when it is none of these.
        inputs: what it is called with to be timed; None: it is not.
        runs: calls to time.
        backend: what a serialized engine is for.

    Raises:
        SpecError: it is none of these.
        BridgeError: it cannot be opened, or does not run on the inputs.
    """
    if isinstance(thing, onnx.ModelProto):
        return _of_model(thing, f"{role}: ONNX {thing.graph.name}".strip())
    if isinstance(thing, bytes | bytearray | memoryview):
        thing = Plan.from_bytes(thing) if Plan.is_plan(thing) else bytes(thing)
    if isinstance(thing, str | Path) and Path(thing).suffix == ".onnx":
        model = Contender(thing, role).model
        assert model is not None
        return _of_model(model, f"{role}: {Path(thing).name}")
    module, label = _module(thing, role, backend)
    side = _of_module(module, f"{role}: {label}")
    if inputs is not None:
        _time(side, module, inputs, runs)
    return side


def _module(thing: Any, role: str, backend: str) -> tuple[torch.nn.Module, str]:
    if isinstance(thing, torch.nn.Module):
        return thing, str(getattr(thing, "original_name", type(thing).__name__))
    if isinstance(thing, Plan | bytes):
        return embed_engine_in_new_module(thing, backend=backend), "engine"
    if not isinstance(thing, str | Path):
        raise SpecError(
            f"{role}: a {type(thing).__name__} is nothing that can be compared",
            hint="give a compiled module, a plan, an engine's bytes, an ONNX model, or the path of one of them",
        )
    path = Path(thing)
    if path.suffix in (".engine", ".plan", ".trt") and path.is_file():
        return _module(path.read_bytes(), role, backend)[0], path.name
    module = Contender(path, role).module
    assert module is not None
    return module, path.name


def _of_module(module: torch.nn.Module, label: str) -> Side:
    engines, records = inspect(module).engines, records_of(module)
    side = Side(label, len(engines), _facts(engines, records))
    side.sizes = {"plans": sum(engine.size for engine in engines)}
    memory = [engine.device_memory for engine in engines if engine.device_memory is not None]
    if memory:
        side.sizes["activations on the device"] = sum(memory)
    made: dict[str, tuple[int, EngineRecord]] = {}
    for number, record in enumerate(records):
        start = number * _RECORD
        side.origins |= {start + identity: origin for identity, origin in record.origins.items()}
        side.in_torch |= {start + identity: reason for identity, reason in record.in_torch.items()}
        made |= {one.digest: (start, one) for one in record.engines}
    starts = [made[engine.digest][0] if engine.digest in made else 0 for engine in engines]
    if engines and all(engine.layers is not None for engine in engines):
        known = {name: dtype for _, one in made.values() for name, _, dtype in one.onnx_nodes}
        side.layers = [
            _layer(i, {"precision": known.get(layer["name"], ""), **layer}, starts[i])
            for i, engine in enumerate(engines)
            for layer in engine.layers or ()
        ]
    if engines and all(engine.digest in made for engine in engines):
        side.nodes = [
            Layer(i, name, kind, dtype, _identities(name, starts[i]))
            for i, engine in enumerate(engines)
            for name, kind, dtype in made[engine.digest][1].onnx_nodes
        ]
    if not side.origins:
        side.origins = _origins_in(_told(layer) for engine in engines for layer in engine.layers or ())
    return side


def _facts(engines: Sequence[EngineInspection], records: Sequence[Record]) -> dict[str, dict[str, str]]:
    spec = {name: value for record in records for name, value in record.spec.items()}
    versions = {name: version for record in records for name, version in record.versions.items()}
    versions |= {_TITLES.get(e.header.backend, e.header.backend): e.header.version for e in engines}
    versions |= {"parser": ", ".join(dict.fromkeys(record.checked_by for record in records))} if records else {}
    rules: Counter[str] = Counter()
    exported: Counter[str] = Counter()
    rewritten: Counter[str] = Counter()
    for record in records:
        for engine in record.engines:
            rules.update(engine.rules)
            exported.update(engine.exported)
            rewritten.update(kind for _, kind, _ in engine.onnx_nodes)
    return {
        "Settings": spec,
        "Versions": versions,
        "Engines": {"count": str(len(engines)), "calls": str(sum(engine.calls for engine in engines))},
        INTERFACES: _interfaces(engines),
        "Build": _builds(engines),
        "Rewrite rules": _counts(rules),
        "ONNX nodes as exported": _counts(exported),
        "ONNX nodes as built": _counts(rewritten),
    }


def _counts(counter: Mapping[str, int]) -> dict[str, str]:
    return {name: str(count) for name, count in sorted(counter.items())}


def _interfaces(engines: Sequence[EngineInspection]) -> dict[str, str]:
    told: dict[str, str] = {}
    for index, engine in enumerate(engines):
        start = f"engine {index} " if len(engines) > 1 else ""
        for kind, bindings in (("input", engine.header.inputs), ("output", engine.header.outputs)):
            told.update({f"{start}{kind} {b.name}": f"{b.dtype} {_shape(b.shape)}" for b in bindings})
        for number, profile in enumerate(engine.header.profiles):
            told.update({f"{start}profile {number} {name}": " / ".join(map(_shape, s)) for name, s in profile.items()})
    return told


def _builds(engines: Sequence[EngineInspection]) -> dict[str, str]:
    told: dict[str, str] = {}
    for index, engine in enumerate(engines):
        start = f"engine {index} " if len(engines) > 1 else ""
        device = engine.header.device
        told |= {f"{start}built for": f"{device['name']} ({device['capability']})"} if device else {}
        told |= {
            f"{start}{name}": str(value) for name, value in engine.header.settings.items() if name != "timing_cache"
        }
        told |= {f"{start}note {number}": note for number, note in enumerate(engine.header.notes)}
    return told


def _shape(shape: Sequence[int | str] | None) -> str:
    return "of any rank" if shape is None else "x".join(map(str, shape)) or "scalar"


def _layer(engine: int, told: Mapping[str, Any], start: int) -> Layer:
    names = _identities(_told(told), start)
    return Layer(engine, told["name"], told.get("type", ""), told.get("precision", ""), names)


def _told(layer: Mapping[str, Any]) -> str:
    """A layer's name, and the names of the ONNX nodes that it was made from, where its engine keeps them."""
    return f"{layer['name']} {layer.get('from', '')}"


def _identities(text: str, start: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(start + int(found) for found in re.findall(r"#(\d+)", text)))


def _of_model(model: onnx.ModelProto, label: str) -> Side:
    """An ONNX model by itself; where its nodes came from is known if `bridge.to_onnx` made it."""
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), None)
    table = Provenance.from_json(text).origins if text else []
    types = element_types(model)
    nodes = []
    for node in all_nodes(model.graph):
        dtype = NAMES_OF_ONNX_NUMBERS.get(types.get(node.output[0], 0), "") if node.output else ""
        identity = identity_of(node.name)
        nodes.append(Layer(0, node.name, node.op_type, dtype, () if identity is None else (identity,)))
    opsets = {f"opset {item.domain or 'ai.onnx'}": str(item.version) for item in model.opset_import}
    told = {f"input {v.name}": _value(v) for v in model.graph.input}
    told |= {f"output {v.name}": _value(v) for v in model.graph.output}
    counts = Counter(node.kind for node in nodes)
    facts = {"Versions": opsets, INTERFACES: told, "ONNX nodes as built": _counts(counts)}
    weights = sum(len(item.raw_data) or onnx.numpy_helper.to_array(item).nbytes for item in model.graph.initializer)
    origins = {i: OriginRecord(o.operator, o.module_path, o.module_type, o.source) for i, o in enumerate(table)}
    return Side(label, 0, facts, {"weights": weights}, None, nodes, origins)


def _value(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    dims = [dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in kind.shape.dim]
    return f"{NAMES_OF_ONNX_NUMBERS.get(kind.elem_type, '?')} {_shape(dims)}"


def _origins_in(texts: Iterable[str]) -> dict[int, OriginRecord]:
    """What the names alone tell of where layers came from, for engines without a record."""
    found: dict[int, OriginRecord] = {}
    for text in texts:
        for match in _ORIGIN.finditer(text):
            path = "" if match["path"] == "main" else match["path"]
            found[int(match["identity"])] = OriginRecord(match["operator"], path)
    return found


def _time(side: Side, module: torch.nn.Module, inputs: InputSet, runs: int) -> None:
    """Measures whole calls, then calls in which every layer is timed."""
    home = next((t.device for t in (*module.parameters(), *module.buffers())), None)
    kinds = {engine.header.backend for engine in inspect(module, layers=False).engines}
    device = torch.device("cuda") if kinds & {"tensorrt", "tensorrt_rtx"} else home or torch.device("cpu")
    args, kwargs = inputs.filled([tensor.to(device) for tensor in inputs.leaves([]).values()])
    with torch.no_grad(), evaluating(module):
        try:
            for _ in range(_WARM_UP):
                _once(module, args, kwargs)
        except (RuntimeError, TypeError) as error:
            told = told_by_torch(error).partition(" Declaration: ")[0]
            raise BridgeError(f"{side.label} does not run on these inputs", why=told) from error
        side.ms = statistics.median(_once(module, args, kwargs) for _ in range(runs))
        with Recorder() as recorder:
            for recorder.run in range(runs):
                module(*args, **kwargs)
    _add_times(side, recorder)


def _once(module: torch.nn.Module, args: Any, kwargs: Any) -> float:
    start = time.perf_counter()
    module(*args, **kwargs)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def _add_times(side: Side, recorder: Recorder) -> None:
    """The median over runs of what a layer took in one run, all calls of its engine together."""
    times: dict[str, dict[int, float]] = {}
    for span in recorder.close():
        for layer in span.layers or ():
            runs = times.setdefault(layer.name, {})
            runs[span.run] = runs.get(span.run, 0.0) + layer.ms
    medians = {name: statistics.median(runs.values()) for name, runs in times.items()}

    def timed(layers: list[Layer] | None) -> list[Layer] | None:
        return layers and [replace(layer, ms=medians.get(layer.name)) for layer in layers]

    side.layers, side.nodes = timed(side.layers), timed(side.nodes)
