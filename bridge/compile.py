"""The street: a module in, a module that runs engines out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bridge import backends
from bridge import torch_private as tp
from bridge.backends.base import Backend, BuildSettings
from bridge.building import Builder, Ranges, settings_of
from bridge.frontend.alias import Memory
from bridge.frontend.load import Loaded, load, refuse_unmade
from bridge.frontend.provenance import TAG
from bridge.logging import show_graph
from bridge.partition.naming import warn_of_fp32_of_nothing, warn_of_names_of_nothing
from bridge.partition.roles import Policy, Role, Roles
from bridge.partition.segments import Cut, Segment, cut
from bridge.partition.stitch import Call, stitch
from bridge.recording import record_of
from bridge.runtime.calls import engine_calls
from bridge.runtime.plan import Profile
from bridge.runtime.record import remember
from bridge.spec import CompileSpec
from bridge.translate import Translation, Translator
from bridge.unsupported import error_of, unsupported
from rewrites.protos import uncollected

_LOG = logging.getLogger("bridge.compile")
_PATIENCE = 6


def compile(module: Any, spec: Any = None, **settings: Any) -> torch.nn.Module:
    """Compiles a module: engines where possible, PyTorch where not, in one module.

    Args:
        module: a torch.jit.ScriptModule (traced or scripted), a torch.nn.Module or a torch.export.ExportedProgram.
            It is left as it is.
        spec: a `CompileSpec`, a dict of its fields, or a list of inputs.
        settings: further fields of `CompileSpec`.

    Returns:
        A ScriptModule with the inputs, outputs and dtypes of the original; a thin nn.Module around one where an input
        or output is a Python structure that TorchScript has no word for.

    Raises:
        SpecError: a setting or an input cannot be meant.
        UnsupportedOperatorError: ``require_full_compilation`` is set and an operator has no way into the engine.
        BuildError: ``require_full_compilation`` is set and the backend gave no engine.
    """
    wanted = CompileSpec.of(spec, settings)
    refuse_unmade(module)
    if isinstance(module, torch.nn.Module) and engine_calls(module):
        _LOG.warning(
            "the module has engines already, which stay as they are; to change them, compile what it was made from"
        )
    backend = backends.select(wanted.backend)
    loaded = load(module, wanted, wants_gpu=backend.name != "onnxruntime")
    partition, calls = divide_and_build(loaded, backend)
    return loaded.adapt(finish(loaded, partition, calls))


@dataclass
class Partition:
    """A program cut into segments, each translated for the target.

    Attributes:
        refused: why nodes stay in PyTorch, by identity.
    """

    translator: Translator
    roles: Roles
    cuts: list[Cut]
    translations: dict[int, Translation] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    @property
    def segments(self) -> list[Segment]:
        return [segment for schedule in self.cuts for segment in schedule.segments]


def divide_and_build(loaded: Loaded, backend: Backend) -> tuple[Partition, dict[int, Call]]:
    """Cuts the program into as few segments as the target allows, and builds them.

    What is refused is cut out, then all is tried again.
    """
    builder = Builder(loaded, backend)
    divider = _Divider(loaded, builder)
    refused: dict[int, str] = {}
    while True:
        with uncollected():
            partition = divider.divide(refused)
        calls, failed = builder.build(partition)
        if not failed:
            return partition, calls
        refused.update(failed)


def segments_to_build(loaded: Loaded) -> list[tuple[Translation, Profile | None, BuildSettings]]:
    """The program's segments as a backend would be given them; nothing is built.

    A profile is None where the range of a shape is not known.
    """
    partition = _Divider(loaded).divide({})
    ranges, settings = Ranges(partition, loaded), settings_of(loaded.spec, loaded.program.device)
    translations = [partition.translations[id(segment)] for segment in partition.segments]
    return [(item, _profile(ranges.of(item)), settings) for item in translations]


def _profile(shapes: dict[str, tuple[tuple[int, ...], ...]] | None) -> Profile | None:
    return None if shapes is None else {name: (low, usual, high) for name, (low, usual, high) in shapes.items()}


class _Divider:
    """Finds segments that the target takes whole; translations are kept from one attempt to the next."""

    def __init__(self, loaded: Loaded, builder: Builder | None = None) -> None:
        self.loaded, self.program, self.spec = loaded, loaded.program, loaded.spec
        self.memory = Memory(self.program.graph, self.program.others)
        warn_of_names_of_nothing(self.spec, self.program.provenance.origins)
        parser = _parser(self.spec)
        then = builder.settings if builder is not None and builder.backend is parser else None
        self.translator = Translator(self.program, self.spec, loaded.leaves, parser, self.memory.paths, then)
        self.known: dict[tuple[object, ...], Translation] = {}

    def divide(self, refused: dict[int, str]) -> Partition:
        """A partition without the nodes in ``refused``, to which is added what the target refuses."""
        attempt = 0
        while True:
            partition = self._attempt(refused)
            new: dict[int, str] = {}
            for segment in partition.segments:
                new |= _left(segment, partition.translations[id(segment)].refused, refused, attempt >= _PATIENCE)
            _require_full(partition, self.loaded, new)
            if not new:
                return partition
            refused.update(new)
            attempt += 1

    def _attempt(self, refused: dict[int, str]) -> Partition:
        modules = {str(m) for m in self.spec.torch_executed_modules}
        policy = Policy(
            refused, set(self.spec.torch_executed_ops), modules, self.spec.truncate_double, not self.spec.cuda_graphs
        )
        roles = Roles(self.program, self.memory, policy)
        partition = Partition(
            self.translator, roles, cut(self.program.graph, roles, self.memory), refused=dict(roles.reasons)
        )
        for segment in partition.segments:
            key = (*segment.identities, None, *(value.debugName() for value in segment.outputs))
            if key not in self.known:
                self.known[key] = self.translator.translate(segment)
            partition.translations[id(segment)] = self.known[key]
        return partition


def _left(segment: Segment, found: dict[int, str], refused: dict[int, str], impatient: bool) -> dict[int, str]:
    """What stays in PyTorch of a segment of which ``found`` is refused; each time something more.

    A parser may name one node at a time: an impatient caller gets all of the segment's nodes of the same kinds. Where
    none is named that was not left before, all of them are.
    """
    if not found:
        return {}
    own = {node.i(TAG): node.kind() for node in segment.operators}
    named = {identity: reason for identity, reason in found.items() if identity not in refused}
    if not named:
        return dict.fromkeys(own, next(iter(found.values())))
    if impatient:
        reasons = {own[identity]: reason for identity, reason in named.items() if identity in own}
        named |= {identity: reasons[kind] for identity, kind in own.items() if kind in reasons}
    return named


def _parser(spec: CompileSpec) -> Backend | None:
    """The parser that decides what is supported: TensorRT's where it is installed, else TensorRT-RTX's, else none."""
    for name in ("tensorrt", "tensorrt_rtx"):
        backend = backends.get(name)
        try:
            backend.require()
        except Exception:
            continue
        return backend
    return None


def _require_full(partition: Partition, loaded: Loaded, new: dict[int, str]) -> None:
    if not loaded.spec.require_full_compilation:
        return
    kept = unsupported(loaded.program, {**partition.refused, **new})
    if kept:
        raise error_of(kept, "leave require_full_compilation out, so that PyTorch runs it; or write a rule")


def finish(loaded: Loaded, partition: Partition, calls: dict[int, Call]) -> torch.jit.ScriptModule:
    """Puts the engines into the graph, lets go of the weights that only they used and copies the others."""
    program, record = loaded.program, record_of(loaded, partition, calls)
    warn_of_fp32_of_nothing(partition.translator.fp32_of_nothing, program.provenance.origins)
    _cast_inputs(loaded, partition)
    stitch(program.graph, partition.cuts, partition.roles, calls)
    _guard_fixed(loaded)
    for node in tp.walk(program.graph):
        tp.remove_attributes([node], TAG)
    module = tp.clone(tp.freeze(program.module, tp.kept_methods(program.module, program.method)))
    remember(module, record)
    show_graph(_LOG, "compiled", lambda: tp.graph_of(module, program.method))
    _report(partition, calls)
    return module


def _cast_inputs(loaded: Loaded, partition: Partition) -> None:
    """With half precision, floating inputs come in either dtype: operators in PyTorch get the module's own."""
    if loaded.spec.precision not in (torch.float16, torch.bfloat16):
        return
    for value in list(loaded.program.graph.inputs())[1:]:
        seen = loaded.program.facts.tensor(value)
        if seen is None or not seen.dtype.is_floating_point or value.type().kind() != "TensorType":
            continue
        users = [
            use.user
            for use in value.uses()
            if use.user.hasAttribute(TAG) and partition.roles.of(use.user) is Role.TORCH
        ]
        if users:
            tp.insert_cast(loaded.program.graph, value, seen.dtype, users)


def _guard_fixed(loaded: Loaded) -> None:
    """Arguments that are part of the compiled module may not be given another value."""
    schema = tp.schema_of(loaded.program.module, loaded.program.method).arguments[1:]
    values = list(loaded.program.graph.inputs())[1:]
    for argument, value, known in zip(schema, values, loaded.arguments, strict=True):
        if known.fixed and value.type().kind() != "TensorType":
            told = f"{argument.name}: this module was compiled for {known.value!r}; compile it again for another value"
            tp.guard(loaded.program.graph, value, known.value, told)


def _report(partition: Partition, calls: Sequence[Any] | dict[int, Call]) -> None:
    table = partition.translator.program.provenance
    kept = {i: r for i, r in partition.refused.items() if not table[i].operator.startswith("prim::")}
    _LOG.info("%d engine(s); %d operator(s) in PyTorch", len(calls), len(kept))
    for identity, reason in sorted(kept.items()):
        _LOG.info("in PyTorch: %s: %s", table[identity], reason)
