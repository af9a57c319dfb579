"""Columns back to images."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

_SIZES = "the sizes of the image must be static"


@rule(
    name="onnx/col2im-to-conv-transpose",
    matches="Col2Im",
    needed_by={"tensorrt": "all versions"},
    opsets=(18, 10**6),
    priority=-1,
    examples=[
        example(input=(1, 5, 5), image_shape=np.array([5, 5]), block_shape=np.array([1, 5])),
        example(
            input=("n", 8, 6), image_shape=np.array([5, 6]), block_shape=np.array([2, 2]), strides=[2, 2],
            dilations=[2, 1],
            _builds=False,  # onnx/conv-transpose-dilation-to-zeros goes on from here
        ),
        example(input=(2, 4, 9), image_shape=np.array([8]), block_shape=np.array([2]), pads=[1, 1]),
    ],
    refuses=[
        example(input=(1, 5, 5), image_shape=tensor(2, dtype="int64"), block_shape=np.array([1, 5]), because=_SIZES),
    ],
)  # fmt: skip
class Col2ImToConvTranspose:
    """Col2Im -> Reshape ConvTranspose: a transposed convolution whose kernel is the identity adds the blocks up.

    Source: the ONNX specification of Col2Im, opset 18; onnx-tensorrt's list of operators.
    """

    def applies(block_shape):
        return block_shape.constant is not None

    def check(node, image_shape):
        require(sizes_of(node, image_shape), _SIZES)
        require(node.inputs[0].shape.is_static(1), "the number of channels must be static")

    def rewrite(op, node, input, image_shape, block_shape):
        block = [int(b) for b in block_shape.constant]
        g = Geometry(node, sizes_of(node, image_shape), len(block))
        counts = g.counts(block)
        channels = node.inputs[0].shape[1] // int(np.prod(block))
        x = op.Reshape(input, [-1, int(np.prod(block)), *counts])
        kernel = np.eye(int(np.prod(block))).reshape(-1, 1, *block).astype(input.dtype)
        y = op.ConvTranspose(x, kernel, strides=g.strides, dilations=g.dilations)
        made = [(n - 1) * s + (b - 1) * d + 1 for n, s, b, d in zip(counts, g.strides, block, g.dilations, strict=True)]
        wanted = [size + a for size, a in zip(g.sizes, g.begins, strict=True)]
        missing = [max(0, w - m) for w, m in zip(wanted, made, strict=True)]
        y = op.Pad(y, [0] * (4 + len(block)) + missing) if any(missing) else y
        y = op.Slice(y, g.begins, wanted, list(range(2, 2 + len(block))))
        return op.Reshape(y, [-1, channels, *g.sizes])


@rule(
    name="onnx/col2im-to-matmul",
    matches="Col2Im",
    needed_by={"tensorrt": "all versions"},
    opsets=(18, 10**6),
    examples=[
        example(
            text="g (float[2,5,5] x, int64[2] block) => (float[2,1,5,5] y) {"
            " image = Constant<value_ints = [5, 5]>() y = Col2Im(x, image, block) }",
            block=tensor(2, values=[1, 5], dtype="int64"),
        ),
        example(
            text="g (float[n,4,4] x, int64[1] block) => (float[n,2,5] y) {"
            " image = Constant<value_ints = [5]>() y = Col2Im(x, image, block) }",
            block=tensor(1, values=[2], dtype="int64"),
        ),
    ],
    refuses=[
        example(
            text="g (float[1,5,5] x, int64[2] image, int64[2] block) => (float[1,c,h,w] y) {"
            " y = Col2Im(x, image, block) }",
            because=_SIZES,
        )
    ],
)
class Col2ImToMatMul:
    """Col2Im with an unknown block -> Div Mod Equal MatMul: where every element of every block lands, as a 0/1 matrix.

    Source: the ONNX specification of Col2Im, opset 18.
    """

    def applies(block_shape):
        return block_shape.constant is None

    def check(node, input, image_shape):
        require(sizes_of(node, image_shape) and node.outputs[0].shape.is_static(1), _SIZES)
        require(input.shape[1:].is_static() and input.shape[1:].size <= 4096, "the matrix would be too large")

    def rewrite(op, node, input, image_shape, block_shape):
        g = Geometry(node, sizes_of(node, image_shape), len(sizes_of(node, image_shape)))
        channels = node.outputs[0].shape[1]
        elements, columns = input.shape[1] // channels, input.shape[2]
        block = [op.Gather(block_shape, np.array([i])) for i in range(len(g.sizes))]
        places = unravel(op, np.arange(elements), block)
        starts = unravel(op, np.arange(columns), [g.dynamic_count(op, b, i) for i, b in enumerate(block)])
        flat, inside = None, None
        for i, size in enumerate(g.sizes):
            row = op.Sub(op.Mul(op.Unsqueeze(places[i], [1]), g.dilations[i]), g.begins[i])
            row = op.Add(row, op.Mul(op.Unsqueeze(starts[i], [0]), g.strides[i]))
            valid = op.And(op.GreaterOrEqual(row, 0), op.Less(row, size))
            flat, inside = (row, valid) if flat is None else (op.Add(op.Mul(flat, size), row), op.And(inside, valid))
        landed = op.Reshape(op.Where(inside, flat, -1), [elements * columns, 1])
        matrix = op.Cast(op.Equal(landed, np.arange(int(np.prod(g.sizes)))[None]), to=input.dtype)
        y = op.MatMul(op.Reshape(input, [-1, channels, elements * columns]), matrix)
        return op.Reshape(y, [-1, channels, *g.sizes])


class Geometry:
    """Sizes, strides, dilations and padding of a Col2Im node."""

    def __init__(self, node, sizes, axes):
        given = node.given
        self.sizes = sizes
        self.strides = given.get("strides", [1] * axes)
        self.dilations = given.get("dilations", [1] * axes)
        pads = given.get("pads", [0] * (2 * axes))
        self.begins, self.around = pads[:axes], [a + b for a, b in zip(pads[:axes], pads[axes:], strict=True)]

    def counts(self, block):
        """How many blocks there are along each axis."""
        rows = zip(self.sizes, self.around, block, self.dilations, self.strides, strict=True)
        return [(n + p - (b - 1) * d - 1) // s + 1 for n, p, b, d, s in rows]

    def dynamic_count(self, op, block, axis):
        """The same along one axis, for a block known at run time."""
        room = self.sizes[axis] + self.around[axis] - 1 + self.dilations[axis]
        return op.Add(op.Div(op.Sub(room, op.Mul(block, self.dilations[axis])), self.strides[axis]), 1)


def sizes_of(node, image_shape):
    """The image's sizes, when they are known."""
    if image_shape.constant is not None:
        return [int(s) for s in image_shape.constant]
    dims = node.outputs[0].dims
    return list(dims[2:]) if dims is not None and dims[2:].is_static() else None


def unravel(op, index, sizes):
    """The coordinates, outermost first, of flat indices in a shape known at run time."""
    found, left = [], op.constant(index)
    for size in reversed(sizes[1:]):
        outer = op.Div(left, size)
        found.append(op.Sub(left, op.Mul(outer, size)))
        left = outer
    return [left, *reversed(found)]
