"""What PyTorch's exporters leave undone in graphs that are right otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from rewrites.tidying import all_nodes


def mend_casts(graph: onnx.GraphProto) -> None:
    """Casts to bfloat16 for which the TorchScript exporter writes PyTorch's number of the type, not ONNX's."""
    for node in all_nodes(graph):
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.COMPLEX128:
                attribute.i = onnx.TensorProto.BFLOAT16


def round_results(graph: onnx.GraphProto, results: Sequence[Any]) -> None:
    """Results in sixteen bits that an exporter leaves in FP32, where it adds up in FP32."""
    for info, result in zip(graph.output, results, strict=False):
        kind = {"torch.float16": onnx.TensorProto.FLOAT16, "torch.bfloat16": onnx.TensorProto.BFLOAT16}.get(
            str(getattr(result, "dtype", None))
        )
        if kind is not None and info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            rounded = f"{info.name}_rounded"
            graph.node.append(onnx.helper.make_node("Cast", [info.name], [rounded], to=kind))
            info.name, info.type.tensor_type.elem_type = rounded, kind
