"""Support bundles: what is in them, that they can be read back, and that nothing private is in them."""

import io
import os
import zipfile
from pathlib import Path

import onnx
import pytest
import torch

import bridge
from bridge.bundle import Bundle
from bridge.cli import main

X = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(40, 40)
        self.register_buffer("table", torch.tensor([0.1234567, 7.654321, 1.1111111]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(torch.softmax(self.linear(x), -1) * self.table.sum()).values[:, :3] + self.table


@pytest.fixture(scope="module")
def module() -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    return torch.jit.script(Net().eval())


@pytest.fixture(scope="module")
def compiled(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    return bridge.compile(module, [X], backend="onnxruntime", torch_executed_ops=["aten::sort"])


def everything(bundle: Bundle) -> bytes:
    with zipfile.ZipFile(bundle.path) as archive:
        return b"\n".join(archive.read(name) for name in archive.namelist())


def test_a_module_and_what_it_was_compiled_to(
    module: torch.jit.ScriptModule, compiled: torch.jit.ScriptModule, tmp_path: Path
) -> None:
    bundle = bridge.report_bundle(
        module, tmp_path / "report.zip", compiled=compiled, inputs=(X,), torch_executed_ops=["aten::sort"]
    )
    again = Bundle.open(tmp_path / "report.zip")
    assert again == bundle
    assert set(bundle.contents) == {
        "versions.json", "spec.json", "graph.txt", "support.json", "support.txt", "exported.onnx", "rewritten.onnx",
        "record.json", "engines.json", "engines.txt", "comparison.json", "comparison.txt", "log.txt",
    }  # fmt: skip
    assert bundle.json("versions.json")["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert bundle.json("spec.json")["input input_0"] == "float32 4x40"
    assert "aten::sort" in bundle.text("support.txt") and "torch_executed_ops" in bundle.text("support.txt")
    assert bundle.json("support.json")["segments"][0]["rewrites"] is not None
    (record,) = bundle.json("record.json")
    assert record["spec"]["torch_executed_ops"] == "aten::sort"
    assert bundle.json("engines.json")["engines"][0]["layers"]
    assert bundle.json("comparison.json")["passed"]
    assert "aten::softmax" in bundle.text("graph.txt")
    listed = str(bundle)
    assert all(name in listed for name in bundle.contents) and "without weights" in listed


def test_weights_and_inputs_are_left_out(module: torch.jit.ScriptModule, tmp_path: Path) -> None:
    bundle = bridge.report_bundle(module, tmp_path / "report.zip", inputs=(X,))
    content = everything(bundle)
    for tensor in (*module.parameters(), *module.buffers(), X):
        assert tensor.detach().numpy().tobytes()[:12] not in content
    assert b"0.1235" not in content and b"0.12345" not in content
    model = bundle.onnx("rewritten.onnx")
    weights = {item.name: item for item in model.graph.initializer}
    assert weights["linear.weight"].data_location == onnx.TensorProto.EXTERNAL
    assert tuple(weights["linear.weight"].dims) == (40, 40)
    assert {node.op_type for node in model.graph.node} >= {"Gemm", "Softmax"}


def test_they_are_kept_on_request(module: torch.jit.ScriptModule, tmp_path: Path) -> None:
    bundle = bridge.report_bundle(module, tmp_path / "r.zip", inputs=(X,), keep_weights=True, keep_inputs=True)
    model = bundle.onnx("exported.onnx")
    (weight,) = [item for item in model.graph.initializer if item.name == "linear.weight"]
    assert torch.equal(torch.tensor(onnx.numpy_helper.to_array(weight)), module.linear.weight)
    (kept,) = torch.load(io.BytesIO(bundle.read("inputs.pt")))
    assert torch.equal(kept, X)


class Failing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x


def test_what_fails_is_told_without_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2hunter2")
    bundle = bridge.report_bundle(torch.jit.script(Failing().eval()), tmp_path / "report.zip", [(2, 3)], build=True)
    errors = bundle.text("errors.txt")
    assert "SpecError" in errors and "does not run on inputs" in errors and errors.count("Traceback") >= 3
    assert "rewritten.onnx" not in bundle.contents
    content = everything(bundle).decode(errors="replace")
    assert "hunter2" not in content and str(tmp_path) not in content
    assert str(Path(__file__).parent) not in content and str(Path.home()) + os.sep not in content
    assert str(Path(torch.__file__).parents[1]) not in content and "<bridge>/support.py" in content


def test_a_compiled_module_by_itself(compiled: torch.jit.ScriptModule, tmp_path: Path) -> None:
    bundle = bridge.report_bundle(compiled, tmp_path / "report.zip", inputs=(X,))
    assert {"record.json", "engines.json", "outputs.txt"} <= set(bundle.contents)
    assert bundle.text("outputs.txt").startswith("output: 4x3 float32, min")


def test_build_tells_of_engines(module: torch.jit.ScriptModule, tmp_path: Path) -> None:
    bundle = bridge.report_bundle(module, tmp_path / "r.zip", inputs=(X,), build=True, backend="onnxruntime")
    assert bundle.json("comparison.json")["passed"] and bundle.json("engines.json")["engines"]
    assert "DEBUG" in bundle.text("log.txt") or "INFO" in bundle.text("log.txt")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path": "missing/folder/r.zip"}, "cannot be written"),
        ({"module": "model.ts"}, "module: a path"),
        ({"keep_inputs": True}, "keep_inputs: there are none"),
        ({"precison": torch.float16}, "precision"),
    ],
)
def test_wrong_calls_write_nothing(
    module: torch.jit.ScriptModule, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    with pytest.raises(bridge.BridgeError, match=told):
        bridge.report_bundle(**{"module": module, "path": tmp_path / "r.zip", **change})
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("x", "y")
    for name in ("a.zip", "b.zip", "missing.zip"):
        with pytest.raises(bridge.BridgeError, match="is no support bundle"):
            Bundle.open(tmp_path / name)


def test_the_command(capsys: pytest.CaptureFixture[str], module: torch.jit.ScriptModule, tmp_path: Path) -> None:
    torch.jit.save(module, tmp_path / "model.ts")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path / "model.ts"), "-i", "x:4x40", "--backend", "onnxruntime", "--build"])
    out, _ = capsys.readouterr()
    assert ended.value.code == 0 and "comparison.json" in out
    assert Bundle.open(tmp_path / "model_report.zip").json("spec.json")["backend"] == "onnxruntime"
