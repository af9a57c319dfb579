"""Engines that are built anew from the graph beside them; from one backend to another where there is a GPU."""

import pytest
import torch

import bridge
from bridge.errors import BridgeError

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 128), torch.nn.Linear(128, 8)

    def forward(self, x):
        return self.second(torch.sort(torch.relu(self.first(x)), dim=1)[0])


@pytest.fixture(scope="module")
def eager():
    torch.manual_seed(0)
    return Net().eval()


def compiled(eager, **settings):
    shapes = {"min": (1, 64), "opt": (4, 64), "max": (8, 64)}
    settings = {"torch_executed_ops": ["aten::sort"], "backend": "onnxruntime", **settings}
    return bridge.compile(torch.jit.script(eager), [shapes], **settings)


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_rebuilt_module_is_the_same(eager, precision, tmp_path):
    torch.jit.save(compiled(eager, keep_onnx=True, precision=precision), tmp_path / "model.ts")
    module = torch.jit.load(tmp_path / "model.ts")
    x = torch.randn(5, 64)
    with torch.no_grad():
        before = module(x)
        phases = []
        bridge.rebuild(module, progress=lambda *told: phases.append(told))
        assert len(phases) == 2
        assert torch.equal(module(x), before)
        torch.jit.save(module, tmp_path / "again.ts")
        assert torch.equal(torch.jit.load(tmp_path / "again.ts")(x), before)
        bridge.rebuild(module)  # the new plans keep their graphs too


def test_the_record_goes_with_the_new_engines(eager):
    module = compiled(eager, keep_onnx=True)
    bridge.rebuild(module, disable_tf32=True)
    engine = bridge.inspect(module, layers=False).engines[0]
    assert engine.header.settings == {"disable_tf32": True}
    report = bridge.profile(module, torch.randn(2, 64), runs=1)
    assert {part.module_path for part in report.layers} >= {"first", "second"}


def test_an_engine_that_is_called_twice(eager):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = compiled(eager, keep_onnx=True)

        def forward(self, x):
            return self.inner(x) + self.inner(x * 2)

    module, x = torch.jit.script(Twice()), torch.randn(2, 64)
    expected = module(x)
    bridge.rebuild(module, disable_tf32=True)
    assert torch.equal(module(x), expected)


def test_without_a_graph_nothing_is_changed(eager):
    module = compiled(eager)
    x = torch.randn(2, 64)
    expected = module(x)
    with pytest.raises(BridgeError, match="keeps no graph"):
        bridge.rebuild(module)
    assert torch.equal(module(x), expected)
    with pytest.raises(BridgeError, match="no engine"):
        bridge.rebuild(torch.nn.Linear(2, 2))
    with pytest.raises(bridge.SpecError, match="there is no backend"):
        bridge.rebuild(compiled(eager, keep_onnx=True), backend="tensort")
