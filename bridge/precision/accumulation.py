"""Products of matrices in sixteen bits that are added up in FP32, as eager PyTorch does."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bridge.precision.types import FLOAT, HALVES, NUMPY_TYPES, UNKNOWN, infer


def accumulate_in_fp32(graph: gs.Graph) -> list[str]:
    """MatMul and Gemm of tensors in sixteen bits -> MatMul in FP32 between casts.

    Left alone, TensorRT takes kernels that also add up in sixteen bits. It makes one kernel of a product between
    casts, which multiplies in sixteen bits and adds up in FP32; but it may fold the cast of a constant, as in GPT-2,
    and then multiplies in FP32: a weight goes through a Transpose, which it does not fold.

    Args:
        graph: typed; changed in place.

    Returns:
        The names of the nodes.

    Source: the pattern of Torch-TensorRT's ``use_fp32_acc`` (https://github.com/pytorch/TensorRT/pull/3110).
    """
    types, turned, done = infer(graph), dict[int, gs.Constant](), []
    for holder in [graph, *graph.subgraphs(recursive=True)]:
        made: list[gs.Node] = []
        for node in holder.nodes:
            kinds = {types.get(id(tensor), UNKNOWN) for tensor in node.inputs if tensor.name}
            if _is_product(node) and len(kinds) == 1 and (kind := kinds.pop()) in HALVES:
                made += _Product(node, kind, turned).nodes
                done.append(node.name)
            else:
                made.append(node)
        holder.nodes[:] = made
    return done


def _is_product(node: gs.Node) -> bool:
    is_scaled = node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0
    return node.op in ("MatMul", "Gemm") and not node.domain and not is_scaled


class _Product:
    """What takes the place of one node; `nodes` in their order.

    Args:
        turned: weights that were turned round for other nodes, by the id of what they were.
    """

    def __init__(self, node: gs.Node, kind: int, turned: dict[int, gs.Constant]) -> None:
        self.nodes: list[gs.Node] = []
        self._name, self._kind, self._turned = node.name, kind, turned
        left, right, *added = [tensor for tensor in node.inputs if tensor.name]
        result = node.outputs[0]
        shape, sides = result.shape, ((left, "transA", "left"), (right, "transB", "right"))
        factors = [self._factor(tensor, bool(node.attrs.get(flag)), side) for tensor, flag, side in sides]
        node.inputs.clear()
        node.outputs.clear()
        product = self._add("MatMul", factors, "product", FLOAT, shape)
        if added:
            low = self._add("Cast", [product], "low", kind, shape, to=kind)
            self.nodes.append(gs.Node("Add", f"{self._name}/Add", inputs=[low, added[0]], outputs=[result]))
        else:
            self.nodes.append(gs.Node("Cast", f"{self._name}/Cast", {"to": kind}, [product], [result]))

    def _factor(self, tensor: gs.Tensor, turned: bool, side: str) -> gs.Tensor:
        """A factor in FP32; turned round where the Gemm does that, a constant in any case, twice if need be."""
        rank = None if tensor.shape is None else len(tensor.shape)
        is_weight = isinstance(tensor, gs.Constant) and rank is not None and rank > 1
        if is_weight and not turned:
            if id(tensor) not in self._turned:
                values = np.ascontiguousarray(np.swapaxes(tensor.values, -1, -2))
                self._turned[id(tensor)] = gs.Constant(f"{tensor.name}/turned", values)
            tensor, turned = self._turned[id(tensor)], True
        if turned:
            order = [*range(rank - 2), rank - 1, rank - 2] if rank else [1, 0]
            shape = None if tensor.shape is None else [tensor.shape[axis] for axis in order]
            tensor = self._add("Transpose", [tensor], f"{side}/transposed", self._kind, shape, perm=order)
        return self._add("Cast", [tensor], f"{side}/wide", FLOAT, tensor.shape, to=FLOAT)

    def _add(
        self, op: str, inputs: list[gs.Tensor], part: str, kind: int, shape: list[int] | None, **attributes: object
    ) -> gs.Variable:
        made = gs.Variable(f"{self._name}/{part}", NUMPY_TYPES[kind], shape)
        self.nodes.append(gs.Node(op, f"{self._name}/{part}/{op}", attributes, inputs, [made]))
        return made
