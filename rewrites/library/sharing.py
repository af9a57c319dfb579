"""Equal computations are made once: exporters write the same Shape, Gather and Unsqueeze again and again."""

from __future__ import annotations

from rewrites import example, graph_pass

_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"]
)


@graph_pass(
    name="onnx/share-equal-nodes",
    needed_by={"any": "all versions"},
    examples=[
        example(text="g (float[2,3] x) => (float[2,3] y) { a = Relu(x) b = Relu(x) y = Add(a, b) }"),
        example(text='g (float["n",3] x) => (float[n,3] y) { a = Exp(x) b = Exp(x) y = Mul(a, b) }'.replace('"', "")),
    ],
    refuses=[],
)
def share_equal_nodes(graph):
    """Op Op -> Op: nodes with the same operator, inputs and attributes become one.

    Smaller graphs build faster; TensorRT merges what is left only after parsing and type inference.
    """
    seen = {}
    for node in graph.nodes():
        key = identity(graph, node)
        if key is None:
            continue
        if key not in seen:
            seen[key] = node
        elif not any(v.is_output for v in node.outputs if v):
            first = seen[key]
            graph.replace(node, lambda op, first=first: tuple(v for v in first.outputs if v))


def identity(graph, node):
    """What makes two nodes equal; None for nodes that are never merged."""
    attributes = node.given
    if node.op in _RANDOM or any(not isinstance(v, (int, float, str, list)) for v in attributes.values()):
        return None
    inputs = tuple(id(v.tensor) if v else None for v in node.inputs)
    return graph.scope(node), node.domain, node.op, inputs, len(node.outputs), repr(sorted(attributes.items()))
