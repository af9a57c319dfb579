"""Branches and loops inside TensorRT's engines."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
pytest.importorskip("tensorrt")

import bridge  # noqa: E402
from bridge.runtime.calls import engine_calls  # noqa: E402
from tests.modules import CASES  # noqa: E402
from tests.test_modules import original, spec_of  # noqa: E402

WHOLE = ["IfOfAnyRows", "IfWithOneSide", "Scan", "ScanWithIf", "WhileOnData", "IfOnData"]


@pytest.mark.parametrize("name", WHOLE)
def test_one_engine_with_control_flow_gives_the_same_results(name: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    case = next(case for case in CASES if case.name == name)
    module = original(case).cuda()
    compiled = bridge.compile(module, spec_of(case), backend="tensorrt", disable_tf32=True, optimization_level=1)
    assert len(engine_calls(compiled)) == 1
    for call in case.calls:
        arguments = [value.cuda() for value in call]
        with torch.no_grad():
            torch.testing.assert_close(compiled(*arguments), module(*arguments), rtol=1e-3, atol=1e-3)
