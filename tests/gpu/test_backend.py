"""TensorRT itself: needs a GPU and TensorRT 10 or newer."""

import logging

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

from bridge.backends import BuildSettings, select
from bridge.errors import BuildError

pytest.importorskip("tensorrt")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = torch.device("cuda", 0)
NUMPY = {
    torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16, torch.int64: np.int64,
    torch.int32: np.int32, torch.bool: np.bool_,
}  # fmt: skip
PROFILE = {"x": ((1, 64), (2, 64), (8, 64))}


def linear(dtype: torch.dtype = torch.float32) -> tuple[gs.Graph, torch.Tensor]:
    """y = relu(x @ w) for x of shape (batch, 64), and w."""
    w = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).div(8).to(dtype)
    values = w.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if dtype is torch.bfloat16 else w.numpy()
    x, h, y = (gs.Variable(name, NUMPY[dtype], ["batch", size]) for name, size in (("x", 64), ("h", 32), ("y", 32)))
    nodes = [
        gs.Node("MatMul", "layer/aten::matmul#1", {}, [x, gs.Constant("w", values)], [h]),
        gs.Node("Relu", "layer/aten::relu#2", {}, [h], [y]),
    ]
    return gs.Graph(nodes, [x], [y], opset=18), w.to(DEVICE)


def load(plan):
    return select("tensorrt").load(plan, DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_numbers_at_every_shape_of_the_profile(dtype):
    graph, w = linear(dtype)
    session = load(select("tensorrt").build(graph, [PROFILE], BuildSettings(disable_tf32=True)))
    tolerance = 1e-4 if dtype is torch.float32 else 2e-2
    for batch in (1, 8, 3, 8):
        x = torch.randn(batch, 64, device=DEVICE).to(dtype)
        (y,) = session.run([x])
        assert y.shape == (batch, 32) and y.dtype is dtype and y.device == DEVICE
        torch.testing.assert_close(y, torch.relu(x @ w), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool], ids=str
)
def test_every_dtype_goes_in_and_out(dtype):
    x, y = gs.Variable("x", NUMPY[dtype], [2, 3, 4]), gs.Variable("y", NUMPY[dtype], [2, 4, 3])
    graph = gs.Graph([gs.Node("Transpose", "t#1", {"perm": [0, 2, 1]}, [x], [y])], [x], [y], opset=18)
    value = torch.randn(2, 3, 4, device=DEVICE).mul(3).to(dtype)
    (result,) = load(select("tensorrt").build(graph)).run([value])
    assert torch.equal(result, value.transpose(1, 2))


def test_the_header_says_what_it_was_built_for():
    plan = select("tensorrt").build(linear()[0], [PROFILE])
    major, minor = torch.cuda.get_device_capability(DEVICE)
    assert plan.header.device == {"name": torch.cuda.get_device_name(DEVICE), "capability": f"{major}.{minor}"}
    assert plan.header.version == select("tensorrt").version()


def test_auto_is_tensorrt():
    assert select("auto").name == "tensorrt"


def test_several_profiles():
    graph, w = linear()
    session = load(select("tensorrt").build(graph, [PROFILE, {"x": ((32, 64), (32, 64), (64, 64))}]))
    for batch in (2, 48, 2, 64):
        x = torch.randn(batch, 64, device=DEVICE)
        torch.testing.assert_close(session.run([x])[0], torch.relu(x @ w), rtol=1e-2, atol=1e-2)
    with pytest.raises(RuntimeError, match=r"no profile of this engine fits x=\(16, 64\)"):
        session.run([torch.randn(16, 64, device=DEVICE)])


def test_a_timing_cache_is_written_and_read(tmp_path):
    settings = BuildSettings(timing_cache=tmp_path / "folder" / "timing.cache")
    select("tensorrt").build(linear()[0], [PROFILE], settings)
    first = settings.timing_cache.stat().st_size
    assert first > 0
    select("tensorrt").build(linear()[0], [PROFILE], settings)
    assert settings.timing_cache.stat().st_size >= first


def test_settings_and_progress():
    heard = []
    settings = BuildSettings(
        workspace_size=1 << 28, optimization_level=1, profiling_verbosity="layer_names_only",
        max_aux_streams=0, sparse_weights=True,
    )  # fmt: skip
    plan = select("tensorrt").build(linear()[0], [PROFILE], settings, lambda *step: heard.append(step))
    assert heard and all(0 <= done <= steps for _, done, steps in heard)
    assert plan.header.settings == settings.changed()


def test_refusals():
    graph, _ = linear()
    z = gs.Variable("z", np.float32, ["batch", 32])
    graph.nodes.append(gs.Node("det", "block/aten::det#7", {}, graph.outputs, [z], domain="torch.aten"))
    graph.outputs = [z]
    assert [(item.node_name, item.op_type) for item in select("tensorrt").refusals(graph)] == [
        ("block/aten::det#7", "det")
    ]
    with pytest.raises(BuildError, match="block/aten::det#7"):
        select("tensorrt").build(graph, [PROFILE])


def test_layers_tell_where_they_came_from():
    layers = load(select("tensorrt").build(linear()[0], [PROFILE])).describe()
    assert any("aten::matmul#1" in layer["name"] + layer.get("from", "") for layer in layers)


def test_messages_go_through_logging(capfd, caplog):
    with caplog.at_level(logging.INFO, "bridge.tensorrt"):
        select("tensorrt").build(linear()[0], [PROFILE])
    assert caplog.records
    assert "[TRT]" not in capfd.readouterr().err
