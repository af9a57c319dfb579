"""What runs beside PyTorch: the ONNX graph and the engine of each segment, fed with PyTorch's own values."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from bridge import backends
from bridge import torch_private as tp
from bridge.compare.arrays import Array, as_numpy
from bridge.compare.layers import BATCH_BYTES
from bridge.compare.sides import OnnxSide
from bridge.compare.steps import leaving
from bridge.compile import Partition, divide_and_build
from bridge.errors import SpecError
from bridge.frontend.load import Loaded
from bridge.frontend.program import Program
from bridge.frontend.provenance import TAG
from bridge.interface import detached
from bridge.partition.segments import Segment
from bridge.runtime.calls import engine_calls
from bridge.runtime.signature import Signature
from bridge.support import Planner
from bridge.translate import Translation


@dataclass(frozen=True)
class Engine:
    """An engine's plan, and the call's signature as text."""

    plan: torch.Tensor
    signature: str

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The engine's outputs, in the order of its signature."""
        found: list[torch.Tensor] = torch.ops.bridge.execute_engine(inputs, self.plan, self.signature)
        return found


@dataclass
class Beside:
    """What a program was divided into.

    Attributes:
        partition: the segments, each translated; None where PyTorch runs alone.
        graphs: the ONNX graph of each segment, by its ``id``.
        engines: its engine, likewise; empty where no engines run.
    """

    partition: Partition | None = None
    graphs: dict[int, SegmentGraph] = field(default_factory=dict)
    engines: dict[int, Engine] = field(default_factory=dict)


def alone() -> Beside:
    """PyTorch alone."""
    return Beside()


def with_onnx(loaded: Loaded) -> Beside:
    """The ONNX graphs, in ONNX Runtime; nothing is built."""
    partition, _ = divide_and_build(_open(loaded), Planner(loaded.spec.backend))
    return _of(partition, {})


def with_engines(loaded: Loaded) -> Beside:
    """The ONNX graphs and the engines, which are built."""
    partition, calls = divide_and_build(_open(loaded), backends.select(loaded.spec.backend))
    return _of(partition, {key: Engine(call.plan, call.signature) for key, call in calls.items()})


def _open(loaded: Loaded) -> Loaded:
    """The same, compiled with branches and loops outside engines, as for CUDA graphs: what is in them can be seen."""
    spec = copy.copy(loaded.spec)
    spec.cuda_graphs = True
    return replace(loaded, spec=spec)


def with_compiled(loaded: Loaded, compiled: torch.nn.Module) -> Beside:
    """The ONNX graphs, and the engines of a module that was compiled from this one.

    Of branches and loops that are in an engine as a whole, only the results are seen.

    Raises:
        SpecError: the module has other engines than this one with this spec comes to.
    """
    calls = engine_calls(compiled)
    partition, _ = divide_and_build(loaded, Planner(loaded.spec.backend))
    ours = [partition.translations[id(segment)] for segment in partition.segments]
    mine = [(sorted(item.input_names), sorted(item.output_names)) for item in ours]
    if sorted(mine) != sorted(_names(call.signature) for call in calls):
        raise SpecError(
            "beside: this module was not compiled from the one given with this spec",
            why=f"it has {len(calls)} engines, the module comes to {len(mine)}"
            if len(calls) != len(mine)
            else "its engines have other inputs or outputs",
            hint="give the spec that it was compiled with: bridge.debug(module, inputs, spec=spec, ...)",
        )
    left = [(_names(call.signature), Engine(call.plan, call.signature.to_json())) for call in calls]
    engines = {}
    for segment, names in zip(partition.segments, mine, strict=True):
        position = next(i for i, (found, _) in enumerate(left) if found == names)
        engines[id(segment)] = left.pop(position)[1]
    return _of(partition, engines)


def _names(signature: Signature) -> tuple[list[str], list[str]]:
    return sorted(item.name for item in signature.inputs), sorted(item.name for item in signature.outputs)


def _of(partition: Partition, engines: dict[int, Engine]) -> Beside:
    program = partition.translator.program
    graphs = {
        id(segment): SegmentGraph(program, segment, partition.translations[id(segment)], position)
        for position, segment in enumerate(partition.segments)
    }
    return Beside(partition, graphs, engines)


class SegmentGraph:
    """A segment's ONNX graph in ONNX Runtime; its results are kept for one batch of tensors at a time.

    Attributes:
        identities: of the nodes in the engine, those in bodies of its branches and loops too.
        nodes: names of the ONNX nodes that stand for each TorchScript node, by identity.
        results: which ONNX tensor stands for a value of PyTorch, by the value's name.
    """

    def __init__(self, program: Program, segment: Segment, translation: Translation, position: int) -> None:
        assert translation.function is not None
        self.segment, self.translation, self.position = segment, translation, position
        self.side = OnnxSide(f"the ONNX graph of engine {position}", *detached(translation))
        self.sources = [value.debugName() for value in translation.function.inputs]
        inside = [inner for node in segment.nodes for block in node.blocks() for inner in tp.walk(block)]
        self.identities = {node.i(TAG) for node in (*segment.nodes, *inside)}
        self.nodes: dict[int, list[str]] = {}
        for step in self.side.steps:
            if isinstance(step.key, int):
                self.nodes.setdefault(step.key, []).append(step.name)
        self.results = self._results()
        self._batches = _batched(list(self.results.values()), self._sizes(program))
        self._found: dict[str, Array] = {}

    def _results(self) -> dict[str, str]:
        left = leaving(self.side.steps, self.side.results)
        results: dict[str, str] = {}
        for node in self.segment.nodes:
            tensors = [value for value in node.outputs() if value.type().kind() == "TensorType"]
            names = left.get(node.i(TAG), [])
            if len(tensors) == 1 and names:
                results[tensors[0].debugName()] = names[-1]
        ends = zip(self.segment.outputs, self.translation.output_names, strict=True)
        return results | {value.debugName(): name for value, name in ends}

    def _sizes(self, program: Program) -> dict[str, int]:
        sizes = {}
        for value, name in self.results.items():
            seen = program.facts.seen.tensor(value)
            sizes[name] = math.prod(seen.shape) * seen.dtype.itemsize if seen is not None else 0
        return sizes

    def enter(self, values: Mapping[str, Any]) -> list[torch.Tensor]:
        """Takes PyTorch's values as the inputs of what follows; gives them back, in order."""
        given: list[torch.Tensor] = [values[name] for name in self.sources]
        arrays = [as_numpy(tensor).copy() for tensor in given]
        self.side.feeds = dict(zip(self.translation.input_names, arrays, strict=True))
        self._found = {}
        return given

    def found(self, value: str) -> Array | None:
        """What the ONNX graph has in the place of a value; None where nothing stands for it."""
        name = self.results.get(value)
        if name is None:
            return None
        if name not in self._found:
            batch = next(batch for batch in self._batches if name in batch)
            self._found = self.side.values(batch)
        return self._found.get(name)


def _batched(names: Sequence[str], sizes: Mapping[str, int]) -> list[list[str]]:
    batches: list[list[str]] = [[]]
    total = 0
    for name in dict.fromkeys(names):
        if batches[-1] and total + sizes[name] > BATCH_BYTES:
            batches.append([])
            total = 0
        batches[-1].append(name)
        total += sizes[name]
    return batches
