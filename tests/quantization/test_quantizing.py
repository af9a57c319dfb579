"""Quantization after training: near the float module, and in an engine what it is in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bridge
from bridge.quantization.ranges import Magnitudes


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.grouped, self.up = nn.Conv2d(24, 24, 3, groups=4), nn.ConvTranspose2d(24, 24, 2, stride=2)
        self.hidden, self.head = nn.Linear(24, 32), nn.Linear(32, 5)
        self.mixing = nn.Parameter(torch.randn(32, 32) / 6)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        y = F.relu(self.up(F.relu(self.grouped(F.relu(self.norm(self.first(x)))))))
        return self.head(F.gelu(self.hidden(y.mean((2, 3)))) @ self.mixing) * scale


def images(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


BATCHES = [images(4, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


def cosine(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(F.cosine_similarity(found.flatten().double(), expected.flatten().double(), dim=0))


def roundings(module: nn.Module) -> int:
    return sum("fake_quantize" in node.kind() for node in module.inlined_graph.nodes())


FORMS = {
    "module": lambda m: m,
    "scripted": torch.jit.script,
    "traced": lambda m: torch.jit.trace(m, images(2), check_trace=False),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("precision", [torch.float32, torch.float16], ids=str)
def test_near_the_float_module_and_the_same_in_an_engine(
    network: nn.Module, form: Callable[[nn.Module], nn.Module], precision: torch.dtype
) -> None:
    before = copy.deepcopy(network.state_dict())
    shapes = {"min": (1, 3, 8, 8), "opt": (2, 3, 8, 8), "max": (5, 3, 8, 8)}
    quantized = bridge.quantize(form(network), BATCHES, [shapes])
    assert roundings(quantized) == 10  # five layers; the head is too small
    compiled = bridge.compile(
        quantized, [shapes], backend="onnxruntime", precision=precision, require_full_compilation=True
    )
    for batch in (1, 5):
        x = images(batch, seed=9)
        assert cosine(quantized(x), network(x)) > 0.999
        assert not torch.allclose(quantized(x), network(x), rtol=1e-5)
        tolerance = 1e-4 if precision is torch.float32 else 0.02
        torch.testing.assert_close(compiled(x), quantized(x), rtol=tolerance, atol=tolerance)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items())


def test_tensorrt_gets_int8_on_both_sides_of_a_product(network: nn.Module) -> None:
    graph = bridge.to_onnx(bridge.quantize(network, BATCHES), [images(2)]).graph
    makers = {node.output[0]: node for node in graph.node}
    behind = [
        [makers[name].op_type if name in makers else None for name in node.input[:2]]
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm")
    ]
    quantized = [pair for pair in behind if pair[0] == "DequantizeLinear"]
    assert len(quantized) == 5
    assert {pair[1] for pair in quantized} <= {"DequantizeLinear", "Transpose"}


@pytest.mark.parametrize("precision", [torch.float32, torch.float16], ids=str)
def test_it_is_built(network: nn.Module, precision: torch.dtype) -> None:
    pytest.importorskip("tensorrt_rtx")
    quantized = bridge.quantize(network, BATCHES)
    bridge.compile(quantized, [images(2)], backend="tensorrt_rtx", precision=precision, require_full_compilation=True)


def test_saved_and_loaded(network: nn.Module, tmp_path: Path) -> None:
    quantized = bridge.quantize(network, BATCHES)
    torch.jit.save(quantized, tmp_path / "int8.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "int8.pt")(images(3)), quantized(images(3)))


def test_what_is_skipped_stays_in_float(network: nn.Module) -> None:
    assert roundings(bridge.quantize(network, BATCHES, skip=["hidden", "g*"])) == 6


def test_encoders_are_quantized_layer_by_layer() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    quantized = bridge.quantize(encoder, [torch.randn(4, 6, 32)])
    x = torch.randn(2, 6, 32)
    assert cosine(quantized(x), encoder(x)) > 0.999
    compiled = bridge.compile(quantized, [x], backend="onnxruntime", require_full_compilation=True)
    torch.testing.assert_close(compiled(x), quantized(x), rtol=1e-4, atol=1e-4)


def test_batches_of_a_loader(network: nn.Module) -> None:
    """Labels are left out; arguments come by position or by name."""
    expected = bridge.quantize(network, BATCHES)(images(2))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.cat(BATCHES), torch.ones(16, dtype=torch.float64)), batch_size=4
    )
    for batches in ([(x, 1.0, "label") for x in BATCHES], ({"x": x} for x in BATCHES)):
        torch.testing.assert_close(bridge.quantize(network, batches)(images(2)), expected)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    torch.testing.assert_close(bridge.quantize(plain, loader)(images(2)), bridge.quantize(plain, BATCHES)(images(2)))


def test_a_percentile_leaves_outliers_out() -> None:
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(64, 64)).eval(), torch.randn(512, 64)
    x[0, 0] = 5000.0
    usual = torch.randn(32, 64)
    narrow, wide = (bridge.quantize(layer, [x], percentile=p)(usual) for p in (99.9, 100))
    assert cosine(narrow, layer(usual)) > 0.999 > 0.9 > cosine(wide, layer(usual))


def test_magnitudes_over_batches() -> None:
    numbers, found = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0)), Magnitudes()
    for scale, batch in enumerate(numbers):
        found.add((scale + 1) * batch)
    found.add(torch.tensor([float("inf"), float("nan"), 0.0]))
    every = (numbers * torch.arange(1, 21).unsqueeze(1)).abs().flatten()
    assert found.limit(100) == every.max()
    for percentile in (50, 99, 99.9):
        width = found.top / len(found.counts)
        assert found.limit(percentile) == pytest.approx(float(every.quantile(percentile / 100)), abs=2 * width)


def test_what_is_never_reached_is_told_and_left(caplog: pytest.LogCaptureFixture) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.other = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.other(x) + self.linear(torch.relu(x - 100))

    quantized = bridge.quantize(Gated().eval(), [torch.randn(4, 16)])
    assert "linear" in caplog.text
    assert roundings(quantized) == 2


@pytest.mark.parametrize(
    ("batches", "settings", "told"),
    [
        ([], {}, "there is none"),
        ([images(2)[:, :1]], {"spec": [(2, 3, 8, 8)]}, r"batches\[0\]: the module does not run on it"),
        (BATCHES, {"percentile": 0}, "percentile"),
        (BATCHES, {"skip": ["*"]}, "nothing of the module is quantized"),
    ],
)
def test_refusals(network: nn.Module, batches: list[torch.Tensor], settings: dict[str, object], told: str) -> None:
    with pytest.raises(bridge.SpecError, match=told):
        bridge.quantize(network, batches, **settings)


def test_torch_tensorrt_names_int8_beside_the_precision(network: nn.Module) -> None:
    for enabled, expected in (
        ({torch.float32, torch.float16, torch.int8}, torch.float16),
        ({torch.int8}, torch.float32),
        ({torch.float8_e4m3fn, torch.bfloat16}, torch.bfloat16),
    ):
        assert bridge.CompileSpec.of({"inputs": [(2, 3)], "enabled_precisions": enabled}).precision is expected
