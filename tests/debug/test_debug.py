"""Debugging: PyTorch node by node, through branches and loops, beside ONNX and engines; what differs is found."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

import bridge
from bridge.cli import main
from rewrites import example, rule
from tests.modules import CASES, Case
from tests.test_modules import assert_same, original, spec_of

X, TWO = torch.linspace(-1, 1, 32).reshape(4, 8), torch.tensor(2)
NAMES = ("EarlyReturn", "While", "CtcDecoder", "TreeStructured", "CacheLoop", "Packed", "Unique")


class Looping(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)

    def forward(self, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        for _ in range(int(times)):
            if bool(x.sum() > 100):  # noqa: SIM108
                x = torch.relu(x)
            else:
                x = torch.softmax(self.linear(self.norm(x)), -1)
        return torch.tanh(x)


@rule(name="test/softmax-a-percent-too-large", matches="Softmax", examples=[example(input=(2, 3))])
class TooLarge:
    """Softmax -> Exp ReduceSum Div Mul: one percent too large."""

    def rewrite(op, input):
        grown = op.Exp(input)
        return op.Mul(op.Div(grown, op.ReduceSum(grown, np.array([-1]), keepdims=1)), np.float32(1.01))


@pytest.fixture(scope="module")
def looping() -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    return torch.jit.script(Looping().eval())


@pytest.mark.parametrize("case", [case for case in CASES if case.name in NAMES], ids=lambda case: case.name)
def test_results_are_those_of_the_module(case: Case) -> None:
    module, call = original(case), case.calls[0]
    debugger = bridge.debug(module, tuple(call), spec=spec_of(case), **case.settings)
    assert_same(debugger.results, original(case)(*call), 1e-6)
    assert debugger.first_difference is None
    assert len(debugger.history) > 1


def test_the_cases_are_all_there() -> None:
    assert {case.name for case in CASES} >= set(NAMES)


def test_steps_tell_operator_shapes_line_and_place(looping: torch.jit.ScriptModule) -> None:
    steps = list(bridge.debug(looping, (X, TWO), beside=None))
    linear = [step for step in steps if step.operator == "aten::linear"]
    assert [step.place for step in linear] == [("iteration 0", "if False"), ("iteration 1", "if False")]
    assert linear[0].origin.source.startswith("test_debug.py:") and linear[0].origin.module_path == "linear"
    assert "(4x8 float32, 8x8 float32, 8 float32) -> 4x8 float32" in str(linear[0])
    expected = looping.linear(looping.norm(X))
    (found,) = linear[0].outputs.values()
    torch.testing.assert_close(found, expected)


def test_beside_onnx_every_iteration_is_compared(looping: torch.jit.ScriptModule) -> None:
    debugger = bridge.debug(looping, (X, torch.tensor(3)))
    assert debugger.run() is None
    compared = [step for step in debugger.history if step.operator == "aten::softmax"]
    assert len(compared) == 3 and all(step.figures is not None for step in compared)
    assert all(step.figures.relative < 1e-5 for step in debugger.history if step.figures is not None)
    assert {step.runs_in for step in compared} != {""}
    assert any(step.runs_in.startswith("PyTorch: ") for step in debugger.history)


def test_it_stops_at_the_first_difference_inside_a_loop(looping: torch.jit.ScriptModule) -> None:
    debugger = bridge.debug(looping, (X, TWO), rules=[TooLarge])
    step = debugger.run()
    assert step is not None and step.stopped_by == "difference" and step.differs
    assert (step.operator, step.place) == ("aten::softmax", ("iteration 0", "if False"))
    assert step.rules == ("test/softmax-a-percent-too-large",)
    assert step.figures is not None and step.figures.relative == pytest.approx(0.01, rel=1e-3)
    (name,) = step.outputs
    np.testing.assert_allclose(step.found[name], step.outputs[name].numpy() * 1.01, rtol=1e-5)
    assert "test/softmax-a-percent-too-large" in step.describe() and "found" in step.describe()
    again = debugger.run()
    assert again is not None and again.place == ("iteration 1", "if False")
    assert debugger.run() is None and len([s for s in debugger.history if s.differs]) == 2
    assert_same(debugger.results, looping(X, TWO), 1e-6)


def test_a_tolerance_lets_it_pass(looping: torch.jit.ScriptModule) -> None:
    assert bridge.debug(looping, (X, TWO), rules=[TooLarge], tolerance=0.02).run() is None


def test_engines_run_as_steps_of_their_own(looping: torch.jit.ScriptModule) -> None:
    debugger = bridge.debug(looping, (X, TWO), beside="engine", backend="onnxruntime", rules=[TooLarge], tolerance=1e-3)
    steps = list(debugger)
    engines = [step for step in steps if step.operator == "bridge::execute_engine"]
    assert engines and all(step.found for step in engines)
    wrong = next(step for step in engines if step.figures is not None and step.figures.relative > 1e-3)
    assert not wrong.differs  # the error began at the softmax before
    assert next(step for step in steps if step.differs).operator == "aten::softmax"


def test_engines_of_a_compiled_module(looping: torch.jit.ScriptModule, tmp_path: Path) -> None:
    inputs = [X, TWO]
    compiled = bridge.compile(looping, inputs, backend="onnxruntime")
    torch.jit.save(compiled, tmp_path / "compiled.ts")
    for beside in (compiled, tmp_path / "compiled.ts"):
        debugger = bridge.debug(looping, (X, TWO), beside=beside, spec=inputs)
        assert debugger.run() is None
        assert any(step.operator == "bridge::execute_engine" for step in debugger.history)
    with pytest.raises(bridge.SpecError, match="was not compiled from"):
        other = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh()).eval())
        bridge.debug(other, (X,), beside=compiled)


def test_a_compiled_module_by_itself(looping: torch.jit.ScriptModule) -> None:
    compiled = bridge.compile(looping, [X, TWO], backend="onnxruntime")
    debugger = bridge.debug(compiled, (X, TWO))
    assert_same(debugger.results, compiled(X, TWO), 0)
    assert "bridge::execute_engine" in {step.operator for step in debugger.history}


@pytest.mark.parametrize("place", ["aten::softmax", "aten::soft*", "linear", "test_debug.py:{line}"])
def test_breakpoints(looping: torch.jit.ScriptModule, place: str) -> None:
    line = next(
        i
        for i, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if "torch.softmax(self.linear(self.norm" in text
    )
    debugger = bridge.debug(looping, (X, torch.tensor(1)), beside=None, breakpoints=place.format(line=line))
    step = debugger.run()
    assert step is not None and step.stopped_by == place.format(line=line)
    assert step.operator in ("aten::softmax", "aten::linear", "aten::layer_norm")
    assert all(isinstance(value, torch.Tensor) for value in step.outputs.values())


def test_unknown_breakpoints_name_the_nearest(looping: torch.jit.ScriptModule) -> None:
    with pytest.raises(bridge.SpecError, match="nothing runs at 'aten::softmaxx'[^?]*did you mean 'aten::softmax'"):
        bridge.debug(looping, (X, torch.tensor(1)), beside=None, breakpoints=["aten::softmaxx"])
    with pytest.raises(bridge.SpecError, match="breakpoints"):
        bridge.debug(looping, (X, torch.tensor(1)), beside=None, breakpoints=[""])


def test_values_that_nothing_reads_any_more_are_let_go() -> None:
    chain = torch.nn.Sequential(*[torch.nn.Tanh() for _ in range(30)])
    debugger = bridge.debug(torch.jit.script(chain), (X,), beside=None)
    alive = [sum(isinstance(v, torch.Tensor) for v in debugger.values.values()) for _ in debugger]
    assert len(alive) == 30 and max(alive) <= 3
    assert all(isinstance(value, str) for step in debugger.history for value in step.outputs.values())


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        kept = [x]
        kept.append(x * 2)
        kept[0] = kept[1] + self.count
        return torch.stack(kept)


def test_the_module_and_its_state_stay_as_they_are() -> None:
    module = torch.jit.script(Counting())
    expected = torch.stack([X * 2 + 1, X * 2])
    for _ in range(2):
        assert_same(bridge.debug(module, (X,)).results, expected, 1e-6)
    assert module.count.item() == 0


class Failing(torch.nn.Module):
    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return x.select(0, int(at))


def test_a_failing_operator_is_named_with_its_line() -> None:
    debugger = bridge.debug(torch.jit.script(Failing().eval()), (X, torch.tensor(9)), beside=None, spec=[X, TWO])
    with pytest.raises(bridge.BridgeError, match=r"aten::select failed in PyTorch\n.*test_debug\.py:\d+(.|\n)*range"):
        list(debugger)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"beside": "tensorrt"}, "beside: 'tensorrt'|there is no file"),
        ({"beside": 3}, "beside: a int"),
        ({"inputs": [(X, TWO), (X, TWO)]}, "2 sets of inputs"),
    ],
)
def test_wrong_calls(looping: torch.jit.ScriptModule, settings: dict[str, object], told: str) -> None:
    with pytest.raises(bridge.BridgeError, match=told):
        bridge.debug(looping, **{"inputs": (X, torch.tensor(1)), **settings})


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


class Encoding(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.linear(x), -1)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.jit.script(Encoding().eval()).save(str(tmp_path / "model.ts"))
    code, out, err = run(capsys, "debug", tmp_path / "model.ts", "-i", "x:4x8")
    assert code == 0 and "aten::linear" in out and "2 steps, no difference" in out, err
    code, out, _ = run(capsys, "debug", tmp_path / "model.ts", "-i", "x:4x8", "--break", "linear")
    assert code == 0 and "stopped by linear" in out
    code, _, err = run(capsys, "debug", tmp_path / "model.ts", "-i", "x:4x8", "--break", "aten::relu")
    assert code == 2 and "nothing runs at 'aten::relu'" in err
    options = ("--precision", "float16", "--tolerance", "0")
    code, out, _ = run(capsys, "debug", tmp_path / "model.ts", "-i", "x:4x8", *options)
    assert code == 1 and "the first difference: 0  aten::linear" in out
    monkeypatch.setattr("sys.stdin", io.StringIO("p step.operator, len(debugger.history)\nc\n"))
    code, out, _ = run(
        capsys, "debug", tmp_path / "model.ts", "-i", "x:4x8", "--break", "aten::softmax", "--interactive"
    )
    assert code == 0 and "('aten::softmax', 2)" in out
