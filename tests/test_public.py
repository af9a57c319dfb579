"""The package's front door: its names, what importing it costs, and that a submodule never takes a function's place."""

import importlib
import pathlib
import subprocess
import sys

import pytest
import torch

import bridge

MEASURE = """
import time, torch
start = time.perf_counter()
import bridge
took = time.perf_counter() - start
import sys
heavy = sorted({"onnx", "onnxruntime", "onnx_graphsurgeon", "polygraphy", "typer", "rich"} & set(sys.modules))
assert hasattr(torch.ops.bridge, "execute_engine")
print(took, heavy)
"""

FIRST = """
import sys, torch, bridge
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
traced = torch.jit.trace(model, torch.rand(1, 3, 8, 8), check_trace=False)
compiled = bridge.compile(traced, inputs=[bridge.Input((1, 3, 8, 8))], backend="onnxruntime")
compiled(torch.rand(1, 3, 8, 8))
print(sorted({"torch._dynamo", "sympy", "triton"} & set(sys.modules)))
"""


def test_import_is_quick_and_registers_the_operator() -> None:
    ran = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    took, heavy = ran.stdout.strip().split(" ", 1)
    assert float(took) < 0.3 and heavy == "[]"


def test_the_first_compilation_does_not_wait_for_pytorchs_compiler() -> None:
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", FIRST], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("name", bridge.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    found = getattr(bridge, name)
    assert name in dir(bridge) and (name == "__version__" or found.__doc__)


@pytest.mark.parametrize("name", sorted(bridge._HOMES))
def test_a_submodule_does_not_take_a_functions_place(name: str) -> None:
    importlib.import_module(bridge._HOMES[name])
    assert not isinstance(getattr(bridge, name), type(sys))


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        bridge.compil  # noqa: B018


class Fully(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.Conv2d(8, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("capture", ["traced", "scripted"])
def test_an_example_of_trtorch_runs_as_it_is_written(capture: str, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    model, input_data = Fully().eval(), torch.rand(1, 3, 224, 320)
    torch_script_module = torch.jit.script(model) if capture == "scripted" else torch.jit.trace(model, input_data)
    compile_settings = {
        "input_shapes": [
            {
                "min": [1, 3, 224, 224],
                "opt": [1, 3, 512, 512],
                "max": [1, 3, 1024, 1024],
            },  # For static size [1, 3, 224, 224]
        ],
        "op_precision": torch.half,  # Run with FP16
    }

    trt_ts_module = bridge.compile(torch_script_module, compile_settings)

    result = trt_ts_module(input_data.half())
    torch.jit.save(trt_ts_module, tmp_path / "trt_torchscript_module.ts")
    expected = model(input_data)
    assert (result - expected).abs().max() < 2e-3 * (1 + expected.abs().max())
    loaded = torch.jit.load(tmp_path / "trt_torchscript_module.ts")
    assert torch.equal(loaded(input_data.half()), result)
