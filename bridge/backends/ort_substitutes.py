"""What ONNX Runtime's CPU kernels compute wrongly, or not at all, by operators that they compute rightly.

Found in ONNX Runtime 1.31 by trying each kernel of int64 on values beyond int32. Comparisons in vectors (Min, Max,
Clip, Relu, Sign, ReduceMax, ReduceMin) go wrong where the upper halves are equal and the lower ones differ in their
first bit; ReduceSum and its kin and Mod with fmod go through float64. Comparisons that give bools, ArgMax,
ScatterElements, Div and Mul are exact. Where has no kernel for bool. Sizes that a Slice takes out of a Shape between
bounds that an Unsqueeze makes of constants are taken for none, and a Resize to them is refused. GridSample goes through
integers and takes weights from before its coordinates are bounded: far outside (1e20, or 1e8 at a border) it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import onnx

from bridge.backends.element_types import element_types, opset
from rewrites.tidying import all_nodes, bodies

INT64, BOOL = int(onnx.TensorProto.INT64), int(onnx.TensorProto.BOOL)
_SCATTERS_SUMS = 16
_FAR = 1000.0
_SUMS = {"ReduceSum": ("add", 0), "ReduceSumSquare": ("add", 0), "ReduceL1": ("add", 0), "ReduceProd": ("mul", 1)}
_EXTREMES = {"ReduceMax": "ArgMax", "ReduceMin": "ArgMin"}


Integers = int | list[int]


def substitute(model: onnx.ModelProto) -> int:
    """Rewrites the model in place; gives back how many nodes were replaced."""
    types = element_types(model)
    wanted = {INT64, BOOL} & set(types.values()) or any(node.op_type == "GridSample" for node in all_nodes(model.graph))
    return _scope(model.graph, model, types, {}) if wanted else 0


def _scope(
    graph: onnx.GraphProto, model: onnx.ModelProto, types: Mapping[str, int], outer: Mapping[str, Integers]
) -> int:
    known = {**outer, **_small_constants(graph)}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        count += sum(_scope(body, model, types, known) for body in bodies(node))
        made = _replacement(node, types, known, opset(model, "") or 1)
        count += made is not None
        nodes += [node] if made is None else made
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def _small_constants(graph: onnx.GraphProto) -> dict[str, Integers]:
    """Integers and lists of them: initializers and results of Constant."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: onnx.numpy_helper.to_array(tensor).tolist()
        for name, tensor in tensors.items()
        if tensor.data_type == INT64 and len(tensor.dims) < 2 and tensor.data_location != onnx.TensorProto.EXTERNAL
    }


@dataclass
class _Operators:
    """Makes the nodes that replace one."""

    replaced: onnx.NodeProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        place = f"{self.replaced.name or self.replaced.output[0]}/{operator}.{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [place], name=place, **attributes))
        return place

    def constant(self, value: Integers) -> str:
        return self("Constant", **{"value_int" if isinstance(value, int) else "value_ints": value})


def _replacement(
    node: onnx.NodeProto, types: Mapping[str, int], known: Mapping[str, Integers], version: int
) -> list[onnx.NodeProto] | None:
    """The nodes in a node's place; None where it stays."""
    if node.domain not in ("", "ai.onnx") or not node.input:
        return None
    kind = types.get(node.input[-1] if node.op_type == "Where" else node.input[0])
    o = _Operators(node)
    if node.op_type == "Where" and kind == BOOL:
        _where(o, *node.input)
    elif node.op_type == "GridSample":
        _grid_sample(o, types.get(node.input[1]))
    elif kind != INT64:
        return None
    elif node.op_type in _INT64:
        _INT64[node.op_type](o, *node.input)
    elif node.op_type == "Unsqueeze":
        _unsqueeze(o, known)
    elif node.op_type in (*_EXTREMES, *_SUMS) and version >= _SCATTERS_SUMS:
        _reduce(o, known)
    if not o.nodes:
        return None
    o.nodes[-1].output[0] = node.output[0]
    return o.nodes


