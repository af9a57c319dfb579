"""What compiling would make of a module, found out without building: which operators go where, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bridge import torch_private as tp
from bridge.backends.base import DEFAULTS, BuildSettings, Progress, Refusal
from bridge.backends.weights import bindings
from bridge.compile import Partition, divide_and_build
from bridge.errors import EngineError
from bridge.frontend.load import Loaded, load
from bridge.frontend.provenance import TAG
from bridge.partition.roles import Role
from bridge.partition.segments import Segment
from bridge.recording import bodies_of, place_of
from bridge.report.writing import write_text
from bridge.runtime.plan import Plan, PlanHeader, Profile
from bridge.runtime.session import Session
from bridge.spec import CompileSpec
from bridge.translate import Translation
from bridge.unsupported import UnsupportedOperator, unsupported

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_SILENT = {
    "prim::GetAttr",
    "prim::TupleConstruct",
    "prim::ListConstruct",
    "prim::DictConstruct",
    "prim::TupleUnpack",
    "prim::Constant",
}

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class SupportReport:
    """Whether one engine takes a whole method; `str` gives the report as text.

    Attributes:
        method: the method's name.
        unsupported: the operators that stay in PyTorch.
        operators: how many operators the method has.
    """

    method: str
    unsupported: tuple[UnsupportedOperator, ...]
    operators: int

    @property
    def supported(self) -> bool:
        """Whether every operator has a way into an engine."""
        return not self.unsupported

    def to_dict(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return {"supported": self.supported, **asdict(self)}

    def __str__(self) -> str:
        if self.supported:
            return f"{self.method}: all {self.operators} operators go into an engine"
        title = f"{self.method}: {len(self.unsupported)} of {self.operators} operators stay in PyTorch"
        return "\n".join([title, *map(str, self.unsupported)])


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that goes into or comes out of an engine: shapes in elements, names for dynamic dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class PlannedSegment:
    """One engine to be.

    Attributes:
        operators: each operator with its number of nodes.
        nodes: ``operator in module (line)`` of each node.
        inputs, outputs: the engine's tensors.
        ranges: smallest, usual and largest shape of each input.
        onnx_nodes: how many ONNX nodes the backend gets.
        rewrites: each rewrite rule that fired, with how often.
        weights: bytes of constants.
        block: where it runs: ``"graph"``, or the If or Loop whose body it is in.
    """

    operators: dict[str, int]
    nodes: tuple[str, ...]
    inputs: tuple[PlannedTensor, ...]
    outputs: tuple[PlannedTensor, ...]
    ranges: dict[str, Shapes]
    onnx_nodes: int
    rewrites: dict[str, int]
    weights: int
    block: str = "graph"


@dataclass(frozen=True)
class DryRun:
    """What `bridge.compile` would do; `str` gives the report as text.

    Attributes:
        title: the module's class.
        method: the method's name.
        segments: the engines to be, in the order in which they run.
        unsupported: the operators that stay in PyTorch, each with its schema, line, reason and what would change it.
        checked_by: whose parser decided.
        steps: the top of the method in order: ("engine", index of the segment) or ("PyTorch", operator).
    """

    title: str
    method: str
    segments: tuple[PlannedSegment, ...]
    unsupported: tuple[UnsupportedOperator, ...]
    checked_by: str
    steps: tuple[tuple[str, int | str], ...]

    @property
    def operators(self) -> int:
        """How many operators the method has."""
        return len(self.unsupported) + sum(sum(segment.operators.values()) for segment in self.segments)

    def to_dict(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Writes the report as one HTML page that needs nothing else."""
        from bridge.report.support import to_html

        write_text(path, to_html(self))

    def __str__(self) -> str:
        from bridge.report.support import as_text

        return as_text(self)


