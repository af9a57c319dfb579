"""The command line used wrongly: the exit code, a text that says what to do, no traceback, nothing half-written."""

import zipfile
from pathlib import Path

import onnx
import pytest
import torch

import bridge
from bridge.cli import main
from tests.small import Scaled

COMMANDS = ("compile", "engine", "check", "run", "debug", "report", "bench", "profile")
INPUTS = ("-i", "x:2x4", "-i", "scale:1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("misuse")
    module = torch.jit.script(Scaled().eval())
    module.save(str(made / "model.ts"))
    torch.jit.save(bridge.compile(module, [(2, 4), (1,)], backend="onnxruntime"), made / "trt.ts")
    whole = (made / "trt.ts").read_bytes()
    (made / "cut.ts").write_bytes(whole[: len(whole) // 2])
    for name in ("text.ts", "text.pt2", "text.onnx", "text.npz", "text.pt"):
        (made / name).write_text("hello")
    (made / "empty.ts").write_text("")
    (made / "list.json").write_text("[")
    (made / "folder.ts").mkdir()
    torch.save({"weight": torch.ones(2)}, made / "weights.pt")
    model = bridge.to_onnx(module, [(2, 4), (1,)])
    onnx.save(model, made / "cut.onnx", save_as_external_data=True, location="cut.bin", size_threshold=0)
    (made / "cut.bin").write_bytes(b"1234")
    with zipfile.ZipFile(made / "zip.ts", "w") as archive:
        archive.writestr("a/b", "c")
    return made


def run(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> tuple[int, str]:
    """The exit code and what was said, in one line; names of files are those in the folder."""
    capsys.readouterr()
    known = {path.name for path in folder.iterdir()} | {"missing.ts", "missing/out.ts", "out.ts"}
    with pytest.raises(SystemExit) as ended:
        main([str(folder / str(word)) if str(word) in known else str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and "this is a bug" not in err
    return int(ended.value.code or 0), " ".join(line.strip(" │") for line in err.splitlines())


FILES = [
    ("missing.ts", "there is no file"),
    ("text.ts", "is no TorchScript module because: it is no zip archive"),
    ("empty.ts", "because: it is empty"),
    ("cut.ts", "because: it is cut short"),
    ("weights.pt", "because: it holds values saved by torch.save"),
    ("zip.ts", "is no TorchScript module"),
    ("text.pt2", "is no exported program"),
    ("folder.ts", "because: that is a folder"),
]


@pytest.mark.parametrize(("file", "told"), FILES)
def test_files_that_are_no_modules(capsys: pytest.CaptureFixture[str], folder: Path, file: str, told: str) -> None:
    for command in COMMANDS:
        code, err = run(capsys, folder, command, file, *INPUTS)
        assert code == 1 and told in err, (command, err)
    code, err = run(capsys, folder, "inspect", file)
    assert code == 1 and told.split(" because")[0] in err
    for words in (("compare", "model.ts", file, *INPUTS), ("diff", "trt.ts", file)):
        code, err = run(capsys, folder, *words)
        assert code == (2 if file == "missing.ts" else 1), err


WORDS = [
    (("compile", "model.ts", "-i", "x:ax4b"), 2, "--input x:ax4b: '4b' is neither a size nor a dimension's name"),
    (("compile", "model.ts", "-i", "x:2x4"), 2, "forward(x, scale) needs scale"),
    (("compile", "model.ts", "-i", "y:2x4", "-i", "scale:1"), 2, "--input y: the module has no such argument"),
    (("compile", "model.ts", "-i", "x:2x4", "-i", "x:2x4"), 2, "given twice for x"),
    (("compile", "model.ts", "-i", "x:2x4:float99", "-i", "scale:1"), 2, "'float99' is not known"),
    (("compile", "model.ts", "-i", "x:-2x4", "-i", "scale:1"), 2, "input x.shape[0]"),
    (("compile", "model.ts", "-i", "x:2x5", "-i", "scale:1"), 2, "mat1 and mat2 shapes cannot be multiplied"),
    (("compile", "model.ts", "--min", "x:1x4", "--max", "x:8x4", "-i", "scale:1"), 2, "input x.opt_shape: missing"),
    (("compile", "model.ts", *INPUTS, "--dtype", "q:int8"), 2, "--dtype q:int8: there is no input 'q'"),
    (("compile", "model.ts", *INPUTS, "--precision", "float8"), 2, "precision: 'float8'"),
    (("compile", "model.ts", *INPUTS, "--backend", "cuda"), 2, "backend: 'cuda' is not known"),
    (("compile", "model.ts", *INPUTS, "--set", "a"), 2, "--set a: no value"),
    (("compile", "model.ts", *INPUTS, "--set", "inputs=3"), 2, "there is an option for it"),
    (("compile", "model.ts", *INPUTS, "--set", "workspace_size=lots"), 2, "workspace_size: expected a number of bytes"),
    (
        ("compile", "model.ts", *INPUTS, "--set", "optimization_level=9"),
        2,
        "optimization_level: expected 0 to 5, got 9",
    ),
    (("engine", "model.ts", *INPUTS, "--backend", "onnxruntime"), 1, "ONNX Runtime has no engines"),
    (("run", "trt.ts", "-i", "x:3x4", "-i", "scale:1"), 1, "input 'x' has shape 3x4; dimension 0 is 3 and may be 2"),
    (("run", "trt.ts", "-i", "x:2x4x1", "-i", "scale:1"), 1, "input 'x' has rank 3"),
    (("run", "trt.ts", "-i", "x:2x4:int64", "-i", "scale:1"), 1, "input 'x' has dtype int64; it may be float32"),
    (("run", "trt.ts", "--device", "tpu"), 2, "--device: expected a device such as"),
    (("run", "trt.ts", "--device", "cuda:97"), 2, "--device: cuda:97 is not here"),
    (("run", "trt.ts", "--load", "text.pt"), 1, "holds no tensors"),
    (("run", "trt.ts", "--load", "text.npz"), 1, "holds no tensors"),
    (("run", "trt.ts", "--load", "missing.ts"), 2, "does not exist"),
    (("run", "trt.ts", "--load", "weights.pt"), 1, "argument"),
    (("run", "model.ts", "-i", "x:2x4"), 1, "missing value for argument 'scale'"),
    (("run", "model.ts"), 2, "give --input NAME:SHAPE"),
    (("compare", "model.ts", "trt.ts"), 2, "no inputs are given"),
    (("compare", "model.ts", "trt.ts", *INPUTS, "--rtol", "x"), 2, "--rtol x: 'x' is no number"),
    (("compare", "model.ts", "trt.ts", "--inputs", "list.json"), 2, "holds no inputs"),
    (("compare", "model.ts", "trt.ts", "--inputs", "weights.pt"), 1, "does not run on these inputs"),
    (("compare", "model.ts", "trt.ts", "-i", "x:7x4", "-i", "scale:1"), 1, "dimension 0 is 7 and may be 2"),
    (("compare", "model.ts", "text.onnx", *INPUTS), 1, "is no ONNX model"),
    (("diff", "trt.ts", "trt.ts", "--fail-on", "z"), 2, "limit 'z': there is none"),
    (("diff", "trt.ts", "trt.ts", "-i", "x:9x9", "-i", "scale:1"), 1, "does not run on these inputs"),
    (("debug", "model.ts", *INPUTS, "--beside", "missing.ts"), 1, "there is no file"),
    (("debug", "model.ts", *INPUTS, "--break", "aten::conv2d"), 2, "nothing runs at 'aten::conv2d'"),
    (("report", "model.ts", *INPUTS, "--keep-inputs"), 2, "keep_inputs: there are none"),
    (("run", "trt.ts", *INPUTS, "--tolerance", "nan"), 2, "--tolerance: expected a number from 0, got nan"),
    (("run", "trt.ts", *INPUTS, "--reference", "cut.ts"), 1, "it is cut short"),
    (("inspect", "text.onnx"), 1, "is an ONNX model, which has no engines"),
    (("compile", "text.onnx", *INPUTS), 1, "it is an ONNX model"),
    (("compare", "model.ts", "trt.ts", "--data-loader-script", "list.json"), 2, "is no script of Python's"),
    (("rules", "list", "--target", "cuda"), 2, "--target: unknown target 'cuda'"),
    (("rules", "show", "nothing"), 2, "no rule"),
    (("rules", "explain", "text.onnx"), 1, "is no ONNX model"),
    (("rules", "explain", "cut.onnx"), 1, "keeps weights in other files, which cannot be read"),
    (("check", "model.ts"), 2, "no inputs are given; forward(x, scale) needs their shapes -> --input NAME:SHAPE"),
    (("check", "model.ts", *INPUTS, "--method", "encode"), 2, "no method 'encode' -> its methods: forward"),
    (("compile", "model.ts", *INPUTS, "-o", "model.ts"), 2, "that is the module itself"),
    (("compile", "model.ts", *INPUTS, "--set", "disabled_rules=a/b,c/d"), 2, "no rule is named 'a/b'"),
]


@pytest.mark.parametrize(
    ("words", "code", "told"), WORDS, ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else ""
)
def test_what_cannot_be_meant(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    found, err = run(capsys, folder, *words)
    assert found == code and told in err, err
    assert sorted(path.name for path in folder.iterdir()) == before


OUTPUTS = [
    ("compile", "model.ts", *INPUTS, "-o"),
    ("engine", "model.ts", *INPUTS, "-o"),
    ("report", "model.ts", *INPUTS, "-o"),
    ("run", "trt.ts", "--save"),
    ("compare", "model.ts", "trt.ts", *INPUTS, "--html"),
    ("diff", "trt.ts", "trt.ts", "--json"),
    ("bench", "trt.ts", "--json"),
    ("profile", "trt.ts", "--html"),
]


@pytest.mark.parametrize("words", OUTPUTS, ids=lambda words: words[0])
def test_outputs_that_cannot_be_written_are_refused_first(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.runtime.files.open_module", lambda path: pytest.fail("work was done before"))
    before = sorted(path.name for path in folder.iterdir())
    for target in ("missing/out.ts", "folder.ts", "/dev/full"):
        code, err = run(capsys, folder, *words, target)
        assert code == 2 and "cannot be written" in " ".join(err.split()), err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_write_that_fails_leaves_what_was_there(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.ts"
    target.write_text("kept")

    def fails(module: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.jit, "save", fails)
    code, err = run(capsys, folder, "compile", "model.ts", *INPUTS, "--backend", "onnxruntime", "-o", target)
    assert code == 1 and "No space left on device" in err
    assert target.read_text() == "kept" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("command", [*COMMANDS, "inspect", "compare", "diff"])
def test_help_has_an_example_and_no_arguments_show_help(
    capsys: pytest.CaptureFixture[str], folder: Path, command: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert not ended.value.code
    text = capsys.readouterr().out
    assert f"bridge {command} " in text and "--help" in text
    with pytest.raises(SystemExit) as ended:
        main([command])
    assert ended.value.code == 2
