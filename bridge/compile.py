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
from bridge.errors import BuildError
from bridge.frontend.alias import Memory
from bridge.frontend.load import Loaded, _on, example_of, load
from bridge.frontend.provenance import TAG
from bridge.logging import show_graph
from bridge.partition.roles import Policy, Role, Roles
from bridge.partition.segments import Cut, Segment, cut
from bridge.partition.stitch import Call, stitch
from bridge.rebuild import keep_onnx
from bridge.recording import record_of
from bridge.runtime.plan import Plan, Profile
from bridge.runtime.record import remember
from bridge.spec import CompileSpec
from bridge.translate import Translation, Translator, signature_of
from bridge.unsupported import error_of, unsupported

_LOG = logging.getLogger("bridge.compile")
_ROUNDS = 12


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
    divider, builder = _Divider(loaded), _Builder(loaded, backend)
    refused: dict[int, str] = {}
    while True:
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
    ranges, settings = _Ranges(partition, loaded), _settings(loaded.spec, loaded.program.device)
    translations = [partition.translations[id(segment)] for segment in partition.segments]
    return [(item, _profile(ranges.of(item)), settings) for item in translations]


def _profile(shapes: dict[str, tuple[tuple[int, ...], ...]] | None) -> Profile | None:
    return None if shapes is None else {name: (low, usual, high) for name, (low, usual, high) in shapes.items()}


class _Divider:
    """Finds segments that the target takes whole; translations are kept from one attempt to the next."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.program, self.spec = loaded, loaded.program, loaded.spec
        self.memory = Memory(self.program.graph, self.program.others)
        self.translator = Translator(self.program, self.spec, loaded.leaves, _parser(self.spec), self.memory.paths)
        self.known: dict[tuple[object, ...], Translation] = {}

    def divide(self, refused: dict[int, str]) -> Partition:
        """A partition without the nodes in ``refused``, to which is added what the target refuses."""
        for _ in range(_ROUNDS):
            partition = self._attempt(refused)
            new = {i: reason for t in partition.translations.values() for i, reason in t.refused.items()}
            _require_full(partition, self.loaded, new)
            if not new:
                return partition
            refused.update(new)
        raise BuildError(
            "the graph could not be divided: the target goes on refusing", why="; ".join(sorted(set(new.values()))[:5])
        )

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


class _Builder:
    """Builds an engine for every segment; engines are kept from one attempt to the next."""

    def __init__(self, loaded: Loaded, backend: Backend) -> None:
        self.loaded, self.backend, self.spec = loaded, backend, loaded.spec
        self.plans: dict[int, Plan] = {}

    def build(self, partition: Partition) -> tuple[dict[int, Call], dict[int, str]]:
        """Engine calls by ``id`` of the segment, and the nodes (with reasons) of segments that get none."""
        calls: dict[int, Call] = {}
        ranges = _Ranges(partition, self.loaded)
        for segment in partition.segments:
            translation = partition.translations[id(segment)]
            reason, shapes = None, None
            if len(segment.operators) < self.spec.min_block_size:
                reason = "its segment is smaller than min_block_size"
            elif (shapes := ranges.of(translation)) is None:
                reason = "the range of a shape that it is given is not known"
            else:
                reason = self._plan(translation, ranges.profiles(translation, shapes))
            if reason is not None:
                tried = shapes is not None and segment.control  # without them the rest may well be built
                return {}, {node.i(TAG): reason for node in tried or segment.operators}
            assert translation.function is not None and shapes is not None
            signature = signature_of(translation, partition.translator, segment, shapes)
            calls[id(segment)] = Call(
                translation.function.inputs, self.plans[id(translation)].to_tensor(), signature.to_json()
            )
        return calls, {}

    def _plan(self, translation: Translation, profiles: list[Profile]) -> str | None:
        """Builds a translation's engine, once; gives the reason when there is none."""
        if id(translation) in self.plans:
            return None
        settings = _settings(self.spec, self.loaded.program.device)
        try:
            plan = self.backend.build(translation.graph, profiles, settings, self.spec.progress)
        except BuildError as error:
            if self.spec.require_full_compilation:
                raise
            _LOG.warning("a segment stays in PyTorch: %s", error)
            return f"{self.backend.name} did not build it: {error.what}"
        self.plans[id(translation)] = keep_onnx(plan, translation.graph) if self.spec.keep_onnx else plan
        return None


def _settings(spec: CompileSpec, device: torch.device) -> BuildSettings:
    return BuildSettings(
        workspace_size=spec.workspace_size,
        optimization_level=spec.optimization_level,
        timing_cache=spec.timing_cache,
        disable_tf32=spec.disable_tf32,
        profiling_verbosity=spec.profiling_verbosity,
        hardware_compatible=spec.hardware_compatible,
        version_compatible=spec.version_compatible,
        sparse_weights=spec.sparse_weights,
        max_aux_streams=spec.max_aux_streams,
        device=device.index or 0,
    )


