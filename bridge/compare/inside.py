"""What a compiled module has inside: the ONNX graphs that its engines keep, on the values that they are given there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bridge.compare.alike import Origins, keys_of
from bridge.compare.arrays import Array, as_numpy
from bridge.compare.inputs import InputSet
from bridge.compare.layers import NOISE, TF32_NOISE, Comparable, Stage
from bridge.compare.outputs import feed_of, quiet_polygraphy
from bridge.compare.runners import Contender
from bridge.compare.sides import OnnxSide
from bridge.compare.steps import Key, Step, matched, prefixed
from bridge.compare.torch_side import TorchSide, arguments_of
from bridge.errors import BridgeError
from bridge.frontend.load import default_dtype, load
from bridge.frontend.provenance import Origin
from bridge.rebuild import graph_inside
from bridge.runtime.plan import Plan
from bridge.runtime.record import Record, records_of
from bridge.spec import CompileSpec
from bridge.torch_private import DispatchMode

_TOLD = 3


@dataclass(frozen=True)
class EngineInputs:
    """A plan, and what its engine is given; None where it is called more than once."""

    plan: Plan
    inputs: list[Array] | None


class CompiledSide:
    """The engines of a compiled module, each as the graph that its plan keeps, in ONNX Runtime.

    They are given what they are given in a call of the module itself, with the errors of what ran before them.

    Attributes:
        notes: engines that cannot be looked into, and why.
        origins: where its nodes came from, by the identities that it knows them by.
        noise: by the precision that it was compiled for; engines may be fed by others that compute in TF32.
    """

    def __init__(self, compiled: Contender, calls: Sequence[EngineInputs], record: Record) -> None:
        self.label, self.notes = compiled.label, list[str]()
        self.origins, self.noise = record.origins, _noise_of(record.spec.get("precision", "float32"))
        if len(calls) > 1 and any(call.plan.header.backend != "onnxruntime" for call in calls):
            self.noise = max(self.noise, TF32_NOISE)
        self.parts: dict[str, OnnxSide] = {}
        self.steps: list[Step] = []
        self.results: list[str] = []
        for number, call in enumerate(calls):
            if (side := self._opened(number, call)) is not None:
                prefix = f"{number}:"
                self.parts[prefix] = side
                self.steps += [prefixed(step, prefix) for step in side.deep]
                self.results += [prefix + name for name in side.results]

    def _opened(self, number: int, call: EngineInputs) -> OnnxSide | None:
        kept = graph_inside(call.plan)
        if kept is None or call.inputs is None:
            why = "keeps no ONNX graph (compile with keep_onnx=True)" if kept is None else "is called more than once"
            self.notes.append(f"engine {number} {why}")
            return None
        side = OnnxSide(f"the graph that engine {number} keeps", *kept)
        names = [binding.name for binding in call.plan.header.inputs]
        side.feeds = dict(zip(names, call.inputs, strict=True))
        return side

    @property
    def deep(self) -> list[Step]:
        """Its nodes in order, those of bodies before the node that has them."""
        return self.steps

    def match(self, keys: Mapping[int, int]) -> None:
        """Matches its nodes by other keys; those without one are left out."""
        self.steps = matched(self.steps, keys)
        for side in self.parts.values():
            side.match(keys)

    def holding(self, key: Key) -> OnnxSide:
        """The graph that has the node of that key."""
        return next(side for side in self.parts.values() if any(step.key == key for step in side.deep))

    def exact(self, key: Key) -> Collection[str]:
        """Nothing: it is given what comes before, as that came out."""
        return ()

    def values(self, names: Sequence[str]) -> dict[str, Array]:
        """These values, of one run of each engine's graph."""
        found: dict[str, Array] = {}
        for prefix, side in self.parts.items():
            wanted = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            if wanted:
                found.update({prefix + name: array for name, array in side.values(wanted).items()})
        return found


