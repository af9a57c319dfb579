"""Inputs in half precision of modules in FP32."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch

import bridge
from bridge.precision import cast, narrow_inputs

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")
HALVES = (torch.float16, torch.bfloat16)


def network(*, also_output: bool = False) -> gs.Graph:
    x, h, y = (gs.Variable(name, np.float32, ["n", 8]) for name in "xhy")
    weight = gs.Constant("w", np.eye(8, dtype=np.float32))
    nodes = [gs.Node("MatMul", "a#1", {}, [x, weight], [h]), gs.Node("Softmax", "b#2", {"axis": -1}, [h], [y])]
    return gs.Graph(nodes, [x], [y, x] if also_output else [y], opset=18)


def test_no_cast_is_left_between_a_half_input_and_what_computes_in_half():
    graph = network()
    cast(graph, torch.float16)
    narrow_inputs(graph, {"x": torch.float16})
    assert graph.inputs[0].dtype == np.float16
    product = next(node for node in graph.nodes if node.op == "MatMul")
    assert product.inputs[0] is graph.inputs[0]
    assert not any(node.op == "Cast" and node.inputs[0] is graph.inputs[0] for node in graph.nodes)


def test_what_is_given_back_or_computed_in_fp32_is_cast():
    for graph in (network(also_output=True), network()):
        narrow_inputs(graph, {"x": torch.float16, "h": torch.float16})
        casts = [node for node in graph.nodes if node.op == "Cast"]
        assert len(casts) == 1 and casts[0].inputs[0] is graph.inputs[0]
        assert [output.dtype for output in graph.outputs] == [np.float32] * len(graph.outputs)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 4)

    def forward(self, x, scale):
        y = torch.relu(self.conv(x)).mean(dim=(2, 3))
        return torch.sort(self.linear(y) * scale, dim=1)[0] + x.amax()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("settings", [{}, {"torch_executed_ops": ["aten::sort", "aten::amax"]}])
def test_both_dtypes_come_in(dtype, settings):
    torch.manual_seed(0)
    module = torch.jit.script(Net().eval())
    low, high = (1, 3, 8, 8), (4, 3, 8, 8)
    image = bridge.Input(min_shape=low, opt_shape=(2, 3, 8, 8), max_shape=high, dtype=dtype)
    compiled = bridge.compile(module, [image, (4,)], precision=dtype, backend="onnxruntime", **settings)
    first = bridge.inspect(compiled, layers=False).engines[0].signature.inputs
    assert str(dtype).endswith(next(item.dtype for item in first if item.name == "x"))
    scale = torch.rand(4)
    for batch in (1, 3, 4):
        x = torch.rand(batch, 3, 8, 8)
        expected = module(x, scale).detach()
        for given in (x, x.to(dtype)):
            result = compiled(given, scale)
            assert result.dtype == torch.float32
            torch.testing.assert_close(result, expected, rtol=0, atol=2e-3 if dtype is torch.float16 else 2e-2)


def test_what_is_not_asked_for_stays():
    module = torch.jit.script(torch.nn.Linear(4, 4).eval())
    plain = bridge.compile(module, [(2, 4)], precision=torch.half, backend="onnxruntime")
    assert bridge.inspect(plain, layers=False).inputs[0].dtype == "float32"
    half = bridge.compile(module, [torch.rand(2, 4).half()], precision=torch.half, backend="onnxruntime")
    assert bridge.inspect(half, layers=False).inputs[0].dtype == "float16"
    with pytest.raises(bridge.SpecError, match="does not run"):
        bridge.compile(module, [torch.rand(2, 4).half()], backend="onnxruntime")


def test_layers_are_kept_in_fp32_by_path_and_by_operator():
    torch.manual_seed(0)
    module = torch.jit.script(Net().eval())
    inputs = [(2, 3, 8, 8), (4,)]

    def types(**settings):
        model = bridge.to_onnx(module, inputs, precision=torch.half, **settings)
        made = {
            info.name: info.type.tensor_type.elem_type
            for info in onnx.shape_inference.infer_shapes(model).graph.value_info
        }
        return {node.op_type: made.get(node.output[0]) for node in model.graph.node if node.op_type in ("Conv", "Relu")}

    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert types() == {"Conv": half, "Relu": half}
    assert types(keep_fp32=["conv/*"])["Conv"] == full
    assert types(keep_fp32=["conv"])["Conv"] == full
    assert types(keep_fp32=["con"])["Conv"] == half
    assert types(keep_fp32=["Relu"]) == {"Conv": half, "Relu": full}
