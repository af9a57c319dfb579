"""Engines made by hand, small enough to build in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

from bridge.backends import select
from bridge.runtime import InputSignature, OutputSignature, Plan, Range, Signature


@dataclass
class Engine:
    """A plan with a signature for it, and what it computes."""

    plan: Plan
    signature: Signature
    eager: Callable[..., torch.Tensor]

    def __call__(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.ops.bridge.execute_engine(list(inputs), self.plan.to_tensor(), self.signature.to_json()))


@pytest.fixture(scope="session")
def linear() -> Engine:
    """y = relu(x @ w + b) for x of shape (batch = 1..4, 64)."""
    generator = torch.Generator().manual_seed(0)
    w, b = torch.randn(64, 32, generator=generator), torch.randn(32, generator=generator)
    x, y = gs.Variable("x", np.float32, ["batch", 64]), gs.Variable("y", np.float32, ["batch", 32])
    product, total = gs.Variable("product", np.float32), gs.Variable("total", np.float32)
    nodes = [
        gs.Node("MatMul", "layer/aten::matmul#1", {}, [x, gs.Constant("w", w.numpy())], [product]),
        gs.Node("Add", "layer/aten::add#2", {}, [product, gs.Constant("b", b.numpy())], [total]),
        gs.Node("Relu", "aten::relu#3", {}, [total], [y]),
    ]
    plan = select("onnxruntime").build(gs.Graph(nodes, [x], [y], opset=18), [{"x": ((1, 64), (2, 64), (4, 64))}])
    signature = Signature(
        (InputSignature("x", "float32", ("float16", "bfloat16"), (Range(1, 2, 4, "batch"), 64)),),
        (OutputSignature("y", "float32", ("i0.0", 32)),),
    )
    return Engine(plan, signature, lambda x: torch.relu(x.float() @ w + b))
