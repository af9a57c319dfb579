"""Tuples and lists that are built and taken apart again inside one graph."""

from __future__ import annotations

from bridge import torch_private as tp


def lower(graph: tp.Graph) -> None:
    """Replaces uses of a tuple's parts by the values the tuple was built of."""
    for node in list(tp.walk(graph)):
        if node.kind() == "prim::TupleUnpack":
            made = node.input().node()
            if made.kind() == "prim::TupleConstruct":
                for value, part in zip(node.outputs(), made.inputs(), strict=True):
                    value.replaceAllUsesWith(part)
        elif node.kind() == "prim::TupleIndex":
            made, index = next(iter(node.inputs())).node(), list(node.inputs())[1]
            if made.kind() == "prim::TupleConstruct" and tp.is_constant(index):
                node.output().replaceAllUsesWith(list(made.inputs())[tp.constant_value(index)])
    tp.remove_dead_code(graph)
