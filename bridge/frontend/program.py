"""A module ready for the street: one frozen, inlined graph of which everything knowable is known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.errors import SpecError
from bridge.frontend import (
    containers,
    decomposed,
    fake_quantize,
    in_place,
    lists,
    masked,
    nested,
    pieces,
    quantized,
    structure,
    written,
)
from bridge.frontend import facts as facts_
from bridge.frontend import provenance as provenance_
from bridge.frontend.empty import fold_empty
from bridge.frontend.facts import Argument, Facts
from bridge.frontend.filled import fold_filled
from bridge.frontend.observe import Observations, observe, together
from bridge.frontend.provenance import TAG, Provenance
from bridge.frontend.suspects import makers, suspects, warnings
from bridge.frontend.unseen import derive

_LOG = logging.getLogger("bridge.frontend")
_DROPOUTS = {
    "aten::dropout",
    "aten::feature_dropout",
    "aten::alpha_dropout",
    "aten::feature_alpha_dropout",
    "aten::native_dropout",
}
_ROUNDS = 16


@dataclass
class Program:
    """A frozen TorchScript module with what is known of it.

    Attributes:
        module: private to this program, never run yet, so that its graph may be edited.
        method: the method that is compiled.
        provenance: where each tagged node came from.
        facts: what is known of each value of the graph, by name.
        example: the arguments of one run at the optimum shapes, in the method's order.
        device: where the compiled module runs.
    """

    module: torch.jit.ScriptModule
    method: str
    provenance: Provenance
    facts: Facts
    example: tuple[Any, ...]
    device: torch.device

    @property
    def graph(self) -> tp.Graph:
        return tp.graph_of(self.module, self.method)

    @property
    def others(self) -> list[tp.Graph]:
        """The graphs of the module's other methods, which stay as they are."""
        return [tp.graph_of(self.module, name) for name in tp.kept_methods(self.module, self.method)[1:]]

    @property
    def arguments(self) -> list[str]:
        """The method's argument names without ``self``."""
        return tp.argument_names(self.module, self.method)

    def observe_range(self, examples: Sequence[tuple[Any, ...]]) -> None:
        """Runs further examples, at the smallest and largest shapes, to know the range of every value's shape."""
        self.facts = replace(self.facts, seen=_seen(self.module, self.method, [self.example, *examples]))


def prepare(
    module: torch.jit.ScriptModule, method: str, example: tuple[Any, ...], inputs: list[Argument], device: torch.device
) -> Program:
    """Freezes, inlines and simplifies ``method``, runs it once, and folds what never varies.

    Args:
        module: left as it is; weights are shared, not copied.
        example: arguments of one call, in order.
        inputs: what is known of each argument.
        device: where the module is to run.

    Raises:
        SpecError: the module holds active dropout, or does not run on the example.
    """
    working = tp.twin(module)
    if any(getattr(child, "training", False) for child in working.modules()):  # frozen modules have no mode
        _LOG.warning("the module is in training mode: compiled as after .eval()")
        working.eval()
    frozen, table, made = _freeze(working, method)
    graph = tp.graph_of(frozen, method)
    _settle_arguments(graph, inputs)
    tp.simplify(graph)  # a probability may follow from them
    _refuse_dropout(graph, table)
    facts_.settle_modes(graph)
    _remove_dropout(graph)
    _settle_devices(graph, device)
    _settle_absent_parameters(frozen, graph)
    tp.simplify(graph)
    others = [tp.graph_of(frozen, name) for name in tp.kept_methods(frozen, method)[1:]]
    decomposed.settle(graph, frozen, others)
    fake_quantize.settle(graph, frozen, others)
    quantized.settle(graph, frozen, others)
    pieces.settle(graph)
    in_place.make_functional(graph)
    tp.unroll_constant_loops(graph)
    _hoist_attributes(frozen, graph)
    tp.simplify(graph)
    containers.settle(graph)
    pieces.settle(graph)
    in_place.make_functional(graph)  # of tensors that no container holds any more
    pieces.settle_views(graph)
    pieces.settle(graph)  # of what was written to before it was cut
    tp.simplify(graph)
    _retag(frozen, graph, table)
    facts = Facts(Observations())
    seen = Observations()
    for _ in range(_ROUNDS):
        structure.lower(graph)
        containers.settle(graph)
        decomposed.settle(graph, frozen, others)  # dtypes are known now, and branches are gone
        quantized.settle(graph, frozen, others)
        if _unroll(graph):
            continue
        written.settle(graph)
        nested.settle(graph)
        if not seen.covers(graph):
            seen = _seen(frozen, method, [example])
        for facts in facts_.reason(graph, seen, inputs, others):
            changed = facts_.fold(graph, facts, device) | fold_empty(graph, facts, device, others)
            changed |= lists.take_apart(graph, facts) | masked.settle(graph, facts)
            changed = changed or fold_filled(graph, facts, device, others)
            if changed:
                break
        if not changed:
            break
        _unroll(graph)  # such as loops over a dimension that never varies
        tp.simplify(graph)
    _spread_constants(graph, facts)
    _retag(frozen, graph, table)
    _warn_of_frozen_sizes(graph, facts, made, table)
    return Program(frozen, method, table, facts, example, device)


