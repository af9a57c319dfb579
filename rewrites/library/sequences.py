"""Sequences: TensorRT has none, so what is taken from them is traced back to what was put in."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule

LONGEST = 512


def element(value):
    """The number that a constant input holds; refuses what is only known at run time."""
    require(value.constant is not None, "positions in sequences must be constant")
    return int(value.constant.reshape(()))


def elements(op, sequence):
    """The tensors of a sequence, in order; refuses when the nodes before do not tell."""
    made = sequence.producer if sequence is not None else None
    require(made is not None, "a sequence that is an input of the graph cannot be unrolled")
    if made.op == "Identity":
        return elements(op, made.inputs[0])
    require(made.op in BUILT, f"a sequence made by {made.op} cannot be unrolled")
    return BUILT[made.op](op, made)


def inserted(op, node):
    items, position = elements(op, node.inputs[0]), node.inputs[2] if len(node.inputs) > 2 else None
    at = len(items) if position is None else element(position)
    at = at + len(items) if at < 0 else at
    return [*items[:at], node.inputs[1], *items[at:]]


def erased(op, node):
    items, position = elements(op, node.inputs[0]), node.inputs[1] if len(node.inputs) > 1 else None
    at = -1 if position is None else element(position)
    del items[at]
    return items


def parts(op, node):
    """The pieces that SplitToSequence gives."""
    data, split = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    axis, keep = node.attributes["axis"] % data.rank, node.attributes["keepdims"]
    require(data.shape.is_static(axis), "the axis that is split must be static")
    require(split is None or split.constant is not None, "the sizes of the split must be constant")
    length = data.shape[axis]
    if split is None:
        sizes = [1] * length
    elif split.constant.ndim:
        sizes = split.constant.tolist()
    else:
        step = int(split.constant)
        sizes = [min(step, length - at) for at in range(0, length, step)]
    require(len(sizes) <= LONGEST, f"sequences of more than {LONGEST} tensors are not unrolled")
    ends = np.cumsum(sizes).tolist()
    pieces = [op.Slice(data, [end - size], [end], [axis]) for size, end in zip(sizes, ends, strict=True)]
    return [op.Squeeze(p, [axis]) for p in pieces] if split is None and not keep else pieces


BUILT = {
    "SequenceConstruct": lambda op, node: list(node.inputs),
    "SequenceEmpty": lambda op, node: [],
    "SequenceInsert": inserted,
    "SequenceErase": erased,
    "SplitToSequence": parts,
}


@rule(
    name="onnx/sequence-at-to-its-tensor",
    matches="SequenceAt",
    opsets=(13, 10**6),
    examples=[
        example(
            text="g (float[2] x, float[2] y) => (float[2] v) { s = SequenceConstruct(x, y) i ="
            " Constant<value_int=-1>() a = SequenceAt(s, i)"
            " v = Relu(a) }"
        ),
        example(
            text="g (float[4,n] x) => (float[n] v) { s = SplitToSequence<axis=0, keepdims=0>(x) t = SequenceErase(s)"
            " i = Constant<value_int=2>() v = SequenceAt(t, i) }"
        ),
        example(
            text="g (float[5,n] x) => (float[1,n] v) { p = Constant<value_int=2>() s = SplitToSequence<axis=0>(x, p)"
            " i = Constant<value_int=2>() v = SequenceAt(s, i) }"
        ),
    ],
    refuses=[
        example(
            text="g (float[2] x, int64 i) => (float[2] v) { s = SequenceConstruct(x, x) v = SequenceAt(s, i) }",
            because="constant",
        ),
        example(
            text="g (float[n,2] x) => (float[1,2] v) { s = SplitToSequence<axis=0>(x) i ="
            " Constant<value_int=0>() v = SequenceAt(s, i) }",
            because="static",
        ),
    ],
)
class SequenceAtToItsTensor:
    """SequenceAt -> the tensor that was put in, or a Slice of the one that was split.

    Source: TensorRT knows no sequences; the parser has no importer for them.
    """

    def rewrite(op, input_sequence, position):
        items, at = elements(op, input_sequence), element(position)
        require(-len(items) <= at < len(items), f"position {at} lies outside the sequence of {len(items)}")
        return items[at]


@rule(
    name="onnx/concat-from-sequence-to-concat",
    matches="ConcatFromSequence",
    opsets=(13, 10**6),
    examples=[
        example(
            text="g (float[2] x, float[n] y) => (float[m] v) { s = SequenceConstruct(x, y) v ="
            " ConcatFromSequence<axis=0>(s) }"
        ),
        example(
            text="g (float[2] x, float[2] y) => (float[2,2] v) { e = SequenceEmpty() s = SequenceInsert(e, x) i"
            " = Constant<value_int=0>()"
            " t = SequenceInsert(s, y, i) v = ConcatFromSequence<axis=-1, new_axis=1>(t) }"
        ),
    ],
)
class ConcatFromSequenceToConcat:
    """ConcatFromSequence -> Concat of the tensors that were put in.

    Source: TensorRT knows no sequences; the parser has no importer for them.
    """

    def rewrite(op, input_sequence, axis, new_axis):
        items = elements(op, input_sequence)
        require(items, "an empty sequence cannot be joined")
        axis = axis % (items[0].rank + (1 if new_axis else 0))
        return op.Concat(*([op.Unsqueeze(v, [axis]) for v in items] if new_axis else items), axis=axis)


@rule(
    name="onnx/sequence-length-to-constant",
    matches="SequenceLength",
    opsets=(13, 10**6),
    examples=[
        example(
            text="g (float[2] x) => (int64 v) { s = SequenceConstruct(x, x) a = SequenceLength(s) b = Size(x) v"
            " = Add(a, b) }"
        ),
        example(
            text="g (float[n] x) => (int64 v) { e = SequenceEmpty() s = SequenceInsert(e, x) a ="
            " SequenceLength(s) b = Size(x)"
            " v = Add(a, b) }"
        ),
    ],
)
class SequenceLengthToConstant:
    """SequenceLength -> constant: how many tensors were put in.

    Source: TensorRT knows no sequences; the parser has no importer for them.
    """

    def rewrite(op, input_sequence):
        return op.constant(len(elements(op, input_sequence)))
