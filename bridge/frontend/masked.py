"""What is read through a mask, computed element by element, and written through the same mask: computed everywhere."""

from __future__ import annotations

import torch

from bridge import torch_private as tp
from bridge.frontend.facts import Facts

_ELEMENTWISE = {
    "aten::abs", "aten::add", "aten::acos", "aten::asin", "aten::atan", "aten::atan2", "aten::ceil", "aten::clamp",
    "aten::clamp_max", "aten::clamp_min", "aten::cos", "aten::cosh", "aten::div", "aten::erf", "aten::exp",
    "aten::expm1", "aten::floor", "aten::gelu", "aten::leaky_relu", "aten::lerp", "aten::log", "aten::log10",
    "aten::log1p", "aten::log2", "aten::maximum", "aten::minimum", "aten::mul", "aten::neg", "aten::pow",
    "aten::reciprocal", "aten::relu", "aten::round", "aten::rsqrt", "aten::rsub", "aten::sigmoid", "aten::sign",
    "aten::silu", "aten::sin", "aten::sinh", "aten::softplus", "aten::sqrt", "aten::square", "aten::sub", "aten::tan",
    "aten::tanh", "aten::to", "aten::type_as", "aten::where",
}  # fmt: skip


def settle(graph: tp.Graph, facts: Facts) -> bool:
    """``y[mask] = f(x[mask])`` -> ``where(mask, f(x), y)``; tells whether there was any.

    Only where ``f`` works on floating-point numbers element by element: how many elements a mask leaves is known of no
    call, and no compiler takes such a shape.
    """
    changed = False
    for node in [node for node in tp.walk(graph) if node.kind() == "aten::index_put"]:
        target, indices, values, accumulate = node.inputs()
        mask = _mask_of(indices, facts)
        if mask is None or not tp.is_constant(accumulate) or tp.constant_value(accumulate):
            continue
        lift = _Lift(graph, facts, mask, node)
        if lift.takes(values) and lift.through_mask:
            node.output().replaceAllUsesWith(lift.chosen(target, values))
            node.destroy()
            changed = True
    return changed


def _mask_of(indices: tp.Value, facts: Facts) -> tp.Value | None:
    """The one tensor of booleans that a list of indices holds."""
    listed = indices.node()
    if listed.kind() != "prim::ListConstruct" or listed.inputsSize() != 1:
        return None
    mask = next(iter(listed.inputs()))
    seen = facts.known_kind(mask) if mask.type().kind() == "TensorType" else None
    return mask if seen is not None and seen.dtype is torch.bool and seen.rank else None


class _Lift:
    """Values behind one mask, computed in full in front of the node that writes them.

    Attributes:
        through_mask: whether anything was read through the mask.
    """

    def __init__(self, graph: tp.Graph, facts: Facts, mask: tp.Value, node: tp.Node) -> None:
        self.graph, self.facts, self.mask, self.node = graph, facts, mask, node
        self.target, self.blocked = facts.known_kind(next(iter(node.inputs()))), facts.known_kind(mask)
        self.through_mask = False
        self.lifted: dict[str, tp.Value] = {}

    def takes(self, values: tp.Value) -> bool:
        """Whether the values are of the target's dtype and can be computed in full."""
        seen, target, mask = self.facts.tensor(values), self.target, self.blocked
        if seen is None or target is None or mask is None or mask.rank > target.rank:
            return False
        return seen.dtype == target.dtype and self._can_be(values)

    def _can_be(self, value: tp.Value) -> bool:
        if value.type().kind() != "TensorType" or self._is_number(value):
            return True
        if self._read(value) is not None:
            self.through_mask = True
            return True
        node = value.node()
        seen = self.facts.tensor(value)
        if node.kind() not in _ELEMENTWISE or node.outputsSize() != 1 or seen is None:
            return False
        return seen.dtype.is_floating_point and all(self._can_be(operand) for operand in node.inputs())

    def _is_number(self, value: tp.Value) -> bool:
        if tp.is_constant(value):
            held = tp.constant_value(value)  # a number where Python's own was traced
            return not isinstance(held, torch.Tensor) or held.dim() == 0
        seen = self.facts.known_kind(value)
        return seen is not None and seen.rank == 0

    def _read(self, value: tp.Value) -> tp.Value | None:
        """The tensor, of the target's rank, that a value is read from through the mask."""
        node = value.node()
        if node.kind() != "aten::index":
            return None
        source, indices = node.inputs()
        mask, seen = _mask_of(indices, self.facts), self.facts.known_kind(source)
        if mask is None or mask.debugName() != self.mask.debugName() or seen is None or self.target is None:
            return None
        return source if seen.rank == self.target.rank else None

    def _full(self, value: tp.Value) -> tp.Value:
        if value.type().kind() != "TensorType" or self._is_number(value):
            return value
        source = self._read(value)
        if source is not None:
            return source
        name = value.debugName()
        if name not in self.lifted:
            self.lifted[name] = self._new(value.node().kind(), [self._full(v) for v in value.node().inputs()])
        return self.lifted[name]

    def chosen(self, target: tp.Value, values: tp.Value) -> tp.Value:
        """The values where the mask is true, else the target."""
        full, mask = self._full(values), self.mask
        assert self.target is not None and self.blocked is not None
        for _ in range(self.target.rank - self.blocked.rank):
            mask = self._new("aten::unsqueeze", [mask, tp.constant(self.graph, -1, self.node)])
        return self._new("aten::where", [mask, full, target])

    def _new(self, kind: str, inputs: list[tp.Value]) -> tp.Value:
        return tp.insert(self.graph, kind, inputs, self.node)
