import copy
from pathlib import Path

import pytest
import torch

import bridge
from bridge.errors import BridgeError, EngineError, ExportError, SpecError
from bridge.runtime.calls import engine_calls
from bridge.runtime.module import as_module, configure, embed_engine_in_new_module

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


@pytest.fixture
def module(linear):
    return embed_engine_in_new_module(linear.plan)


def test_an_embedded_plan_runs_saves_and_loads(module, linear, tmp_path):
    x = torch.randn(3, 64)
    torch.testing.assert_close(module(x), linear.eager(x))
    torch.jit.save(module, tmp_path / "model.ts")
    loaded = torch.jit.load(tmp_path / "model.ts")
    torch.testing.assert_close(loaded(x), linear.eager(x))
    torch.testing.assert_close(copy.deepcopy(loaded)(x), linear.eager(x))
    assert loaded.state_dict() == {}
    with pytest.raises(RuntimeError, match="input 'x' has shape 5x64"):
        loaded(torch.zeros(5, 64))


def test_bytes_of_a_plan_are_as_good(linear):
    module = embed_engine_in_new_module(linear.plan.to_tensor().numpy().tobytes(), output_names=["y", "y"])
    x = torch.randn(1, 64)
    first, second = module(x)
    torch.testing.assert_close(first, linear.eager(x))
    torch.testing.assert_close(second, linear.eager(x))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"input_names": ["z"]}, "no input 'z'"),
        ({"input_names": []}, "'x' is not named"),
        ({"output_names": ["z"]}, "no output 'z'"),
    ],
)
def test_names_that_the_engine_lacks_are_refused(linear, names, message):
    with pytest.raises(EngineError, match=message):
        embed_engine_in_new_module(linear.plan, **names)


def test_composes_with_scripting(module, linear):
    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return self.inner(x) + 1

    x = torch.randn(2, 64)
    torch.testing.assert_close(torch.jit.script(Outer())(x), linear.eager(x) + 1)
    torch.testing.assert_close(torch.jit.trace(Outer(), x)(x), linear.eager(x) + 1)


def test_as_module_exports_with_symbolic_shapes(module, linear):
    plain = as_module(module)
    shapes = ({0: torch.export.Dim("batch", min=1, max=4)},)
    program = torch.export.export(plain, (torch.randn(2, 64),), dynamic_shapes=shapes, strict=False)
    x = torch.randn(4, 64)
    torch.testing.assert_close(program.module()(x), linear.eager(x))


def test_as_module_compiles_without_a_break(module, linear):
    compiled = torch.compile(as_module(module), backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (2, 3):
        x = torch.randn(batch, 64)
        torch.testing.assert_close(compiled(x), linear.eager(x))


class Mixed(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        first, second = torch.chunk(self.inner(x), 2, dim=1)
        return {
            "sum": first * self.scale + second,
            "size": [first, torch.full([first.size(0)], 1.5, dtype=torch.float64)],
        }


def test_as_module_keeps_what_stayed_in_pytorch(module):
    scripted = torch.jit.script(Mixed(module))
    x = torch.randn(2, 64)
    expected = scripted(x)
    result = as_module(scripted)(x)
    torch.testing.assert_close(result["sum"], expected["sum"])
    torch.testing.assert_close(result["size"], list(expected["size"]))


class Branches(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if x.sum() > 0:
            return self.inner(x)
        return x


def test_as_module_says_what_it_cannot_take(module):
    with pytest.raises(ExportError, match="prim::If"):
        as_module(torch.jit.script(Branches(module)))


class Wrapper(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return {"y": self.inner(x)}


def test_as_module_goes_into_python_wrappers(module, linear):
    wrapper = Wrapper(module)
    result = as_module(wrapper)
    x = torch.randn(2, 64)
    torch.testing.assert_close(result(x)["y"], linear.eager(x))
    assert isinstance(result.inner, torch.fx.GraphModule) and wrapper.inner is module


def test_calls_are_found_in_branches_and_wrappers(module):
    for outer in (module, torch.jit.script(Branches(module)), Wrapper(module), as_module(module)):
        calls = engine_calls(outer)
        assert calls and all(call.signature.inputs[0].name == "x" for call in calls)


@pytest.mark.parametrize("view", [lambda module: module, as_module], ids=["TorchScript", "FX"])
def test_configuring_holds_now_and_after_saving(module, view, tmp_path):
    chosen = view(module)
    x = torch.randn(2, 64)
    expected = chosen(x)
    configure(chosen, profile=0)
    torch.testing.assert_close(chosen(x), expected)
    assert engine_calls(chosen)[0].signature.options == {"profile": 0}
    if isinstance(chosen, torch.jit.ScriptModule):
        torch.jit.save(chosen, tmp_path / "model.ts")
        assert engine_calls(torch.jit.load(tmp_path / "model.ts"))[0].signature.options == {"profile": 0}


def test_options_reach_the_session(module, monkeypatch):
    from bridge.runtime.session_onnxruntime import OnnxRuntimeSession

    seen = []
    prepare = OnnxRuntimeSession.prepare
    monkeypatch.setattr(
        OnnxRuntimeSession,
        "prepare",
        lambda self, shapes, options: seen.append(options) or prepare(self, shapes, options),
    )
    x = torch.randn(2, 64)
    module(x)
    configure(module, cuda_graphs=True)
    module(x)
    assert [options.cuda_graphs for options in seen] == [None, True]


def test_what_cannot_be_configured_is_refused(module):
    with pytest.raises(SpecError, match="did you mean cuda_graphs"):
        configure(module, cuda_graph=True)
    with pytest.raises(BridgeError, match="has no engine"):
        configure(torch.nn.Linear(2, 2), profile=0)


def test_plans_can_live_in_files(linear, tmp_path):
    module = embed_engine_in_new_module(linear.plan.to_tensor().numpy().tobytes())
    x = torch.randn(3, 64)
    torch.testing.assert_close(module(x), linear.eager(x))
    before = module.plan.clone()
    configure(module, plan_folder=tmp_path / "plans")
    (file,) = (tmp_path / "plans").iterdir()
    assert file.name == f"{linear.plan.digest}.plan"
    assert str(file) in Path("/proc/self/maps").read_text()
    assert torch.equal(module.plan, before)
    torch.jit.save(module, tmp_path / "model.ts")
    for one in (module, copy.deepcopy(module), torch.jit.load(tmp_path / "model.ts")):
        for batch in (3, 1):
            torch.testing.assert_close(one(x[:batch]), linear.eager(x[:batch]))
    assert bridge.inspect(file).inputs[0].name == "x"
    configure(module, plan_folder=tmp_path / "plans")  # a second time is fine
    (tmp_path / "file").touch()
    with pytest.raises(BridgeError, match="could not be written"):
        configure(module, plan_folder=tmp_path / "file")


class Decides(torch.nn.Module):
    def forward(self, x):
        y = x * 2 if bool(x.sum() > 0) else x - 1
        return y + 1


@pytest.mark.parametrize(
    ("model", "asked", "options"),
    [
        (torch.nn.Linear(4, 4), None, {}),
        (Decides(), None, {"cuda_graphs": False}),  # decided on the host, at every call
        (torch.nn.Linear(4, 4), True, {"cuda_graphs": True}),
        (torch.nn.Linear(4, 4), False, {"cuda_graphs": False}),
    ],
)
def test_which_engines_are_captured_of_themselves(model, asked, options):
    compiled = bridge.compile(torch.jit.script(model.eval()), [(2, 4)], backend="onnxruntime", cuda_graphs=asked)
    assert [call.signature.options for call in engine_calls(compiled)] == [options]
