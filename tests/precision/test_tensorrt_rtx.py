"""TensorRT-RTX's parser and builder take what the casts leave behind, strongly typed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch

from bridge.precision import cast
from tests.precision.test_casting import BRANCHES, LOOP, Attention, ConvNet, exported, parsed

trt = pytest.importorskip("tensorrt_rtx")

GATED = """m (float[n,3,8] x) => (float[n,3,4] y) {
    w = Constant <value = float[8,4] {%s}> ()
    a = MatMul(x, w)
    b = HardSwish(a)
    c = Softmax(b)
    y = Mul(c, a)
}""" % ",".join(["0.5"] * 32)


def layer_types(graph: gs.Graph, batch: int = 2) -> set[object]:
    """Parses and builds the graph, and gives back the types of all layers' outputs."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model)
    assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        if value.is_shape_tensor:
            profile.set_shape_input(value.name, [1], [2], [3])
        else:
            profile.set_shape(value.name, *[[batch if size < 0 else size for size in value.shape]] * 3)
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return {layer.get_output(index).dtype for layer in layers for index in range(layer.num_outputs)}


@pytest.mark.parametrize("text", [BRANCHES, LOOP, GATED], ids=["if", "loop", "dynamic"])
@pytest.mark.parametrize("precision, opset", [(torch.float16, 20), (torch.bfloat16, 22)])
def test_control_flow_and_dynamic_shapes_build(text: str, precision: torch.dtype, opset: int) -> None:
    graph = parsed(text, opset)
    cast(graph, precision)
    assert (trt.float16 if precision == torch.float16 else trt.bfloat16) in layer_types(graph)


def test_conv_net_builds_in_half() -> None:
    graph = exported(ConvNet(), torch.randn(2, 3, 12, 12))
    cast(graph, torch.float16)
    assert trt.float16 in layer_types(graph)


def test_masked_attention_builds_in_half() -> None:
    graph = exported(Attention(), torch.randn(2, 5, 16), torch.ones(2, 5))
    cast(graph, torch.float16)
    assert {trt.float16, trt.float32} <= layer_types(graph)


def test_bfloat16_operators_that_tensorrt_refuses_stay_float32() -> None:
    weight = gs.Constant("w", np.ones((3, 4, 2, 2), np.float32))
    x, y = gs.Variable("x", np.float32, (1, 3, 5, 5)), gs.Variable("y", np.float32, (1, 4, 6, 6))
    graph = gs.Graph([gs.Node("ConvTranspose", "up", inputs=[x, weight], outputs=[y])], [x], [y], opset=22)
    report = cast(graph, torch.bfloat16)
    assert [kept.reason for kept in report.kept] == ["TensorRT takes no bfloat16 ConvTranspose"]
    assert trt.bfloat16 not in layer_types(graph)
