"""The smallest part of a graph that an engine computes wrongly, found by halving, without a result marked inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs
from polygraphy.backend.onnx import ExtractSubgraph

from bridge.backends.element_types import element_types
from bridge.compare.arrays import Array
from bridge.compare.figures import figures_of
from bridge.compare.outputs import quiet_polygraphy
from bridge.compare.sides import OnnxSide, copied, metadata
from bridge.compare.steps import Step
from bridge.errors import BridgeError

Run = Callable[[gs.Graph, Mapping[str, Array]], Mapping[str, Array]]
"""Runs a graph, with its inputs by name, in what is doubted."""


@dataclass(frozen=True)
class Window:
    """Nodes ``start`` to ``end`` (not included) of a graph, by themselves.

    Attributes:
        feeds, expected: the values that go in, and those that must come out.
        output, relative: the result that is most wrong, and its error.
    """

    start: int
    end: int
    graph: gs.Graph
    feeds: dict[str, Array]
    expected: dict[str, Array]
    output: str
    relative: float


class Windows:
    """Cuts of one graph, run in what is doubted, against ONNX Runtime's values of the whole graph.

    The parts that begin at the graph's inputs are halved first: they end at the first node whose result is wrong. Then
    the front is cut off, fed with the right values, as long as the result stays wrong. Each try builds an engine of
    which nothing inside is marked, so that the backend fuses as it does in the whole graph.

    Attributes:
        tries: how many parts were run.
    """

    def __init__(self, graph: gs.Graph, right: OnnxSide, run: Run, bound: float) -> None:
        self.graph, self.right, self.run, self.bound, self.tries = graph, right, run, bound, 0
        self.steps, self.types = right.steps, element_types(right.model)
        self.variables = {output for step in self.steps for output in step.outputs} | set(right.inputs)

    def smallest(self) -> Window | None:
        """None when the whole graph is right."""
        found = self._wrong(0, len(self.steps))
        if found is None:
            return None
        right, end = 0, len(self.steps)
        while end - right > 1:
            middle = (right + end) // 2
            wrong = self._wrong(0, middle)
            right, end, found = (right, middle, wrong) if wrong else (middle, end, found)
        return self._without_front(end, found)

    def _without_front(self, end: int, found: Window) -> Window:
        only = self._wrong(0, end, [found.output])
        outputs, found = ([found.output], only) if only else (list(found.expected), found)
        start, stop = 0, end
        while stop - start > 1:
            middle = (start + stop) // 2
            wrong = self._wrong(middle, end, outputs)
            start, stop, found = (middle, stop, wrong) if wrong else (start, middle, found)
        return found

    def _wrong(self, start: int, end: int, outputs: Sequence[str] = ()) -> Window | None:
        """That part, when one of its results is wrong; parts that cannot be built tell nothing and count as right."""
        self.tries += 1
        inside = self.steps[start:end]
        results = list(outputs) or self._frontier(end)
        given = self._read(inside)
        values = {**self.right.feeds, **self.right.values([*given, *results])}
        feeds = {name: values[name] for name in given if name in values}
        expected = {name: values[name] for name in results if name in values}
        part = self._cut(feeds, expected)
        feeds = {tensor.name: feeds[tensor.name] for tensor in part.inputs}
        try:
            found = self.run(part, feeds)
        except BridgeError:
            return None
        errors = {name: _relative(expected[name], array) for name, array in found.items() if name in expected}
        output = max(errors, key=lambda name: errors[name], default="")
        if not output or errors[output] <= self.bound:
            return None
        return Window(start, end, part, feeds, expected, output, errors[output])

    def _frontier(self, end: int) -> list[str]:
        """What the first ``end`` nodes make that later ones read, or that is a result."""
        later = {name for step in self.steps[end:] for name in step.inputs} | set(self.right.results)
        made = dict.fromkeys(output for step in self.steps[:end] for output in step.outputs)
        return [name for name in made if name in later]

    def _read(self, inside: Sequence[Step]) -> list[str]:
        made = {output for step in inside for output in step.outputs}
        read = dict.fromkeys(name for step in inside for name in step.inputs)
        return [name for name in read if name in self.variables and name not in made]

    def _cut(self, feeds: Mapping[str, Array], expected: Mapping[str, Array]) -> gs.Graph:
        with quiet_polygraphy():
            part = ExtractSubgraph(copied(self.graph), metadata(feeds, self.types), metadata(expected, self.types))()
        part.inputs = [tensor for tensor in part.inputs if tensor.outputs]
        return part


def _relative(expected: Array, found: Array) -> float:
    return figures_of(expected, found).relative if found.shape == expected.shape else math.inf
