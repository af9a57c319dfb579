"""Weights of more than 2 GB, which no protobuf message holds. They take 12 GB of memory and some minutes."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import bridge

warnings.filterwarnings("ignore", message=".*deprecated.*")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
WIDTH = 8192


def network(dtype: torch.dtype) -> torch.jit.ScriptModule:
    """Linear layers of 2.25 GiB of weights."""
    torch.manual_seed(0)
    count = 9 * 4 // dtype.itemsize
    layers = [nn.utils.skip_init(nn.Linear, WIDTH, WIDTH, dtype=dtype) for _ in range(count)]
    for layer in layers:
        nn.init.uniform_(layer.weight, -0.02, 0.02)
        nn.init.zeros_(layer.bias)
    return torch.jit.script(nn.Sequential(*layers).eval().requires_grad_(False))


def test_float32_in_onnx_runtime_saved_and_loaded(tmp_path: Path) -> None:
    module, x = network(torch.float32), torch.randn(1, WIDTH)
    compiled = bridge.compile(module, [x], backend="onnxruntime")
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-3, atol=1e-4)
    torch.jit.save(compiled, tmp_path / "compiled.pt")
    del compiled
    torch.testing.assert_close(torch.jit.load(tmp_path / "compiled.pt")(x), module(x), rtol=1e-3, atol=1e-4)


def test_float32_as_onnx_beside_its_weights(tmp_path: Path) -> None:
    module, x = network(torch.float32), torch.randn(1, WIDTH)
    model = bridge.to_onnx(module, [x])
    onnx.save_model(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights")
    del model
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(x), rtol=1e-3, atol=1e-4)


def test_float16_in_onnx_runtime() -> None:
    module, x = network(torch.float16), torch.randn(1, WIDTH, dtype=torch.float16)
    found, expected = bridge.compile(module, [x], backend="onnxruntime")(x), module(x)
    assert (found.float() - expected.float()).abs().max() <= 0.01 * expected.float().abs().max()
