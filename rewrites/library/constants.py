"""Computations on small weights, which are done once: TensorRT 10.6 does some of them in every call."""

from __future__ import annotations

from math import prod

from rewrites import example, graph_pass
from rewrites.folding import FOLDABLE, evaluate
from rewrites.protos import node_proto

_LARGEST = 1 << 16
_TABLE = (
    "<float[3, 2] table = {{0, 1, 2, 3, 4, 5}}, int64[4] index = {{2, 0, 1, 2}}, int64[3] shape = {{2, 2, 2}}> "
    "{{ a = Gather<axis = 0>(table, index) b = Reshape(a, shape) c = Transpose<perm = [2, 0, 1]>(b) y = {0}(x, c) }}"
)


@graph_pass(
    name="onnx/compute-on-small-weights",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(text="g (float[2, 2, 2] x) => (float[2, 2, 2] y) " + _TABLE.format("Add"), _fires=3),
        example(text="g (float[n, 2, 2, 2] x) => (float[n, 2, 2, 2] y) " + _TABLE.format("Mul"), _fires=3),
    ],
)
def compute_on_small_weights(graph):
    """Operators on constants -> Constant: of up to 65,536 elements, before and after.

    As windowed attention looks its biases up: in Swin on TensorRT 10.6 that was a kernel of every layer, in every call.
    """
    for node in graph.nodes():
        values = [value for value in node.inputs if value is not None]
        if not _is_computed_once(node) or not all(map(_is_small_constant, values)):
            continue
        given = {value.name: value.constant for value in values}
        result = evaluate(node_proto(node.raw, graph.opset), given, graph.opset)
        if result is not None:
            graph.replace(node, lambda op, result=result: op.constant(result))


def _is_computed_once(node):
    """Whether a constant may be in its place; a product reads its matrix in either order, transposed or not."""
    if node.domain or node.op not in FOLDABLE or len(node.outputs) != 1:
        return False
    result = node.outputs[0]
    is_read_by_products = all(reader.op in ("MatMul", "Gemm") for reader in result.consumers)
    return not result.is_output and _is_small(result) and not (node.op == "Transpose" and is_read_by_products)


def _is_small_constant(value):
    return value.producer is None and _is_small(value) and value.constant is not None


def _is_small(value):
    return value.dims is not None and value.dims.is_static() and prod(value.dims) <= _LARGEST
