"""Diff, debug and support bundles on TensorRT engines: what needs their own layers, memory and times."""

from pathlib import Path

import pytest
import torch

import bridge
from bridge.cli import main

pytest.importorskip("tensorrt")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.*deprecated"),
]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.Conv2d(32, 32, 3, padding=1)
        self.norm, self.head = torch.nn.BatchNorm2d(32), torch.nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.first(x)))
        y = torch.relu(self.second(y) + y)
        return torch.softmax(self.head(y.mean((2, 3))), -1)


X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TENSORRT = {"backend": "tensorrt", "optimization_level": 1}
EXACT = {**TENSORRT, "disable_tf32": True}


@pytest.fixture(scope="module")
def module() -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    return torch.jit.script(Net().eval())


@pytest.fixture(scope="module")
def full(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    return bridge.compile(module, [X], **EXACT)


@pytest.fixture(scope="module")
def half(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    return bridge.compile(module, [X], **TENSORRT, precision=torch.float16)


def test_layers_have_precisions_origins_and_times(full: torch.jit.ScriptModule) -> None:
    report = bridge.diff(full, full, (X,), runs=3)
    assert report.layers_are == "layers" and not report.different and report.layers
    operators = {origin.operator for row in report.layers for origin in row.origins}
    assert {"aten::conv2d", "aten::softmax"} <= operators
    precisions = {layer.precision for row in report.layers for layer in row.a}
    assert "float32" in precisions and "" not in {row.a[0].precision for row in report.layers if row.origins}
    timed = [row for row in report.layers if row.ms[0] is not None]
    assert timed and all(ms is not None and ms >= 0 for row in timed for ms in row.ms)
    assert report.slowdown is not None and 0.2 < report.slowdown < 5
    assert report.growth("activations on the device") in (None, 1)  # None: it needs none


def test_half_precision_shows_in_the_layers(
    full: torch.jit.ScriptModule, half: torch.jit.ScriptModule, tmp_path: Path
) -> None:
    report = bridge.diff(full, half, (X,), runs=3)
    assert any("precision" in row.changes for row in report.layers)
    assert ("Settings", "precision") in {(fact.section, fact.name) for fact in report.facts}
    assert report.exceeded("precision") and not report.exceeded(["fallback", "engines"])
    page = report.save(tmp_path / "diff.html").read_text()
    assert "float16" in page and "aten::conv2d" in page
    print(report)


def test_engines_without_a_record_are_matched_by_their_names(module: torch.jit.ScriptModule) -> None:
    engine = bridge.convert_method_to_trt_engine(module, "forward", [X], **EXACT)
    report = bridge.diff(engine, engine)
    assert {o.operator for row in report.layers for o in row.origins} >= {"aten::conv2d"}
    assert not report.different


def test_debug_beside_a_tensorrt_engine(module: torch.jit.ScriptModule, full: torch.jit.ScriptModule) -> None:
    debugger = bridge.debug(module, (X,), beside=full, spec=[X], **EXACT)
    assert debugger.run() is None, str(debugger)
    (engine,) = [step for step in debugger.history if step.operator == "bridge::execute_engine"]
    assert engine.figures is not None and engine.figures.relative < 1e-4
    torch.testing.assert_close(debugger.results.cpu(), module(X), rtol=1e-3, atol=1e-4)


def test_a_bundle_has_the_engine_and_the_comparison(
    module: torch.jit.ScriptModule, full: torch.jit.ScriptModule, tmp_path: Path
) -> None:
    bundle = bridge.report_bundle(module, tmp_path / "r.zip", compiled=full, inputs=(X,), **EXACT)
    (engine,) = bundle.json("engines.json")["engines"]
    assert engine["layers"] and engine["device_memory"] is not None
    assert bundle.json("comparison.json")["passed"]
    assert bundle.json("versions.json")["gpus"][0]["capability"]
    print(bundle)


def test_the_commands(
    capsys: pytest.CaptureFixture[str],
    module: torch.jit.ScriptModule,
    full: torch.jit.ScriptModule,
    half: torch.jit.ScriptModule,
    tmp_path: Path,
) -> None:
    for name, one in (("module", module), ("full", full), ("half", half)):
        torch.jit.save(one, tmp_path / f"{name}.ts")
    for words, code in (
        (("diff", "full.ts", "half.ts", "--time", "--runs", "3", "--fail-on", "precision"), 1),
        (("diff", "full.ts", "full.ts", "--fail-on", "any"), 0),
        (("inspect", "full.ts", "--layers"), 0),
        (("debug", "module.ts", "-i", "x:4x3x32x32", "--beside", "none"), 0),
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(tmp_path / word) if word.endswith(".ts") else word for word in words])
        assert ended.value.code == code, (words, capsys.readouterr())
