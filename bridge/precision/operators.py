"""What is known of single operators in sixteen bits: why some stay in FP32, how value ranges travel through others."""

from __future__ import annotations

import onnx

_NORMALIZATION = """LayerNormalization InstanceNormalization GroupNormalization RMSNormalization LRN
    MeanVarianceNormalization LpNormalization"""
_SOFTMAX = "Softmax LogSoftmax Hardmax"
_LARGE = """Exp Log Pow Sinh Cosh Tan Atanh Softplus Mish ReduceSum ReduceProd ReduceSumSquare ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp CumSum CumProd LpPool GlobalLpPool Det"""
_COORDINATES = "Sin Cos Range GridSample AffineGrid RoiAlign MaxRoiPool NonMaxSuppression"
_LOSS = "SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss"
_QUANTIZATION = "QuantizeLinear DequantizeLinear DynamicQuantizeLinear"
_SIGNAL = "DFT STFT MelWeightMatrix"

KEPT: dict[str, str] = {
    operator: reason
    for operators, reason in (
        (_NORMALIZATION, "normalization"),
        (_SOFTMAX, "softmax"),
        (_LARGE, "accumulates or grows beyond sixteen bits"),
        (_COORDINATES, "coordinates"),
        (_LOSS, "loss"),
        (_QUANTIZATION, "quantization scales"),
        (_SIGNAL, "signal transform"),
    )
    for operator in operators.split()
}

COMPUTE = frozenset(
    [
        "Conv",
        "ConvTranspose",
        "DeformConv",
        "MatMul",
        "Gemm",
        "Einsum",
        "LSTM",
        "GRU",
        "RNN",
        "Attention",
        "BatchNormalization",
    ]
)
"""Always in sixteen bits where nothing speaks against it: these are what sixteen bits are for."""

AGNOSTIC = frozenset(["Cast", "Shape", "Size", "IsNaN", "IsInf"])
"""Take a tensor in whatever type it is stored."""

MOVEMENT = frozenset(
    [
        "Identity",
        "Reshape",
        "Transpose",
        "Slice",
        "Concat",
        "Split",
        "Gather",
        "GatherND",
        "GatherElements",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Tile",
        "Pad",
        "Flatten",
        "Where",
        "ScatterND",
        "ScatterElements",
        "DepthToSpace",
        "SpaceToDepth",
        "Trilu",
        "Compress",
        "ReverseSequence",
    ]
)
RANGE_CARRIERS = MOVEMENT | frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Neg",
        "Abs",
        "Max",
        "Min",
        "Sum",
        "Mean",
        "Clip",
        "ReduceMax",
        "ReduceMin",
        "ReduceMean",
        "Cast",
        "CastLike",
        "If",
        "Loop",
        "Scan",
    ]
)
"""A result is as large (or as small) as the operands; everything else bounds it, or is assumed to."""

RANGE_SOURCES = frozenset(
    [
        "Exp",
        "Sinh",
        "Cosh",
        "Tan",
        "ReduceSum",
        "ReduceProd",
        "ReduceSumSquare",
        "ReduceL1",
        "CumSum",
        "CumProd",
        "Range",
        "Det",
    ]
)
"""Results that may leave FP16's range or, counting, its integers: what uses them stays in FP32 with them."""

EXACT_POSITIONS = {
    "GridSample": (1,),
    "RoiAlign": (1,),
    "Sin": (0,),
    "Cos": (0,),
    "Range": (0, 1, 2),
    "NonMaxSuppression": (0,),
}
"""Inputs that hold positions: what computes them stays in FP32 too."""

REFUSED_BY_TENSORRT: dict[int, frozenset[str]] = {
    onnx.TensorProto.BFLOAT16: frozenset({"GRU", "HardSwish", "ConvTranspose"})
}
"""Allowed by ONNX, refused by TensorRT's parser or builder (each tried alone on TensorRT-RTX 1.7)."""
