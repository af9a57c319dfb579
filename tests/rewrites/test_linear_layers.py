"""Linear layers behind images, channels last: TensorRT gets them with three axes, and fuses what follows them."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import bridge
import rewrites

C = 32


class Block(torch.nn.Module):
    """As ConvNeXt has them, and a residual connection past the second layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale = torch.nn.LayerNorm(C), torch.nn.Parameter(torch.rand(C, 1, 1))
        self.first, self.second, self.third = torch.nn.Linear(C, 64), torch.nn.Linear(64, C), torch.nn.Linear(C, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.norm(x.permute(0, 2, 3, 1))
        hidden = self.second(torch.nn.functional.gelu(self.first(rows)))
        rows = torch.tanh(self.third(hidden) + hidden) * rows
        return x + self.scale * rows.permute(0, 3, 1, 2)


class Merging(torch.nn.Module):
    """A layer without bias over patches, as Swin has it, and one of five axes."""

    def __init__(self) -> None:
        super().__init__()
        self.merge, self.last = torch.nn.Linear(4 * C, C, bias=False), torch.nn.Linear(C, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return torch.sigmoid(self.last(self.merge(x).unflatten(1, (-1, 2))))


@pytest.mark.parametrize("made", [Block, Merging])
@pytest.mark.parametrize("sizes", [(2, C, 8, 12), ("n", C, 8, 12), ("n", C, "h", "w")], ids=str)
def test_numbers_at_other_sizes(made, sizes, tmp_path) -> None:
    torch.manual_seed(0)
    module, x = made().eval(), torch.randn(2, C, 8, 12)
    dynamic = {"n": (1, 2, 4), "h": (4, 8, 16), "w": (4, 12, 16)}
    limits = [tuple(dynamic.get(size, (size,) * 3)[i] for size in sizes) for i in range(3)]
    spec = bridge.Input(sizes, min_shape=limits[0], opt_shape=limits[1], max_shape=limits[2])
    traced = torch.jit.trace(module, x, check_trace=False)
    model = bridge.to_onnx(traced, inputs=[spec], backend="tensorrt_rtx")
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert products and all("linear-layers-of-three-axes" in node.name for node in products)
    for shape in set(limits):
        given = torch.randn(shape)
        found = run(model, **{model.graph.input[0].name: given.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), module(given), rtol=1e-5, atol=1e-5)


def run(model: onnx.ModelProto, **given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]


def test_shapes_that_are_known_only_when_it_runs() -> None:
    text = (
        '<ir_version: 9, opset_import: ["": 18]> g (float[a, b] x, int64[4] shape) => (float[c, d, e, 3] y) '
        "<float[2, 3] w = {1, 2, 3, 4, 5, 6}, float[3] bias = {1, 2, 3}> "
        "{ r = Reshape(x, shape) p = MatMul(r, w) q = Add(p, bias) s = Tanh(q) y = Mul(s, q) }"
    )
    model = onnx.parser.parse_model(text)
    made = rewrites.rewrite(model, target="tensorrt").model
    assert any("linear-layers-of-three-axes" in node.name for node in made.graph.node)
    x, shape = np.random.default_rng(0).random((6, 4), np.float32), np.array([2, 2, 3, 2])
    np.testing.assert_allclose(run(made, x=x, shape=shape), run(model, x=x, shape=shape), rtol=1e-6)


def test_no_rows_at_all() -> None:
    traced = torch.jit.trace(Block().eval(), torch.randn(2, C, 8, 12), check_trace=False)
    spec = bridge.Input(("n", C, 8, 12), min_shape=(1, C, 8, 12), opt_shape=(2, C, 8, 12), max_shape=(4, C, 8, 12))
    model = bridge.to_onnx(traced, inputs=[spec], backend="tensorrt_rtx")
    name = model.graph.input[0].name
    assert run(model, **{name: np.zeros((0, C, 8, 12), np.float32)}).shape == (0, C, 8, 12)


def kernels(data: bytes, trt) -> list[tuple[str, str]]:
    """The layers that TensorRT-RTX's builder tells of: name and type."""

    class Heard(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity, message: str) -> None:
            self.lines += message.splitlines()

    logger = Heard()
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(data)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    assert builder.build_serialized_network(network, config) is not None
    return [found.groups() for line in logger.lines if (found := re.match(r"Name: (.*?), LayerType: (\w+)", line))]


def test_activations_are_computed_with_the_product() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    x = torch.randn(2, C, 8, 12).half()
    traced = torch.jit.trace(Block().eval().half(), x, check_trace=False)
    model = bridge.to_onnx(traced, [x], precision=torch.half, backend="tensorrt_rtx")
    found = kernels(model.SerializeToString(), trt)
    erf = [(name, kind) for name, kind in found if "Erf" in name]
    assert erf and all(kind == "runtime_fusion" and "Fc" in name for name, kind in erf)
