"""The record of a compilation, see :mod:`bridge.runtime.record`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bridge import torch_private as tp
from bridge.backends.element_types import element_types
from bridge.backends.weights import detach_weights
from bridge.frontend.provenance import TAG
from bridge.runtime.dtypes import NAMES_OF_ONNX_NUMBERS
from bridge.runtime.plan import Plan, made_with
from bridge.runtime.record import EngineRecord, OriginRecord, Record
from bridge.spec import CompileSpec
from rewrites.tidying import all_nodes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from bridge.compile import Partition
    from bridge.frontend.load import Loaded
    from bridge.frontend.program import Program
    from bridge.partition.segments import Segment
    from bridge.partition.stitch import Call
    from bridge.translate import Translation

_DERIVED = ", which the example did not run: dtypes and shapes are derived"
_LEFT_OUT = ("inputs", "kwarg_inputs", "progress", "argument_names", "cache_dir", "timing_cache")
"""Fields that say nothing about the result, or where the user keeps files."""


def record_of(loaded: Loaded, partition: Partition, calls: Mapping[int, Call]) -> Record:
    """What is worth keeping of a compilation; to be made before the graph is stitched, which destroys its nodes."""
    table = loaded.program.provenance
    bodies = bodies_of(loaded.program)
    engines = tuple(
        _engine(partition.translations[id(segment)], segment, calls[id(segment)], place_of(segment, bodies))
        for segment in partition.segments
    )
    kept = {i: reason for i, reason in partition.refused.items() if not table[i].operator.startswith("prim::")}
    named = {identity for engine in engines for identity in engine.nodes} | set(kept)
    origins = {identity: OriginRecord(**dataclasses.asdict(table[identity])) for identity in sorted(named)}
    checker = partition.translator.checker
    checked_by = f"{checker.name} {checker.version()}" if checker is not None else "the shipped table"
    return Record(loaded.program.method, settings_of(loaded.spec), checked_by, origins, engines, kept, made_with())


def _engine(translation: Translation, segment: Segment, call: Call, place: str) -> EngineRecord:
    assert translation.graph is not None and translation.rewriting is not None
    return EngineRecord(
        Plan.from_tensor(call.plan).digest,
        tuple(node.i(TAG) for node in segment.operators),
        place,
        tuple(_onnx_nodes(translation.graph)),
        translation.exported,
        translation.rewriting.counts,
    )


def _onnx_nodes(graph: gs.Graph) -> Iterator[tuple[str, str, str]]:
    model, _ = detach_weights(graph)
    types = element_types(model)
    for node in all_nodes(model.graph):
        kind = types.get(node.output[0], 0) if node.output else 0
        yield node.name, node.op_type, NAMES_OF_ONNX_NUMBERS.get(kind, "")


def bodies_of(program: Program) -> list[tuple[tp.Block, str]]:
    """Every body of an If or a Loop, with where that stands in the user's code, and whether the example ran it."""
    return [
        (block, f"a body of {program.provenance[node.i(TAG)]}{_DERIVED if _is_derived(block, program) else ''}")
        for node in tp.walk(program.graph)
        for block in tp.blocks_of(node)
    ]


def _is_derived(block: tp.Block, program: Program) -> bool:
    """Whether no run showed the body: what is known of its values follows from those before it."""
    seen = program.facts.seen
    names = [value.debugName() for node in block.nodes() for value in tp.outputs_of(node)]
    known = [name for name in names if seen.values.get(name)]
    return bool(known) and all(name in seen.derived for name in known)


def place_of(segment: Segment, bodies: list[tuple[tp.Block, str]]) -> str:
    """Where a segment is: ``"graph"``, or the If or Loop in one of whose bodies it is; and what it has of bodies."""
    own = segment.nodes[0].owningBlock()
    place = next((place for block, place in bodies if block == own), "graph")
    within = [block for node in segment.operators for block in tp.blocks_of(node)]
    derived = [told for block, told in bodies if told.endswith(_DERIVED) and any(block == inner for inner in within)]
    return ", with ".join([place, *derived])


def settings_of(spec: CompileSpec) -> dict[str, str]:
    """The settings that are not at their default, as text, and each input's dtype and shapes."""
    told: dict[str, str] = {}
    for item in dataclasses.fields(spec):
        value = getattr(spec, item.name)
        if item.name not in _LEFT_OUT and value != item.default and not _is_empty(value):
            told[item.name] = _text(value)
    for leaf in spec.flat_inputs():
        told[f"input {leaf.name}"] = _text(leaf.value) if not leaf.is_tensor else _input(leaf)
    return told


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, tuple | list | dict) and not value)


def _input(leaf: Any) -> str:
    dtype = str(leaf.dtype).removeprefix("torch.")
    shapes = [leaf.opt_shape] if not leaf.is_dynamic else [leaf.min_shape, leaf.opt_shape, leaf.max_shape]
    return f"{dtype} {' / '.join('x'.join(map(str, shape)) or 'scalar' for shape in shapes)}"


def _text(value: Any) -> str:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, Path):
        return value.name
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_text(item) for item in value)
    if callable(value) or hasattr(value, "rewrite"):
        return str(getattr(value, "name", None) or getattr(value, "__name__", type(value).__name__))
    return str(value)
