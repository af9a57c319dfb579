"""Modules that PyTorch quantized, or trained for it: one engine, with the numbers that they have in PyTorch."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.ao.quantization as quantization
import torch.nn.functional as F
from torch import nn
from torch.ao.quantization import quantize_fx
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators

import bridge

warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", category=UserWarning)
DECOMPOSED = torch.ops.quantized_decomposed
ENGINES = sorted({"fbgemm", "qnnpack"} & set(torch.backends.quantized.supported_engines))
pytestmark = pytest.mark.skipif(not ENGINES, reason="this PyTorch has no quantized kernels")


@pytest.fixture(params=ENGINES)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(torch.backends.quantized, "engine", request.param)
    return str(request.param)


class Network(nn.Module):
    """Convolutions, one of them grouped, with batch norms, a residual sum and a mean, which is rounded to steps."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.relu = nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.ReLU()
        self.shortcut = nn.Conv2d(8, 8, 3, stride=2)
        self.sum, self.pool, self.head = nn.quantized.FloatFunctional(), nn.AdaptiveAvgPool2d(2), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(self.relu(self.norm(self.first(self.quant(x)))), 2)
        y = self.sum.add(self.relu(self.second(y)), self.shortcut(y))
        return self.dequant(self.head(self.pool(y).flatten(1)))


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 12, 12, generator=torch.Generator().manual_seed(batch))


def trained(kernels: str, observing: bool = False) -> nn.Module:
    torch.manual_seed(0)
    fused = quantization.fuse_modules_qat(Network().train(), [["first", "norm", "relu"]])
    fused.relu = nn.ReLU()
    fused.qconfig = quantization.get_default_qat_qconfig(kernels)
    quantization.prepare_qat(fused, inplace=True)
    for batch in (4, 6):
        fused(images(batch))
    return fused.eval() if observing else fused.eval().apply(quantization.disable_observer)


def whole(module: nn.Module, *inputs: object, **settings: object) -> nn.Module:
    return bridge.compile(module, list(inputs), backend="onnxruntime", require_full_compilation=True, **settings)


@pytest.mark.parametrize("form", [lambda m: torch.jit.trace(m, images(2), check_trace=False), lambda m: m])
def test_a_module_in_training_for_quantization(kernels: str, form: Callable[[nn.Module], nn.Module]) -> None:
    module = trained(kernels)
    compiled = whole(form(module), {"min": (1, 3, 12, 12), "opt": (2, 3, 12, 12), "max": (5, 3, 12, 12)})
    for batch in (1, 2, 5):
        torch.testing.assert_close(compiled(images(batch)), module(images(batch)), rtol=1e-4, atol=1e-4)


def test_its_observers_must_be_off(kernels: str, caplog: pytest.LogCaptureFixture) -> None:
    module, x = trained(kernels, observing=True), images(2)
    traced = torch.jit.trace(copy.deepcopy(module), x, check_trace=False)
    module(x)  # as in the trace
    with caplog.at_level(logging.WARNING):
        compiled = bridge.compile(traced, [x], backend="onnxruntime")
    assert "disable_observer" in caplog.text
    for scale in (1, 9):  # ranges widen
        torch.testing.assert_close(compiled(scale * x), module(scale * x), rtol=1e-4, atol=1e-4)


def test_switched_off_it_is_a_float_module(kernels: str) -> None:
    module, x = trained(kernels).apply(quantization.disable_fake_quant), images(2)
    traced = torch.jit.trace(module, x, check_trace=False)
    torch.testing.assert_close(whole(traced, x)(x), module(x), rtol=1e-4, atol=1e-4)
    assert all(node.op_type != "QuantizeLinear" for node in bridge.to_onnx(traced, [x]).graph.node)


@pytest.mark.parametrize("form", [lambda m: torch.jit.trace(m, images(2), check_trace=False), torch.jit.script])
def test_a_converted_module_is_within_a_step(kernels: str, form: Callable[[nn.Module], nn.Module]) -> None:
    module = quantization.convert(trained(kernels))
    compiled = whole(form(module), {"min": (1, 3, 12, 12), "opt": (2, 3, 12, 12), "max": (5, 3, 12, 12)})
    for batch in (1, 2, 5):
        found, expected = compiled(images(batch)), module(images(batch))
        assert (found - expected).abs().max() <= 1.01 * module.head.scale


