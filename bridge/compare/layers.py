"""Layer by layer: intermediate tensors of several graphs, matched by where they came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from bridge.compare.arrays import Array
from bridge.compare.figures import Figures, figures_of
from bridge.compare.histograms import Histogram, Worst
from bridge.compare.steps import Key, Step, leaving
from bridge.frontend.provenance import Origin

if TYPE_CHECKING:
    from bridge.compare.tracing import Traced

NOISE = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""Up to which relative error two right results may lie apart, by the precision that they are computed in."""
TF32_NOISE = 2e-3
BATCH_BYTES = 256 << 20
_JUMP = 10.0
T = TypeVar("T")
_READS = 8


class Side(Protocol):
    """A graph that can be run for chosen intermediate values."""

    label: str
    results: list[str]

    @property
    def deep(self) -> list[Step]:
        """Its nodes in order, those of bodies before the node that has them."""
        ...

    def values(self, names: Sequence[str]) -> dict[str, Array]:
        """These values of one run; those that cannot be had are left out."""
        ...

    def exact(self, key: Key) -> Collection[str]:
        """The reference's values that are given to this graph where it computes ``key``: no error arrives with them."""
        ...


@dataclass(frozen=True)
class Stage:
    """One graph on the way from the module to the engine.

    Attributes:
        noise: the relative error up to which two right results may lie apart.
        judged: whether it is asked where its errors begin; else it is there to be looked at beside the others.
    """

    name: str
    side: Side
    noise: float
    judged: bool = True


@dataclass(frozen=True)
class LayerFigures:
    """One stage's result of an operator, beside the reference's.

    Attributes:
        arriving: the largest relative error, in this stage, of the results that the operator reads.
        guilty: whether the error begins here: above the noise, and ten times what arrives.
    """

    figures: Figures
    arriving: float
    guilty: bool

    @property
    def growth(self) -> float:
        """The error over what arrives."""
        return self.figures.relative / self.arriving if self.arriving else math.inf if self.figures.relative else 1.0


@dataclass(frozen=True)
class LayerRow:
    """One operator of the user's module and what became of its result.

    Attributes:
        order: position in the order of execution.
        key: what it is matched by: the identity of the TorchScript node, or the name of a tensor.
        origin: operator, module path and type, source line.
        nodes: the ONNX nodes that stand for it in the last stage.
        rules: rewrite rules that made them.
        stages: by the stage's name, in their order; a stage that has no such result is left out.
        judged: the names of the stages that are asked where errors begin.
        reads: the rows, by their order, whose results it reads, also through operators that have no row.
    """

    order: int
    key: Key
    origin: Origin
    nodes: tuple[str, ...]
    rules: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    stages: dict[str, LayerFigures]
    judged: tuple[str, ...]
    reads: tuple[int, ...] = ()

    @property
    def last(self) -> LayerFigures:
        """That of the last judged stage which has the result."""
        return self.stages[next(name for name in reversed(self.judged) if name in self.stages)]

    @property
    def figures(self) -> Figures:
        """How far the last stage is from the reference."""
        return self.last.figures

    @property
    def arriving(self) -> float:
        """The largest relative error, in the last stage, of what the operator reads."""
        return self.last.arriving

    @property
    def growth(self) -> float:
        """The last stage's error over what arrives there."""
        return self.last.growth

    @property
    def exported(self) -> Figures | None:
        """The same of the graph before rewriting, where that was run."""
        return self.stages["exported"].figures if "exported" in self.stages else None

    @property
    def guilty_stage(self) -> str | None:
        """The first stage in which an error begins here."""
        return next((name for name in self.judged if name in self.stages and self.stages[name].guilty), None)

    @property
    def guilty(self) -> bool:
        """Whether in some stage an error begins here."""
        return self.guilty_stage is not None


@dataclass
class Comparable:
    """What is run, and how to speak of it.

    Attributes:
        stages: the graphs, from the module to the engine; at least one is judged.
        known: full names of rewrite rules by their short names.
        size: bytes of one of the reference's values.
        batch: most bytes of values that are kept at a time.
        notes: what could not be compared, and why.
        traced: the program that the graphs were made from; None where they were given.
    """

    reference: Side
    stages: list[Stage]
    origin_of: Callable[[Key], Origin]
    known: Mapping[str, str] = field(default_factory=dict)
    size: Callable[[str], int] = lambda name: 0
    batch: int = BATCH_BYTES
    notes: list[str] = field(default_factory=list)
    traced: Traced | None = None

    @property
    def noise(self) -> float:
        """That of the last stage that is judged."""
        return next(stage.noise for stage in reversed(self.stages) if stage.judged)


Pair = tuple[str, list[str | None]]
"""A value of the reference, and the one that stands for it in each stage."""


@dataclass(frozen=True)
class _Measured:
    """One result in the reference, and its figures in each stage."""

    shape: tuple[int, ...]
    dtype: str
    figures: list[Figures | None]


