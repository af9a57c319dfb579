"""What a rewrite did: which rule fired where, what refused and why, and how long each rule took."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Firing:
    """One application: the rule, the node it was found at, and how many nodes were taken and made."""

    rule: str
    node: str
    operator: str
    removed: int
    created: int


@dataclass(frozen=True)
class Refused:
    """One refusal: the rule, the node, and the reason."""

    rule: str
    node: str
    operator: str
    reason: str


@dataclass
class Report:
    """What happened in one call of `rewrites.rewrite`; `str()` is the text, `json()` the same as data.

    Attributes:
        fired: every application, in order.
        refused: what still refuses in the result.
        seconds: rule -> time spent in it.
        notes: other things done to the model, as a change of its opset.
        total_seconds: the whole call.
    """

    target: str
    fired: list[Firing] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    total_seconds: float = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """Rule -> how often it fired."""
        return dict(Counter(f.rule for f in self.fired))

    def line(self) -> str:
        """One line for a log."""
        fired = ", ".join(f"{name} x{count}" for name, count in self.counts.items()) or "nothing"
        return f"rewrote for {self.target}: {fired}; {len(self.refused)} refused; {self.total_seconds:.2f} s"

    def json(self) -> str:
        """Everything, as JSON."""
        data = {
            "target": self.target,
            "fired": [vars(f) for f in self.fired],
            "refused": [vars(r) for r in self.refused],
            "seconds": self.seconds,
            "notes": self.notes,
            "total_seconds": self.total_seconds,
        }
        return json.dumps(data, indent=1)

    def __str__(self) -> str:
        lines = [self.line(), *(f"note: {note}" for note in self.notes)]
        for name, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            places = [f.node for f in self.fired if f.rule == name]
            shown = ", ".join(places[:3]) + (f" and {count - 3} more" if count > 3 else "")
            lines.append(f"{name}: {count} in {self.seconds.get(name, 0.0) * 1e3:.1f} ms at {shown}")
        lines += [f"{r.operator} {r.node}\n  {r.rule} refused: {r.reason}" for r in self.refused]
        return "\n".join(lines)