def test_its_weights_stay_quantized() -> None:
    """INT8 kernels take a convolution between QuantizeLinear and DequantizeLinear, of its weight by channel too."""
    module = quantization.convert(trained("qnnpack" if "qnnpack" in ENGINES else ENGINES[0]))
    graph = bridge.to_onnx(torch.jit.script(module), [images(2)]).graph
    makers = {node.output[0]: node for node in graph.node}
    weights = [makers[node.input[1]].op_type for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(weights) == 4
    assert set(weights) <= {"DequantizeLinear", "Transpose"}


class Functional(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        q = torch.quantize_per_tensor(x, 0.05, 20, torch.quint8)
        p = torch.quantize_per_tensor(y, 0.1, 0, torch.qint8)
        channels = torch.quantize_per_channel(y, torch.tensor([0.1, 0.2]), torch.tensor([0, 3]), 1, torch.qint8)
        parts = torch.cat([q.relu(), torch.clamp(q, -1.0, 1.3), F.leaky_relu(q, 0.3), F.hardtanh(q, -0.7, 0.7)], 2)
        first, second = torch.chunk(F.interpolate(parts.unsqueeze(1), scale_factor=2.0).squeeze(1), 2, 2)
        halves = F.avg_pool1d(torch.cat([second, first], 2), 2).permute(0, 2, 1).reshape(q.size(0), -1)
        return torch.cat(
            [halves.dequantize(), torch.sigmoid(p).dequantize().flatten(1), channels.dequantize().flatten(1)], 1
        )


@pytest.mark.parametrize(
    "form", [torch.jit.script, lambda m: torch.jit.trace(m, (torch.ones(3, 2, 4),) * 2, check_trace=False)]
)
def test_operators_of_quantized_tensors(form: Callable[[nn.Module], nn.Module]) -> None:
    module = Functional().eval()
    compiled = whole(form(module), (3, 2, 4), (3, 2, 4))
    for seed in range(3):
        x, y = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(seed)).mul(5)
        torch.testing.assert_close(compiled(x, y), module(x, y), rtol=0, atol=1.01 * 0.05)


class Moved(nn.Module):
    """Transposed convolutions, one-dimensional ones, products, norms: operators with packed or quantized arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.one, self.norm = nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), nn.InstanceNorm1d(6, affine=True)
        self.up = nn.ConvTranspose1d(6, 4, 3, stride=2, output_padding=1, groups=2)
        self.swish, self.layer, self.joined = nn.Hardswish(), nn.LayerNorm(12), nn.quantized.FloatFunctional()
        self.product = nn.quantized.FloatFunctional()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.swish(self.norm(self.one(self.quant(x))))
        y = self.layer(self.up(y)[:, :, :12])
        return self.dequant(self.joined.cat([self.product.mul(y, y), y], 1))


def test_other_layers_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack" if "qnnpack" in ENGINES else ENGINES[0])
    torch.manual_seed(0)
    module, x = Moved().eval(), torch.randn(2, 4, 12)
    module.qconfig = quantization.default_qconfig
    quantization.prepare(module, inplace=True)
    module(x)
    quantization.convert(module, inplace=True)
    found, expected = whole(torch.jit.trace(module, x, check_trace=False), x)(x), module(x)
    assert (
        found - expected
    ).abs().max() <= 2.01 * module.joined.scale  # a product of values of which one is a step off


class Simple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).mean((2, 3)))


@pytest.mark.parametrize(
    "convert", [quantize_fx.convert_fx, quantize_fx.convert_to_reference_fx, lambda module: module]
)
def test_graph_mode(kernels: str, convert: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    mapping = quantization.get_default_qat_qconfig_mapping(kernels)
    module = quantize_fx.prepare_qat_fx(Simple().train(), mapping, images(2))
    for batch in (4, 6):
        module(images(batch))
    module, x = convert(module.eval().apply(quantization.disable_observer)), images(2)
    assert (whole(module, x)(x) - module(x)).abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_linear_layers_that_quantize_at_run_time(kernels: str, dtype: torch.dtype) -> None:
    if kernels == "qnnpack" and dtype is torch.float16:
        pytest.skip("QNNPACK has no layers of weights in half precision")
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    module = quantization.quantize_dynamic(layers, {nn.Linear}, dtype=dtype)
    compiled = whole(torch.jit.script(module), {"min": (1, 16), "opt": (3, 16), "max": (7, 16)})
    for batch, scale in ((1, 1.0), (3, 20.0), (7, 1e-5)):
        x = scale * torch.randn(batch, 16)
        expected = module(x)
        torch.testing.assert_close(compiled(x), expected, rtol=0, atol=0.01 * float(expected.abs().max()))
    torch.testing.assert_close(compiled(torch.zeros(2, 16)), module(torch.zeros(2, 16)))


def test_an_embedding_by_rows() -> None:
    embedding = nn.Sequential(nn.Embedding(30, 16))
    embedding.qconfig = quantization.float_qparams_weight_only_qconfig
    module, indices = quantization.convert(quantization.prepare(embedding)).eval(), torch.arange(30).reshape(5, 6)
    torch.testing.assert_close(whole(torch.jit.script(module), indices)(indices), module(indices))


def test_what_has_no_meaning_in_floats_stays_in_pytorch(kernels: str) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            q = torch.quantize_per_tensor(x + 1, 0.05, 20, torch.quint8)
            return torch.ops.quantized.mul(q, 2.0).dequantize() * 3, q

    x = torch.randn(2, 8)
    compiled = bridge.compile(torch.jit.script(Scaled()), [x], backend="onnxruntime", min_block_size=1)
    for found, expected in zip(compiled(x), Scaled()(x), strict=True):
        assert found.is_quantized == expected.is_quantized
        torch.testing.assert_close(found.dequantize(), expected.dequantize(), rtol=0, atol=0.31)


class Quantizer(nn.Module):
    """Quantizes as ModelOpt's TensorQuantizer does, in traces: by the largest number, of each channel or of all."""

    def __init__(self, largest: torch.Tensor, steps: int, axis: int | None = None) -> None:
        super().__init__()
        self.register_buffer("largest", largest.detach())
        self.steps, self.axis = steps, axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(
                x, self.largest.item() / self.steps, 0, -self.steps, self.steps
            )
        scale = (self.largest / self.steps).flatten()
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(x, scale, zero, self.axis, -self.steps, self.steps)


@pytest.mark.parametrize("steps", [127, 7])
def test_narrow_ranges(steps: int) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 8)
            self.given = Quantizer(torch.tensor(2.0), steps)
            self.weight = Quantizer(self.linear.weight.abs().amax(1, keepdim=True), steps, 0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(self.given(x), self.weight(self.linear.weight), self.linear.bias)

    torch.manual_seed(0)
    module, x = Layer().eval(), 2 * torch.randn(64, 16)
    traced = torch.jit.trace(module, x, check_trace=False)
    torch.testing.assert_close(whole(traced, x)(x), module(x), rtol=1e-4, atol=1e-4)
    operators = [node.op_type for node in bridge.to_onnx(traced, [x]).graph.node]
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 2


def test_zero_points_between_two_steps() -> None:
    class Learned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale, zero = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 3.2, 9.5])
            return torch.fake_quantize_per_channel_affine(x, scale, zero, 0, 0, 255)

    x = 9 * torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    traced = torch.jit.trace(Learned(), x, check_trace=False)
    torch.testing.assert_close(whole(traced, x)(x), Learned()(x), rtol=1e-5, atol=1e-5)


