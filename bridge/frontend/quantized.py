"""Quantized tensors become the floats that they stand for, rounded to the same steps, which is what engines compute on.

PyTorch's quantized modules (``torch.ao.quantization.convert``, ``convert_fx``, ``quantize_dynamic``) hold weights that
are packed for a processor, in operators that no exporter knows, and tensors of dtypes that no engine takes. Here each
such operator is the float operator, and what it gives is rounded by ``fake_quantize_per_tensor_affine``: the same
numbers, but for sums that lie between two steps, which ONNX writes as QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.frontend import quantized_operators as ops
from bridge.frontend.packed import Attributes, Weights, weights_of

_SMALLEST_SCALE = 6.1e-5


@dataclass(frozen=True)
class Steps:
    """How a tensor is quantized: by numbers, or by tensors of one number for each index along an axis."""

    scale: Any
    zero_point: Any
    dtype: int
    axis: int | None = None


def settle(graph: tp.Graph, module: torch.jit.ScriptModule, others: Sequence[tp.Graph] = ()) -> None:
    """Makes floats of the quantized tensors of a frozen module's method, wherever their steps are known.

    What reads a quantized tensor and has no meaning here is given one again, and stays in PyTorch.

    Args:
        others: graphs of the module's other methods, which may write to its attributes.
    """
    nodes = list(tp.walk(graph))
    if any(node.kind().startswith(("quantized::", "aten::quantize_per_")) for node in nodes):
        _Floats(graph, Attributes(graph, module, others)).run(nodes)


class _Floats:
    """The floats, and their steps, by the name of the quantized tensor that they stand for."""

    def __init__(self, graph: tp.Graph, attributes: Attributes) -> None:
        self.graph, self.attributes = graph, attributes
        self.known: dict[str, tuple[tp.Value, Steps]] = {}
        self.made: list[tp.Node] = []

    def run(self, nodes: Sequence[tp.Node]) -> None:
        done = [node for node in nodes if self._visit(node)]
        own = {*done, *self.made}
        known = [value for node in nodes for value in tp.outputs_of(node) if value.debugName() in self.known]
        for value, user in [(item, use.user) for item in known for use in item.uses() if use.user not in own]:
            self._quantize_again(value, user)
        for node in reversed(done):
            node.destroy()

    def _visit(self, node: tp.Node) -> bool:
        """Computes in floats what a node gives; tells whether the node is of no use any more."""
        kind = node.kind()
        known = self._of(node.inputsAt(0)) if node.inputsSize() else None
        if kind in ("aten::quantize_per_tensor", "aten::quantize_per_channel"):
            return self._quantize(node)
        if kind in ("aten::cat", "quantized::cat", "quantized::cat_relu"):
            return self._join(node)
        if kind.startswith("quantized::") and kind not in ops.MOVING | ops.ROUNDING:
            return self._quantized_operator(node, kind.removeprefix("quantized::"))
        if known is None:
            return False
        if kind in ops.OF_SHAPE:
            node.replaceInput(0, known[0])
            self.made.append(node)
            return False
        if kind == "aten::dequantize":
            node.output().replaceAllUsesWith(known[0])
            return True
        if kind in ops.DIVIDING:
            return self._divide(node, *known)
        if kind in ops.MOVING | ops.ROUNDING | ops.OWN_STEPS.keys():
            return self._same_operator(node, *known)
        return False

    def _of(self, value: tp.Value) -> tuple[tp.Value, Steps] | None:
        return self.known.get(value.debugName())

    def _make(self, node: tp.Node, name: str, arguments: Sequence[Any]) -> tp.Value:
        """What an operator in front of a node gives; of its arguments, what is no value becomes a constant."""
        values = [item if tp.is_value(item) else tp.constant(self.graph, item, node) for item in arguments]
        made = tp.insert(self.graph, f"aten::{name}", values, node)
        made.node().copyAttributes(node)
        self.made.append(made.node())
        return made

    def _rounded(self, node: tp.Node, value: tp.Value, steps: Steps) -> tp.Value:
        bounds = ops.BOUNDS[steps.dtype]
        if steps.axis is None:
            given = [value, float(steps.scale), int(steps.zero_point), *bounds]
            return self._make(node, "fake_quantize_per_tensor_affine", given)
        given = [value, steps.scale, steps.zero_point, steps.axis, *bounds]
        return self._make(node, "fake_quantize_per_channel_affine", given)

    def _give(self, node: tp.Node, value: tp.Value, steps: Steps, *, exact: bool = False) -> bool:
        self.known[node.output().debugName()] = value if exact else self._rounded(node, value, steps), steps
        return True

    def _quantize(self, node: tp.Node) -> bool:
        given, *parameters = tp.inputs_of(node)
        held = [self.attributes.value(value) for value in parameters]
        if given.type().kind() != "TensorType" or any(item is None for item in held) or held[-1] not in ops.BOUNDS:
            return False
        scale, zero_point, *axis, dtype = held
        if not axis:
            steps = Steps(float(scale), int(zero_point), dtype)
            return self._give(node, given, steps, exact=self._is_on(given, steps))
        return self._give(node, given, Steps(scale.float(), zero_point.to(torch.int32), dtype, *axis))

    def _is_on(self, value: tp.Value, steps: Steps) -> bool:
        """Whether numbers were rounded to these very steps."""
        if value.node().kind() != "aten::fake_quantize_per_tensor_affine":
            return False
        held = [self.attributes.value(item) for item in tp.inputs_of(value.node())[1:]]
        return held == [steps.scale, steps.zero_point, *ops.BOUNDS[steps.dtype]]

    def _join(self, node: tp.Node) -> bool:
        listed = node.inputsAt(0).node()
        known = [self._of(part) for part in tp.inputs_of(listed)] if listed.kind() == "prim::ListConstruct" else []
        floats, steps = zip(*filter(None, known), strict=True) if known and None not in known else ((), ())
        if not floats:
            return False
        parts = tp.insert_list(self.graph, floats, node)
        self.made.append(parts.node())
        joined = self._make(node, "cat", [parts, node.inputsAt(1)])
        if node.kind().endswith("_relu"):
            joined = self._make(node, "relu", [joined])
        given = [self.attributes.value(value) for value in tp.inputs_of(node)[2:]]
        if len(given) == 2 and all(map(_is_number, given)):
            return self._give(node, joined, Steps(float(given[0]), int(given[1]), steps[0].dtype))
        return self._give(node, joined, steps[0])

    def _divide(self, node: tp.Node, floats: tp.Value, steps: Steps) -> bool:
        """Parts of a tensor, which a list holds until it is unpacked."""
        users = [use.user for use in node.output().uses()]
        if any(user.kind() != "prim::ListUnpack" for user in users):
            return False
        node.replaceInput(0, floats)
        for part in [part for user in users for part in tp.outputs_of(user)]:
            self.known[part.debugName()] = part, steps
        return False

    def _same_operator(self, node: tp.Node, floats: tp.Value, steps: Steps) -> bool:
        """An operator that takes quantized tensors as it takes floats."""
        made = self._make(node, node.kind().split("::")[1], [floats, *tp.inputs_of(node)[1:]])
        if node.kind() in ops.OWN_STEPS:
            steps = Steps(*ops.OWN_STEPS[node.kind()], ops.QUINT8)
        return self._give(node, made, steps, exact=node.kind() in ops.MOVING)

    def _quantized_operator(self, node: tp.Node, name: str) -> bool:
        if name in ops.DYNAMIC:
            return self._dynamic(node, name)
        if name == "embedding_byte":
            return self._embedding(node)
        base, inputs = name if name in ops.OF_ONE else name.removesuffix("_relu"), tp.inputs_of(node)
        if base in ops.STEPS_FIRST and len(inputs) > 3:
            inputs = [inputs[0], *inputs[3:], *inputs[1:3]]
        known = [item for value in inputs[:2] if (item := self._of(value))]
        ends = [self.attributes.value(value) for value in inputs[-2:]]
        if not known or not all(map(_is_number, ends)):
            return False
        made: tp.Value | None = None
        if base in ops.PRODUCTS and len(inputs) == 4:
            made = self._product(node, base, known[0][0])
        elif base in ops.OF_TWO and len(known) == 2:
            made = self._make(node, base, [known[0][0], known[1][0], *ops.OF_TWO[base]])
        elif base in ops.OF_ONE:
            operator, arguments = ops.OF_ONE[base]
            made = self._make(node, operator, arguments([known[0][0], *inputs[1:-2]]))
        if made is None:
            return False
        if base != name:
            made = self._make(node, "relu", [made])
        return self._give(node, made, Steps(float(ends[0]), int(ends[1]), known[0][1].dtype))

    def _product(self, node: tp.Node, operator: str, floats: tp.Value) -> tp.Value | None:
        held = self._weights(node, operator)
        if held is None:
            return None
        weights, weight, bias = held
        if operator == "linear":
            return self._make(node, operator, [floats, weight, bias])
        stride, padding, output_padding, dilation, groups = weights.geometry
        if "transpose" in operator:
            geometry = [stride, padding, output_padding, groups, dilation]
        else:
            geometry = [stride, padding, dilation, groups]
        return self._make(node, operator, [floats, weight, bias, *geometry])

    def _weights(self, node: tp.Node, operator: str) -> tuple[Weights, tp.Value, tp.Value | None] | None:
        """What a layer's packed weights are, and the weight and bias in the graph; None where they are not known."""
        packed = self.attributes.value(node.inputsAt(1))
        if packed is None:
            return None
        weights = weights_of(packed, operator)
        weight = self.attributes.add(weights.floats)
        if weights.scale is not None:
            weight = self._rounded(node, weight, Steps(weights.scale, weights.zero_point, 12, weights.axis))
        return weights, weight, None if weights.bias is None else self.attributes.add(weights.bias)

    def _embedding(self, node: tp.Node) -> bool:
        """Rows of floats, which the table is quantized to by row."""
        packed, indices = tp.inputs_of(node)[:2]
        held = self.attributes.value(packed)
        if held is None:
            return False
        table = self.attributes.add(weights_of(held, "embedding").floats)
        node.output().replaceAllUsesWith(self._make(node, "embedding", [table, indices, -1, False, False]))
        return True

    def _dynamic(self, node: tp.Node, name: str) -> bool:
        """A layer that quantizes the floats that it is given by the range that they have, and gives floats."""
        held = self._weights(node, "linear_fp16" if name.endswith("fp16") else "linear")
        if held is None:
            return False
        _, weight, bias = held
        given = node.inputsAt(0)
        if not name.endswith("fp16"):
            reduces = self.attributes.value(node.inputsAt(2)) and self._reduces(node, held[0].floats.shape[1])
            given = self._rounded_by_range(node, given, 127 if reduces else 255)
        made = self._make(node, "linear", [given, weight, bias])
        node.output().replaceAllUsesWith(self._make(node, "relu", [made]) if ops.DYNAMIC[name] else made)
        return True

    def _reduces(self, node: tp.Node, features: int) -> bool:
        """Whether the kernels that a layer is packed for halve the number of steps where they are asked to."""
        packed, probe = self.attributes.value(node.inputsAt(1)), torch.linspace(0, 1, 7 * features).reshape(7, features)
        coarse, fine = (torch.ops.quantized.linear_dynamic(probe, packed, reduce) for reduce in (True, False))
        return not torch.equal(coarse, fine)

    def _rounded_by_range(self, node: tp.Node, given: tp.Value, most: int) -> tp.Value:
        """A tensor in ``most`` steps between its smallest and largest number, and zero.

        Source: https://github.com/pytorch/pytorch/blob/v2.9.0/aten/src/ATen/native/quantized/cpu/QuantUtils.h.
        """
        low = self._make(node, "clamp_max", [self._make(node, "min", [given]), 0.0])
        high = self._make(node, "clamp_min", [self._make(node, "max", [given]), 0.0])
        scale = self._make(node, "div", [self._make(node, "sub", [high, low, 1]), float(most)])
        scale = self._make(node, "clamp_min", [scale, _SMALLEST_SCALE])
        zero = self._make(node, "round", [self._make(node, "neg", [self._make(node, "div", [low, scale])])])
        steps = self._make(node, "round", [self._make(node, "div", [given, scale])])
        steps = self._make(node, "clamp", [self._make(node, "add", [steps, zero, 1]), 0, most])
        return self._make(node, "mul", [self._make(node, "sub", [steps, zero, 1]), scale])

    def _quantize_again(self, value: tp.Value, user: tp.Node) -> None:
        floats, steps = self.known[value.debugName()]
        if steps.axis is None:
            made = self._make(user, "quantize_per_tensor", [floats, steps.scale, steps.zero_point, steps.dtype])
        else:
            given = [floats, steps.scale, steps.zero_point, steps.axis, steps.dtype]
            made = self._make(user, "quantize_per_channel", given)
        user.replaceInputWith(value, made)


def _is_number(held: Any) -> bool:
    """Whether an argument is known, and a number: traces have numbers as tensors."""
    return isinstance(held, (int, float)) or (isinstance(held, torch.Tensor) and held.numel() == 1)
