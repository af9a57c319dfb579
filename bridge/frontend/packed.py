"""What the attributes of a frozen module hold: numbers, tensors, and the packed weights of quantized layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.frontend.alias import Memory

_UNPACKING = {"linear_fp16": "linear_unpack_fp16", "embedding": "embedding_bag_unpack"}
_PLAIN = ("aten::", "prim::ListConstruct", "prim::NumToTensor")
_NUMBERS: dict[str, Callable[[Any], Any]] = {
    "aten::Float": float, "aten::Int": int, "aten::item": lambda tensor: tensor.item()
}  # fmt: skip


class Attributes:
    """The values of a frozen module's attributes that nothing sets or writes to; others may be added.

    Args:
        others: graphs of the module's other methods, which may write to its attributes.
    """

    def __init__(self, graph: tp.Graph, module: torch.jit.ScriptModule, others: Sequence[tp.Graph] = ()) -> None:
        self.graph, self.module, self.set = graph, module, tp.set_attributes(module)
        self.memory = Memory(graph, others)
        self.root = next(iter(graph.inputs())).debugName()
        self.computed: dict[str, Any] = {}

    def value(self, value: tp.Value) -> Any:
        """What a constant, or an attribute, or a number made of one holds; None where that is not known."""
        if tp.is_constant(value):
            return tp.constant_value(value)
        if value.debugName() == self.root:
            return self.module
        node = value.node()
        if node.kind() == "prim::GetAttr" and node.s("name") not in self.set and not self._is_written(value):
            owner = self.value(node.input())
            return None if owner is None else getattr(owner, node.s("name"), None)
        if node.kind() in _NUMBERS:
            held = self.value(node.inputsAt(0))
            return _NUMBERS[node.kind()](held) if isinstance(held, (torch.Tensor, float, int)) else None
        return None

    def _is_written(self, value: tp.Value) -> bool:
        return value.type().kind() == "TensorType" and self.memory.written(value)

    def tensor(self, value: tp.Value) -> Any:
        """What a value is in every call, where it follows from attributes and constants alone; else None.

        Only through operators of PyTorch's own that change nothing: weights, and what becomes of them before any input.
        """
        name = value.debugName()
        if name not in self.computed:
            held, node = self.value(value), value.node()
            if held is None and node.kind().startswith(_PLAIN) and node.outputsSize() == 1:
                given = [self.tensor(item) for item in node.inputs()]
                is_known = all(g is not None or _is_none(v) for g, v in zip(given, node.inputs(), strict=True))
                held = self.run(node, given) if is_known and node.inputsSize() else None
            self.computed[name] = held
        return self.computed[name]

    def run(self, node: tp.Node, given: list[Any]) -> Any:
        """What a node makes of these arguments; None where it draws numbers, writes, or fails."""
        if tp.blocks_of(node) or tp.written_to(node) or node.isNondeterministic():
            return None
        graph, copies = tp.new_graph(), {}
        try:
            for value, held in zip(node.inputs(), given, strict=True):
                held = held.detach() if isinstance(held, torch.Tensor) else held
                copies[value.debugName()] = tp.constant(graph, held, graph.return_node())
            copy = tp.copy_into(graph, node, copies)
            copy.insertBefore(graph.return_node())
            graph.registerOutput(copy.output())
            with torch.no_grad():
                return tp.function_of("known", graph)()
        except Exception:
            return None

    def add(self, tensor: torch.Tensor) -> tp.Value:
        """A tensor as a new attribute of the module: what is a constant of the graph would be computed with at once."""
        return tp.add_attribute(self.graph, self.module, "unpacked", tensor)


def tensors_read(graph: tp.Graph, module: torch.jit.ScriptModule) -> Iterator[torch.Tensor]:
    """The tensors that a module's method reads from its attributes."""
    owners: dict[str, Any] = {next(iter(graph.inputs())).debugName(): module}
    for node in tp.walk(graph):
        if node.kind() == "prim::GetAttr" and node.input().debugName() in owners:
            held = getattr(owners[node.input().debugName()], node.s("name"), None)
            if isinstance(held, torch.Tensor):
                yield held
            else:
                owners[node.output().debugName()] = held


@dataclass(frozen=True)
class Weights:
    """What a packed layer holds.

    Attributes:
        floats: the numbers that the quantized weight stands for.
        scale, zero_point: of the whole weight, or one for each index along ``axis``; None where it is not quantized.
        geometry: of a convolution: stride, padding, output padding, dilation and groups.
    """

    floats: torch.Tensor
    bias: torch.Tensor | None
    scale: Any = None
    zero_point: Any = None
    axis: int | None = None
    geometry: tuple[Any, ...] = ()


def weights_of(packed: Any, operator: str) -> Weights:
    """Unpacks what ``quantized::<operator>`` is given: ``linear``, ``conv2d``, ``embedding`` and their like."""
    quantized = torch.ops.quantized
    unpacked = getattr(quantized, _UNPACKING.get(operator, f"{operator}_unpack"))(packed)
    weight, bias = unpacked if isinstance(unpacked, (tuple, list)) else (unpacked, None)
    geometry: tuple[Any, ...] = ()
    if operator.startswith("conv"):
        rank, kind = int(operator[-2]), "conv3d" if operator.endswith("3d") else "conv2d"
        read = [
            getattr(quantized, f"{kind}_{name}")(packed) for name in ("stride", "padding", "output_padding", "dilation")
        ]
        geometry = (*(list(sizes)[-rank:] for sizes in read), getattr(quantized, f"{kind}_groups")(packed))
    bias = None if bias is None else bias.detach()
    if not weight.is_quantized:
        return Weights(weight.detach().float(), bias, geometry=geometry)
    floats = weight.dequantize().detach()
    if weight.qscheme() == torch.per_tensor_affine:
        return Weights(floats, bias, float(weight.q_scale()), int(weight.q_zero_point()), None, geometry)
    scales, zeros = weight.q_per_channel_scales().float(), weight.q_per_channel_zero_points().to(torch.int32)
    return Weights(floats, bias, scales, zeros, weight.q_per_channel_axis(), geometry)


def _is_none(value: tp.Value) -> bool:
    return tp.is_constant(value) and tp.constant_value(value) is None