def frozen_copy(module: torch.jit.ScriptModule, method: str) -> tuple[torch.jit.ScriptModule, Provenance]:
    """A module in eval mode whose method is one graph, with what is constant computed, and where its nodes come from.

    Args:
        module: left as it is; weights are shared, not copied.
    """
    working = tp.twin(module)
    working.eval()
    frozen, table, _ = _freeze(working, method)
    graph = tp.graph_of(frozen, method)
    facts_.settle_modes(graph, gradients=True)  # encoders as layers that can be seen, not as one operator
    _settle_absent_parameters(frozen, graph)
    tp.simplify(graph)
    return frozen, table


def _unroll(graph: tp.Graph) -> bool:
    """Writes out loops whose number of turns is known; tells whether there were any."""
    nodes = sum(1 for _ in tp.walk(graph))
    tp.unroll_constant_loops(graph)
    if sum(1 for _ in tp.walk(graph)) == nodes:
        return False
    tp.simplify(graph)
    return True


def _seen(module: torch.jit.ScriptModule, method: str, examples: Sequence[tuple[Any, ...]]) -> Observations:
    """What runs show, and what follows from it for branches that they did not take."""
    graph = tp.graph_of(module, method)
    return together([derive(module, graph, run) for run in observe(module, method, examples)])


def _warn_of_frozen_sizes(graph: tp.Graph, facts: Facts, made: list[tuple[int, int]], table: Provenance) -> None:
    found = list(warnings(suspects(graph, facts, made), table))
    if found:
        _LOG.warning(
            "the trace may hold sizes of the example that it was taken with, and then gives wrong results at others; "
            "script the module, or give the nn.Module itself to be sure:\n%s",
            "\n".join(f"  {line}" for line in found[:10])
            + (f"\n  and {len(found) - 10} more" if len(found) > 10 else ""),
        )


def _spread_constants(graph: tp.Graph, facts: Facts) -> None:
    """Makes constant lists of tensors lists of constant tensors: no exporter knows the former."""
    for node in list(tp.walk(graph)):
        if node.kind() != "prim::Constant" or str(node.output().type().annotation_str) != "List[Tensor]":
            continue
        parts = [tp.constant(graph, tensor, node) for tensor in tp.constant_value(node.output())]
        made = tp.insert_list(graph, parts, node)
        for value in (*parts, made):
            facts.varies[value.debugName()] = facts_.Fact()
        node.output().replaceAllUsesWith(made)


def _freeze(
    module: torch.jit.ScriptModule, method: str
) -> tuple[torch.jit.ScriptModule, Provenance, list[tuple[int, int]]]:
    calls = provenance_.calls_of(module, method)
    table = Provenance()
    graph = tp.graph_of(module, method)
    tp.inline(graph)
    provenance_.tag(module, graph, calls, table)
    made = makers(graph)
    return tp.freeze(module, tp.kept_methods(module, method)), table, made


