"""Sizes that a trace froze: suspects by line in a bare trace, certain where the nn.Module is given."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bridge

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = bridge.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(8, 8))


class Traced(nn.Module):
    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


FROZEN = {
    "is given the shape [4, -1]": lambda x: x.tanh().view(int(x.shape[0]), -1),
    "is given the shape [4, 2, 4]": lambda x: x.tanh().reshape(len(x), 2, 4),
    "makes a tensor of size 4": lambda x: x + torch.zeros(int(x.size(0)), 1),
    "take each of 4 elements": lambda x: sum(x[i].sum() for i in range(len(x))),
    "is taken apart into 4": lambda x: sum(row.tanh() for row in x),
    "ends at 4": lambda x: torch.ones(9, 8).cumsum(0)[: int(x.size(0))] + x.cumsum(0)[: int(x.size(0))],
}
KEPT = {
    "sizes": lambda x: x.tanh().view(x.shape[0], 2, 4).transpose(1, 2).reshape(x.shape[0], -1),
    "made": lambda x: x + torch.zeros(x.shape[0], 8),
    "features": lambda x: x.tanh().view(-1, 8)[:, 0:4],
    "token": lambda x: x[0] + x[-1],
    "halves": lambda x: torch.cat(x.tanh().chunk(2, 1), 0),
}


@pytest.mark.parametrize("loaded", [False, True], ids=["traced", "loaded"])
@pytest.mark.parametrize("told", FROZEN)
def test_suspects_of_a_trace_are_named_by_line(told: str, loaded: bool, caplog: pytest.LogCaptureFixture) -> None:
    module = torch.jit.trace(Traced(FROZEN[told]).eval(), torch.rand(4, 8), check_trace=False)
    if loaded:
        file = io.BytesIO()
        torch.jit.save(module, file)
        file.seek(0)
        module = torch.jit.load(file)
    bridge.dryrun(module, [ROWS], backend="onnxruntime")
    (warning,) = (record.getMessage() for record in caplog.records if "trace may hold" in record.getMessage())
    assert told in warning
    assert "test_suspects.py:" in warning


@pytest.mark.parametrize("name", KEPT)
def test_what_follows_the_input_is_no_suspect(name: str, caplog: pytest.LogCaptureFixture) -> None:
    module = torch.jit.trace(Traced(KEPT[name]).eval(), torch.rand(4, 8), check_trace=False)
    bridge.dryrun(module, [ROWS], backend="onnxruntime")
    assert "trace may hold" not in caplog.text


def test_static_shapes_have_no_suspects(caplog: pytest.LogCaptureFixture) -> None:
    module = torch.jit.trace(Traced(FROZEN["is taken apart into 4"]).eval(), torch.rand(4, 8), check_trace=False)
    bridge.dryrun(module, [(4, 8)], backend="onnxruntime")
    assert "trace may hold" not in caplog.text
