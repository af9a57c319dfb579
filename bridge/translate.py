"""One segment down the street: export, rewrites, precision, and what the target's parser says."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs
import torch

import rewrites
from bridge import torch_private as tp
from bridge.backends.base import Backend, BuildSettings
from bridge.backends.weights import detach_weights
from bridge.errors import BuildError, SpecError
from bridge.export import Exported, export
from bridge.export.export import ExporterCrash, onnx_identifier
from bridge.export.function import Function, function_of
from bridge.frontend.program import Program
from bridge.frontend.provenance import TAG, identity_of
from bridge.leaves import input_leaves, result_names
from bridge.logging import show_graph
from bridge.partition.segments import Segment
from bridge.precision import (
    CONTROL_FLOW,
    accumulate_in_fp32,
    as_predicate,
    cast,
    final_layers,
    narrow_inputs,
    truncate,
    widen_heads,
    widen_refused,
)
from bridge.runtime.dtypes import name_of
from bridge.runtime.signature import InputSignature, OutputSignature, Range, Signature
from bridge.spec import CompileSpec, Leaf

_LOG = logging.getLogger("bridge.translate")
_NO_WAY = "torch.onnx does not translate it and no rule lowers it"
_HALVES = (torch.float16, torch.bfloat16)
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


@dataclass
class Translation:
    """A segment as the backend gets it, or the nodes that keep it from getting there.

    Attributes:
        refused: reason by the identity of each node that has no way into this target.
        exported: number of ONNX nodes of each operator before rewriting.
    """

    graph: gs.Graph | None
    function: Function | None = None
    input_names: list[str] = field(default_factory=list)
    output_names: list[str] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    rewriting: rewrites.Report | None = None
    exported: dict[str, int] = field(default_factory=dict)


class Translator:
    """Translates segments of one program for one target.

    Args:
        checker: whose parser is asked about every translation.
        then: how the checker builds the translations, where it does.
    """

    def __init__(
        self,
        program: Program,
        spec: CompileSpec,
        leaves: Sequence[Leaf],
        checker: Backend | None,
        paths: dict[str, str],
        then: BuildSettings | None = None,
    ) -> None:
        self.program, self.spec, self.checker, self.paths, self.then = program, spec, checker, paths, then
        self.leaf_of = input_leaves(program, leaves, list(spec.argument_names or ()))
        self.result_names = result_names(program.graph)
        self._check_output_names()
        self.as_themselves: set[int] = set()
        self.fp32_of_nothing = set(spec.keep_fp32) if spec.precision in _HALVES else set()

    def _check_output_names(self) -> None:
        given, known = list(self.spec.output_names or ()), list(self.result_names.values())
        if given and len(given) != len(known):
            told = f"output_names: {len(given)} names for {len(known)} result{'s' * (len(known) != 1)}"
            raise SpecError(f"{told}: {', '.join(given)}", hint=f"one for each of {', '.join(known)}")
        taken = {leaf.name for leaf in self.leaf_of.values()}
        for index, name in enumerate(given):
            if name in taken:
                raise SpecError(f"output_names[{index}]: {name!r} is the name of an input", hint="give it another")

    def translate(self, segment: Segment) -> Translation:
        """The segment's typed ONNX graph, or why some of its nodes cannot be in one."""
        function = function_of(segment, self.program, self.paths)
        inputs, outputs = self._input_names(function), self._output_names(segment)
        try:
            exported = self._export(function, inputs, outputs)
        except ExporterCrash as crash:
            culprit = self._culprit(segment, self._fails, f"torch.onnx fails at it: {str(crash).splitlines()[0]}")
            if culprit.keys() <= self.as_themselves:
                return Translation(None, refused=culprit)
            self.as_themselves |= culprit.keys()  # a rule may lower what the exporter breaks at
            return self.translate(segment)
        self._restore_outputs(exported.graph, segment)
        _show("a segment, as exported", exported.graph)
        counts = dict(Counter(node.op for node in all_nodes(exported.graph)))
        if self.spec.truncate_double:
            truncate(exported.graph)
        try:
            rewriting = self._rewrite(exported.graph)
        except rewrites.RewriteError as error:
            return self._without(segment, error)
        refused = self._left_over(exported.graph, exported.reasons, rewriting)
        if not refused:
            self._cast(exported.graph, function)
            _show("a segment, rewritten and typed", exported.graph)
            refused = self._unbuildable(exported.graph, segment)
            exporters_own = self._lowerable(segment, refused.keys() - exported.reasons.keys() - self.as_themselves)
            if exporters_own:
                self.as_themselves |= exporters_own  # a rule may know another way than the exporter's
                return self.translate(segment)
        return Translation(exported.graph, function, inputs, outputs, refused, rewriting, counts)

    def _without(self, segment: Segment, error: rewrites.RewriteError) -> Translation:
        """What is left when a rule of the library fails: the operator as itself, then without it.

        Raises:
            RewriteError: the rule is the user's own, or the operator at which it failed is not known.
        """
        culprit = identity_of(error.node or "")
        if culprit not in segment.identities or any(str(error.rule).startswith(r.name) for r in self.spec.rules or ()):
            raise error
        if culprit not in self.as_themselves:
            self.as_themselves.add(culprit)
            return self.translate(segment)
        _LOG.warning("a rule failed: %s", error)
        return Translation(None, refused={culprit: f"{error.rule}: {error.what}"})

    def translate_whole(self, function: Function, results: list[tp.Value], *, rewrite: bool) -> Translation:
        """A whole method's ONNX graph: as exported, or rewritten and typed for the target.

        Raises:
            ExporterCrash: the exporter failed outside any one operator.
        """
        segment = Segment([], list(function.inputs), results)
        inputs, outputs = self._input_names(function), self._output_names(segment)
        exported = self._export(function, inputs, outputs)
        self._restore_outputs(exported.graph, segment)
        translation = Translation(exported.graph, function, inputs, outputs)
        if rewrite:
            translation.rewriting = self._rewrite(exported.graph)
            translation.refused = self._left_over(exported.graph, exported.reasons, translation.rewriting)
            if not translation.refused:
                self._cast(exported.graph, function)
        return translation

    def _export(self, function: Function, inputs: list[str], outputs: list[str], symbols: bool = True) -> Exported:
        axes = self._symbols(function, inputs) if symbols else {}
        return export(function, self.program, inputs, outputs, axes, self.as_themselves)

    def _input_names(self, function: Function) -> list[str]:
        names = []
        for value in function.inputs:
            leaf = self.leaf_of.get(value.debugName())
            names.append(leaf.name if leaf else f"value_{onnx_identifier(value.debugName())}")
        return names

    def _output_names(self, segment: Segment) -> list[str]:
        given = list(self.spec.output_names or ())
        order = list(self.result_names)
        names = []
        for value in segment.outputs:
            name = self.result_names.get(value.debugName())
            if name is not None and len(given) == len(order):
                name = given[order.index(value.debugName())]
            names.append(name or f"value_{onnx_identifier(value.debugName())}")
        taken = {leaf.name for leaf in self.leaf_of.values()}
        return [f"{name}_out" if name in taken else name for name in names]

    def _symbols(self, function: Function, names: list[str]) -> dict[str, dict[int, str]]:
        symbols: dict[str, dict[int, str]] = {}
        for value, name in zip(function.inputs, names, strict=True):
            sizes = self.program.facts.sizes(value) or ()
            leaf = self.leaf_of.get(value.debugName())
            dims = (
                leaf.dims
                if leaf
                else [size if size is not None else f"{name}_dim{axis}" for axis, size in enumerate(sizes)]
            )
            symbols[name] = {axis: dim for axis, dim in enumerate(dims) if isinstance(dim, str)}
        return {name: axes for name, axes in symbols.items() if axes}

    def _restore_outputs(self, graph: gs.Graph, segment: Segment) -> None:
        """Gives the graph's results the dtypes that they have in PyTorch."""
        for tensor, value in zip(graph.outputs, segment.outputs, strict=True):
            seen = self.program.facts.tensor(value)
            if seen is not None and tensor.dtype is None:
                import onnx

                tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, _ONNX[seen.dtype]))

    def _rewrite(self, graph: gs.Graph) -> rewrites.Report:
        return rewrites.rewrite(graph, target=target_of(self.spec), rules=rules_of(self.spec)).report

    def _left_over(self, graph: gs.Graph, reasons: Mapping[int, str], rewriting: rewrites.Report) -> dict[int, str]:
        told: dict[int | None, str] = {}
        for refusal in rewriting.refused:  # the rule for the operator comes before the one for any operator
            told.setdefault(identity_of(refusal.node), f"{refusal.rule}: {refusal.reason}")
        left = {}
        for node in all_nodes(graph):
            if (node.domain or "").startswith(rewrites.torch_domain.PREFIX):
                identity = identity_of(node.name)
                if identity is not None:
                    left[identity] = told.get(identity) or reasons.get(identity) or _NO_WAY
        return left

    def _cast(self, graph: gs.Graph, function: Function) -> None:
        if self.spec.precision in _HALVES:
            kept = {keep for keep in self.spec.keep_fp32 if any(map(as_predicate(keep), all_nodes(graph)))}
            self.fp32_of_nothing -= kept
            report = cast(graph, self.spec.precision, keep_fp32=[final_layers(graph), *self.spec.keep_fp32])
            _LOG.info("%s", report)
            named = zip(function.inputs, self._input_names(function), strict=True)
            narrow_inputs(graph, {name: dtype for value, name in named if (dtype := self.taken(value)) in _HALVES})
        if refused := widen_refused(graph):
            _LOG.info("%s in float32: TensorRT does not take it in bfloat16", ", ".join(refused))
        if heads := widen_heads(graph):
            _LOG.info("%s in float32 between half-precision tensors", ", ".join(heads))
        if self.spec.fp32_accumulation:
            _LOG.info("%d products of matrices add up in float32", len(accumulate_in_fp32(graph)))

    def taken(self, value: tp.Value) -> torch.dtype:
        """The dtype in which an engine takes a segment's input: the spec's where that is the only difference."""
        leaf, seen = self.leaf_of.get(value.debugName()), self.program.facts.tensor(value)
        assert seen is not None
        if leaf and leaf.dtype in _HALVES and seen.dtype is torch.float32 and self.spec.precision in _HALVES:
            return leaf.dtype
        return torch.float32 if seen.dtype is torch.float64 else seen.dtype

    def _unbuildable(self, graph: gs.Graph, segment: Segment) -> dict[int, str]:
        if self.checker is None:
            return {}
        own = {node.i(TAG) for node in segment.operators}
        refused = {}
        try:
            refusals = self.checker.refusals(graph, self.then)
        except BuildError as error:  # no node is named
            return self._culprit(segment, self._is_unread, f"{self.checker.name} cannot read it: {error.why or error}")
        for refusal in refusals:
            identity = identity_of(refusal.node_name)
            culprit = identity if identity in own else segment.identities[-1] if len(own) == 1 else identity
            if culprit is not None:
                refused[culprit] = f"{self.checker.name} refuses {refusal.op_type}: {refusal.reason}"
        return refused

    def _lowerable(self, segment: Segment, identities: Set[int]) -> set[int]:
        """Those of the segment's nodes that can be exported as themselves."""
        named = zip(segment.identities, segment.nodes, strict=True)
        return {i for i, node in named if i in identities and tp.schema(node) is not None and not list(node.blocks())}

    def _culprit(self, segment: Segment, fails: Callable[[Segment], bool], reason: str) -> dict[int, str]:
        """The first node whose addition makes a segment fail, found by halving, with the reason."""
        low, high = 0, len(segment.nodes)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fails(_beginning(segment, middle)) else (middle, high)
        return {segment.nodes[high - 1].i(TAG): reason}

    def _fails(self, part: Segment) -> bool:
        """Whether the exporter fails at a part of a segment."""
        if not part.outputs:
            return False
        try:
            self._export_part(part)
        except ExporterCrash:
            return True
        return False

    def _is_unread(self, part: Segment) -> bool:
        """Whether the target's parser fails at a part of a segment, and names no node."""
        assert self.checker is not None
        if not part.outputs:
            return False
        exported, function = self._export_part(part)
        if not self._left_over(exported.graph, exported.reasons, self._rewrite(exported.graph)):
            self._cast(exported.graph, function)
            try:
                self.checker.refusals(exported.graph, None)
            except BuildError:
                return True
        return False

    def _export_part(self, part: Segment) -> tuple[Exported, Function]:
        function = function_of(part, self.program, self.paths)
        names = [f"o{i}" for i in range(len(part.outputs))]
        return self._export(function, self._input_names(function), names, symbols=False), function


