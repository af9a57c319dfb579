"""Plain nn.Modules: which way they go in, what comes out, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import bridge

DYNAMIC = {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}


class Untraceable(nn.Module):
    """Numbers that TorchScript cannot follow and a trace would hold on to."""

    def forward(self, x: torch.Tensor) -> Any:
        size = int(x.shape[0])
        exec("pass")  # neither scripting nor exporting gets past this
        return x.reshape(size, -1) * 2


class Mixed(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        exec("pass")
        return {"list": [x + 1, x * 2], "number": 3}


def test_a_size_that_tracing_froze_is_refused() -> None:
    with pytest.raises(bridge.ExportError, match="froze a size"):
        bridge.compile(Untraceable(), [DYNAMIC], backend="onnxruntime")


def test_a_trace_puts_python_structures_back_together() -> None:
    x = torch.rand(2, 4)
    result = bridge.compile(Mixed(), [x], backend="onnxruntime")(x)
    assert result["number"] == 3
    assert torch.equal(result["list"][0], x + 1)
    assert torch.equal(result["list"][1], x * 2)


def test_results_that_hold_tensors_in_objects_are_refused_with_a_hint() -> None:
    class Cache:
        def __init__(self, key: torch.Tensor) -> None:
            self.key = key

    class Caching(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            exec("pass")
            return x, Cache(x)

    with pytest.raises(bridge.ExportError, match="Cache, which cannot be taken apart"):
        bridge.compile(Caching(), [torch.rand(2, 4)], backend="onnxruntime")


def test_modes_are_left_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    module[1].eval()
    bridge.compile(module, [torch.rand(2, 4)], backend="onnxruntime")
    assert module.training
    assert module[0].training
    assert not module[1].training


def test_frozen_modules_which_have_no_mode_are_compiled() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.rand(1, 3, 8, 8)
    frozen = torch.jit.freeze(torch.jit.script(module))
    compiled = bridge.compile(frozen, [x], backend="onnxruntime")
    torch.testing.assert_close(compiled(x), module(x))


def test_script_modules_in_training_mode_stay_in_it() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))).train()
    x = torch.rand(2, 4)
    compiled = bridge.compile(scripted, [x], backend="onnxruntime")
    assert scripted.training
    torch.testing.assert_close(compiled(x), scripted.eval()(x))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.count = nn.Linear(4, 3), 0
        self.register_buffer("total", torch.zeros(1))


class CountsInBuffer(InPlace):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += 1
        return self.linear(x) * self.total


class CountsInNewBuffer(InPlace):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total = self.total + 1
        return self.linear(x) * self.total


class CountsInNumber(InPlace):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return self.linear(x) * self.count


@pytest.mark.parametrize("kind", [CountsInBuffer, CountsInNewBuffer, CountsInNumber])
def test_modules_with_state_are_left_as_they_are(kind: type[InPlace]) -> None:
    """The runs of compiling are not counted, neither in the module nor in what is compiled."""
    module = kind().eval()
    own = copy.deepcopy(module)
    compiled = bridge.compile(module, [(2, 4)], backend="onnxruntime")
    x = torch.randn(2, 4)
    for _ in range(3):
        torch.testing.assert_close(compiled(x), own(x))
    assert module.count == 0 and float(module.total) == 0


class Counts(CountsInNumber):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        exec("pass")  # neither scripting nor exporting gets past this
        self.count += 1
        return self.linear(x) * self.count


def test_what_a_trace_freezes_is_told(caplog: pytest.LogCaptureFixture) -> None:
    module = Counts().eval()
    bridge.compile(module, [(2, 4)], backend="onnxruntime")
    assert "Counts sets count when it is called" in caplog.text and module.count == 0


class ThroughNumPy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(numpy.tanh(x.numpy())) + x


def test_what_left_pytorch_is_not_traced() -> None:
    with pytest.raises(bridge.ExportError, match="tracing ThroughNumPy froze values"):
        bridge.compile(ThroughNumPy(), [torch.ones(2, 4)], backend="onnxruntime")


def test_hooks_of_the_module_itself_are_part_of_a_call() -> None:
    module = nn.Sequential(nn.Linear(4, 3)).eval()
    module.register_forward_hook(lambda module, inputs, output: output * 2)
    x = torch.randn(2, 4)
    torch.testing.assert_close(bridge.compile(module, [x], backend="onnxruntime")(x), module(x))


class Looks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return {"a": x}["b"]


def test_the_line_that_failed_is_told() -> None:
    line = Looks.forward.__code__.co_firstlineno + 1
    with pytest.raises(
        bridge.SpecError, match=rf"test_eager.py:{line} in forward; float32 2x4\n  because: KeyError: 'b'"
    ):
        bridge.compile(Looks(), [(2, 4)], backend="onnxruntime")


class Remembers(nn.Module):
    """State in what Python holds: only a run after another one shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.sum, self.seen, self.table = None, [], {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sum = x if self.sum is None else self.sum + x
        self.seen.append(x)
        self.table["last"] = x
        return self.sum * len(self.seen)


class KeepsWhatItMade(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.made = None, {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = torch.arange(4.0)
        return x * self.scale + self.made.setdefault(x.shape[1], torch.ones(4))


class Smooths(nn.Module):
    """Gives the same for the same input again: only another one shows its state."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.same = None, lambda one: one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = x if self.mean is None else 0.9 * self.mean + 0.1 * x
        return self.same(self.mean)


def test_state_that_only_other_inputs_show_is_told(caplog: pytest.LogCaptureFixture) -> None:
    bridge.compile(Smooths().eval(), [(2, 4)], backend="onnxruntime")
    assert "Smooths sets mean when it is called" in caplog.text


def test_state_that_what_is_compiled_lacks_is_told(caplog: pytest.LogCaptureFixture) -> None:
    module = Remembers().eval()
    try:
        bridge.compile(module, [(2, 4)], backend="onnxruntime")
    except bridge.ExportError as error:  # torch.export of 2.9 does not take it, and its trace is refused
        assert "froze values" in str(error)
    else:
        assert "Remembers sets sum, seen, table when it is called" in caplog.text
    assert module.sum is None and module.seen == [] and module.table == {}


def test_what_a_module_only_keeps_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    module, x = KeepsWhatItMade().eval(), torch.rand(2, 4)
    compiled = bridge.compile(module, [x], backend="onnxruntime")
    assert "KeepsWhatItMade sets" not in caplog.text and module.scale is None and module.made == {}
    torch.testing.assert_close(compiled(x), module(x))


class Unscriptable(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return {"sum": x + (lambda one: one * 2)(y)}


def test_one_tensor_as_the_example_of_two_inputs() -> None:
    """torch.export takes a tensor that is given twice for one input."""
    x = torch.rand(2, 4)
    compiled = bridge.compile(Unscriptable(), [x, x], backend="onnxruntime")
    torch.testing.assert_close(compiled(x, 2 * x)["sum"], 5 * x)


class Scales(nn.Module):
    def forward(self, x: dict[str, Any], times: int = 2) -> Any:
        return {"scaled": [x["x"] * x["factor"] * times]}


def test_python_values_in_nests_may_not_change() -> None:
    x = torch.rand(2, 4)
    compiled = bridge.compile(Scales(), [{"x": x, "factor": 3}, 5], backend="onnxruntime")
    torch.testing.assert_close(compiled({"factor": 3, "x": 2 * x}, 5)["scaled"][0], 30 * x)
    with pytest.raises(bridge.EngineError, match=r"(?s)compiled for 3 where it is given 4.*inputs\[0\]\['factor'\]"):
        compiled({"x": x, "factor": 4}, 5)
    with pytest.raises(bridge.EngineError, match=r"(?s)compiled for 5 where it is given 6.*inputs\[1\]"):
        compiled({"x": x, "factor": 3}, 6)
    with pytest.raises(bridge.EngineError, match="compiled for 2 arguments by position, and is given 1 argument by"):
        compiled({"x": x, "factor": 3})
    with pytest.raises(bridge.EngineError, match="nested in another way"):
        compiled(x, 5)


class TwoMethods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def scores(self, x: torch.Tensor, *, bias: torch.Tensor) -> torch.Tensor:
        return self.head(x) + bias


class TracedMethod(TwoMethods):
    def scores(self, x: torch.Tensor, *, bias: torch.Tensor) -> torch.Tensor:
        exec("pass")
        return self.head(x) + bias


@pytest.mark.parametrize("kind", [TwoMethods, TracedMethod])
def test_other_methods_of_plain_modules(kind: type[TwoMethods]) -> None:
    described = {"inputs": [(2, 4)], "kwarg_inputs": {"bias": (3,)}}
    report = bridge.check_method_op_support(kind().eval(), "scores", described)
    assert report.supported
    model = bridge.to_onnx(kind().eval(), described, method_name="scores")
    assert len(model.graph.input) == 2 and any("head" in node.name for node in model.graph.node)


class TracedByName(TwoMethods):
    def forward(self, x: torch.Tensor, *, bias: torch.Tensor) -> torch.Tensor:
        exec("pass")
        return self.head(x) + bias


def test_names_of_submodules_hold_in_traces_too(caplog: pytest.LogCaptureFixture) -> None:
    module, x, bias = TracedByName().eval(), torch.rand(2, 4), torch.rand(3)
    described = {"inputs": [x], "kwarg_inputs": {"bias": bias}, "torch_executed_modules": ["head"]}
    compiled = bridge.compile(module, described, backend="onnxruntime")
    assert "no module of this module" not in caplog.text
    assert "aten::linear" in str(compiled.compiled.graph)
    torch.testing.assert_close(compiled(x, bias=bias), module(x, bias=bias))