class _Listening(DispatchMode):
    """While it is entered, in this thread: what every engine is given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, EngineInputs] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.bridge.execute_engine.default:
            plan = Plan.from_tensor(args[1])
            is_new = plan.digest not in self.calls
            given = [as_numpy(tensor.detach().cpu()).copy() for tensor in args[0]] if is_new else None
            self.calls[plan.digest] = EngineInputs(plan, given)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Inside:
    """What is inside one side of a comparison, matched by the reference's keys.

    Attributes:
        noise: the relative error up to which its right results may lie apart from the reference's.
        notes: what is not looked into, and why.
    """

    side: CompiledSide | TorchSide | OnnxSide
    noise: float
    notes: list[str]


def look_inside(
    compiled: Contender, reference: Contender, inputs: InputSet, spec: CompileSpec, origins: Origins
) -> Inside:
    """The nodes of a module, or the graphs that a compiled module's engines keep.

    Args:
        spec: has inputs.
        origins: where the reference's nodes came from, by their keys.

    Raises:
        BridgeError: it cannot be looked into, or has nothing of what the reference has.
    """
    if compiled.has_engines:
        engines = engines_of(reference, compiled, inputs)
        found = Inside(engines, engines.noise, engines.notes)
        others: Origins = engines.origins
    elif compiled.module is not None and compiled.bindings is None:
        loaded = load(compiled.source, spec, for_calls=False)
        side, table = TorchSide(loaded.program, arguments_of(loaded, inputs)), loaded.program.provenance
        found = Inside(side, _noise_of(default_dtype(compiled.module)), [])
        others = {step.key: table[step.key] for step in side.deep if isinstance(step.key, int)}
    else:
        raise BridgeError("it has no record of where its nodes came from")
    keys = keys_of(origins, others)
    there = {step.key: others[step.key] for step in found.side.deep if step.key in others and isinstance(step.key, int)}
    if not there.keys() & keys.keys():
        raise BridgeError("; ".join(found.notes) or "it has no operator that the reference has too")
    unknown = [str(one) for key, one in there.items() if key not in keys and not one.operator.startswith("prim::")]
    if unknown:
        more = f" and {len(unknown) - _TOLD} more" if len(unknown) > _TOLD else ""
        found.notes.append(f"the reference has no {', '.join(unknown[:_TOLD])}{more}")
    found.side.match(keys)
    return found


def of_compiled(reference: Contender, compiled: Contender, inputs: InputSet, spec: CompileSpec) -> Comparable:
    """A compiled module as the reference: the graphs that its engines keep beside what is inside the other.

    Raises:
        BridgeError: one of the two cannot be looked into.
    """
    try:
        left = engines_of(reference, reference, inputs)
        inside = look_inside(compiled, reference, inputs, spec, left.origins)
    except BridgeError as error:
        told = "layers: the reference is compiled already, and the two cannot be matched"
        raise BridgeError(told, why=str(error), hint="give the module that it was compiled from") from error
    stage = Stage("compiled", inside.side, max(left.noise, inside.noise))
    origins = {key: Origin(**asdict(one)) for key, one in left.origins.items()}
    return Comparable(left, [stage], lambda key: origins[int(key)], notes=[*left.notes, *inside.notes])


def engines_of(reference: Contender, compiled: Contender, inputs: InputSet) -> CompiledSide:
    """A compiled module's engines, with what they are given in a call.

    Raises:
        BridgeError: no single record tells where their nodes came from.
    """
    records = records_of(compiled.module) if compiled.module is not None else []
    if len(records) != 1:
        told = f"it has {len(records)} records of where its nodes came from" if records else "it has no record"
        raise BridgeError(told, hint="give what bridge.compile returned")
    feed = feed_of(reference, compiled, inputs)
    with quiet_polygraphy(), _Listening() as listening, compiled.runner(inputs, list(feed)) as runner:
        runner.infer(feed, check_inputs=False)
    return CompiledSide(compiled, list(listening.calls.values()), records[0])


def _noise_of(precision: object) -> float:
    return NOISE.get(str(precision).removeprefix("torch."), NOISE["float32"])
