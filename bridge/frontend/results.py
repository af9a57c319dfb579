"""Results of their own: what one engine for a whole method returns is new memory, never a view of its inputs."""

from __future__ import annotations

from collections.abc import Iterator

from bridge import torch_private as tp
from bridge.frontend.alias import Memory
from bridge.frontend.program import Program
from bridge.frontend.provenance import TAG, Origin, tag

_STRUCTURES = ("prim::TupleConstruct", "prim::ListConstruct", "prim::DictConstruct")


def copy_shared_results(program: Program) -> None:
    """Copies each result that is, or may share memory with, an input, an attribute, a constant or another result.

    An engine cannot return any of these as they are; it can make a copy of each. What is written to in place is left
    as it is: no engine may read it. So is what has no elements in any call, of which there is nothing to copy.
    """
    memory = Memory(program.graph, program.others)
    taken = [value for value in program.graph.inputs() if value.type().kind() == "TensorType"]
    results: dict[str, tp.Value] = {}
    for user, position in list(_places(program.graph)):
        value = list(user.inputs())[position]
        if memory.written(value) or 0 in (program.facts.sizes(value) or ()):
            continue
        if value.debugName() not in results:
            copied = _is_given(value) or any(memory.shared(value, other) for other in taken)
            results[value.debugName()] = _copy(program, value, user) if copied else value
            taken.append(value)
        user.replaceInput(position, results[value.debugName()])
    tag(program.module, program.graph, {}, program.provenance)


def _places(graph: tp.Graph) -> Iterator[tuple[tp.Node, int]]:
    """Where tensors are returned: a node and the position of its input, first the first result."""
    pending: list[tp.Node] = [graph.return_node()]
    while pending:
        user = pending.pop(0)
        for position, value in enumerate(user.inputs()):
            if value.node().kind() in _STRUCTURES:
                pending.append(value.node())
            elif value.type().kind() == "TensorType":
                yield user, position


def _is_given(value: tp.Value) -> bool:
    """Whether no operator makes the value: an input, also out of a nest, an attribute or a constant."""
    node = value.node()
    if node.kind() == "aten::__getitem__":
        return True
    return tp.schema(node) is None and not list(node.blocks()) and not _made_in_list(node)


def _made_in_list(node: tp.Node) -> bool:
    return node.kind() == "prim::ListUnpack" and tp.schema(node.input().node()) is not None


def _copy(program: Program, value: tp.Value, before: tp.Node) -> tp.Value:
    """``value.clone()``, of which is known what is known of ``value``."""
    graph, facts = program.graph, program.facts
    copy = graph.create("aten::clone", [value, tp.constant(graph, None, before)], 1)
    copy.insertBefore(before)
    source = program.provenance[value.node().i(TAG)] if value.node().hasAttribute(TAG) else Origin("")
    copy.i_(TAG, program.provenance.add(Origin("aten::clone", source.module_path, source.module_type, source.source)))
    result: tp.Value = copy.output()
    result.setType(value.type())
    name = result.debugName()
    facts.varies[name] = facts.of(value)
    seen = facts.tensor(value)
    facts.seen.values[name] = facts.seen.values.get(value.debugName(), [seen] if seen is not None else [])
    if value.debugName() in facts.dims:
        facts.dims[name] = facts.dims[value.debugName()]
    return result
