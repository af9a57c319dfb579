"""Nodes of any graph as steps, and which of their values others read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

Key = int | str


@dataclass(frozen=True)
class Step:
    """One node of a graph's outermost block.

    Attributes:
        key: what it is matched by: the identity of the TorchScript node it came from; None when it is not known.
        inputs: the values that it reads, also inside its bodies.
        outputs: its tensors.
    """

    key: Key | None
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def prefixed(step: Step, prefix: str) -> Step:
    """The step with names of its values that no other graph has."""
    inputs, outputs = (tuple(prefix + name for name in names) for names in (step.inputs, step.outputs))
    return Step(step.key, step.name, inputs, outputs)


def matched(steps: Iterable[Step], keys: Mapping[int, int]) -> list[Step]:
    """The steps with other keys; none where there is none."""
    return [replace(step, key=keys.get(step.key) if isinstance(step.key, int) else None) for step in steps]


def leaving(steps: Sequence[Step], results: Iterable[str]) -> dict[Key, list[str]]:
    """The values of each key that nodes of other keys read, or that are results."""
    makers = {output: step.key for step in steps for output in step.outputs if step.key is not None}
    read = {name for step in steps for name in step.inputs if makers.get(name) != step.key} | set(results)
    found: dict[Key, list[str]] = {}
    for step in steps:
        left = [output for output in step.outputs if output in read]
        if left and step.key is not None:
            found.setdefault(step.key, []).extend(left)
    return found
