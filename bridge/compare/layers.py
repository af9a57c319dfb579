"""Layer by layer: intermediate tensors of two or three graphs, matched by where they came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from bridge.compare.figures import Array, Figures, figures_of
from bridge.compare.sides import Key, OnnxSide, TorchSide, leaving
from bridge.frontend.provenance import Origin

BATCH_BYTES = 256 << 20
_JUMP = 10.0


@dataclass(frozen=True)
class LayerRow:
    """One operator of the user's module and what became of its result.

    Attributes:
        order: position in the order of execution.
        origin: operator, module path and type, source line.
        nodes: the ONNX nodes that stand for it.
        rules: rewrite rules that made them.
        figures: how far its result in the last graph is from the reference.
        exported: the same of the graph before rewriting, where that was run.
        arriving: the largest relative error of the results that it reads.
        guilty: whether the error begins here: above the noise, and ten times what arrives.
    """

    order: int
    origin: Origin
    nodes: tuple[str, ...]
    rules: tuple[str, ...]
    shape: tuple[int, ...]
    figures: Figures
    exported: Figures | None
    arriving: float
    guilty: bool

    @property
    def growth(self) -> float:
        """The error over what arrives."""
        return self.figures.relative / self.arriving if self.arriving else math.inf if self.figures.relative else 1.0


@dataclass
class Comparable:
    """What is run, and how to speak of it.

    Attributes:
        noise: the relative error below which two right results may lie apart.
        known: full names of rewrite rules by their short names.
    """

    reference: TorchSide | OnnxSide
    last: OnnxSide
    exported: OnnxSide | None
    origin_of: Callable[[Key], Origin]
    noise: float
    known: Mapping[str, str] = field(default_factory=dict)
    size: Callable[[str], int] = lambda name: 0


@dataclass(frozen=True)
class _Measured:
    """One result in the reference, and its figures in the last and in the exported graph."""

    shape: tuple[int, ...]
    figures: list[Figures | None]


def compare_layers(what: Comparable) -> list[LayerRow]:
    """The rows, in the order of the reference's nodes; memory is that of one batch of tensors."""
    wanted = leaving(what.reference.steps, what.reference.results)
    stages = [(side, leaving(side.steps, side.results)) for side in (what.last, what.exported) if side is not None]
    pairs = {key: _paired(names, [found.get(key, []) for _, found in stages]) for key, names in wanted.items()}
    measured: dict[Key, _Measured] = {}
    for batch in _batches({key: found for key, found in pairs.items() if found}, what.size):
        reference = what.reference.values([name for name, _ in batch.values()])
        columns = [
            side.values([other for _, others in batch.values() if (other := others[i])])
            for i, (side, _) in enumerate(stages)
        ]
        for key, (name, others) in batch.items():
            if name in reference:
                found = [column.get(other or "") for column, other in zip(columns, others, strict=True)]
                measured[key] = _Measured(reference[name].shape, [_measured(reference[name], array) for array in found])
    return _rows(what, measured)


def _paired(names: list[str], others: list[list[str]]) -> tuple[str, list[str | None]] | None:
    """The last result of a node, in the reference and in each graph that has it."""
    if len(names) != 1 or not others[0]:
        return None
    return names[0], [found[-1] if found else None for found in others]


def _batches(
    pairs: Mapping[Key, tuple[str, list[str | None]]], size: Callable[[str], int]
) -> Iterator[dict[Key, tuple[str, list[str | None]]]]:
    batch: dict[Key, tuple[str, list[str | None]]] = {}
    total = 0
    for key, found in pairs.items():
        if batch and total + size(found[0]) > BATCH_BYTES:
            yield batch
            batch, total = {}, 0
        batch[key] = found
        total += size(found[0])
    if batch:
        yield batch


def _measured(reference: Array, other: Array | None) -> Figures | None:
    """None where a graph has another tensor in this place: a transposed or a fused one."""
    if other is None or other.shape != reference.shape or (other.dtype.kind == "b") != (reference.dtype.kind == "b"):
        return None
    return figures_of(reference, other)


def _rows(what: Comparable, measured: Mapping[Key, _Measured]) -> list[LayerRow]:
    nodes: dict[Key, list[str]] = {}
    for step in what.last.steps:
        if step.key is not None:
            nodes.setdefault(step.key, []).append(step.name)
    errors: dict[str, float] = {}
    rows: list[LayerRow] = []
    for step in what.reference.steps:
        arriving = max((errors.get(name, 0.0) for name in step.inputs), default=0.0)
        found = measured.get(step.key) if step.key is not None else None
        figures = found.figures[0] if found else None
        errors.update(dict.fromkeys(step.outputs, figures.relative if figures else arriving))
        if found and figures and step.key is not None:
            rows.append(_row(what, step.key, len(rows), nodes.get(step.key, []), found, arriving))
    return rows


def _row(what: Comparable, key: Key, order: int, nodes: list[str], found: _Measured, arriving: float) -> LayerRow:
    figures, *others = found.figures
    assert figures is not None
    short = dict.fromkeys(rule for node in nodes for rule in rules_in(node, what.known))
    guilty = figures.relative > what.noise and not figures.relative <= _JUMP * arriving
    rules = tuple(what.known.get(name, name) for name in short)
    exported = others[0] if others else None
    return LayerRow(order, what.origin_of(key), tuple(nodes), rules, found.shape, figures, exported, arriving, guilty)


def rules_in(name: str, known: Mapping[str, str]) -> list[str]:
    """The short names of the rules that a node's name tells of: ``path/aten::gelu#7/Gelu/gelu-to-erf/Mul``.

    Names that `bridge` did not give may hold slashes of their own: of theirs, those of known rules.
    """
    _, mark, after = name.partition("#")
    return after.split("/")[2:-1:2] if mark else [part for part in name.split("/")[1:-1] if part in known]