def paired(what: Comparable) -> dict[Key, Pair]:
    """The results that the reference and at least one judged stage have, in the order of the reference."""
    wanted = leaving(what.reference.deep, what.reference.results)
    found = [leaving(stage.side.deep, stage.side.results) for stage in what.stages]
    pairs: dict[Key, Pair] = {}
    for key, names in wanted.items():
        others = [left[key][-1] if left.get(key) else None for left in found]
        if len(names) == 1 and any(other and s.judged for other, s in zip(others, what.stages, strict=True)):
            pairs[key] = names[0], others
    return pairs


def compare_layers(what: Comparable) -> tuple[list[LayerRow], list[Histogram]]:
    """The rows, in the order of the reference's nodes, and histograms of the worst; memory is that of one batch."""
    measured: dict[Key, _Measured] = {}
    worst, last = Worst(), [stage for stage in what.stages if stage.judged][-1]
    for pairs in batches(paired(what).items(), lambda pair: what.size(pair[1][0]), what.batch):
        batch = dict(pairs)
        reference = what.reference.values([name for name, _ in batch.values()])
        for index, stage in enumerate(what.stages):
            seen = [others[index] for name, others in batch.values() if name in reference]
            found = stage.side.values([other for other in seen if other is not None])
            for key, (name, others) in batch.items():
                if name in reference:
                    expected, array = reference[name], found.get(others[index] or "")
                    row = measured.setdefault(key, _Measured(expected.shape, str(expected.dtype), []))
                    row.figures.append(_measured(expected, array))
                    if stage is last and array is not None and (figures := row.figures[-1]) is not None:
                        worst.offer(key, figures.relative, stage.name, expected, array)
    rows = _rows(what, measured)
    return rows, worst.histograms({row.key: row.order for row in rows})


def batches(items: Iterable[T], size: Callable[[T], int], most: int = BATCH_BYTES) -> Iterator[list[T]]:
    """The items in order, as many at a time as have values of so many bytes together; at least one."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and total + size(item) > most:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


def _measured(reference: Array, other: Array | None) -> Figures | None:
    """None where a graph has another tensor in this place: a transposed or a fused one."""
    if other is None or other.shape != reference.shape or (other.dtype.kind == "b") != (reference.dtype.kind == "b"):
        return None
    return figures_of(reference, other)


def _rows(what: Comparable, measured: Mapping[Key, _Measured]) -> list[LayerRow]:
    nodes: dict[Key, list[str]] = {}
    judged_sides = [stage for stage in reversed(what.stages) if stage.judged]
    last = next((stage for stage in judged_sides if stage.name != "compiled"), judged_sides[0])
    for step in last.side.deep:
        if step.key is not None:
            nodes.setdefault(step.key, []).append(step.name)
    errors: list[dict[str, float]] = [{} for _ in what.stages]
    judged = tuple(stage.name for stage in what.stages if stage.judged)
    rows: list[LayerRow] = []
    sources: dict[str, tuple[int, ...]] = {}
    for step in what.reference.deep:
        reads = tuple(dict.fromkeys(order for name in step.inputs for order in sources.get(name, ())))
        found = measured.get(step.key) if step.key is not None else None
        figures = [_of_stage(stage, step, found.figures[i] if found else None, errors[i])
                   for i, stage in enumerate(what.stages)]  # fmt: skip
        stages = {stage.name: one for stage, one in zip(what.stages, figures, strict=True) if one is not None}
        has_row = found is not None and any(name in stages for name in judged)
        sources.update(dict.fromkeys(step.outputs, (len(rows),) if has_row else reads[:_READS]))
        if found and step.key is not None and has_row:
            place = (len(rows), step.key, reads)
            rows.append(_row(what, place, tuple(nodes.get(step.key, [])), found, stages, judged))
    return rows


def _row(
    what: Comparable,
    place: tuple[int, Key, tuple[int, ...]],
    nodes: tuple[str, ...],
    found: _Measured,
    stages: dict[str, LayerFigures],
    judged: tuple[str, ...],
) -> LayerRow:
    order, key, reads = place
    rules = dict.fromkeys(what.known.get(name, name) for node in nodes for name in rules_in(node, what.known))
    origin = what.origin_of(key)
    return LayerRow(order, key, origin, nodes, tuple(rules), found.shape, found.dtype, stages, judged, reads)


def _of_stage(stage: Stage, step: Step, figures: Figures | None, errors: dict[str, float]) -> LayerFigures | None:
    """A stage's figures at one step; notes in ``errors`` what goes on from here."""
    exact = stage.side.exact(step.key) if step.key is not None else ()
    arriving = max((errors.get(name, 0.0) for name in step.inputs if name not in exact), default=0.0)
    errors.update(dict.fromkeys(step.outputs, figures.relative if figures else arriving))
    if figures is None:
        return None
    guilty = stage.judged and figures.relative > stage.noise and not figures.relative <= _JUMP * arriving
    return LayerFigures(figures, arriving, guilty)


def rules_in(name: str, known: Mapping[str, str]) -> list[str]:
    """The short names of the rules that a node's name tells of: ``path/aten::gelu#7/Gelu/gelu-to-erf/Mul``.

    Names that `bridge` did not give may hold slashes of their own: of theirs, those of known rules.
    """
    _, mark, after = name.rpartition("+")[2].partition("#")
    return after.split("/")[2:-1:2] if mark else [part for part in name.split("/")[1:-1] if part in known]
