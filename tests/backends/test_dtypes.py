"""Element types: ONNX Runtime gives eager's numbers, and TensorRT-RTX builds what is to be one engine."""

from __future__ import annotations

import warnings

import pytest

import bridge
from tests.dtypes import CASES, agrees

warnings.filterwarnings("ignore", message=".*deprecated.*")


@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_agrees_with_eager(name: str) -> None:
    case = CASES[name]
    module = case.traced("cpu")
    compiled = bridge.compile(module, case.spec(), backend="onnxruntime", **case.settings)
    for size in (4, 2, 3):
        agrees(compiled, module, case, size, "cpu")
    if case.whole:
        assert len(bridge.inspect(compiled, layers=False).engines) == 1


SLOW = {"int64: bits"}  # half a minute to build


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name, case in CASES.items() if case.whole],
)
def test_tensorrt_rtx_builds_one_engine(name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    case = CASES[name]
    compiled = bridge.compile(
        case.traced("cpu"),
        case.spec(),
        backend="tensorrt_rtx",
        require_full_compilation=True,
        optimization_level=0,
        **case.settings,
    )
    assert len(bridge.inspect(compiled, layers=False).engines) == 1
