"""Element types on TensorRT: integers of 64 bits, halves, bools, bytes, doubles, scalars, what is empty."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
pytest.importorskip("tensorrt")

import bridge  # noqa: E402
from tests.dtypes import CASES, agrees  # noqa: E402


@pytest.mark.parametrize("name", CASES)
def test_tensorrt_agrees_with_eager(name: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    case = CASES[name]
    module = case.traced("cuda")
    settings = {"disable_tf32": True, "optimization_level": 1, **case.settings}
    compiled = bridge.compile(module, case.spec(), backend="tensorrt", **settings)
    print(name, bridge.inspect(compiled, layers=False))
    for size in (4, 2, 3):
        agrees(compiled, module, case, size, "cuda")
    if case.whole:
        engines = bridge.inspect(compiled, layers=False).engines
        assert len(engines) == 1, bridge.dryrun(module, case.spec(), backend="tensorrt", **settings)
