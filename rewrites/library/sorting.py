"""Sorting and the largest elements: TensorRT's TopK stops at 3,840, and knows floats and 32-bit integers."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

MOST = 3840
LARGEST = 2**14


def constant_or(value, default):
    return default if value is None or value.constant is None else int(value.constant.reshape(()))


@rule(
    name="onnx/large-topk-to-ranks",
    matches="TopK",
    opsets=(11, 10**6),
    examples=[
        example(X=(2, 4000), K=[4000], _outputs=2),
        example(X=("n", 4000), K=[3900], axis=1, largest=0, _outputs=2, _sizes={"n": 1}),
        example(X=tensor(4000, 2, dtype="int64", low=-99, high=99), K=[3841], axis=0, _outputs=2),
    ],
    refuses=[
        example(X=(20000,), K=[4000], _outputs=2, because="compared with every other"),
        example(X=("n",), K=[4000], _outputs=2, because="length", _sizes={"n": 4000}),
    ],
)
class LargeTopKToRanks:
    """TopK of more than 3,840 -> Greater ReduceSum ScatterElements: every element's rank is its place in the result.

    Source: NVIDIA/TensorRT#4244 and #2276; supports_model says yes to K = 4000, and the builder then refuses.
    """

    def applies(K):
        return constant_or(K, 0) > MOST

    def check(X, axis):
        require(X.shape.is_static(axis), "the length of the axis must be known")
        require(X.shape[axis] <= LARGEST, f"every element is compared with every other: at most {LARGEST}")

    def rewrite(op, X, K, axis, largest):
        last, count, length = X.rank - 1, int(K), X.shape[axis]
        order = [i for i in range(X.rank) if i != axis % X.rank] + [axis % X.rank]
        x = op.Transpose(X, perm=order)
        mine, other = op.Unsqueeze(x, [last + 1]), op.Unsqueeze(x, [last])
        ahead = op.Greater(other, mine) if largest else op.Less(other, mine)
        earlier = np.tril(np.ones((length, length), bool), -1)
        before = op.Or(ahead, op.And(op.Equal(other, mine), earlier))
        rank = op.ReduceSum(op.Cast(before, to=np.int32), [-1], keepdims=0)
        places = op.Expand(np.arange(length), op.Shape(x))
        back = np.argsort(order).tolist()
        indices = op.ScatterElements(places, op.Cast(rank, to=np.int64), places, axis=last)
        indices = op.Slice(indices, [0], [count], [last])
        return op.Transpose(op.GatherElements(x, indices, axis=last), perm=back), op.Transpose(indices, perm=back)


@rule(
    name="onnx/arg-max-of-small-types",
    matches=["ArgMax", "ArgMin"],
    examples=[
        example(data=tensor(2, 3, dtype="uint8", high=256), axis=1),
        example(data=tensor("n", 3, dtype="int8", low=-99, high=99), axis=0, keepdims=0, op_type="ArgMin"),
    ],
)
class ArgMaxOfSmallTypes:
    """ArgMax of 8 bits -> Cast ArgMax: TensorRT's TopK compares numbers of 32 bits.

    Source: the element types of TensorRT's ITopKLayer.
    """

    def applies(data):
        return data.known_dtype in (np.uint8, np.int8)

    def rewrite(op, node, data):
        return op.call(node.op, op.Cast(data, to=np.int32), **node.given)


@rule(
    name="onnx/topk-of-small-types",
    matches="TopK",
    opsets=(11, 10**6),
    examples=[
        example(X=tensor(2, 3, dtype="uint8", values=[[1, 200, 3], [9, 5, 7]]), K=[2], _outputs=2),
        example(X=tensor("n", 3, dtype="uint8", values=[[1, 200, 3], [9, 5, 7]]), K=[1], largest=0, _outputs=2),
    ],
)
class TopKOfSmallTypes:
    """TopK of 8 bits -> Cast TopK Cast: TensorRT's TopK compares numbers of 32 bits.

    Source: the parser's "Found unsupported input type of UINT8".
    """

    def applies(X):
        return X.known_dtype in (np.uint8, np.int8)

    def rewrite(op, node, X, K):
        values, indices = op.TopK(op.Cast(X, to=np.int32), K, **node.given, _outputs=2)
        return op.Cast(values, to=X.dtype), indices


@rule(
    name="onnx/arg-max-of-a-vector",
    matches=["ArgMax", "ArgMin"],
    opsets=(13, 10**6),
    examples=[example(data=(5,), axis=0), example(data=("n",), axis=-1, keepdims=0, op_type="ArgMin")],
)
class ArgMaxOfAVector:
    """ArgMax of a vector -> Unsqueeze ArgMax Squeeze: TensorRT's TopK wants two axes.

    Source: the builder's "at least 2 dimensions are required".
    """

    def applies(data):
        return data.dims is not None and len(data.dims) == 1

    def rewrite(op, node, data):
        options = {k: v for k, v in node.given.items() if k not in ("axis", "keepdims")}
        found = op.call(node.op, op.Unsqueeze(data, [0]), axis=1, keepdims=1, **options)
        return op.Squeeze(found, [0] if node.attributes["keepdims"] else [0, 1])
