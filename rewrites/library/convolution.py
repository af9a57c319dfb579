"""Convolutions: attributes that parsers read best when they are spelled out."""

from __future__ import annotations

from rewrites import example, require, rule


@rule(
    name="onnx/explicit-auto-pad",
    matches=["Conv", "MaxPool", "AveragePool", "LpPool"],
    needed_by={"tensorrt": "all versions"},
    examples=[
        example(X=(1, 3, 7, 8), W=(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
        example(X=("batch", 3, 9), W=(4, 3, 2), auto_pad="SAME_LOWER"),
        example(X=("batch", 3, "h", "w"), W=(4, 3, 2, 2), auto_pad="VALID"),
    ],
    refuses=[
        example(X=(1, 3, "length"), W=(4, 3, 3), auto_pad="SAME_UPPER", strides=[2], because="must be static"),
    ],
)
class ExplicitAutoPad:
    """Conv auto_pad -> Conv pads: compute the padding that SAME and VALID mean.

    Source: the formula in the ONNX specification of Conv; the parser's own rounds SAME_LOWER as SAME_UPPER in places.
    """

    def applies(auto_pad):
        return auto_pad not in ("NOTSET", "")

    def check(node, auto_pad):
        if auto_pad.startswith("SAME"):
            require(node.inputs[0].shape[2:].is_static() or unit_stride(node), "the spatial axes must be static")

    def rewrite(op, node, auto_pad):
        pads = explicit_pads(node, auto_pad)
        attributes = {k: v for k, v in node.given.items() if k not in ("auto_pad", "pads")}
        return op.call(node.op, *node.inputs, _outputs=len(node.outputs), pads=pads, **attributes)


def unit_stride(node):
    return all(s == 1 for s in node.given.get("strides", [1]))


def kernel_of(node):
    return node.given.get("kernel_shape") or list(node.inputs[1].shape[2:])


def explicit_pads(node, auto_pad):
    """The padding, begins then ends, of each spatial axis."""
    sizes, kernel = node.inputs[0].shape[2:], kernel_of(node)
    if auto_pad == "VALID":
        return [0] * (2 * len(kernel))
    ones = [1] * len(kernel)
    strides, dilations = node.given.get("strides", ones), node.given.get("dilations", ones)
    totals = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (k - 1) * dilation + 1
        totals.append(reach - 1 if stride == 1 else max((-(-size // stride) - 1) * stride + reach - size, 0))
    small = [t // 2 for t in totals]
    large = [t - s for t, s in zip(totals, small, strict=True)]
    return [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]
