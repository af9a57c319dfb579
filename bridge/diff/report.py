"""`bridge.diff` and what it found: as data, as text, as a page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bridge.compare.inputs import one_set
from bridge.diff.matching import LayerDiff, matched, paired_origins
from bridge.diff.sides import INTERFACES, Side, opened
from bridge.errors import SpecError
from bridge.report.writing import write_report

LIMITS = ("slower", "larger", "memory", "layers", "precision", "fallback", "engines", "settings", "any")
_WITH_FACTOR = ("slower", "larger", "memory")
_FACTOR = 1.05


@dataclass(frozen=True)
class FactDiff:
    """Something that both sides say of themselves, and differently: ``""`` where one says nothing."""

    section: str
    name: str
    a: str
    b: str


@dataclass(frozen=True)
class DiffReport:
    """What differs between two compiled modules, engines or ONNX models; `str()` is the report in text.

    Attributes:
        a, b: the sides.
        facts: settings, versions, inputs, outputs, profiles, rules and node counts that differ.
        layers: every layer of both sides, those that compute the same operators beside each other.
        layers_are: ``"layers"`` of the engines; ``"ONNX nodes"`` that they were made of, where one of them cannot be
            opened here; ``"nothing"`` where there is no record of these either.
        left: operators that only b left to PyTorch, with the reason; and those that only a did.
    """

    a: Side
    b: Side
    facts: tuple[FactDiff, ...]
    layers: tuple[LayerDiff, ...]
    layers_are: str
    left: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def changed_layers(self) -> list[LayerDiff]:
        """Layers that were fused, computed or typed differently, or that one side does not have."""
        return [row for row in self.layers if row.changes]

    @property
    def different(self) -> bool:
        """Whether the two differ in anything but time and bytes."""
        return bool(self.facts or self.changed_layers or any(self.left))

    @property
    def slowdown(self) -> float | None:
        """The time of a call of b over that of a; None where they were not measured."""
        return self.b.ms / self.a.ms if self.a.ms and self.b.ms else None

    def growth(self, size: str = "plans") -> float | None:
        """b's bytes over a's: of ``"plans"``, ``"activations on the device"``, ``"weights"``; None if one has none."""
        ours, theirs = self.a.sizes.get(size), self.b.sizes.get(size)
        return theirs / ours if ours and theirs else None

    def exceeded(self, limits: str | Sequence[str]) -> list[str]:
        """Which limits b breaks, each with what it came to.

        Args:
            limits: ``"slower=1.1"``: a call takes over 1.1 times as long; ``"larger=1.1"``: the plans grow by more;
                ``"memory=1.1"``: the activations do (the factor is 1.05 if left out); ``"layers"``: some are fused
                differently, of another kind, or on one side only; ``"precision"``: a layer's; ``"fallback"``: an
                operator more stays in PyTorch; ``"engines"``: their number; ``"settings"``: settings, versions or
                interfaces; ``"any"``: anything but time and bytes.

        Raises:
            SpecError: there is no such limit, or what it is about was not measured.
        """
        if not isinstance(limits, str | Sequence):
            raise SpecError(f"limits: expected words, got {limits!r} ({type(limits).__name__})", hint='"slower=1.1"')
        told = (self._exceeded(*_limit(text)) for text in ([limits] if isinstance(limits, str) else limits))
        return [one for one in told if one]

    def _exceeded(self, name: str, factor: float) -> str:
        if name in _WITH_FACTOR:
            sizes = {"larger": "plans", "memory": "activations on the device"}
            grown = self.slowdown if name == "slower" else self.growth(sizes[name])
            if grown is None:
                hint = "give inputs" if name == "slower" else "it needs engines that can be opened here"
                raise SpecError(f"limit {name!r}: it was not measured on both sides", hint=hint)
            return f"{name}: {grown:.3g} times, more than {factor:.3g}" if grown > factor else ""
        counts = {
            "layers": sum(any(change != "precision" for change in row.changes) for row in self.layers),
            "precision": sum("precision" in row.changes for row in self.layers),
            "fallback": len(self.left[1]),
            "engines": abs(self.a.engines - self.b.engines),
            "settings": sum(not fact.section.startswith("ONNX") for fact in self.facts),
            "any": int(self.different),
        }
        return f"{name}: {counts[name]} differ" if counts[name] else ""

    @property
    def verdict(self) -> str:
        """What came out, in a sentence or two."""
        told = []
        if self.a.ms and self.b.ms:
            told.append(f"A call takes {self.a.ms:.3g} ms and {self.b.ms:.3g} ms ({_percent(self.b.ms / self.a.ms)}).")
        for name in self.a.sizes:
            grown = self.growth(name)
            if grown is not None and abs(grown - 1) > 0.01:
                told.append(f"{name.capitalize()}: {_percent(grown)}.")
        changes = Counter(change for row in self.layers for change in row.changes)
        told += [f"{self.layers_are.capitalize()}: {_listed(changes)}."] if changes else []
        sections = Counter(fact.section for fact in self.facts)
        told += [f"Differing: {', '.join(name.lower() for name in sections)}."] if sections else []
        for side, items in zip(("a", "b"), self.left, strict=True):
            told += [f"In PyTorch in {side} only: {len(items)} operator{'s' * (len(items) != 1)}."] if items else []
        return " ".join(told) if self.different or told else "No difference."

    def to_dict(self) -> dict[str, Any]:
        """The report as data that JSON can hold."""
        return {
            "verdict": self.verdict,
            "different": self.different,
            "slowdown": self.slowdown,
            "sides": {
                name: {"label": side.label, "engines": side.engines, "ms": side.ms, "bytes": side.sizes}
                for name, side in (("a", self.a), ("b", self.b))
            },
            "facts": [asdict(fact) for fact in self.facts],
            "layers_are": self.layers_are,
            "layers": [{**asdict(row), "ms": row.ms} for row in self.layers],
            "in_pytorch_only_in": {"a": self.left[0], "b": self.left[1]},
        }

    def save(self, path: str | Path) -> Path:
        """Writes the report: as JSON where the name ends in .json, else as one HTML page that needs nothing else."""
        from bridge.diff.pages import to_html

        return write_report(path, self.to_dict, lambda: to_html(self))

    def __str__(self) -> str:
        from bridge.diff.pages import to_text

        return to_text(self)


def _limit(text: str) -> tuple[str, float]:
    name, equals, number = str(text).partition("=")
    if name not in LIMITS or (equals and name not in _WITH_FACTOR):
        raise SpecError(f"limit {text!r}: there is none", hint=f"one of {', '.join(LIMITS)}; slower=1.1 and the like")
    if equals and not re.fullmatch(r"\d+(\.\d+)?x?", number):
        raise SpecError(f"limit {text!r}: {number!r} is no factor", hint=f"write {name}=1.1")
    return name, float(number.rstrip("x")) if equals else _FACTOR


def _percent(factor: float) -> str:
    return f"{100 * (factor - 1):+.1f} %"


def _listed(changes: Counter[str]) -> str:
    return ", ".join(f"{count} {change}" for change, count in changes.most_common())


def diff(a: Any, b: Any, inputs: Any = None, *, runs: int = 10, backend: str = "tensorrt") -> DiffReport:
    """Lays two compiled modules, engines or ONNX models side by side: fusion, precision, memory, time and settings.

    Layers are matched by the operators of the user's module that they compute, not by their names, so that the two may
    come from different versions of TensorRT, from different settings, or from different states of one model.

    Args:
        a, b: each a compiled module, a plan, a serialized engine's bytes, an ONNX model, or the path of one of them.
        inputs: the arguments of one call, as for `bridge.compare`; both are then timed on them, as a whole and layer by
            layer as far as the backend tells. None: nothing is run.
        runs: calls to time, after one that is not.
        backend: ``"tensorrt"`` or ``"tensorrt_rtx"``: what a serialized engine is for.

    Raises:
        SpecError: an argument cannot be meant.
        BridgeError: a side cannot be opened here, or does not run on the inputs.
    """
    if not isinstance(runs, int) or isinstance(runs, bool) or runs < 1:
        raise SpecError(f"runs: {runs!r} is no number of calls", hint="a whole number from 1")
    given = one_set(inputs) if inputs is not None else None
    return between(*(opened(thing, role, given, runs, backend) for thing, role in ((a, "a"), (b, "b"))))


def between(a: Side, b: Side) -> DiffReport:
    """The report on two sides that are open already."""
    sections = dict.fromkeys((*a.facts, *b.facts))
    if a.engines != b.engines:
        sections.pop(INTERFACES, None)  # engines with other borders: nothing lines up
    facts = tuple(
        FactDiff(section, name, left.get(name, ""), right.get(name, ""))
        for section in sections
        for left, right in [(a.facts.get(section, {}), b.facts.get(section, {}))]
        for name in dict.fromkeys((*left, *right))
        if left.get(name, "") != right.get(name, "")
    )
    layers_are, ours, theirs = _comparable(a, b)
    rows = tuple(matched(ours, theirs, (a.origins, b.origins)))
    return DiffReport(a, b, facts, rows, layers_are, _left(a, b))


def _comparable(a: Side, b: Side) -> tuple[str, Sequence[Any], Sequence[Any]]:
    if a.layers is not None and b.layers is not None:
        return "layers", a.layers, b.layers
    if a.nodes is not None and b.nodes is not None:
        return "ONNX nodes", a.nodes, b.nodes
    return "nothing", (), ()


def _left(a: Side, b: Side) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Operators that only one side left to PyTorch."""
    keys = paired_origins(a.origins, b.origins)
    kept = [{keys[i].get(identity) for identity in side.in_torch} - {None} for i, side in enumerate((a, b))]
    told: list[tuple[str, ...]] = []
    for i, side in enumerate((a, b)):
        alone = [n for n in side.in_torch if (key := keys[i].get(n)) is None or key not in kept[1 - i]]
        told.append(tuple(f"{side.origins[n]}: {side.in_torch[n]}" for n in alone if n in side.origins))
    return told[0], told[1]
