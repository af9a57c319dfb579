"""Casting an ONNX graph to FP16 or BF16 by its types alone (strong typing): what runs in what is in the graph."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs
import torch

from bridge.errors import SpecError
from bridge.precision.batchnorm import fold_batch_norms
from bridge.precision.operators import AGNOSTIC
from bridge.precision.policy import Decisions, Predicate, Ranges, decide
from bridge.precision.types import (
    ELEMENT_TYPES,
    FLOAT,
    NUMPY_TYPES,
    TYPE_NAMES,
    bodies,
    element_type,
    node_signature,
    walk,
)
from bridge.precision.weights import Underflow, convert

Graph = gs.Graph


@dataclass(frozen=True)
class Kept:
    """A node that stays in FP32, and why."""

    name: str
    operator: str
    reason: str


@dataclass
class CastReport:
    """What ``cast`` did.

    Attributes:
        precision: the type asked for.
        converted: how many nodes run in it.
        kept: the nodes that stay in FP32 for a reason of their own.
        casts: how many Cast nodes were added.
        weights: how many constants were converted.
        underflows: weights that lost values to zero.
        folded: names of the batch normalizations that went into the convolution before them.
    """

    precision: torch.dtype
    converted: int = 0
    kept: list[Kept] = field(default_factory=list)
    casts: int = 0
    weights: int = 0
    underflows: list[Underflow] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        name = str(self.precision).removeprefix("torch.")
        lines = [f"{self.converted} nodes in {name}, {len(self.kept)} kept in float32, {self.casts} casts"]
        lines += [f"  {count} x {reason}" for reason, count in Counter(k.reason for k in self.kept).most_common()]
        lossy = [underflow for underflow in self.underflows if underflow.fraction > 0.01]
        lines += [f"  {u.name}: {u.fraction:.1%} of the weights became zero" for u in lossy]
        return "\n".join(lines)


def cast(
    graph: gs.Graph,
    precision: torch.dtype,
    *,
    keep_fp32: Iterable[Predicate | str] = (),
    ranges: Ranges | None = None,
) -> CastReport:
    """Casts the FP32 parts of a graph, and of the If, Loop and Scan bodies in it, to ``precision``, in place.

    Inputs and outputs of the graph keep their types, as do values carried by loops and results of branches. Norms,
    softmax, coordinates, large accumulations, and whatever has constants that do not fit stay in FP32, as do parts
    that a mixed-precision module computes in FP32 after a half-precision part. Integers and doubles are not touched.

    Args:
        graph: sorted topologically, as ONNX asks for.
        precision: ``torch.float16`` or ``torch.bfloat16``; ``torch.float32`` leaves the graph alone.
        keep_fp32: what else stays: predicates over nodes, operator types (``"Gemm"``), patterns of node names.
        ranges: (least, greatest) measured value by tensor name; what exceeds ``precision`` stays in FP32.

    Raises:
        SpecError: ``precision`` is another type.
    """
    report = CastReport(precision)
    if precision == torch.float32:
        return report
    if precision not in ELEMENT_TYPES:
        hint = "use torch.float32, torch.float16 or torch.bfloat16"
        raise SpecError(f"cannot cast a graph to {precision}", hint=hint)
    _constants_from_nodes(graph)
    report.folded = fold_batch_norms(graph)
    decisions = decide(graph, ELEMENT_TYPES[precision], keep_fp32, ranges)
    _Caster(graph, ELEMENT_TYPES[precision], decisions, report).run()
    return report


def _constants_from_nodes(graph: gs.Graph) -> None:
    """Constant nodes, and Identity of a constant (how the exporter shares equal weights), become constants."""
    replaced: dict[int, gs.Constant] = {}
    removed = []  # alive until the end: ids stand for tensors
    for holder in [graph, *graph.subgraphs(recursive=True)]:
        pinned = {id(tensor) for tensor in holder.outputs}
        remaining = []
        for node in holder.nodes:
            value = _constant_value(node, replaced)
            if value is None or id(node.outputs[0]) in pinned:
                remaining.append(node)
            else:
                replaced[id(node.outputs[0])] = value
                removed.append(node)
        holder.nodes[:] = remaining
    for _, node in walk(graph):
        for index, tensor in enumerate(node.inputs):
            if id(tensor) in replaced:
                list.__setitem__(node.inputs, index, replaced[id(tensor)])
    for node in removed:
        node.inputs.clear()
    _relink(graph)


def _constant_value(node: gs.Node, replaced: dict[int, gs.Constant]) -> gs.Constant | None:
    if node.op == "Constant" and isinstance(node.attrs.get("value"), gs.Constant):
        return gs.Constant(node.outputs[0].name, node.attrs["value"].values)
    if node.op == "Identity":
        source = replaced.get(id(node.inputs[0]), node.inputs[0])
        return source if isinstance(source, gs.Constant) else None
    return None


class _Caster:
    """Carries decisions out: each tensor exists at most once in each type, made right behind what computes it."""

    def __init__(self, graph: gs.Graph, precision: int, decisions: Decisions, report: CastReport) -> None:
        self.graph, self.precision, self.decisions, self.report = graph, precision, decisions, report
        self.suffix = f"_{TYPE_NAMES[precision]}"
        self.stored: dict[int, int] = {}
        self.versions: dict[tuple[int, int], gs.Tensor] = {}
        self.home: dict[int, gs.Graph] = {}
        self.producer: dict[int, gs.Node] = {}
        self.behind: defaultdict[int, list[gs.Node]] = defaultdict(list)
        self.ahead: defaultdict[int, list[gs.Node]] = defaultdict(list)
        self.names = {t.name for holder in self._graphs() for t in holder.tensors().values()}
        self.node_names = {node.name for _, node in walk(graph)}
        self.constant_uses: defaultdict[int, set[int]] = defaultdict(set)

    def _graphs(self) -> list[gs.Graph]:
        return [self.graph, *self.graph.subgraphs(recursive=True)]

    def run(self) -> None:
        """Retypes nodes, inserts casts, converts weights, and fills the report."""
        self._place_tensors()
        self._collect_constant_uses()
        for holder in self._graphs():
            for node in holder.nodes:
                self._retype(node)
        for holder in self._graphs():
            holder.outputs[:] = [self._border(holder, tensor) for tensor in holder.outputs]
        for holder in self._graphs():
            holder.nodes[:] = self._interleaved(holder)
        _relink(self.graph)
        self._fill_report()

    def _place_tensors(self) -> None:
        for holder in self._graphs():
            for tensor in holder.inputs:
                self.home[id(tensor)] = holder
            outputs = {id(tensor) for tensor in holder.outputs}
            for node in holder.nodes:
                for tensor in list(node.outputs):
                    self.home[id(tensor)], self.producer[id(tensor)] = holder, node
                    self._store(node, tensor, id(tensor) in outputs)

    def _store(self, node: gs.Node, tensor: gs.Tensor, is_border: bool) -> None:
        """Notes the type that ``node`` writes ``tensor`` in; an output of its graph is given back in FP32 by a cast."""
        if self.decisions.types.get(id(tensor)) != FLOAT:
            return
        tensor.dtype = NUMPY_TYPES[FLOAT]
        if not self._writes_low(node, tensor):
            return
        if not is_border:
            tensor.dtype = NUMPY_TYPES[self.precision]
            self.stored[id(tensor)] = self.precision
            return
        low = gs.Variable(self._new_name(tensor.name + self.suffix), NUMPY_TYPES[self.precision], tensor.shape)
        index = next(i for i, t in enumerate(node.outputs) if t is tensor)
        list.__setitem__(node.outputs, index, low)
        self.versions[id(tensor), self.precision] = low
        self.behind[id(node)].append(self._cast_node(node.name, low, tensor, FLOAT))

    def _writes_low(self, node: gs.Node, tensor: gs.Tensor) -> bool:
        if id(node) not in self.decisions.low:
            return False
        index = next(i for i, t in enumerate(node.outputs) if t is tensor)
        known = node_signature(node, self.graph.opset)
        return known is not None and known.output_type(index) in known.allowed

    def _wanted(self, node: gs.Node, index: int) -> int | None:
        """The type that ``node`` takes FP32 input ``index`` in; None: whatever it is stored in."""
        if node.op in AGNOSTIC and not node.domain:
            return None
        if id(node) not in self.decisions.low:
            return FLOAT
        known = node_signature(node, self.graph.opset)
        return self.precision if known is not None and known.input_type(index) in known.allowed else FLOAT

    def _collect_constant_uses(self) -> None:
        for _, node in walk(self.graph):
            for index, tensor in enumerate(node.inputs):
                if isinstance(tensor, gs.Constant) and self.decisions.types.get(id(tensor)) == FLOAT:
                    self.constant_uses[id(tensor)].add(self._wanted(node, index) or FLOAT)
        for holder in self._graphs():
            for tensor in holder.outputs:
                self.constant_uses[id(tensor)].add(FLOAT)

    def _retype(self, node: gs.Node) -> None:
        if node.op == "Cast" and id(node) in self.decisions.low and element_type(node.attrs["to"]) == FLOAT:
            node.attrs["to"] = self.precision
        for index, tensor in enumerate(node.inputs):
            if tensor.name and self.decisions.types.get(id(tensor)) == FLOAT:
                wanted = self._wanted(node, index)
                if wanted is not None:
                    list.__setitem__(node.inputs, index, self._version(tensor, wanted, node.name))

    def _version(self, tensor: gs.Tensor, wanted: int, user: str) -> gs.Tensor:
        if isinstance(tensor, gs.Constant):
            return self._constant(tensor, wanted)
        if self.stored.get(id(tensor), FLOAT) == wanted:
            return tensor
        key = (id(tensor), wanted)
        if key not in self.versions:
            name = self._new_name(f"{tensor.name}_{TYPE_NAMES[wanted]}")
            made = gs.Variable(name, NUMPY_TYPES[wanted], tensor.shape)
            producer = self.producer.get(id(tensor))
            node = self._cast_node(producer.name if producer else user, tensor, made, wanted)
            places = self.behind[id(producer)] if producer else self.ahead[id(self.home[id(tensor)])]
            places.append(node)
            self.versions[key] = made
        return self.versions[key]

    def _constant(self, constant: gs.Constant, wanted: int) -> gs.Constant:
        if wanted == FLOAT:
            return constant
        key = (id(constant), wanted)
        if key not in self.versions:
            values, underflow = convert(constant, wanted)
            self.report.weights += 1
            self.report.underflows += [underflow] if underflow else []
            if self.constant_uses[id(constant)] == {wanted}:
                constant.values = values
                self.versions[key] = constant
            else:
                self.versions[key] = gs.Constant(self._new_name(constant.name + self.suffix), values)
        return self.versions[key]

    def _border(self, holder: gs.Graph, tensor: gs.Tensor) -> gs.Tensor:
        """A body may give back a tensor of a graph around it, which may be stored in sixteen bits there."""
        if self.stored.get(id(tensor)) == self.precision and self.home.get(id(tensor)) is not holder:
            return self._version(tensor, FLOAT, "")
        return tensor

    def _cast_node(self, owner: str, source: gs.Tensor, target: gs.Tensor, to: int) -> gs.Node:
        self.report.casts += 1
        base = name = f"{owner}/cast/Cast"
        count = 1
        while name in self.node_names:
            count += 1
            name = f"{base}_{count}"
        self.node_names.add(name)
        return gs.Node("Cast", name, {"to": to}, [source], [target])

    def _new_name(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def _interleaved(self, holder: gs.Graph) -> list[gs.Node]:
        nodes = list(self.ahead[id(holder)])
        for node in holder.nodes:
            nodes.append(node)
            nodes += self.behind[id(node)]
        return nodes

    def _fill_report(self) -> None:
        for _, node in walk(self.graph):
            reason = self.decisions.kept.get(id(node))
            if reason is not None and not bodies(node):
                self.report.kept.append(Kept(node.name, node.op, reason))
        self.report.converted = len(self.decisions.low)


def _relink(graph: gs.Graph) -> None:
    """Rebuilds what graphsurgeon keeps on tensors about their nodes, in one pass (its own updates are quadratic)."""
    nodes = [node for _, node in walk(graph)]
    for node in nodes:
        for tensor in (*node.inputs, *node.outputs):
            list.clear(tensor.inputs)
            list.clear(tensor.outputs)
    for node in nodes:
        for tensor in node.inputs:
            list.append(tensor.outputs, node)
        for tensor in node.outputs:
            list.append(tensor.inputs, node)
