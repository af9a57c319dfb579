"""Whether a segment is worth an engine.

Calling an engine costs some microseconds, about as much as PyTorch needs for a few small operators. So a segment counts
views and conversions as nothing, operators that work element by element or make new tensors as one, and all others as
enough; under three points it stays in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bridge import torch_private as tp

ENOUGH = 3


def why_not_worth(nodes: Sequence[tp.Node]) -> str | None:
    """The reason to leave a segment's nodes to PyTorch, None when an engine pays."""
    points = sum(_points(node) for node in nodes)
    if points >= ENOUGH:
        return None
    return f"its segment of {len(nodes)} cheap operator(s) costs less in PyTorch than the call of an engine"


def _points(node: tp.Node) -> int:
    schema = tp.schema(node)
    if schema is None or any(result.alias_info is not None for result in schema.returns):
        return 0
    if not any("Tensor" in str(value.type().annotation_str) for value in node.inputs()):
        return 1
    return 1 if torch.Tag.pointwise in _tags(schema.name, schema.overload_name) else ENOUGH


def _tags(name: str, overload: str) -> Sequence[torch.Tag]:
    namespace, _, operator = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), operator, None)
    found = getattr(packet, overload or "default", None)
    return list(found.tags) if found is not None else []
