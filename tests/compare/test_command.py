"""`bridge compare` as it is used: what it prints, writes and exits with."""

import json
import re
from pathlib import Path

import onnx
import pytest
import torch

import bridge
from bridge.cli import main
from tests.compare.encoders import encoder

IDS = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    torch.jit.script(encoder()).save(str(made / "right.ts"))
    torch.jit.script(encoder(epsilon=1e-2)).save(str(made / "wrong.ts"))
    onnx.save(bridge.to_onnx(torch.jit.load(str(made / "right.ts")), [IDS]), made / "right.onnx")
    torch.save((IDS,), made / "inputs.pt")
    return made


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, words)])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_equal_models_exit_with_0(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    page = folder / "out.html"
    words = ("--inputs", folder / "inputs.pt", "--layers", "--html", page, "--save-inputs", folder / "saved.json")
    code, out, _ = run(capsys, folder / "right.ts", folder / "right.onnx", *words)
    assert code == 0 and "The outputs agree" in out and "No layer diverges" in out and "layers.2.norm2" in out
    assert page.read_text().startswith("<!doctype html>")
    assert run(capsys, folder / "right.onnx", folder / "right.ts", "--inputs", folder / "saved.json")[0] == 0


def test_different_models_exit_with_1(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    data = folder / "out.json"
    words = ("--input", "ids:2x7:int64", "--atol", "logits:1e-6", "--rtol", "1e-6", "--json", data)
    code, out, _ = run(capsys, folder / "right.ts", folder / "wrong.ts", *words)
    assert code == 1 and "FAILED" in out
    assert json.loads(data.read_text())["passed"] is False
    loose = ("--input", "ids:2x7:int64", "--rtol", "2", "--atol", "9")
    assert run(capsys, folder / "right.ts", folder / "wrong.ts", *loose)[0] == 0


def test_corners_scripts_stages_and_bisection(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    ranges = ("--min", "ids:1x2:int64", "--opt", "ids:2x7:int64", "--max", "ids:3x9:int64")
    ids = bridge.Input(min_shape=(1, 2), opt_shape=(2, 7), max_shape=(3, 9), dtype=torch.int64)
    onnx.save(bridge.to_onnx(torch.jit.load(str(folder / "right.ts")), [ids]), folder / "dynamic.onnx")
    code, out, _ = run(capsys, folder / "right.ts", folder / "dynamic.onnx", *ranges)
    assert code == 0 and "18 outputs, 9 sets of inputs" in out
    script = folder / "data.py"
    script.write_text(
        "import numpy\ndef sets():\n    for i in range(5):\n        yield {'ids': numpy.full((2, 7), i)}\n"
    )
    loaded = ("--data-loader-script", f"{script}:sets", "--limit", "3", "--evaluator", "reference")
    code, out, _ = run(capsys, folder / "right.ts", folder / "right.onnx", *loaded)
    assert code == 0 and "6 outputs, 3 sets of inputs" in out
    words = ("--inputs", folder / "inputs.pt", "--stage", "rewritten", "--bisect", folder / "found", "--rtol", "1e-6")
    code, out, _ = run(capsys, folder / "right.ts", folder / "wrong.ts", *words)
    assert code == 1 and "No single rule, cast or engine" in out
    code, _, err = run(capsys, folder / "right.ts", folder / "right.onnx", *ranges)
    assert code == 1 and "do not both take set 1 of the inputs" in err and "[2, 7]" in err
    assert run(capsys, folder / "right.ts", folder / "right.onnx", *ranges, "--evaluator", "none")[0] == 2


def test_misuse_exits_with_2(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, _, err = run(capsys, folder / "right.ts", folder / "wrong.ts")
    assert code == 2 and "no inputs are given" in err
    code, _, err = run(capsys, folder / "right.ts", folder / "wrong.ts", "--input", "ids:2x7:int64", "--rtol", "much")
    assert code == 2 and "'much' is no number" in err
    (folder / "bad.json").write_text("{}")
    assert run(capsys, folder / "right.ts", folder / "wrong.ts", "--inputs", folder / "bad.json")[0] == 2


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "comparing.md", "exec"), {"__name__": "documentation"})
    assert (tmp_path / "report.html").stat().st_size > 2000