def _settle_arguments(graph: tp.Graph, inputs: list[Argument]) -> None:
    """Puts the Python values that a spec fixes in the place of their arguments."""
    first = next(iter(graph.nodes()), graph.return_node())
    for value, argument in zip(list(graph.inputs())[1:], inputs, strict=True):
        if argument.fixed:
            is_empty = argument.value == []
            held = tp.empty_list_like(graph, value, first) if is_empty else tp.constant(graph, argument.value, first)
            value.replaceAllUsesWith(held)


def _settle_devices(graph: tp.Graph, device: torch.device) -> None:
    """A trace holds the device that it was taken on: the compiled module runs on one device, this one."""
    for node in list(tp.walk(graph)):
        if node.kind() != "prim::Constant" or node.output().type().kind() != "DeviceObjType":
            continue
        if torch.device(tp.constant_value(node.output())) != device:
            node.output().replaceAllUsesWith(tp.constant(graph, device, node))


def _settle_absent_parameters(module: torch.jit.ScriptModule, graph: tp.Graph) -> None:
    """Makes parameters that are None (a bias that is not there) constants, unless the module ever sets them."""
    set_ = tp.set_attributes(module)
    owners: dict[str, Any] = {next(iter(graph.inputs())).debugName(): module}
    for node in list(tp.walk(graph)):
        if node.kind() != "prim::GetAttr" or node.input().debugName() not in owners:
            continue
        value = getattr(owners[node.input().debugName()], node.s("name"), None)
        if value is None and node.s("name") not in set_:
            node.output().replaceAllUsesWith(tp.constant(graph, None, node))
        elif not isinstance(value, torch.Tensor):
            owners[node.output().debugName()] = value


def _hoist_attributes(module: torch.jit.ScriptModule, graph: tp.Graph) -> None:
    """Reads parameters, and whatever else no method replaces, once and first, not in branches and loops."""
    replaced = tp.set_attributes(module)
    owners = {next(iter(graph.inputs())).debugName()}
    last: tp.Node | None = None
    for node in list(tp.walk(graph)):
        if node.kind() == "prim::GetAttr" and node.input().debugName() in owners and node.s("name") not in replaced:
            owners.add(node.output().debugName())
            if last is not None:
                node.moveAfter(last)
            elif node != (first := next(iter(graph.nodes()))):
                node.moveBefore(first)
            last = node


def _retag(module: torch.jit.ScriptModule, graph: tp.Graph, table: Provenance) -> None:
    """Gives new nodes an identity, and copies of a node (unrolled loops) each their own."""
    seen: set[int] = set()
    for node in tp.walk(graph):
        if node.hasAttribute(TAG):
            identity = node.i(TAG)
            if identity in seen:
                node.i_(TAG, table.add(table[identity]))
            seen.add(node.i(TAG))
    provenance_.tag(module, graph, {}, table)


def _refuse_dropout(graph: tp.Graph, table: Provenance) -> None:
    """A trace taken in training mode keeps its dropout after .eval(): its results are random."""
    for node in tp.walk(graph):
        if node.kind().removesuffix("_") not in _DROPOUTS:
            continue
        probability, training = list(node.inputs())[1:3]
        if (
            tp.is_constant(training)
            and tp.constant_value(training)
            and not (tp.is_constant(probability) and tp.constant_value(probability) in (0, 1))
        ):
            raise SpecError(
                "the module holds active dropout: it was traced in training mode, which .eval() cannot undo",
                where=str(table[node.i(TAG)]),
                hint="call .eval() before torch.jit.trace, or give the nn.Module itself",
            )


def _remove_dropout(graph: tp.Graph) -> None:
    """Dropout that is not active gives back its very input; in place, it would keep what uses it out of engines."""
    for node in list(tp.walk(graph)):
        if node.kind().removesuffix("_") in _DROPOUTS - {"aten::native_dropout"}:
            tensor, probability, training = node.inputs()
            if any(tp.is_constant(v) and not tp.constant_value(v) for v in (probability, training)):
                node.output().replaceAllUsesWith(tensor)
                node.destroy()