def test_scales_that_a_module_writes_are_not_taken_for_known() -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor([0.1]))
            self.register_buffer("zero", torch.tensor([0], dtype=torch.int32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.scale.mul_(2)
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, -128, 127) + 1

    module, x = Moving(), torch.randn(4, 8)
    compiled = bridge.compile(torch.jit.script(copy.deepcopy(module)), [x], backend="onnxruntime")
    for _ in range(3):
        torch.testing.assert_close(compiled(x), module(x))


def both(x: torch.Tensor, scale: float, zero: int, low: int = -128, high: int = 127, dtype: torch.dtype = torch.int8):
    """What convert_pt2e puts where a tensor is quantized."""
    steps = DECOMPOSED.quantize_per_tensor.default(x, scale, zero, low, high, dtype)
    return DECOMPOSED.dequantize_per_tensor.default(steps, scale, zero, low, high, dtype)


class Converted(nn.Module):
    """As convert_pt2e leaves modules: weights are integers."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(0)
        self.register_buffer("kernel", torch.randint(-127, 128, (8, 3, 3, 3), generator=drawn, dtype=torch.int8))
        self.register_buffer("scales", torch.rand(8, generator=drawn) / 100 + 0.001)
        self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))
        self.register_buffer("matrix", torch.randint(-127, 128, (4, 8), generator=drawn, dtype=torch.int8))
        self.register_buffer("bias", torch.randn(4, generator=drawn))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = self.kernel, self.scales, self.zeros, 0, -127, 127, torch.int8
        y = F.conv2d(both(x, 0.03, 3), DECOMPOSED.dequantize_per_channel.default(*given)).relu()
        y = both(F.max_pool2d(both(y, 0.02, -128), 2), 0.02, -128).mean((2, 3))
        matrix = DECOMPOSED.dequantize_per_tensor.default(self.matrix, 0.004, 0, -127, 127, torch.int8)
        return F.linear(both(y, 0.01, 0, 0, 255, torch.uint8), matrix, self.bias)


@pytest.mark.parametrize("exported", [True, False])
def test_a_module_converted_after_export(exported: bool) -> None:
    module, x = Converted().eval(), images(2)
    shapes = {"min": (1, 3, 12, 12), "opt": (2, 3, 12, 12), "max": (6, 3, 12, 12)}
    if exported:
        form = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=6)},))
    else:
        form = torch.jit.trace(module, x, check_trace=False)
    compiled = whole(form, shapes)
    for batch in (1, 2, 6):
        torch.testing.assert_close(compiled(images(batch)), module(images(batch)), rtol=1e-3, atol=0.02)


def test_its_weights_are_quantized_for_tensorrt() -> None:
    graph = bridge.to_onnx(torch.jit.trace(Converted().eval(), images(2), check_trace=False), [images(2)]).graph
    makers = {node.output[0]: node.op_type for node in graph.node}
    weights = [makers[node.input[1]] for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    assert len(weights) == 2
    assert set(weights) <= {"DequantizeLinear", "Transpose"}


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn], ids=str)
def test_weights_that_are_only_stored_in_eight_bits(dtype: torch.dtype) -> None:
    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.randint(0, 100, (32, 16)).to(dtype))
            self.register_buffer("scale", torch.rand(32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.t().to(x.dtype) * self.scale

    module, x = Stored().eval(), torch.randn(3, 16)
    for form in (torch.jit.script(module), torch.export.export(module, (x,))):
        torch.testing.assert_close(whole(form, x)(x), module(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_fake_quantization_of_sixteen_bits(dtype: torch.dtype) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.register_buffer("scale", torch.rand(8) / 100 + 0.002)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            given = torch.fake_quantize_per_tensor_affine(x, 0.03, 0, -128, 127)
            zero = torch.zeros(8, dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(self.conv.weight, self.scale.float(), zero, 0, -127, 127)
            return F.conv2d(given, weight, self.conv.bias) * 2

    torch.manual_seed(0)
    module, x = Half().eval().to(dtype), torch.randn(2, 3, 8, 8).to(dtype)
    traced = torch.jit.trace(module, x, check_trace=False)
    found, expected = whole(traced, x)(x), module(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    operators = [node.op_type for node in bridge.to_onnx(traced, [x]).graph.node]
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 2
