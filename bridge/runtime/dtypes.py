"""Element types by their PyTorch name, the one spelling that plans and signatures use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np

# name -> number in onnx.TensorProto.DataType (onnx.proto)
ONNX_NUMBERS: dict[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
    "float8_e4m3fn": 17,
    "float8_e5m2": 19,
}
NAMES_OF_ONNX_NUMBERS = {number: name for name, number in ONNX_NUMBERS.items()}

# name in tensorrt.DataType -> name
NAMES_OF_TENSORRT: dict[str, str] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
    "FP8": "float8_e4m3fn",
}

_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ONNX_NUMBERS}


def name_of(dtype: torch.dtype) -> str:
    """The name of a PyTorch dtype: ``torch.float32`` -> ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """The PyTorch dtype of that name: ``"float32"`` -> ``torch.float32``."""
    return _DTYPES[name]


def name_of_onnx(dtype: int | np.dtype[Any] | type) -> str:
    """The name of an ONNX element type, given as its number or as the (ml_dtypes or NumPy) dtype that stands for it."""
    if isinstance(dtype, int):
        return NAMES_OF_ONNX_NUMBERS[dtype]
    import numpy as np

    return str(np.dtype(dtype))
