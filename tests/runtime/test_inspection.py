import json

import pytest
import torch

from bridge.errors import BridgeError
from bridge.runtime.inspection import inspect
from bridge.runtime.module import configure, embed_engine_in_new_module

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


@pytest.fixture(params=["module", "plan", "bytes", "plan file", "module file"])
def subject(request, linear, tmp_path):
    module = embed_engine_in_new_module(linear.plan)
    data = linear.plan.to_tensor().numpy().tobytes()
    (tmp_path / "engine.plan").write_bytes(data)
    torch.jit.save(module, tmp_path / "model.ts")
    return {
        "module": module, "plan": linear.plan, "bytes": data, "plan file": tmp_path / "engine.plan",
        "module file": str(tmp_path / "model.ts"),
    }[request.param]  # fmt: skip


def test_everything_that_holds_an_engine_can_be_inspected(subject, linear):
    result = inspect(subject)
    assert [(item.name, item.dtype, item.shape) for item in result.inputs] == [("x", "float32", ("batch", 64))]
    assert [item.name for item in result.outputs] == ["y"]
    assert result.profiles == ({"x": ((1, 64), (2, 64), (4, 64))},)
    assert [layer["type"] for layer in result.layers] == ["MatMul", "Add", "Relu"]
    assert result.layers[0]["name"] == "layer/aten::matmul#1"
    assert result.engines[0].digest == linear.plan.digest
    assert json.loads(json.dumps(result.to_dict()))["engines"][0]["header"]["backend"] == "onnxruntime"


def test_the_text_is_readable(linear):
    module = embed_engine_in_new_module(linear.plan)
    configure(module, profile=0)
    lines = str(inspect(module)).splitlines()
    assert lines[0].startswith("ONNX Runtime 1.")
    assert "  input   x: float32 batchx64" in lines
    assert "  profile 0: x 1x64 / 2x64 / 4x64" in lines
    assert "  option  profile = 0" in lines
    assert "    layer/aten::matmul#1  MatMul" in lines


class Twice(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + self.inner(2 * x)


def test_one_engine_with_several_calls_is_listed_once(linear):
    result = inspect(torch.jit.freeze(torch.jit.script(Twice(embed_engine_in_new_module(linear.plan)).eval())))
    assert [engine.calls for engine in result.engines] == [2]
    assert "called in 2 places" in str(result)


def test_a_module_without_engines():
    result = inspect(torch.jit.script(torch.nn.Linear(2, 2)))
    assert str(result) == "no engine: all of it runs in PyTorch"
    with pytest.raises(BridgeError, match="has 0 engines"):
        result.inputs  # noqa: B018


def test_what_is_nothing_of_the_kind_is_refused(tmp_path):
    with pytest.raises(BridgeError, match="there is no file"):
        inspect(tmp_path / "missing")
    torch.save({"a": 1}, tmp_path / "weights.pt")
    with pytest.raises(BridgeError, match="no TorchScript module"):
        inspect(tmp_path / "weights.pt")
    with pytest.raises(BridgeError):
        inspect(b"neither a plan nor an engine")