class _Ranges:
    """Smallest, usual and largest shapes of segment inputs: the spec's, or what runs at those sizes showed."""

    def __init__(self, partition: Partition, loaded: Loaded) -> None:
        self.partition, self.loaded, self.observed = partition, loaded, False

    def of(self, translation: Translation) -> dict[str, tuple[tuple[int, ...], ...]] | None:
        assert translation.function is not None
        shapes = {}
        for value, name in zip(translation.function.inputs, translation.input_names, strict=True):
            shape = self._shapes(value)
            if shape is None:
                return None
            shapes[name] = shape
        return shapes

    def profiles(self, translation: Translation, shapes: dict[str, tuple[tuple[int, ...], ...]]) -> list[Profile]:
        """One optimisation profile over all of these shapes, or those of the spec, where it divides the ranges."""
        assert translation.function is not None
        found: list[Profile] = []
        for ranges in self.loaded.spec.profile_ranges() or [{}]:
            profile: Profile = {}
            for value, name in zip(translation.function.inputs, translation.input_names, strict=True):
                leaf = self.partition.translator.leaf_of.get(value.debugName())
                dims = leaf.dims if leaf is not None else (None,) * len(shapes[name][0])
                low, usual, high = (
                    tuple(
                        ranges[dim][which] if isinstance(dim, str) and dim in ranges else size
                        for dim, size in zip(dims, shape, strict=True)
                    )
                    for which, shape in enumerate(shapes[name])
                )
                profile[name] = (low, usual, high)
            if profile not in found:
                found.append(profile)
        return found

    def _shapes(self, value: tp.Value) -> tuple[tuple[int, ...], ...] | None:
        leaf = self.partition.translator.leaf_of.get(value.debugName())
        if leaf is not None:
            return leaf.min_shape, leaf.opt_shape, leaf.max_shape
        sizes = self.loaded.program.facts.sizes(value)
        if sizes is None:
            return None
        if None not in sizes:
            return (sizes,) * 3  # type: ignore[return-value]
        return self._seen(value)

    def _seen(self, value: tp.Value) -> tuple[tuple[int, ...], ...] | None:
        if not self.observed:
            self.observed = True
            self._observe()
        seen = [
            s.shape for s in self.loaded.program.facts.seen.values.get(value.debugName(), ()) if hasattr(s, "shape")
        ]
        if not seen:
            return None
        return (
            tuple(map(min, *seen)) if len(seen) > 1 else seen[0],
            seen[0],
            tuple(map(max, *seen)) if len(seen) > 1 else seen[0],
        )

    def _observe(self) -> None:
        program, spec = self.loaded.program, self.loaded.spec
        arguments = tp.schema_of(program.module, program.method).arguments[1:]
        device = program.device
        dtype = next(
            (
                leaf.dtype
                for leaf in self.loaded.leaves
                if leaf.is_tensor and leaf.dtype and leaf.dtype.is_floating_point
            ),
            torch.float32,
        )
        program.observe_range([_on(example_of(spec, arguments, dtype, which), device) for which in ("min", "max")])


def finish(loaded: Loaded, partition: Partition, calls: dict[int, Call]) -> torch.jit.ScriptModule:
    """Puts the engines into the graph and lets go of the weights that only they used."""
    program, record = loaded.program, record_of(loaded, partition, calls)
    _cast_inputs(loaded, partition)
    stitch(program.graph, partition.cuts, partition.roles, calls)
    _guard_fixed(loaded)
    for node in tp.walk(program.graph):
        tp.remove_attributes([node], TAG)
    module = tp.freeze(program.module, tp.kept_methods(program.module, program.method))
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
    arguments = tp.schema_of(loaded.program.module, loaded.program.method).arguments[1:]
    values = list(loaded.program.graph.inputs())[1:]
    tensors = {leaf.path[0] for leaf in loaded.leaves if leaf.is_tensor}
    for position, (argument, value) in enumerate(zip(arguments, values, strict=True)):
        if position in tensors or argument.name in tensors or value.type().kind() == "TensorType":
            continue
        fixed = next(
            (leaf.value for leaf in loaded.leaves if leaf.path in ((position,), (argument.name,))),
            argument.default_value,
        )
        message = f"{argument.name}: this module was compiled for {fixed!r}; compile it again for another value"
        tp.guard(loaded.program.graph, value, fixed, message)


def _report(partition: Partition, calls: Sequence[Any] | dict[int, Call]) -> None:
    table = partition.translator.program.provenance
    kept = {i: r for i, r in partition.refused.items() if not table[i].operator.startswith("prim::")}
    _LOG.info("%d engine(s); %d operator(s) in PyTorch", len(calls), len(kept))
    for identity, reason in sorted(kept.items()):
        _LOG.info("in PyTorch: %s: %s", table[identity], reason)
