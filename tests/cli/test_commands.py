"""The command line as it is used: what it prints, writes and exits with."""

import json
from pathlib import Path

import pytest
import torch

import bridge
from bridge.cli import main
from tests.small import Scaled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("models")
    torch.jit.script(Scaled().eval()).save(str(made / "model.ts"))
    torch.jit.script(Scaled().eval()).save(str(made / "other.ts"))
    return made


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Path:
    sizes = ["--min", "x:1x4", "--opt", "x:2x4", "--max", "x:8x4", "--input", "scale:1"]
    with pytest.raises(SystemExit) as ended:
        main(["compile", str(folder / "model.ts"), *sizes, "--backend", "onnxruntime"])
    assert ended.value.code == 0
    return folder / "model_trt.ts"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(name in out for name in ("compile", "engine", "run", "inspect"))


@pytest.mark.parametrize("words", [(), ("compile",), ("rules", "list")])
def test_help_has_a_short_name(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *words, "-h")
    assert code == 0 and "Usage: bridge" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1].split() == ["bridge-trt", bridge.__version__]


def test_unknown_commands_and_options_are_misuse(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert run(capsys, "compil")[0] == 2
    assert run(capsys, "compile", folder / "model.ts", "--inptu", "1")[0] == 2


def test_errors_have_no_traceback(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, _, err = run(capsys, "compile", folder / "missing.ts")
    assert code == 1 and err.startswith("error: there is no file") and "Traceback" not in err
    code, _, err = run(capsys, "compile", folder / "model.ts", "--input", "x:0.5")
    assert code == 2 and "NAME:SHAPE" in err
    code, _, err = run(capsys, "compile", folder / "model.ts", "--input", "x:1x4", "--set", "optimisation_level=3")
    assert code == 2 and "did you mean 'optimization_level'" in err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, _, err = run(capsys, "compile", folder / "missing.ts", "--debug")
    assert code == 1 and "Traceback" in err


def test_a_file_that_is_no_module(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.ts").write_text("nothing")
    code, _, err = run(capsys, "run", tmp_path / "x.ts", "--input", "1")
    assert code == 1 and "is no TorchScript module" in err


def test_run_a_plain_module(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "outputs.pt"
    code, out, _ = run(capsys, "run", folder / "model.ts", "-i", "x:5x4", "-i", "scale:1", "--save", saved)
    assert code == 0 and "(5, 3)" in out and "median of 10 calls" in out
    assert torch.load(saved).shape == (5, 3)


def test_run_needs_shapes(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, _, err = run(capsys, "run", folder / "model.ts")
    assert code == 2 and "give --input" in err


def test_run_loaded_inputs(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    torch.save((torch.ones(2, 4), torch.ones(1)), tmp_path / "inputs.pt")
    torch.save({"x": torch.ones(2, 4), "scale": torch.ones(1)}, tmp_path / "named.pt")
    for name in ("inputs.pt", "named.pt"):
        code, out, _ = run(capsys, "run", folder / "model.ts", "--load", tmp_path / name, "--runs", 1)
        assert code == 0 and "(2, 3)" in out


def test_run_compares(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words = ("run", folder / "model.ts", "-i", "x:5x4", "-i", "scale:1", "--reference")
    code, out, _ = run(capsys, *words, folder / "model.ts")
    assert code == 0 and "largest difference from the reference: 0" in out
    code, _, err = run(capsys, *words, folder / "other.ts")
    assert code == 1 and "the outputs differ" in err


def test_inspect_a_plain_module(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert "no engine: all of it runs in PyTorch" in run(capsys, "inspect", folder / "model.ts")[1]


def test_compiled_modules_run_and_agree(capsys: pytest.CaptureFixture[str], folder: Path, compiled: Path) -> None:
    code, out, err = run(capsys, "run", compiled, "--reference", folder / "model.ts", "--tolerance", "1e-4")
    assert code == 0, err
    assert "(2, 3)" in out


def test_inspect_shows_inputs_outputs_and_profiles(capsys: pytest.CaptureFixture[str], compiled: Path) -> None:
    code, out, _ = run(capsys, "inspect", compiled, "--layers")
    assert code == 0
    assert all(word in out for word in ("ONNX Runtime 1.", "scale", "float32", "1x4 / 2x4 / 8x4", "Gemm"))
    code, out, _ = run(capsys, "inspect", compiled, "--json")
    (engine,) = json.loads(out)["engines"]
    assert engine["header"]["backend"] == "onnxruntime"
    assert {item["name"] for item in engine["header"]["inputs"]} == {"x", "scale"}


def test_out_of_range_shapes_name_the_input(capsys: pytest.CaptureFixture[str], compiled: Path) -> None:
    code, _, err = run(capsys, "run", compiled, "-i", "x:9x4", "-i", "scale:1")
    assert code == 1 and "x" in err and "9" in err


def test_engine_bytes(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.engine"
    words = ("engine", folder / "model.ts", "-i", "x:2x4", "-i", "scale:1", "--backend", "tensorrt_rtx", "-o", target)
    code, _, err = run(capsys, *words)
    assert code == 0, err
    assert target.stat().st_size > 0


def test_bench(capsys: pytest.CaptureFixture[str], folder: Path, compiled: Path, tmp_path: Path) -> None:
    told = ["--reference", folder / "model.ts", "--seconds", "0.05", "--json", tmp_path / "bench.json"]
    code, out, _ = run(capsys, "bench", compiled, *told)
    assert code == 0 and "times as long" in out
    found = json.loads((tmp_path / "bench.json").read_text())
    for row in (found["compiled"], found["reference"]):
        assert 0 < row["least_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["calls"] >= 20 and row["calls_per_s"] > 0


def test_profile(capsys: pytest.CaptureFixture[str], compiled: Path, tmp_path: Path) -> None:
    files = tmp_path / "profile.html", tmp_path / "profile.json"
    code, out, _ = run(capsys, "profile", compiled, "--runs", 2, "--html", files[0], "--trace", files[1])
    assert code == 0 and "linear: linear" in out
    assert "small.py" in files[0].read_text()
    assert json.loads(files[1].read_text())["traceEvents"]


def test_bench_and_profile_say_what_inputs_they_need(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    for command in ("bench", "profile"):
        code, _, err = run(capsys, command, folder / "model.ts")
        assert code == 2 and "--input" in err


class Unlike(torch.nn.Module):
    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, object]:
        return {"scores": torch.softmax(batch["x"] @ batch["y"], 1), "number": 3}


def test_what_torchscript_cannot_hold_is_saved_in_a_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    batch = {"x": torch.rand(2, 4), "y": torch.rand(4, 3)}
    torch.export.save(torch.export.export(Unlike().eval(), (batch,)), tmp_path / "model.pt2")
    code, out, _ = run(capsys, "compile", tmp_path / "model.pt2", "--backend", "onnxruntime", "-o", tmp_path / "trt.ts")
    assert code == 0 and "takes batch_x, batch_y, and gives tensors in a row" in " ".join(out.split())
    found = torch.jit.load(tmp_path / "trt.ts")(*batch.values())
    torch.testing.assert_close(found, Unlike()(batch)["scores"])


def test_exported_programs_are_taken_by_every_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    x, path = torch.rand(2, 4), tmp_path / "model.pt2"
    torch.export.save(torch.export.export(torch.nn.Sequential(torch.nn.Linear(4, 3)).eval(), (x,)), path)
    torch.save((x,), tmp_path / "x.pt")
    for words in (
        ("run", path, "-i", "input:2x4"),
        ("run", path, "--load", tmp_path / "x.pt", "--reference", path),
        ("bench", path, "-i", "input:2x4", "--seconds", "0.02", "--reference", path),
        ("check", path, "-i", "input:2x4"),
        ("compile", path, "-i", "input:2x4", "--backend", "onnxruntime", "-o", tmp_path / "trt.ts"),
        ("profile", path, "-i", "input:2x4", "--runs", "1"),
        ("compare", path, tmp_path / "trt.ts", "-i", "input:2x4"),
        ("debug", path, "-i", "input:2x4"),
        ("debug", path),  # what comes now has inputs of its own
        ("check", path),
        ("compile", path, "--backend", "onnxruntime", "-o", tmp_path / "own.ts"),
        ("report", path, "--load", tmp_path / "x.pt", "--compiled", tmp_path / "trt.ts", "-o", tmp_path / "r.zip"),
        ("inspect", path),
    ):
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
