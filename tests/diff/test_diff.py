"""Diffs: what changed between two compilations is named, by the user's operators; limits decide the exit code."""

import json
from pathlib import Path

import pytest
import torch

import bridge
from bridge.cli import main
from bridge.diff.matching import matched, paired_origins
from bridge.diff.sides import Layer
from bridge.runtime.record import OriginRecord

X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.keys = torch.nn.Linear(64, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(torch.nn.functional.gelu(torch.relu(self.linear(x))))
        return torch.relu(self.linear(torch.softmax(self.keys(y), -1)))


@pytest.fixture(scope="module")
def module() -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    return torch.jit.script(Block().eval())


@pytest.fixture(scope="module")
def before(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    return bridge.compile(module, [X], backend="onnxruntime")


@pytest.fixture(scope="module")
def half(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    return bridge.compile(
        module, [X], backend="onnxruntime", precision=torch.float16, torch_executed_ops=["aten::softmax"]
    )


def test_a_module_does_not_differ_from_itself(before: torch.jit.ScriptModule, tmp_path: Path) -> None:
    torch.jit.save(before, tmp_path / "before.ts")
    for other in (before, tmp_path / "before.ts"):
        report = bridge.diff(before, other)
        assert not report.different and report.verdict == "No difference." and report.exceeded(["any", "larger"]) == []
        assert len(report.layers) == 8 and report.layers_are == "layers"
        assert all(len(row.origins) == 1 for row in report.layers)


def test_precision_and_fallback_are_named(before: torch.jit.ScriptModule, half: torch.jit.ScriptModule) -> None:
    report = bridge.diff(before, half)
    facts = {(fact.section, fact.name): (fact.a, fact.b) for fact in report.facts}
    assert facts["Settings", "precision"] == ("", "float16")
    assert facts["Engines", "count"] == ("1", "2")
    assert facts["ONNX nodes as built", "Softmax"] == ("1", "")
    assert facts["ONNX nodes as built", "Cast"][0] == ""
    (left,) = report.left[1]
    assert left.startswith("aten::softmax") and "torch_executed_ops names it" in left and not report.left[0]
    changes = {row.origins[0].operator: row.changes for row in report.changed_layers}
    assert changes["aten::softmax"] == ("only in a",)
    assert any("precision" in row.changes for row in report.layers)
    assert "fallback: 1 differ" in report.exceeded("fallback")
    text = str(report)
    assert "precision" in text and "in PyTorch in b only: aten::softmax" in text and "Plans" in text


def test_the_other_way_round(before: torch.jit.ScriptModule, half: torch.jit.ScriptModule) -> None:
    report = bridge.diff(half, before)
    assert report.left[0] and not report.left[1] and report.exceeded(["fallback"]) == []
    assert ("only in b",) in {row.changes for row in report.layers}


def test_both_are_timed_as_wholes_and_by_layers(before: torch.jit.ScriptModule) -> None:
    report = bridge.diff(before, before, (X,), runs=3)
    assert report.slowdown is not None and report.a.ms is not None and report.a.ms > 0
    assert all(ms is not None and ms > 0 for row in report.layers for ms in row.ms)
    assert report.exceeded(["slower=1000"]) == []
    assert report.exceeded(["slower=0.000001"])[0].startswith("slower: ")
    assert "A call takes" in report.verdict


def test_engines_that_cannot_be_opened_here_are_compared_by_their_onnx_nodes(
    module: torch.jit.ScriptModule, before: torch.jit.ScriptModule
) -> None:
    built = bridge.compile(module, [X], backend="tensorrt_rtx")
    report = bridge.diff(before, built)
    assert report.layers_are == "ONNX nodes" and len(report.layers) == 8 and not report.changed_layers
    assert {fact.name for fact in report.facts} >= {"backend", "TensorRT-RTX", "ONNX Runtime"}
    assert report.growth() is not None
    with pytest.raises(bridge.SpecError, match="memory"):
        report.exceeded("memory")


def test_onnx_models_are_compared(module: torch.jit.ScriptModule, tmp_path: Path) -> None:
    import onnx

    plain = bridge.to_onnx(module, [X], rewrite=False)
    onnx.save(plain, tmp_path / "plain.onnx")
    report = bridge.diff(tmp_path / "plain.onnx", bridge.to_onnx(module, [X], precision=torch.float16))
    assert any(row.changes for row in report.layers)
    assert ("ONNX nodes as built", "Cast") in {(fact.section, fact.name) for fact in report.facts}
    assert bridge.diff(plain, tmp_path / "plain.onnx").changed_layers == []


def test_reports_as_files(before: torch.jit.ScriptModule, half: torch.jit.ScriptModule, tmp_path: Path) -> None:
    report = bridge.diff(before, half)
    data = json.loads(report.save(tmp_path / "diff.json").read_text())
    assert data["different"] and data["sides"]["b"]["engines"] == 2
    assert {"origins", "a", "b", "changes", "ms"} <= set(data["layers"][0])
    page = report.save(tmp_path / "diff.html").read_text()
    assert page.startswith("<!doctype html>") and "aten::softmax" in page and "http" not in page


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"a": 3}, "a: a int is nothing that can be compared"),
        ({"a": "missing.ts"}, "there is no file missing.ts"),
        ({"b": b"neither"}, "GPU|not installed"),
        ({"runs": 0}, "runs: 0"),
        ({"inputs": [(X,), (X,)]}, "2 sets of inputs"),
        ({"inputs": (torch.zeros(3, 3),)}, "does not run on these inputs"),
    ],
)
def test_wrong_calls(before: torch.jit.ScriptModule, change: dict[str, object], told: str) -> None:
    with pytest.raises(bridge.BridgeError, match=told):
        bridge.diff(**{"a": before, "b": before, **change})


