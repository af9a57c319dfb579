"""From what the user gave to the graphs whose layers are compared."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import rewrites
from bridge import backends
from bridge.backends.base import Backend
from bridge.compare.alike import Origins, keys_of
from bridge.compare.arrays import as_numpy
from bridge.compare.engines import EngineSide
from bridge.compare.inputs import InputSet
from bridge.compare.inside import look_inside, of_compiled
from bridge.compare.layers import BATCH_BYTES, NOISE, TF32_NOISE, Comparable, Stage
from bridge.compare.models import match_by_values, of_models, provenance_of
from bridge.compare.outputs import feed_of
from bridge.compare.runners import Contender
from bridge.compare.sides import OnnxSide
from bridge.compare.torch_side import TorchSide, arguments_of, with_inputs
from bridge.errors import BridgeError, ExportError
from bridge.frontend.load import Loaded, load
from bridge.interface import detached, translate_whole
from bridge.spec import CompileSpec
from bridge.translate import Translation

STAGES = ("exported", "rewritten", "reference", "engine", "compiled", "half")
_ENGINE_BATCH = 4 << 30


def comparable_of(
    reference: Contender,
    compiled: Contender,
    inputs: InputSet,
    spec: Any,
    settings: dict[str, Any],
    stages: Sequence[str] = (),
    *,
    passed: bool = False,
) -> Comparable:
    """The graphs to run, each with its inputs.

    Args:
        stages: which, of `STAGES`; by default the exported and the rewritten graph, the engine where the backend
            is one that builds engines, and what is inside ``compiled`` where that can be looked into.
        passed: whether the outputs agree: then nothing is said of what cannot be looked into, unless it is named.

    Raises:
        BridgeError: there is no way to match the two.
    """
    if reference.model is not None:
        if compiled.model is None:
            told = "layers: an ONNX model is compared with ONNX models only"
            raise BridgeError(told, hint="give the PyTorch module as the reference")
        return of_models(reference, compiled, inputs, _rule_names(()))
    if reference.has_engines:
        return of_compiled(reference, compiled, inputs, with_inputs(CompileSpec.of(spec, settings), inputs))
    wanted = with_inputs(CompileSpec.of(spec, settings), inputs)
    loaded = load(reference.source, wanted, for_calls=False)
    torch_side = TorchSide(loaded.program, arguments_of(loaded, inputs))
    making = _Stages(loaded, torch_side, reference, compiled, inputs, wanted)
    making.tells = bool(stages) or not passed
    made = [making.make(name) for name in stages] or [making.made_or_told(name) for name in making.usual()]
    found = [stage for stage in made if stage is not None]
    if not any(stage.judged for stage in found):
        raise BridgeError("layers: there is nothing to compare with the reference", why="; ".join(making.notes))
    table = loaded.program.provenance
    operators = {step.key: step.name for step in torch_side.deep}
    batch = _ENGINE_BATCH if any(stage.name == "engine" for stage in found) else BATCH_BYTES
    known = _rule_names(wanted.rules)
    return Comparable(
        torch_side,
        found,
        lambda key: replace(table[int(key)], operator=operators[key]),
        known,
        torch_side.size,
        batch,
        making.notes,
        Traced(loaded, torch_side),
    )


@dataclass(frozen=True)
class Traced:
    """A program that was taken through the street, and the run that it is compared with."""

    loaded: Loaded
    torch_side: TorchSide


class _Stages:
    """Makes the stages that are asked for, of one program."""

    def __init__(
        self,
        loaded: Loaded,
        torch_side: TorchSide,
        reference: Contender,
        compiled: Contender,
        inputs: InputSet,
        spec: CompileSpec,
    ) -> None:
        self.loaded, self.torch_side, self.inputs, self.spec = loaded, torch_side, inputs, spec
        self.reference, self.compiled = reference, compiled
        self.precision = str(loaded.spec.precision).removeprefix("torch.")
        self.notes: list[str] = []
        self.tells = True
        self._sources: dict[str, str] | None = None
        self._rewritten: OnnxSide | None = None

    def usual(self) -> list[str]:
        """The stages where none are named."""
        engine = ["engine"] if self.compiled.model is None and _backend(self.loaded).name != "onnxruntime" else []
        inside = ["compiled"] if self.compiled.module is not None and self.compiled.is_other(self.reference) else []
        return ["exported", "rewritten", *engine, *inside]

    def made_or_told(self, name: str) -> Stage | None:
        """The stage of that name; None, with a note, also where no whole ONNX model can be made."""
        try:
            return self.make(name)
        except ExportError as error:
            where = f" ({error.where})" if error.where else ""
            self.notes.append(f"{name}: there is no such graph: {error.what}{where}")
            return None

    def make(self, name: str) -> Stage | None:
        """The stage of that name; None, with a note, where there is none."""
        noise = NOISE.get(self.precision, NOISE["float32"])
        if name == "exported":
            return Stage(name, self._exported(), NOISE["float32"])
        if name == "rewritten":
            return Stage(name, self._last(), noise)
        if name == "reference":
            return Stage(name, self._last().in_reference_evaluator(), noise)
        if name == "engine":
            side = EngineSide(self.loaded, _backend(self.loaded), self.torch_side)
            self.notes = side.notes = [*self.notes, *side.notes]
            exact = self.loaded.spec.disable_tf32 or _backend(self.loaded).name == "onnxruntime"
            return Stage(name, side, noise if exact else max(noise, TF32_NOISE))
        return self._inside(noise) if name == "compiled" else self._half(noise)

    def _exported(self) -> OnnxSide:
        side, self._sources = _translated(self.loaded, self.torch_side, rewrite=False)
        return side

    def _last(self) -> OnnxSide:
        if self._rewritten is None:
            if self.compiled.model is not None and not provenance_of(self.compiled.model):
                self._rewritten = self._foreign()
            elif self.compiled.model is not None:
                sources = self._sources or _translated(self.loaded, self.torch_side, rewrite=False)[1]
                self._rewritten = _given(self.compiled, self._origins(), self.loaded, self.torch_side, sources)
            else:
                self._rewritten, _ = _translated(self.loaded, self.torch_side, rewrite=True)
        return self._rewritten

    def _foreign(self) -> OnnxSide:
        """A model of another exporter, matched by what its nodes compute."""
        assert self.compiled.model is not None
        side = OnnxSide(self.compiled.label, self.compiled.model, {})
        feed = feed_of(self.reference, self.compiled, self.inputs)
        side.feeds = {name: as_numpy(feed[name]) for name in side.inputs}
        self.notes.append(f"rewritten: {match_by_values(self.torch_side, side, self.torch_side.size)}")
        return side

    def _inside(self, noise: float) -> Stage | None:
        """What is compared, itself: its own nodes where it is a module, the graphs of its engines where it has some."""
        try:
            inside = look_inside(self.compiled, self.reference, self.inputs, self.spec, self._origins())
        except BridgeError as error:
            self.notes += [f"compiled: it is not looked into: {_first_line(error)}"] * self.tells
            return None
        self.notes += [f"compiled: {note}" for note in inside.notes] * self.tells
        return Stage("compiled", inside.side, max(noise, inside.noise))

    def _origins(self) -> Origins:
        """Where the nodes came from that are there to be matched."""
        table = self.loaded.program.provenance
        return {step.key: table[step.key] for step in self.torch_side.deep if isinstance(step.key, int)}

    def _half(self, noise: float) -> Stage | None:
        """The module itself in the spec's precision: what PyTorch loses there."""
        if self.precision not in ("float16", "bfloat16"):
            self.notes.append("half: the spec's precision is float32")
            return None
        kind, device = self.loaded.spec.precision, "cuda" if torch.cuda.is_available() else "cpu"
        assert self.reference.module is not None
        tensors = [t.to(device, kind if t.is_floating_point() else t.dtype) for t in self.inputs.leaves([]).values()]
        args, kwargs = self.inputs.filled(tensors)
        try:
            module = copy.deepcopy(self.reference.module).to(device, kind)
            loaded = load(module, CompileSpec(inputs=list(args), kwarg_inputs=kwargs), for_calls=False)
        except (BridgeError, RuntimeError) as error:
            self.notes.append(f"half: PyTorch does not run the module in {self.precision}: {_first_line(error)}")
            return None
        if loaded.program.provenance.origins != self.loaded.program.provenance.origins:
            self.notes.append(f"half: the module has another graph in {self.precision}")
            return None
        return Stage(
            "half", TorchSide(loaded.program, arguments_of(loaded, InputSet(args, kwargs))), noise, judged=False
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _backend(loaded: Loaded) -> Backend:
    return backends.select(loaded.spec.backend)


def _translated(loaded: Loaded, reference: TorchSide, *, rewrite: bool) -> tuple[OnnxSide, dict[str, str]]:
    """The whole method as ONNX with its inputs, and which value of the reference each input is."""
    translation = translate_whole(loaded, rewrite=rewrite)
    side = side_of(translation, reference, "the rewritten ONNX" if rewrite else "the exported ONNX")
    return side, _sources(translation)


def side_of(translation: Translation, reference: TorchSide, label: str) -> OnnxSide:
    """A translated method with the very inputs that the reference has."""
    side = OnnxSide(label, *detached(translation))
    _feed(side, reference, _sources(translation))
    return side


def _sources(translation: Translation) -> dict[str, str]:
    assert translation.function is not None
    names = [value.debugName() for value in translation.function.inputs]
    return dict(zip(translation.input_names, names, strict=True))


def _feed(side: OnnxSide, reference: TorchSide, sources: dict[str, str]) -> None:
    """Gives an ONNX graph the very values that the reference has."""
    made = {step.key: step.outputs for step in reference.steps}
    sources = {name: sources[name] for name in side.inputs}
    sources |= {name: made[key][position] for name, (key, position) in side.fed.items()}
    values = reference.kept(list(sources.values()))
    missing = [name for name, source in sources.items() if source not in values]
    if missing:
        told = f"layers: {missing[0]!r} has no value to feed"
        raise BridgeError(told, why="it is made inside a branch or a loop that stays in PyTorch")
    side.feeds = {name: values[source] for name, source in sources.items()}
    side.given = set(sources.values())


def _given(
    compiled: Contender, origins: Origins, loaded: Loaded, reference: TorchSide, sources: dict[str, str]
) -> OnnxSide:
    """A model that `bridge.to_onnx` made, of this module or of one that is like it."""
    assert compiled.model is not None
    side, others = OnnxSide(compiled.label, compiled.model, {}), provenance_of(compiled.model)
    if others != loaded.program.provenance.origins:
        made = {step.key for step in side.deep}
        there = {key: origin for key, origin in enumerate(others) if key in made}
        keys = keys_of(origins, there)
        if not keys or len(keys) < len(there) or side.fed or not set(side.inputs) <= set(sources):
            raise BridgeError(
                "layers: the ONNX model was not made from this module with this spec: its layers cannot be matched",
                hint="give the spec that bridge.to_onnx was given: compare(..., spec=spec)",
            )
        side.match(keys)
    _feed(side, reference, sources)
    return side


def _rule_names(own: Sequence[Any] | None) -> dict[str, str]:
    rules: Any = rewrites.default_rules()
    return {rule.short_name: rule.name for rule in (rules + list(own) if own else rules)}
