"""Which nodes of a graph run in sixteen bits: the operators' own needs, value ranges, and as few casts as possible."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs

from bridge.precision import operators as ops
from bridge.precision.norms import normalization_nodes
from bridge.precision.types import (
    CONTROL_FLOW,
    FLOAT,
    FLOAT16,
    HALVES,
    TYPE_NAMES,
    Signature,
    bodies,
    element_type,
    infer,
    node_signature,
    walk,
)
from bridge.precision.weights import fits

Predicate = Callable[[gs.Node], bool]
Ranges = Mapping[str, tuple[float, float]]
_SMALL_INTEGERS = (onnx.TensorProto.BOOL, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
_ACCUMULATING = ("add", "mul")


@dataclass
class Decisions:
    """What ``decide`` found.

    Attributes:
        types: element type by tensor id, before any cast.
        low: ids of the nodes that run in sixteen bits.
        kept: reason by node id, for nodes that stay in FP32 for a reason of their own.
    """

    types: dict[int, int]
    low: set[int] = field(default_factory=set)
    kept: dict[int, str] = field(default_factory=dict)


def as_predicate(keep: Predicate | str) -> Predicate:
    """A predicate from an operator type (``"Gemm"``), a module's path or a pattern of node names (``"*linear*"``)."""
    if callable(keep):
        return keep
    inside = (f"{keep}/", f"{keep}.")
    return lambda node: node.op == keep or node.name.startswith(inside) or fnmatch.fnmatchcase(node.name, keep)


def final_layers(graph: gs.Graph) -> Predicate:
    """A predicate for the compute operators from which no path leads to another one: keeps final logits in FP32.

    What computes a residual stream is not among them, though the stream itself reaches the outputs.
    """
    feeding: set[int] = set()
    found: set[int] = set()
    for node in reversed(graph.nodes):
        is_compute = node.op in ops.COMPUTE
        if is_compute and not any(id(tensor) in feeding for tensor in node.outputs):
            found.add(id(node))
        if is_compute or bodies(node) or any(id(tensor) in feeding for tensor in node.outputs):
            feeding.update(id(tensor) for tensor in node.inputs)
    return lambda node: id(node) in found


def decide(
    graph: gs.Graph, precision: int, keep_fp32: Iterable[Predicate | str] = (), ranges: Ranges | None = None
) -> Decisions:
    """Chooses, for every node that touches FP32 tensors, between FP32 and ``precision`` (an ONNX element type)."""
    return _Policy(graph, precision, [as_predicate(keep) for keep in keep_fp32], ranges or {}).decide()