@pytest.mark.parametrize("limit", ["slow", "layers=2", "slower=fast", "slower", ""])
def test_limits_that_cannot_be_meant(before: torch.jit.ScriptModule, limit: str) -> None:
    with pytest.raises(bridge.SpecError, match="limit"):
        bridge.diff(before, before).exceeded(limit)


def origin(operator: str, path: str = "", source: str = "") -> OriginRecord:
    return OriginRecord(f"aten::{operator}", path, "", source)


def test_operators_are_paired_by_module_and_order_not_by_number() -> None:
    ours = {3: origin("relu", "a"), 5: origin("add", "a"), 9: origin("relu", "a"), 11: origin("mul")}
    theirs = {1: origin("relu", "a"), 2: origin("relu", "a"), 40: origin("add", "b"), 41: origin("mul")}
    left, right = paired_origins(ours, theirs)
    assert left[3] == right[1] and left[9] == right[2] and left[11] == right[41]
    assert 5 not in left and 40 not in right


def test_where_one_has_more_their_lines_decide() -> None:
    ours = {i: origin("add", "a", f"m.py:{line}") for i, line in enumerate((10, 20, 30))}
    theirs = {i: origin("add", "a", f"m.py:{line}") for i, line in enumerate((10, 30))}
    left, right = paired_origins(ours, theirs)
    assert (left[0], left[2]) == (right[0], right[1]) and 1 not in left


def test_layers_fused_differently_are_one_row() -> None:
    table = {1: origin("conv2d"), 2: origin("relu"), 3: origin("add")}
    ours = [Layer(0, "conv+relu", "Conv", "float16", (1, 2), 2.0), Layer(0, "add", "Add", "float16", (3,), 1.0)]
    theirs = [Layer(0, "conv", "Conv", "float32", (1,), 2.0), Layer(0, "relu+add", "Pointwise", "float32", (2, 3), 2.5)]
    (row,) = matched(ours, theirs, (table, table))
    assert row.changes == ("fused differently", "precision") and row.ms == (3.0, 4.5)
    assert [item.operator for item in row.origins] == ["aten::conv2d", "aten::relu", "aten::add"]
    kept, copies = matched([ours[0], Layer(0, "copy", "Reformat")], [ours[0]], (table, table))
    assert kept.changes == () and copies.changes == ("only in a",)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command(
    capsys: pytest.CaptureFixture[str], before: torch.jit.ScriptModule, half: torch.jit.ScriptModule, tmp_path: Path
) -> None:
    a, b = tmp_path / "a.ts", tmp_path / "b.ts"
    torch.jit.save(before, a)
    torch.jit.save(half, b)
    code, out, _ = run(capsys, "diff", a, a, "--fail-on", "any")
    assert code == 0 and "No difference." in out
    code, out, err = run(capsys, "diff", a, b, "--fail-on", "fallback", "--html", tmp_path / "d.html")
    assert code == 1 and "limit: fallback: 1 differ" in err and (tmp_path / "d.html").exists()
    code, out, _ = run(capsys, "diff", a, b, "--time", "--runs", 2)
    assert code == 0 and "A call takes" in out
    code, _, err = run(capsys, "diff", a, b, "--fail-on", "slower")
    assert code == 2 and "it was not measured on both sides" in err
