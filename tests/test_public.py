"""The package's front door: its names, what importing it costs, and that a submodule never takes a function's place."""

import importlib
import subprocess
import sys

import pytest

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


def test_import_is_quick_and_registers_the_operator() -> None:
    ran = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    took, heavy = ran.stdout.strip().split(" ", 1)
    assert float(took) < 0.3 and heavy == "[]"


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