class _Policy:
    def __init__(self, graph: gs.Graph, precision: int, keep: list[Predicate], ranges: Ranges) -> None:
        self.graph, self.precision, self.keep, self.ranges = graph, precision, keep, ranges
        self.nodes = [node for _, node in walk(graph)]
        self.types = infer(graph)
        self.decisions = Decisions(self.types)
        self.signatures = {id(node): node_signature(node, graph.opset) for node in self.nodes}
        self.borders = {id(t) for holder in self._graphs() for t in holder.outputs}
        self.graph_inputs = {id(t) for t in graph.inputs}
        self.consumers: defaultdict[int, list[tuple[gs.Node, int]]] = defaultdict(list)
        for node in self.nodes:
            for index, tensor in enumerate(node.inputs):
                self.consumers[id(tensor)].append((node, index))
        self.wide: set[int] = set()
        self.counts: set[int] = set()
        self.explicit: set[int] = set()
        self.exact: set[int] = set()
        self.willing: set[int] = set()

    def _graphs(self) -> list[gs.Graph]:
        return [self.graph, *self.graph.subgraphs(recursive=True)]

    def decide(self) -> Decisions:
        self._keep_what_must()
        self._look_back()
        self._settle()
        return self.decisions

    # First pass, forward: reasons of the operators' own, and value ranges.

    def _keep_what_must(self) -> None:
        self._keep_in(self.graph, normalization_nodes(self.nodes, self.consumers))

    def _keep_in(self, graph: gs.Graph, norms: set[int]) -> None:
        for node in graph.nodes:
            inner = bodies(node)
            for body in inner:
                carried = {"Loop": node.inputs[2:], "Scan": node.inputs}.get(node.op, [])
                for outside, inside in zip(
                    carried, body.inputs[2:] if node.op == "Loop" else body.inputs, strict=False
                ):
                    self._inherit([id(outside)], [id(inside)])
                self._keep_in(body, norms)
                results = body.outputs[1:] if node.op == "Loop" else body.outputs
                for inside, outside in zip(results, node.outputs, strict=False):
                    self._inherit([id(inside)], [id(outside)])
            if self._touches_float(node):
                reason = "normalization" if id(node) in norms else self._reason(node)
                if reason:
                    self.decisions.kept[id(node)] = reason
                if not inner:
                    self._spread(node, reason)

    def _inherit(self, sources: list[int], targets: list[int]) -> None:
        for marks in (self.wide, self.counts, self.explicit):
            if marks.intersection(sources):
                marks.update(targets)

    def _reason(self, node: gs.Node) -> str:
        if any(keep(node) for keep in self.keep):
            return "asked for"
        if any(id(t) in self.explicit for t in node.inputs) and node.op not in ops.AGNOSTIC:
            return "FP32 in the module itself"
        if node.op in CONTROL_FLOW:
            return "control flow keeps its types"
        known = self.signatures[id(node)]
        if known is None:
            return "operator unknown to ONNX"
        if node.op in ops.AGNOSTIC:
            return ""
        if node.op in ops.KEPT:
            return ops.KEPT[node.op]
        if node.attrs.get("reduction") in _ACCUMULATING:
            return "accumulates or grows beyond sixteen bits"
        return self._refusal(node, known) or self._range_reason(node)

    def _refusal(self, node: gs.Node, known: Signature) -> str:
        variables = {known.input_type(i) for i in self.float_inputs(node)}
        castable = {name for name in variables if name in known.allowed}
        outputs = {known.output_type(i) for i, t in enumerate(node.outputs) if self.types.get(id(t)) == FLOAT}
        if node.op in ops.REFUSED_BY_TENSORRT.get(self.precision, ()):
            return f"TensorRT takes no {TYPE_NAMES[self.precision]} {node.op}"
        if not all(known.allows(name, self.precision) for name in castable):
            return f"{node.op} takes no {TYPE_NAMES[self.precision]} at opset {self.graph.opset}"
        if any(name in known.allowed and name not in castable for name in outputs) or not castable:
            return "makes FP32 from other types"
        return ""

    def _range_reason(self, node: gs.Node) -> str:
        if any(id(t) in self.wide or id(t) in self.counts for t in node.inputs):
            return "values beyond sixteen bits"
        known = self.signatures[id(node)]
        castable = [node.inputs[i] for i in self.float_inputs(node) if known and known.input_type(i) in known.allowed]
        constants = [tensor for tensor in castable if isinstance(tensor, gs.Constant)]
        outside = [constant.name for constant in constants if not fits(constant, self.precision)]
        if outside:
            return f"constant {outside[0]!r} is beyond {TYPE_NAMES[self.precision]}"
        if any(self._measured_wide(t) for t in (*node.inputs, *node.outputs)):
            return "measured values beyond sixteen bits"
        return ""

    def _measured_wide(self, tensor: gs.Tensor) -> bool:
        bounds = self.ranges.get(tensor.name)
        limit = 65504.0 if self.precision == FLOAT16 else 3.3895e38
        return bounds is not None and max(abs(bounds[0]), abs(bounds[1])) > limit

    def _spread(self, node: gs.Node, reason: str) -> None:
        inputs = [id(t) for t in node.inputs if t.name]
        outputs = [id(t) for t in node.outputs if self.types.get(id(t)) == FLOAT]
        if node.op == "Cast":
            self._spread_cast(node, outputs)
        if self.explicit.intersection(inputs):
            self.explicit.update(outputs)
        carries = node.op in ops.RANGE_CARRIERS
        if carries and (reason.startswith("constant ") or self.wide.intersection(inputs)):
            self.wide.update(outputs)
        if self._makes_wide(node) or any(self._measured_wide(t) for t in node.outputs):
            self.wide.update(outputs)
        variables = [id(node.inputs[i]) for i in self.float_inputs(node) if isinstance(node.inputs[i], gs.Variable)]
        if carries and variables and self.counts.issuperset(variables):
            self.counts.update(outputs)

    def _spread_cast(self, node: gs.Node, outputs: list[int]) -> None:
        source = self.types.get(id(node.inputs[0]))
        if source in HALVES and id(node.inputs[0]) not in self.graph_inputs:
            self.explicit.update(outputs)
        elif source not in (FLOAT, *_SMALL_INTEGERS, *HALVES, onnx.TensorProto.DOUBLE):
            self.counts.update(outputs)

    def _makes_wide(self, node: gs.Node) -> bool:
        if node.op == "Pow":
            exponent = node.inputs[1]
            return not isinstance(exponent, gs.Constant) or bool((abs(exponent.values) > 1).any())
        return node.op in ops.RANGE_SOURCES

    # Second pass, backward: positions pull what computes them into FP32; the others say whether they would rather be.

    def _look_back(self) -> None:
        for node in reversed(self.nodes):
            if id(node) in self.decisions.kept or node.op in ops.COMPUTE or not self._touches_float(node):
                continue
            if node.op in ops.AGNOSTIC and not self._casts_float_to_float(node):
                continue
            uses = [use for t in node.outputs if self.types.get(id(t)) == FLOAT for use in self._uses(t)]
            if uses and all(use == "exact" for use in uses):
                self.exact.add(id(node))
                self.decisions.kept[id(node)] = "coordinates"
            elif uses and "low" not in uses:
                self.willing.add(id(node))

    def _uses(self, tensor: gs.Tensor) -> list[str]:
        uses = ["fp32"] if id(tensor) in self.borders else []
        for node, index in self.consumers[id(tensor)]:
            use = self._use(node, index)
            if use:
                uses.append(use)
        return uses

    def _use(self, node: gs.Node, index: int) -> str:
        if id(node) in self.exact or index in ops.EXACT_POSITIONS.get(node.op, ()):
            return "exact"
        if node.op == "Cast" and element_type(node.attrs["to"]) in (onnx.TensorProto.INT32, onnx.TensorProto.INT64):
            return "exact"
        known = self.signatures[id(node)]
        if known is not None and known.input_type(index) == "tensor(float)":
            return "exact"
        if id(node) in self.decisions.kept or id(node) in self.willing:
            return "fp32"
        return "" if node.op in ops.AGNOSTIC and not self._casts_float_to_float(node) else "low"

    # Third pass, forward: between FP32 neighbours stay in FP32, all else goes to sixteen bits.

    def _settle(self) -> None:
        low: set[int] = set()
        for node in self.nodes:
            if id(node) in self.decisions.kept or not self._touches_float(node):
                continue
            if node.op in ops.AGNOSTIC and not self._casts_to_float(node):
                continue
            if not self._between_fp32(node, low):
                self.decisions.low.add(id(node))
                known = self.signatures[id(node)]
                low.update(id(t) for i, t in enumerate(node.outputs) if self._is_castable_output(node, known, i))

    def _between_fp32(self, node: gs.Node, low: set[int]) -> bool:
        if node.op in ops.COMPUTE:
            return False
        if node.op == "Cast" and id(node.outputs[0]) in self.counts | self.wide | self.explicit:
            return True
        inputs = {id(node.inputs[i]): node.inputs[i] for i in self.float_inputs(node)}
        variables = [t for t in inputs.values() if isinstance(t, gs.Variable)]
        if any(id(t) in low for t in variables):
            return False
        return id(node) in self.willing or sum(bool(t.inputs) for t in variables) > 1

    def _is_castable_output(self, node: gs.Node, known: Signature | None, index: int) -> bool:
        is_float = self.types.get(id(node.outputs[index])) == FLOAT
        return is_float and known is not None and known.output_type(index) in known.allowed

    def float_inputs(self, node: gs.Node) -> list[int]:
        """Indices of the FP32 inputs."""
        return [i for i, t in enumerate(node.inputs) if t.name and self.types.get(id(t)) == FLOAT]

    def _touches_float(self, node: gs.Node) -> bool:
        return any(self.types.get(id(t)) == FLOAT for t in (*node.inputs, *node.outputs))

    def _casts_to_float(self, node: gs.Node) -> bool:
        return node.op == "Cast" and self.types.get(id(node.outputs[0])) == FLOAT

    def _casts_float_to_float(self, node: gs.Node) -> bool:
        return self._casts_to_float(node) and self.types.get(id(node.inputs[0])) == FLOAT
