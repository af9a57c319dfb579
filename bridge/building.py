"""Engines for the segments of a partition, and what becomes of those that get none."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import torch

from bridge import torch_private as tp
from bridge.backends.base import Backend, BuildSettings
from bridge.backends.built import built
from bridge.backends.failures import file_of, known_failure, remember_failure
from bridge.errors import BuildError
from bridge.frontend.load import Loaded, _on, example_of
from bridge.frontend.provenance import TAG
from bridge.partition.segments import Segment
from bridge.partition.stitch import Call
from bridge.rebuild import keep_onnx
from bridge.runtime.plan import Plan, Profile
from bridge.spec import CompileSpec
from bridge.translate import Translation, signature_of

if TYPE_CHECKING:
    from bridge.compile import Partition

_LOG = logging.getLogger("bridge.compile")
ROUNDS = 2
"""How often a compilation builds: where engines failed in the first round, what was cut anew is built in the second."""


class Builder:
    """Builds an engine for every segment; engines are kept from one round to the next.

    A failed build costs as much time as one that succeeds. So there are `ROUNDS` rounds in which builds may fail: what
    is without an engine after the last stays in PyTorch untried. An operator is thus in two failed builds at most, and
    what an earlier compilation failed to build is not built again (`bridge.backends.failures`).
    """

    def __init__(self, loaded: Loaded, backend: Backend) -> None:
        self.loaded, self.backend, self.spec = loaded, backend, loaded.spec
        self.settings = settings_of(self.spec, loaded.program.device)
        self.plans: dict[int, Plan] = {}
        self.blamed: set[int] = set()
        self.rounds = self.failures = 0

    def build(self, partition: Partition) -> tuple[dict[int, Call], dict[int, str]]:
        """Engine calls by ``id`` of the segment; else the nodes, with reasons, that are in the way of engines."""
        ranges = Ranges(partition, self.loaded)
        refused: dict[int, str] = {}
        for segment in partition.segments:
            reason = self._why_not_tried(partition.translations[id(segment)], segment, ranges)
            if reason is not None:
                refused |= {node.i(TAG): reason for node in segment.operators}
        if refused:
            return {}, refused
        failures = self.failures
        for segment in partition.segments:
            refused |= self._try(segment, partition.translations[id(segment)], ranges)
        self.rounds += self.failures > failures
        return ({}, refused) if refused else (self._calls(partition, ranges), {})

    def _why_not_tried(self, translation: Translation, segment: Segment, ranges: Ranges) -> str | None:
        if len(segment.operators) < self.spec.min_block_size:
            return "its segment is smaller than min_block_size"
        if ranges.of(translation) is None:
            return "the range of a shape that it is given is not known"
        if id(translation) not in self.plans and self.rounds >= ROUNDS:
            return f"not tried: engines of this module failed to build in {ROUNDS} rounds"
        return None

    def _try(self, segment: Segment, translation: Translation, ranges: Ranges) -> dict[int, str]:
        """Builds a segment's engine, once; gives the nodes to leave out, with the reason, where there is none."""
        if id(translation) in self.plans:
            return {}
        assert translation.graph is not None
        build = translation.graph, ranges.profiles(translation), self.settings
        told = f"{self.backend.name} did not build it"
        error = None if self.spec.require_full_compilation else known_failure(*build, self.backend)
        if error is not None:
            told = f"{told} before, as {file_of(self.settings) or 'this process'} knows"
        else:
            try:
                plan = built(*build, self.backend, self.spec.progress, self.spec.cache_dir)
            except BuildError as failed:
                if self.spec.require_full_compilation:
                    raise
                self.failures += 1
                remember_failure(*build, self.backend, failed)
                _LOG.warning("a segment stays in PyTorch: %s", failed)
                error = failed
        if error is not None:
            return dict.fromkeys(self._at_fault(segment, error), f"{told}: {error.what}")
        self.plans[id(translation)] = keep_onnx(plan, translation.graph) if self.spec.keep_onnx else plan
        return {}

    def _at_fault(self, segment: Segment, error: BuildError) -> list[int]:
        """The nodes that a failed build is about: those that it names, else branches and loops, else all.

        Fused layers name only the nodes that they begin and end with.
        """
        text = f"{error.where} {error.why}"
        named = {int(identity) for identity in re.findall(r"#(\d+)\b", text)} - self.blamed
        named &= {node.i(TAG) for node in segment.operators}
        found = [node.i(TAG) for node in segment.control or segment.operators]
        found = found if "ForeignNode" in text else sorted(named) or found
        self.blamed.update(found)
        return found

    def _calls(self, partition: Partition, ranges: Ranges) -> dict[int, Call]:
        calls: dict[int, Call] = {}
        for segment in partition.segments:
            translation = partition.translations[id(segment)]
            shapes = ranges.of(translation)
            assert translation.function is not None and shapes is not None
            signature = signature_of(translation, partition.translator, segment, shapes)
            plan = self.plans[id(translation)].to_tensor()
            calls[id(segment)] = Call(translation.function.inputs, plan, signature.to_json())
        return calls


def settings_of(spec: CompileSpec, device: torch.device) -> BuildSettings:
    """What a spec says of how to build."""
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


class Ranges:
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

    def profiles(self, translation: Translation) -> list[Profile]:
        """One optimisation profile over all of the shapes, or those of the spec, where it divides the ranges."""
        shapes = self.of(translation)
        assert translation.function is not None and shapes is not None
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
