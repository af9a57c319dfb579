"""Which values of a program's graph are the caller's own inputs, and what the results are called."""

from __future__ import annotations

from collections.abc import Sequence

from bridge import torch_private as tp
from bridge.frontend.program import Program
from bridge.spec import Leaf


def input_leaves(program: Program, leaves: Sequence[Leaf], positions: Sequence[str]) -> dict[str, Leaf]:
    """The leaf behind each value that is an input tensor, also when it comes out of a tuple, list or dict.

    Args:
        positions: the method's argument names in order.
    """
    by_path = {}
    for leaf in leaves:
        head = leaf.path[0]
        by_path[(head if isinstance(head, str) else positions[head], *leaf.path[1:])] = leaf
    paths: dict[str, tuple[object, ...]] = {}
    for value, name in zip(list(program.graph.inputs())[1:], program.arguments, strict=True):
        paths[value.debugName()] = (name,)
    for node in tp.walk(program.graph):
        _follow(node, paths)
    return {name: by_path[path] for name, path in paths.items() if path in by_path and by_path[path].is_tensor}


def _follow(node: tp.Node, paths: dict[str, tuple[object, ...]]) -> None:
    inputs = tp.inputs_of(node)
    if not inputs or inputs[0].debugName() not in paths:
        return
    path = paths[inputs[0].debugName()]
    if node.kind() in ("prim::TupleUnpack", "prim::ListUnpack"):
        for position, value in enumerate(tp.outputs_of(node)):
            paths[value.debugName()] = (*path, position)
    elif node.kind() in ("aten::__getitem__", "prim::TupleIndex") and tp.is_constant(inputs[1]):
        paths[node.output().debugName()] = (*path, tp.constant_value(inputs[1]))
    elif node.kind() == "prim::unchecked_cast":
        paths[node.output().debugName()] = path


def result_names(graph: tp.Graph) -> dict[str, str]:
    """Names of the values that are returned: a dict's keys, a named tuple's fields, else their position."""
    names: dict[str, str] = {}
    for value in graph.outputs():
        _name_results(value, "", names)
    return names


def _name_results(value: tp.Value, name: str, names: dict[str, str]) -> None:
    node, inputs = value.node(), list(value.node().inputs())
    if node.kind() == "prim::DictConstruct":
        for key, item in zip(inputs[::2], inputs[1::2], strict=True):
            text = str(tp.constant_value(key)) if tp.is_constant(key) else "output"
            _name_results(item, f"{name}.{text}" if name else text, names)
    elif node.kind() in ("prim::TupleConstruct", "prim::ListConstruct"):
        fields = tp.field_names(value) or [str(i) if name else f"output_{i}" for i in range(len(inputs))]
        for field, item in zip(fields, inputs, strict=True):
            _name_results(item, f"{name}.{field}" if name else field, names)
    else:
        names.setdefault(value.debugName(), name or "output")
