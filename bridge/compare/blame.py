"""Which application of a rewrite rule, or which cast to half precision, first changes the numbers: found by halving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

import rewrites
from bridge.compare.figures import figures_of
from bridge.compare.sides import OnnxSide, copied
from bridge.compare.steps import Key, leaving
from bridge.compare.tracing import Traced, side_of
from bridge.interface import translate_whole
from bridge.precision import cast, final_layers
from bridge.translate import Translation, rules_of, target_of

_GROUPS = 24


@dataclass(frozen=True)
class Culprit:
    """What changes the numbers first.

    Attributes:
        kind: ``"export"``, ``"rule"``, ``"cast"`` or ``"engine"``.
        name: the rule's or operator's name.
        node: the ONNX node at which.
        before, after: relative error without and with it.
        tries: how many graphs were run to find it.
    """

    kind: str
    name: str
    node: str
    before: float
    after: float
    tries: int

    def __str__(self) -> str:
        what = {
            "export": f"the export itself, {self.name} at {self.node}",
            "rule": f"the rule {self.name} at {self.node}",
            "cast": f"the cast of {self.name} {self.node}",
            "engine": f"the engine, at {self.name} {self.node}",
        }[self.kind]
        return f"The numbers first change with {what}: relative error {self.before:.3g} before, {self.after:.3g} after."


@dataclass(frozen=True)
class Share:
    """What a part of the module loses when it alone is computed in half precision: relative error of an output."""

    module_path: str
    nodes: int
    relative: float


class Blamer:
    """Runs a program's ONNX graph with a part of what was done to it.

    Args:
        keys: whose results are looked at; none: those of the whole graph.
        bound: the relative error above which they are wrong.
    """

    def __init__(self, traced: Traced, keys: Sequence[Key], bound: float) -> None:
        self.traced, self.bound, self.tries = traced, bound, 0
        self.exported = translate_whole(traced.loaded, rewrite=False)
        names = leaving(traced.torch_side.deep, traced.torch_side.results)
        single = {key: names[key][0] for key in keys or self._results() if len(names.get(key, ())) == 1}
        self.expected = traced.torch_side.values(list(single.values()))
        self.wanted = {key: name for key, name in single.items() if name in self.expected}

    def first_application(self) -> Culprit | None:
        """The application of a rule, in their order; None when rewriting does not make the results wrong."""
        graph = self._graph()
        fired = self._rewrite(graph).fired
        errors: dict[int, float] = {}

        def error(count: int) -> float:
            if count not in errors:
                partly = self._graph()
                self._rewrite(partly, count)
                errors[count] = self._error(partly)
            return errors[count]

        if error(0) > self.bound:
            origin = self.traced.loaded.program.provenance[int(next(iter(self.wanted)))]
            return Culprit("export", origin.operator, str(origin), 0.0, error(0), self.tries)
        if not fired or error(len(fired)) <= self.bound:
            return None
        first = _first_wrong(len(fired), lambda count: error(count) > self.bound)
        firing = fired[first - 1]
        return Culprit("rule", firing.rule, firing.node, error(first - 1), error(first), self.tries)

    def first_cast(self) -> Culprit | None:
        """The node, in the order of the graph, that makes the results wrong when it too is in half precision."""
        graph = self._graph()
        self._rewrite(graph)
        order = {node.name: position for position, node in enumerate(graph.nodes)}
        errors: dict[int, float] = {}

        def error(count: int) -> float:
            if count not in errors:
                errors[count] = self._cast_error(graph, lambda node: order.get(_first_name(node), -1) >= count)
            return errors[count]

        if error(len(order)) <= self.bound or error(0) > self.bound:
            return None
        first = _first_wrong(len(order), lambda count: error(count) > self.bound)
        node = graph.nodes[first - 1]
        return Culprit("cast", node.op, node.name, error(first - 1), error(first), self.tries)

    def shares(self) -> list[Share]:
        """The parts of the module, each in half precision alone, in the order of execution."""
        graph = self._graph()
        self._rewrite(graph)
        paths = {node.name: node.name.partition("/")[0] for node in graph.nodes}
        groups = _groups(list(paths.values()))
        found = []
        for group in groups:
            part = {name for name, path in paths.items() if _inside(path, group)}
            error = self._cast_error(graph, lambda node, part=part: _first_name(node) not in part)  # type: ignore[misc]
            found.append(Share(group, len(part), error))
        return found

    def _results(self) -> list[Key]:
        """The keys that make the graph's results."""
        side = side_of(self.exported, self.traced.torch_side, "the exported ONNX")
        results = set(side.results)
        return [step.key for step in side.steps if step.key is not None and results & set(step.outputs)]

    def _graph(self) -> gs.Graph:
        assert self.exported.graph is not None
        return copied(self.exported.graph)

    def _rewrite(self, graph: gs.Graph, limit: int | None = None) -> rewrites.Report:
        spec = self.traced.loaded.spec
        return rewrites.rewrite(graph, target=target_of(spec), rules=rules_of(spec), limit=limit).report

    def _cast_error(self, graph: gs.Graph, keep: Callable[[gs.Node], bool]) -> float:
        partly = copied(graph)
        cast(partly, self.traced.loaded.spec.precision, keep_fp32=[final_layers(partly), keep])
        return self._error(partly)

    def _error(self, graph: gs.Graph) -> float:
        """The largest relative error of the results; of those that this graph has."""
        self.tries += 1
        translation: Translation = replace(self.exported, graph=graph)
        side: OnnxSide = side_of(translation, self.traced.torch_side, "a partly changed graph")
        names = leaving(side.deep, side.results)
        pairs = {key: names[key][-1] for key in self.wanted if key in names}
        found = side.values(list(pairs.values()))
        errors = [0.0]
        for key, name in pairs.items():
            expected = self.expected[self.wanted[key]]
            if name in found and found[name].shape == expected.shape:
                errors.append(figures_of(expected, found[name]).relative)
        return max(errors)


def _first_wrong(count: int, is_wrong: Callable[[int], bool]) -> int:
    """The first of 1 to ``count`` that is wrong, where 0 is right and ``count`` is wrong."""
    right, wrong = 0, count
    while wrong - right > 1:
        middle = (right + wrong) // 2
        right, wrong = (right, middle) if is_wrong(middle) else (middle, wrong)
    return wrong


def _first_name(node: gs.Node) -> str:
    """A node's own name, without those of the nodes that it took in."""
    return str(node.name).partition("+")[0]


def _inside(path: str, group: str) -> bool:
    return path == group or path.startswith(f"{group}.")


def _groups(paths: Sequence[str]) -> list[str]:
    """Module paths that cover all of these, as deep as `_GROUPS` of them allow."""
    depth, most = 1, max((path.count(".") + 1 for path in paths), default=1)
    groups = _cut(paths, depth)
    while depth < most and len(_cut(paths, depth + 1)) <= _GROUPS:
        depth += 1
        groups = _cut(paths, depth)
    return groups


def _cut(paths: Sequence[str], depth: int) -> list[str]:
    return list(dict.fromkeys(".".join(path.split(".")[:depth]) for path in paths))
