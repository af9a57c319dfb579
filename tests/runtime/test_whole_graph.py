"""Graphs of whole modules where there is no GPU: what is not captured runs as it is. tests/gpu has the rest."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import bridge
from bridge.runtime.whole_graph import _Watch


class Sums(torch.nn.Module):
    def forward(self, x, *, scale=1, more=None):
        return {"sum": (x + (more or [0])[0]) * scale}


def test_inputs_on_the_cpu_are_run_as_they_are_and_the_log_says_so_once(caplog):
    graphed = bridge.as_module(Sums().eval(), cuda_graphs=True)
    assert not graphed.training
    with torch.no_grad():
        for value in range(3):
            assert graphed(torch.full((2,), value))["sum"].tolist() == [value] * 2
        assert graphed(torch.ones(2), scale=3, more=[torch.ones(2)])["sum"].tolist() == [6, 6]
    assert caplog.text.count("inputs are on cpu") == 2


def test_inputs_that_ask_for_gradients_get_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    graphed = bridge.as_module(Sums(), cuda_graphs=True)
    x = torch.ones(2, requires_grad=True)
    graphed(x, scale=3)["sum"].sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_the_shapes_that_are_kept_are_bounded(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: type("Stream", (), {"cuda_stream": 0}))
    graphed = bridge.as_module(Sums(), cuda_graphs=True)
    with torch.no_grad():
        for size in range(20):
            assert graphed(torch.ones(size))["sum"].shape == (size,)
    assert len(graphed._graphs) == 8


@pytest.mark.parametrize(
    ("work", "found"),
    [
        (lambda x: x.relu() + 1, set()),
        (lambda x: x[torch.zeros(2, dtype=torch.int64, device="cuda")], set()),
        (lambda x: x.cpu(), {"aten._to_copy.default"}),
        (lambda x: x + torch.ones(4).to("cuda"), {"aten._to_copy.default"}),
        (lambda x: x.nonzero(), {"aten.nonzero.default"}),
        (lambda x: x[x > 0], {"aten.index.Tensor"}),
        (lambda x: x.masked_fill(x > 0, 1), set()),
        (lambda x: x.index_put((x > 0,), x[:1]), {"aten.index_put.default"}),
        (lambda x: x.sum().item(), {"aten._local_scalar_dense.default"}),
        (lambda x: torch.ones(4).nonzero(), set()),
    ],
)
def test_what_waits_for_the_gpu_is_found(work, found):
    with FakeTensorMode(shape_env=ShapeEnv()):
        x = torch.ones(4, device="cuda")
        with _Watch() as watch:
            work(x)
    assert watch.waits == found
