"""What is read and written through one mask is computed everywhere, in one engine; what is not stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bridge
from bridge.runtime.calls import engine_calls

pytestmark = pytest.mark.filterwarnings("ignore")


class Chosen(nn.Module):
    """Logarithms of what is positive; rows of points that come nearer, as in sampling the farthest of them."""

    def forward(self, x: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        positive = x > 0
        logs = torch.zeros_like(x)
        logs[positive] = torch.log(x[positive]) * 2 + x.sum()
        rows = points.sum(-1) > 0
        bent = points.exp()
        bent[rows] = torch.tanh(points[rows]) / 2
        nearer = points[..., 0] < x
        distance = x + 1
        distance[nearer] = points[..., 0][nearer]
        return logs, bent, distance.argmax(1)


class Others(nn.Module):
    """Another mask, sums over what a mask leaves, whole numbers that could not be divided elsewhere."""

    def forward(self, x: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x.exp()
        y[x > 0] = x[x > 0].cumsum(0)
        z = x * 2
        z[x > 0] = x[x >= 0]
        w = (x * 10).int()
        odd = w != 0
        w[odd] = (w[odd] * 100) // w[odd]
        return y, z, w


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("make", [Chosen, Others])
def test_what_goes_through_a_mask(make: type[nn.Module], traced: bool) -> None:
    torch.manual_seed(0)
    model, inputs = make().eval(), (torch.randn(2, 5), torch.randn(2, 5, 3))
    module = torch.jit.trace(model, inputs, check_trace=False) if traced else torch.jit.script(model)
    low, high = (1, 3), (3, 7)
    spec = [bridge.Input(min_shape=(*low, *r), opt_shape=(2, 5, *r), max_shape=(*high, *r)) for r in ((), (3,))]
    compiled = bridge.compile(module, spec, backend="onnxruntime", require_full_compilation=make is Chosen)
    for shape in (low, (2, 5), high):
        given = torch.randn(shape), torch.randn(*shape, 3)
        for found, expected in zip(compiled(*given), model(*given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if make is Chosen:
        assert len(engine_calls(compiled)) == 1
