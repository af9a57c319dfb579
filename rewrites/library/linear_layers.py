"""Linear layers of many axes: TensorRT computes what follows a product of matrices with it, of up to three axes."""

from __future__ import annotations

from typing import NamedTuple

from rewrites import example, graph_pass

_MOST_AXES = 3
_POINTWISE = frozenset(
    [
        "Abs", "Add", "Cast", "Ceil", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu",
        "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow",
        "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh",
        "ThresholdedRelu"
    ]
)  # fmt: skip


class _Rows(NamedTuple):
    """A value of many axes that is there with three as well.

    Attributes:
        value: with three axes.
        source: what has the same sizes, but for the last.
        scope: the graph that holds it.
    """

    value: object
    source: object
    scope: int


def _layers(sizes):
    """Two linear layers with an activation between them, as ONNX's text has it."""

    def numbers(count):
        return ", ".join(f"{(7 * i % 11 - 5) / 8}" for i in range(count))

    return (
        f"g (float[{sizes}, 2] x) => (float[{sizes}, 1] y) "
        f"<float[2, 3] v = {{{numbers(6)}}}, float[3] b = {{{numbers(3)}}}, float[3, 1] w = {{{numbers(3)}}}> "
        "{ p = MatMul(x, v) a = Add(b, p) e = Erf(a) f = Mul(a, e) h = MatMul(f, w) y = Add(h, h) }"
    )


@graph_pass(
    name="onnx/linear-layers-of-three-axes",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(text=_layers("2, 3, 4"), _fires=6),
        example(text=_layers("n, 3, 4"), _fires=6),
        example(text=_layers("n, h, w"), _fires=6),
        example(text=_layers("2, 3, n, 2"), _fires=6),
        example(text=_layers("2, 3, n, 2").replace("n, 2, 2] x", "n, 2, c] x"), _sizes={"c": 2}, _fires=6),
    ],
)
def linear_layers_of_three_axes(graph):
    """MatMul of four axes or more and a matrix, and what is pointwise behind it -> Reshape, the same of three, Reshape.

    Channels come last behind images in ConvNeXt and Swin. Bias and activation are a kernel of their own there, where
    TensorRT computes them with the product in BERT, of three axes. Reshaping takes no time.

    Source: what the builders of TensorRT 10.6 and TensorRT-RTX 1.7 tell of their layers.
    """
    rows: dict[object, _Rows] = {}
    for node in graph.nodes():
        given = _inputs(node, graph.scope(node), rows)
        if given is None:
            continue
        source = next((one.source for one in given if isinstance(one, _Rows)), given[0])
        whole = node.outputs[0]
        made: list[object] = []

        def make(op, node=node, given=given, source=source, whole=whole, made=made):
            flat = [one.value if isinstance(one, _Rows) else one for one in given]
            if flat[0] is source:  # of a MatMul
                flat[0] = op.Reshape(source, _three_sizes(source.shape, node.inputs[1].shape[0]))
            made.append(op.call(node.op, *flat, **node.given))
            return op.Reshape(made[0], _sizes(op, source, whole.shape))

        graph.replace(node, make)
        rows[whole] = _Rows(made[0], source, graph.scope(node))


def _inputs(node, scope, rows):
    """What a node of three axes is given in this one's place; None where it stays."""
    if node.domain or any(value is None or value.dims is None for value in (*node.inputs, *node.outputs)):
        return None
    known = [rows.get(value) for value in node.inputs]
    given = [one if one and one.scope == scope else value for one, value in zip(known, node.inputs, strict=True)]
    if node.op == "MatMul":
        return given if _is_linear(*node.inputs) and type(node.outputs[0].shape[-1]) is int else None
    if node.op not in _POINTWISE or not any(isinstance(one, _Rows) for one in given):
        return None
    source, shape = next(one.source for one in given if isinstance(one, _Rows)), node.outputs[0].shape
    fits = type(shape[-1]) is int and all(
        _is_alike(value.shape, shape, one.source == source) if isinstance(one, _Rows) else value.rank <= 1
        for one, value in zip(given, node.inputs, strict=True)
    )
    return given if fits else None


def _is_alike(one, other, have_same_rows):
    """Whether shapes are equal; those of one source are but for the last size."""
    return one[-1] == other[-1] if have_same_rows else one == other and None not in one


def _is_linear(x, matrix):
    """Whether it is of too many axes; what is quantized stays next to its scales."""
    quantized = any(value.producer is not None and value.producer.op == "DequantizeLinear" for value in (x, matrix))
    return (
        x.rank > _MOST_AXES
        and matrix.rank == 2
        and matrix.dims.is_static()
        and 0 not in (*x.dims, *matrix.dims)
        and not quantized
    )


def _three_sizes(shape, last):
    """The first, those between and the last; the first may be zero in calls where the others are known."""
    between = shape[1:-1]
    return [-1, between.size, last] if between.is_static() else [0, -1, last]


def _sizes(op, source, shape):
    """The sizes of a value of many axes: constants, but for one at most, or those of its source."""
    if sum(type(size) is not int for size in shape) <= 1:
        return [size if type(size) is int else -1 for size in shape]
    return op.Concat(op.Slice(op.Shape(source), [0], [source.rank - 1]), [shape[-1]], axis=0)
