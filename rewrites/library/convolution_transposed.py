"""Transposed convolutions: dilations, and output shapes given instead of padding."""

from __future__ import annotations

from rewrites import example, require, rule


@rule(
    name="onnx/conv-transpose-explicit-pads",
    matches="ConvTranspose",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(X=(1, 2, 3, 4), W=(2, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
        example(X=("n", 2, 5), W=(2, 3, 4), strides=[2], auto_pad="SAME_LOWER"),
        example(X=("n", 2, 5), W=(2, 3, 3), strides=[3], auto_pad="VALID"),
        example(X=("n", 2, 4), W=(2, 3, 4), strides=[2], output_shape=[7]),
    ],
    refuses=[
        example(X=(1, 2, "l"), W=(2, 3, 3), strides=[2], auto_pad="SAME_UPPER", because="static"),
        example(X=(1, 2, 3), W=(2, 3, 3), strides=[2], output_shape=[9], because="larger"),
        example(
            X=(1, 2, 3), W=(2, 3, 3), strides=[2], output_padding=[1], auto_pad="SAME_UPPER", because="output_padding"
        ),
    ],
)
class ConvTransposeExplicitPads:
    """ConvTranspose auto_pad -> ConvTranspose pads: the padding that auto_pad and output_shape mean.

    Source: the formula in the ONNX specification of ConvTranspose, opset 11.
    """

    def applies(auto_pad, output_shape):
        return auto_pad != "NOTSET" or output_shape is not None

    def check(node, auto_pad):
        require(auto_pad == "VALID" or node.inputs[0].shape[2:].is_static(), "the spatial axes must be static")
        require(node.inputs[1].shape[2:].is_static(), "the kernel must be static")
        extra = auto_pad.startswith("SAME") and any(node.given.get("output_padding", ()))
        require(not extra, "with output_padding, ONNX's shape inference and its specification of SAME differ")
        require(auto_pad == "VALID" or min(removed(node)) >= 0, "the output is larger than without padding")

    def rewrite(op, node, auto_pad):
        axes = node.inputs[0].rank - 2
        total = [0] * axes if auto_pad == "VALID" else removed(node)
        less = [t // 2 for t in total]
        more = [t - s for t, s in zip(total, less, strict=True)]
        pads = [*less, *more] if auto_pad == "SAME_UPPER" else [*more, *less]
        kept = {k: v for k, v in node.given.items() if k not in ("auto_pad", "pads", "output_shape")}
        return op.ConvTranspose(*node.inputs, pads=pads, **kept)


def removed(node):
    """How many elements the padding takes from each spatial axis of the full output."""
    sizes, kernel, given = node.inputs[0].shape[2:], node.inputs[1].shape[2:], node.given
    ones = [1] * len(kernel)
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    extra = given.get("output_padding", [0] * len(kernel))
    wanted = given.get("output_shape") or [n * s for n, s in zip(sizes, strides, strict=True)]
    rows = zip(sizes, kernel, strides, dilations, extra, wanted[-len(kernel) :], strict=True)
    return [(n - 1) * s + (k - 1) * d + 1 + e - w for n, k, s, d, e, w in rows]


@rule(
    name="onnx/conv-transpose-dilation-to-zeros",
    matches="ConvTranspose",
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(X=(1, 2, 3, 4), W=(2, 3, 2, 3), strides=[2, 2], dilations=[2, 3]),
        example(X=("n", 2, "l"), W=(2, 3, 3), dilations=[2], pads=[1, 1]),
    ],
)
class ConvTransposeDilationToZeros:
    """ConvTranspose dilations -> Pad Reshape ConvTranspose: zeros between the kernel's elements instead.

    Source: TensorRT's deconvolution takes dilations with a stride of 1 at best; measured on TensorRT-RTX 1.7.
    """

    def applies(node, auto_pad):
        return auto_pad == "NOTSET" and any(d != 1 for d in node.given.get("dilations", ()))

    def check(node):
        require(node.inputs[1].shape.is_static(), "the kernel must be static")

    def rewrite(op, node):
        x, kernel, *bias = node.inputs
        for axis, dilation in enumerate(node.given["dilations"], 2):
            kernel = spread(op, kernel, axis, dilation)
        kept = {k: v for k, v in node.given.items() if k not in ("dilations", "kernel_shape")}
        kernel, kept = without_output_padding(op, kernel, kept)
        return op.ConvTranspose(x, kernel, *bias, **kept)


def without_output_padding(op, kernel, given):
    """What is added to the output is padded less; beyond the padding it is what zeros at the kernel's end give.

    Without dilation the padding of the output must be less than the stride (the ONNX specification of ConvTranspose).
    """
    extra, axes = list(given.get("output_padding", ())), kernel.rank - 2
    if all(e < s for e, s in zip(extra, given.get("strides", [1] * axes), strict=False)):
        return kernel, given
    pads = list(given.get("pads", [0] * 2 * axes))
    taken = [min(e, p) for e, p in zip(extra, pads[axes:], strict=True)]
    longer = [e - t for e, t in zip(extra, taken, strict=True)]
    if any(longer):
        kernel = op.Pad(kernel, [0] * (kernel.rank + 2) + longer)
    less = [p - t for p, t in zip(pads[axes:], taken, strict=True)]
    kept = {k: v for k, v in given.items() if k != "output_padding"}
    return kernel, {**kept, "pads": [*pads[:axes], *less]}


def spread(op, kernel, axis, dilation):
    """The kernel with dilation - 1 zeros between its elements along one axis."""
    if dilation == 1:
        return kernel
    before, size, after = list(kernel.shape[:axis]), kernel.shape[axis], list(kernel.shape[axis + 1 :])
    zeros = [0] * (kernel.rank + 1)
    padded = op.Pad(op.Unsqueeze(kernel, [axis + 1]), zeros + [0] * (axis + 1) + [dilation - 1] + [0] * len(after))
    flat = op.Reshape(padded, [*before, size * dilation, *after])
    return op.Slice(flat, [0], [(size - 1) * dilation + 1], [axis])