def _where(o: _Operators, condition: str, x: str, y: str) -> None:
    o("Or", o("And", condition, x), o("And", o("Not", condition), y))


def _grid_sample(o: _Operators, kind: int | None) -> None:
    """With coordinates that are far outside for every image, and from which integers and weights are exact."""
    given = {item.name: onnx.helper.get_attribute_value(item) for item in o.replaced.attribute}
    if kind is None or given.get("padding_mode") == b"reflection":
        return
    low, high = (o("Constant", value=onnx.helper.make_tensor("", kind, [], [bound])) for bound in (-_FAR, _FAR))
    o("GridSample", o.replaced.input[0], o("Clip", o.replaced.input[1], low, high), **given)


def _sign(o: _Operators, x: str) -> None:
    zero = o.constant(0)
    o("Sub", o("Cast", o("Greater", x, zero), to=INT64), o("Cast", o("Less", x, zero), to=INT64))


def _relu(o: _Operators, x: str) -> None:
    zero = o.constant(0)
    o("Where", o("Less", x, zero), zero, x)


def _smaller(o: _Operators, x: str, y: str) -> str:
    return o("Where", o("Less", y, x), y, x)


def _larger(o: _Operators, x: str, y: str) -> str:
    return o("Where", o("Greater", y, x), y, x)


def _minimum(o: _Operators, *values: str) -> None:
    reduce(lambda x, y: _smaller(o, x, y), values)


def _maximum(o: _Operators, *values: str) -> None:
    reduce(lambda x, y: _larger(o, x, y), values)


def _clip(o: _Operators, x: str, low: str = "", high: str = "") -> None:
    raised = _larger(o, x, low) if low else x
    if high:
        _smaller(o, raised, high)


def _mod(o: _Operators, x: str, y: str) -> None:
    if any(item.name == "fmod" and item.i for item in o.replaced.attribute):
        o("Sub", x, o("Mul", o("Div", x, y), y))


_INT64: dict[str, Callable[..., None]] = {
    "Sign": _sign, "Relu": _relu, "Min": _minimum, "Max": _maximum, "Clip": _clip, "Mod": _mod,
}  # fmt: skip


def _unsqueeze(o: _Operators, known: Mapping[str, Integers]) -> None:
    number, *axes = [known.get(name) for name in o.replaced.input]
    if isinstance(number, int) and axes in ([[0]], [[-1]]):
        o.constant([number])


def _reduce(o: _Operators, known: Mapping[str, Integers]) -> None:
    """One axis after the other, all kept until the end."""
    node, x = o.replaced, o.replaced.input[0]
    given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    named = node.input[1] if len(node.input) > 1 else ""
    axes = known.get(named) or given.get("axes") or []
    axes = [axes] if isinstance(axes, int) else axes
    if (named and named not in known) or (not axes and given.get("noop_with_empty_axes")):
        return
    if node.op_type == "ReduceSumSquare":
        x = o("Mul", x, x)
    elif node.op_type == "ReduceL1":
        x = o("Abs", x)
    reduced = _along(o, node.op_type, x if axes else o("Reshape", x, o.constant([-1])), axes or [0])
    if not given.get("keepdims", 1):
        o("Squeeze", reduced, o.constant(axes or [0]))
    elif not axes:
        shape = o("Shape", x)
        o("Reshape", reduced, o("Add", o("Sub", shape, shape), o.constant(1)))


def _along(o: _Operators, operator: str, x: str, axes: Sequence[int]) -> str:
    for axis in axes:
        if operator in _EXTREMES:
            x = o("GatherElements", x, o(_EXTREMES[operator], x, axis=axis, keepdims=1), axis=axis)
        else:
            reduction, start = _SUMS[operator]
            first = o("Sub", x, x)  # index 0 for every element
            begun = o("Add", o("ReduceSum", first, o.constant([axis]), keepdims=1), o.constant(start))
            x = o("ScatterElements", begun, first, x, axis=axis, reduction=reduction)
    return x