def _beginning(segment: Segment, count: int) -> Segment:
    """The first nodes of a segment, and all that they make."""
    nodes = segment.nodes[:count]
    made = [value for node in nodes for value in node.outputs() if value.type().kind() == "TensorType"]
    return Segment(nodes, segment.inputs, made)


_ONNX = {
    torch.float32: "FLOAT", torch.float16: "FLOAT16", torch.bfloat16: "BFLOAT16", torch.float64: "DOUBLE",
    torch.int64: "INT64", torch.int32: "INT32", torch.int16: "INT16", torch.int8: "INT8", torch.uint8: "UINT8",
    torch.bool: "BOOL",
}  # fmt: skip


def rules_of(spec: CompileSpec) -> rewrites.RuleSet:
    """The library's rules, those of other packages and the spec's own, without those that it turns off."""
    rules = rewrites.default_rules()
    if spec.rules:
        rules = rules + list(spec.rules)
    try:
        return rules.without(*spec.disabled_rules)
    except rewrites.RewriteError as error:
        raise SpecError(f"disabled_rules: {error}") from error


def target_of(spec: CompileSpec) -> str:
    return (spec.target or "tensorrt").replace(":", "==")


def _show(title: str, graph: gs.Graph) -> None:
    def text() -> str:
        import onnx

        return str(onnx.printer.to_text(detach_weights(graph)[0]))

    show_graph(_LOG, title, text)


