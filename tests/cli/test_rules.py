"""bridge rules: what it lists, shows, tests, writes and explains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import onnx.parser
import pytest

from bridge.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["rules", *map(str, words)])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def saved(folder: Path, text: str, **metadata: str) -> Path:
    imports = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=imports, ir_version=10)
    for key, value in metadata.items():
        model.metadata_props.add(key=key.replace("_", "."), value=value)
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0 and "onnx/dft-to-matmul" in out and "DFT -> MatMul" in out
    code, newer, _ = run(capsys, "list", "--target", "onnxruntime")
    assert code == 0 and "onnx/dft-to-matmul" not in newer
    code, out, _ = run(capsys, "show", "onnx/dft-to-matmul")
    assert code == 0 and "needed by tensorrt all versions" in out and "refuses" in out


def test_a_new_rule_and_its_test_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "new", "mine/hard-swish", "--into", tmp_path)
    assert code == 0 and "wrote" in out
    code, out, _ = run(capsys, "test", tmp_path / "hard_swish.py")
    assert code == 0 and "mine/hard-swish   ok: 2 examples · 1 refusal" in out
    python = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_hard_swish.py"]
    made = subprocess.run(
        python, cwd=tmp_path, env={"PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0 and "3 passed" in made.stdout, made.stdout
    code, _, err = run(capsys, "new", "mine/hard-swish", "--into", tmp_path)
    assert code == 2 and "is there already" in err


def test_a_failing_rule_ends_with_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(capsys, "new", "mine/wrong", "--into", tmp_path)
    path = tmp_path / "wrong.py"
    path.write_text(path.read_text().replace("beta=0.5", "beta=0.25"))
    code, out, _ = run(capsys, "test", path)
    assert code == 1 and "2 failed" in out and "output 0" in out


@pytest.mark.parametrize("words", [("test", "no/such-rule"), ("show", "no_such_module"), ("new", "noslash")])
def test_what_is_not_there_is_said(capsys: pytest.CaptureFixture[str], words: tuple[str, str]) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2 and words[1] in err


def test_explain_says_who_refused_and_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = """g (float[2,length,1] x) => (float[2,length,2] y) {
        axis = Constant<value_int = 1>() y = DFT(x, , axis) }"""
    code, out, _ = run(capsys, "explain", saved(tmp_path, text))
    assert code == 0 and "DFT y" in out
    assert "onnx/dft-to-matmul refused: the transformed axis must be static" in out


def test_explain_finds_nothing_where_all_is_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "explain", saved(tmp_path, "g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"))
    assert code == 0 and "nothing is refused" in out
