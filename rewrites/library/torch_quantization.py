"""Rounding to steps in training for quantization: ranges that ONNX has no quantized type of."""

from __future__ import annotations

import numpy as np

from rewrites import example, lowering, tensor

_CHANNELS = np.float32([0.1, 0.25, 0.5])


def _is_int8(zero_point, low, high):
    """Whether the steps are some of INT8's own, around zero, as TensorRT has them."""
    return isinstance(zero_point, int) and zero_point == 0 and -128 <= low <= high <= 127


def _rounded(x, scale, zero_point, low, high):
    """The definition; PyTorch multiplies by the inverse, and a zero point may lie between two steps."""
    is_between = hasattr(zero_point, "is_floating_point") and zero_point.is_floating_point()
    steps = x * (1.0 / scale)
    steps = (steps + zero_point).round() if is_between else steps.round() + zero_point
    return (steps.clamp(low, high) - zero_point) * scale


@lowering(
    "aten::fake_quantize_per_tensor_affine",
    examples=[
        example(self=("n", 4), scale=0.05, zero_point=0, quant_min=-127, quant_max=127),
        example(self=(2, 4), scale=0.2, zero_point=0, quant_min=-8, quant_max=7),
        example(self=tensor("n", 4, dtype="float16"), scale=0.05, zero_point=0, quant_min=-128, quant_max=127),
        example(self=("n", 3), scale=0.01, zero_point=0, quant_min=-32768, quant_max=32767),
        example(self=("n", 3), scale=0.3, zero_point=5, quant_min=0, quant_max=15),
        example(
            op_type="aten::fake_quantize_per_tensor_affine.tensor_qparams",
            self=("n", 3),
            scale=np.float32([0.25]),
            zero_point=np.int32([3]),
            quant_min=-8,
            quant_max=7,
        ),
    ],
)
def fake_quantize_per_tensor(x, scale, zero_point, quant_min, quant_max):
    """fake_quantize_per_tensor_affine -> Clip QuantizeLinear DequantizeLinear, or Mul Round Clip Mul, or both.

    Numbers of sixteen bits lie between two steps so often that PyTorch's rounding is written out first.

    Source: torch.onnx takes the ranges of ONNX's quantized types alone, and no tensors of sixteen bits; ModelOpt
    quantizes weights to -127 to 127.
    """
    import torch

    wide, exact = x.float(), x.dtype != torch.float32
    is_int8 = _is_int8(zero_point, quant_min, quant_max)
    if exact or not is_int8:
        wide = _rounded(wide, scale, zero_point, quant_min, quant_max)
    elif (quant_min, quant_max) != (-128, 127):
        wide = wide.clamp(quant_min * scale, quant_max * scale)
    if is_int8:
        wide = torch.fake_quantize_per_tensor_affine(wide, scale, 0, -128, 127)
    return wide.to(x.dtype)


@lowering(
    "aten::fake_quantize_per_channel_affine",
    examples=[
        example(
            self=(3, "n"), scale=_CHANNELS, zero_point=np.zeros(3, np.int32), axis=0, quant_min=-127, quant_max=127
        ),
        example(self=(2, 3), scale=_CHANNELS, zero_point=np.int32([1, 0, 4]), axis=1, quant_min=-8, quant_max=7),
        example(
            self=tensor(3, 4, dtype="float16"),
            scale=_CHANNELS,
            zero_point=np.zeros(3, np.int32),
            axis=0,
            quant_min=-128,
            quant_max=127,
        ),
        example(
            self=("n", 3), scale=_CHANNELS, zero_point=np.float32([0.3, 1, 2.5]), axis=1, quant_min=0, quant_max=255
        ),
    ],
)
def fake_quantize_per_channel(x, scale, zero_point, axis, quant_min, quant_max):
    """fake_quantize_per_channel_affine -> Mul Round Clip Mul.

    Source: torch.onnx takes the ranges of ONNX's quantized types alone, and makes integers of zero points.
    """
    shape = [-1 if place == axis % x.dim() else 1 for place in range(x.dim())]
    wide, scale = x.float(), scale.float()
    return _rounded(wide, scale.reshape(shape), zero_point.reshape(shape), quant_min, quant_max).to(x.dtype)
