"""BF16 arithmetic for a runtime that lacks it: the operator in FP32, its result cast through BF16.

So each operator rounds once, to nearest even, as a BF16 kernel that accumulates in FP32 does.
"""

from __future__ import annotations

import itertools

import onnx

from bridge.backends.element_types import element_types
from bridge.backends.ort_kernels import BFLOAT16, FLOAT, has_kernel
from rewrites.tidying import bodies

_CONTROL_FLOW = ("If", "Loop", "Scan")


def emulate_bfloat16(model: onnx.ModelProto) -> int:
    """Rewrites the model in place; gives back how many nodes now compute in FP32."""
    types = element_types(model)
    return _Emulation(model, types).scope(model.graph) if BFLOAT16 in types.values() else 0


class _Emulation:
    def __init__(self, model: onnx.ModelProto, types: dict[str, int]) -> None:
        self._model, self._types = model, types
        self._numbers = itertools.count()  # a body must not use a name of the graph around it again

    def scope(self, graph: onnx.GraphProto) -> int:
        nodes: list[onnx.NodeProto] = []
        widened: dict[str, str] = {}
        count = 0
        for node in graph.node:
            count += sum(self.scope(body) for body in bodies(node))
            if self._needs_it(node):
                nodes += self._emulate(node, widened)
                count += 1
            else:
                nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
        return count

    def _needs_it(self, node: onnx.NodeProto) -> bool:
        if node.op_type in (*_CONTROL_FLOW, "Constant", "Cast"):
            return False
        touches = any(self._types.get(name) == BFLOAT16 for name in (*node.input, *node.output))
        return touches and not has_kernel(node, self._model, self._types)

    def _emulate(self, node: onnx.NodeProto, widened: dict[str, str]) -> list[onnx.NodeProto]:
        """Cast the BF16 inputs, the node in FP32, cast back. ``widened`` keeps one cast per value and scope."""
        wide = onnx.NodeProto()
        wide.CopyFrom(node)
        before, after = [], []
        for index, name in enumerate(node.input):
            if self._types.get(name) == BFLOAT16:
                if name not in widened:
                    widened[name] = f"{name}/fp32.{next(self._numbers)}"
                    before.append(_cast(name, widened[name], FLOAT, f"{node.name}/widen/Cast{index}"))
                wide.input[index] = widened[name]
        for index, name in enumerate(node.output):
            if self._types.get(name) == BFLOAT16:
                wide.output[index] = f"{name}/fp32.{next(self._numbers)}"
                after.append(_cast(wide.output[index], name, BFLOAT16, f"{node.name}/round/Cast{index}"))
        for attribute in wide.attribute:
            _widen_attribute(attribute)
        return [*before, wide, *after]


def _widen_attribute(attribute: onnx.AttributeProto) -> None:
    if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == BFLOAT16:
        values = onnx.numpy_helper.to_array(attribute.t).astype("float32")
        attribute.t.CopyFrom(onnx.numpy_helper.from_array(values, attribute.t.name))
    elif attribute.name in ("dtype", "output_datatype") and attribute.i == BFLOAT16:
        attribute.i = FLOAT


def _cast(source: str, target: str, to: int, name: str) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], name=name, to=to)
