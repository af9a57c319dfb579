"""Rules at values where ONNX Runtime's own kernels are no reference: beside PyTorch."""

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

import rewrites
from rewrites.testing import run

INF, NAN = float("inf"), float("nan")


def _rewritten(text: str, rule: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> {text}')
    rules = [one for one in rewrites.default_rules() if one.name == rule]
    result = rewrites.rewrite(model, target="any", rules=rules)
    assert len(result.report.fired) == 1
    return result.model


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_volumes_sampled_far_outside(padding: str, mode: str) -> None:
    x = np.random.default_rng(0).random((1, 2, 3, 4, 5), np.float32)
    far = [1e8, -1e20, 3e38, INF, -INF, *([NAN] if padding == "zeros" else [])]  # at NaN PyTorch takes the far border
    grid = np.full((1, 1, len(far), 3, 3), 0.1, np.float32)
    for place, coordinate in enumerate(far):
        grid[0, 0, place] += np.diag([coordinate] * 3).astype(np.float32) if coordinate == coordinate else NAN
    model = _rewritten(
        f"g (float[1,2,3,4,5] x, float[1,1,{len(far)},3,3] grid) => (float[a,b,c,d,e] y) "
        f'{{ y = GridSample <mode = "{mode}", padding_mode = "{padding}"> (x, grid) }}',
        "onnx/grid-sample-volume",
    )
    found = run(model, {"x": x, "grid": grid})[0]
    named = "bilinear" if mode == "linear" else mode
    expected = F.grid_sample(torch.from_numpy(x), torch.from_numpy(grid), named, padding, align_corners=False)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pads", [0, 1])
def test_places_of_maxima_among_nan(pads: int) -> None:
    x = torch.tensor([1.0, NAN, 3.0, NAN, INF, -INF, -INF, -INF, 2.0, 2.0, NAN, NAN, 0.0, 7.0, 7.0, -1.0]).reshape(
        1, 1, 4, 4
    )
    values, places = F.max_pool2d(x, 2, 1, pads, return_indices=True)
    model = _rewritten(
        "g (float[1,1,4,4] x) => (float[a,b,c,d] y, int64[a,b,c,d] i) "
        f"{{ y, i = MaxPool <kernel_shape = [2, 2], pads = [{pads}, {pads}, {pads}, {pads}]> (x) }}",
        "onnx/max-pool-indices",
    )
    found, at = run(model, {"x": x.numpy()})
    np.testing.assert_array_equal(found, values.numpy())
    np.testing.assert_array_equal(at, places.numpy())


def test_sums_of_exponentials_in_sixteen_bits() -> None:
    x = torch.tensor(
        [[20.0, 19.0, 0.0], [-300.0, -301.0, -302.0], [INF, 1.0, -INF], [-INF] * 3, [NAN, 1.0, 2.0]]
    ).half()
    model = _rewritten(
        "g (float16[5,3] x) => (float16[5] y) <int64[1] axes = {1}> { y = ReduceLogSumExp <keepdims = 0> (x, axes) }",
        "onnx/log-sum-exp-by-the-largest",
    )
    np.testing.assert_allclose(run(model, {"x": x.numpy()})[0], x.logsumexp(1).numpy(), rtol=2e-3)
