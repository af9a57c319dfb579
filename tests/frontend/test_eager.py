"""Plain nn.Modules: which way they go in, what comes out, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import bridge

DYNAMIC = {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}


class Untraceable(nn.Module):
    """Numbers that TorchScript cannot follow and a trace would hold on to."""

    def forward(self, x: torch.Tensor) -> Any:
        size = int(x.shape[0])
        exec("pass")  # neither scripting nor exporting gets past this
        return x.reshape(size, -1) * 2


class Mixed(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        exec("pass")
        return {"list": [x + 1, x * 2], "number": 3}


def test_a_size_that_tracing_froze_is_refused() -> None:
    with pytest.raises(bridge.ExportError, match="froze a size"):
        bridge.compile(Untraceable(), [DYNAMIC], backend="onnxruntime")


def test_a_trace_puts_python_structures_back_together() -> None:
    x = torch.rand(2, 4)
    result = bridge.compile(Mixed(), [x], backend="onnxruntime")(x)
    assert result["number"] == 3
    assert torch.equal(result["list"][0], x + 1)
    assert torch.equal(result["list"][1], x * 2)


def test_results_that_hold_tensors_in_objects_are_refused_with_a_hint() -> None:
    @dataclass
    class Cache:
        key: torch.Tensor

    class Caching(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            exec("pass")
            return x, Cache(x)

    with pytest.raises(bridge.ExportError, match="Cache, which cannot be taken apart"):
        bridge.compile(Caching(), [torch.rand(2, 4)], backend="onnxruntime")


def test_modes_are_left_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    module[1].eval()
    bridge.compile(module, [torch.rand(2, 4)], backend="onnxruntime")
    assert module.training
    assert module[0].training
    assert not module[1].training


def test_frozen_modules_which_have_no_mode_are_compiled() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.rand(1, 3, 8, 8)
    frozen = torch.jit.freeze(torch.jit.script(module))
    compiled = bridge.compile(frozen, [x], backend="onnxruntime")
    torch.testing.assert_close(compiled(x), module(x))


def test_script_modules_in_training_mode_stay_in_it() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))).train()
    x = torch.rand(2, 4)
    compiled = bridge.compile(scripted, [x], backend="onnxruntime")
    assert scripted.training
    torch.testing.assert_close(compiled(x), scripted.eval()(x))