class Planner:
    """A backend that builds nothing, so that all that comes before a build is decided as in `compile`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def require(self) -> None:
        """It is always there."""

    def version(self) -> str:
        return "none"

    def refusals(self, graph: gs.Graph, then: BuildSettings | None = None) -> list[Refusal]:
        return []

    def build(
        self,
        graph: gs.Graph,
        profiles: Sequence[Profile] = (),
        settings: BuildSettings = DEFAULTS,
        progress: Progress | None = None,
    ) -> Plan:
        header = PlanHeader(self.name, self.version(), bindings(graph.inputs), bindings(graph.outputs), tuple(profiles))
        return Plan.pack(header, {})

    def load(self, plan: Plan, device: torch.device) -> Session:
        raise EngineError("a dry run builds no engine", hint="bridge.compile(module, spec)")


def dryrun(module: Any, spec: Any = None, *, method_name: str = "forward", **settings: Any) -> DryRun:
    """What `bridge.compile` would make of a module, without building.

    Args:
        module, spec, settings: as for `bridge.compile`; ``require_full_compilation`` is not enforced.
        method_name: the method to look at.

    Raises:
        SpecError: a setting or an input cannot be meant.
    """
    wanted = CompileSpec.of(spec, settings)
    wanted.require_full_compilation = False
    loaded = load(module, wanted, method_name)
    partition, calls = divide_and_build(loaded, Planner(wanted.backend))
    bodies = bodies_of(loaded.program)
    segments = tuple(
        _segment(partition, loaded, segment, _profile(calls[id(segment)].plan), place_of(segment, bodies))
        for segment in partition.segments
    )
    checker = partition.translator.checker
    return DryRun(
        getattr(module, "original_name", type(module).__name__),
        method_name,
        segments,
        tuple(unsupported(loaded.program, partition.refused)),
        f"{checker.name} {checker.version()}" if checker is not None else "the shipped table",
        _steps(partition),
    )


def check_method_op_support(
    module: Any, method_name: str = "forward", spec: Any = None, **settings: Any
) -> SupportReport:
    """Which operators of a method have no way into an engine, without building.

    Raises:
        SpecError: a setting or an input cannot be meant.
    """
    found = dryrun(module, spec, method_name=method_name, **settings)
    return SupportReport(method_name, found.unsupported, found.operators)


def _profile(plan: torch.Tensor) -> Profile:
    profiles = Plan.from_tensor(plan).header.profiles
    return profiles[0] if profiles else {}


def _segment(partition: Partition, loaded: Loaded, segment: Segment, profile: Profile, place: str) -> PlannedSegment:
    translation = partition.translations[id(segment)]
    graph, rewriting = translation.graph, translation.rewriting
    assert graph is not None and rewriting is not None
    identities = [node.i(TAG) for node in segment.operators]
    origins = [loaded.program.provenance[identity] for identity in identities]
    return PlannedSegment(
        dict(Counter(origin.operator for origin in origins).most_common()),
        tuple(map(str, origins)),
        tuple(PlannedTensor(b.name, b.dtype, b.shape) for b in bindings(graph.inputs)),
        tuple(PlannedTensor(b.name, b.dtype, b.shape) for b in bindings(graph.outputs)),
        {name: (tuple(low), tuple(usual), tuple(high)) for name, (low, usual, high) in profile.items()},
        len(graph.nodes),
        rewriting.counts,
        _weights(translation),
        place,
    )


def _weights(translation: Translation) -> int:
    assert translation.function is not None
    return sum(tensor.numel() * tensor.element_size() for tensor in translation.function.weights.values())


def _steps(partition: Partition) -> tuple[tuple[str, int | str], ...]:
    """The top of the method in the order in which it would run; what costs nothing is left out."""
    places = {id(segment): index for index, segment in enumerate(partition.segments)}
    top = next((c for c in partition.cuts if isinstance(c.block, tp.Graph)), None)
    steps: list[tuple[str, int | str]] = []
    for step in top.steps if top is not None else list(partition.translator.program.graph.nodes()):
        if isinstance(step, Segment):
            steps.append(("engine", places[id(step)]))
        elif partition.roles.of(step) is Role.TORCH and step.kind() not in _SILENT:
            steps.append(("PyTorch", step.kind()))
    return tuple(steps)