def all_nodes(graph: gs.Graph) -> list[gs.Node]:
    nodes: list[gs.Node] = []
    for node in graph.nodes:
        nodes.append(node)
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                nodes += all_nodes(value)
    return nodes


def signature_of(
    translation: Translation, translator: Translator, segment: Segment, ranges: Mapping[str, Sequence[tuple[int, ...]]]
) -> Signature:
    """What the operator must know of an engine without loading it.

    Args:
        ranges: smallest, usual and largest shape of each input by its name.
    """
    assert translation.function is not None and translation.graph is not None
    halves = translator.spec.precision in _HALVES
    inputs: list[InputSignature] = []
    symbols: dict[str, str] = {}
    for position, (value, name) in enumerate(zip(translation.function.inputs, translation.input_names, strict=True)):
        leaf, seen = translator.leaf_of.get(value.debugName()), translator.program.facts.tensor(value)
        assert seen is not None
        taken = translator.taken(value)
        accepts = tuple(name_of(d) for d in (torch.float32, torch.float16, torch.bfloat16) if d is not taken)
        dims: list[int | Range] = []
        for axis, (low, usual, high) in enumerate(zip(*ranges[name], strict=True)):
            symbol = leaf.dims[axis] if leaf else f"{name}_dim{axis}"
            dims.append(low if low == high else Range(low, usual, high, str(symbol)))
            symbols.setdefault(str(symbol), f"i{position}.{axis}")
        allowed = accepts if halves and leaf and taken.is_floating_point else ()
        allowed += (name_of(seen.dtype),) if name_of(seen.dtype) not in (name_of(taken), *allowed) else ()
        inputs.append(InputSignature(name, name_of(taken), allowed, tuple(dims)))
    outputs = []
    for value, name, tensor in zip(segment.outputs, translation.output_names, translation.graph.outputs, strict=True):
        seen, sizes = translator.program.facts.tensor(value), translator.program.facts.sizes(value)
        assert seen is not None
        outputs.append(
            OutputSignature(
                name, name_of(seen.dtype), _output_dims(sizes or (None,) * seen.rank, tensor.shape, symbols)
            )
        )
    return Signature(tuple(inputs), tuple(outputs), _run_options(translator.spec, translation.graph))


def _run_options(spec: CompileSpec, graph: gs.Graph) -> dict[str, Any]:
    """How the engine runs. Of itself nothing is captured that may do at a call what a graph leaves out or repeats."""
    if spec.cuda_graphs is not None:
        return {"cuda_graphs": spec.cuda_graphs}
    return {"cuda_graphs": False} if any(map(_is_new_at_every_call, graph.nodes)) else {}


def _is_new_at_every_call(node: gs.Node) -> bool:
    """Branches and loops are decided on the host, random numbers counted there; of a plugin nothing is known."""
    return node.op in CONTROL_FLOW or node.op in _RANDOM or node.domain not in (None, "", "ai.onnx")


def _output_dims(sizes: Sequence[int | None], shape: Any, symbols: Mapping[str, str]) -> tuple[int | str, ...]:
    inferred = list(shape) if shape is not None and len(shape) == len(sizes) else [None] * len(sizes)
    return tuple(
        size if size is not None else dim if isinstance(dim, int) else symbols.get(str(dim), "?")
        for size, dim in zip(sizes, inferred, strict=True)
    )
