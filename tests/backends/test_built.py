"""Engines kept in a folder: what is taken from there, what is built, and folders and files that are no good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bridge
from bridge.backends.onnxruntime import OnnxRuntime
from tests.small import Scaled

X, SCALE = torch.rand(2, 4), torch.ones(1)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each build."""
    made: list[int] = []
    build = OnnxRuntime.build

    def counting(*args: Any, **settings: Any) -> Any:
        made.append(1)
        return build(*args, **settings)

    monkeypatch.setattr(OnnxRuntime, "build", counting)
    return made


def scaled(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return Scaled().eval()


def compiled(module: torch.nn.Module, folder: Path, **settings: Any) -> torch.nn.Module:
    return bridge.compile(torch.jit.script(module), [(2, 4), (1,)], backend="onnxruntime", cache_dir=folder, **settings)


def test_the_same_is_built_once(tmp_path: Path, builds: list[int]) -> None:
    first, again = compiled(scaled(), tmp_path / "new/folder"), compiled(scaled(), tmp_path / "new/folder")
    assert len(builds) == 1
    assert torch.equal(again(X, SCALE), first(X, SCALE))
    torch.testing.assert_close(again(X, SCALE), scaled()(X, SCALE))
    assert [path.suffix for path in (tmp_path / "new/folder").iterdir()] == [".plan"]


def test_other_weights_and_settings_are_built(tmp_path: Path, builds: list[int]) -> None:
    compiled(scaled(), tmp_path)
    other = compiled(scaled(1), tmp_path)
    torch.testing.assert_close(other(X, SCALE), scaled(1)(X, SCALE))
    compiled(scaled(), tmp_path, disable_tf32=True)
    assert len(builds) == 3
    ranged = bridge.Input(("n", 4), min_shape=(1, 4), opt_shape=(2, 4), max_shape=(3, 4))
    bridge.compile(torch.jit.script(scaled()), [ranged, (1,)], backend="onnxruntime", cache_dir=tmp_path)
    assert len(builds) == 4


def test_large_weights_count_too(tmp_path: Path, builds: list[int]) -> None:
    """Those stand beside the model, not in it."""
    x = torch.rand(2, 64)
    for seed in (0, 1):
        torch.manual_seed(seed)
        module = torch.nn.Linear(64, 64).eval()
        made = bridge.compile(torch.jit.script(module), [x], backend="onnxruntime", cache_dir=tmp_path)
        torch.testing.assert_close(made(x), module(x))
    assert len(builds) == 2


@pytest.mark.parametrize("content", [b"", b"1234", None])
def test_damaged_files_are_built_again(
    content: bytes | None, tmp_path: Path, builds: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    compiled(scaled(), tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if content is None else content)
    again = compiled(scaled(), tmp_path)
    torch.testing.assert_close(again(X, SCALE), scaled()(X, SCALE))
    assert len(builds) == 2 and "built again" in caplog.text
    compiled(scaled(), tmp_path)
    assert len(builds) == 2


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    made = compiled(scaled(), tmp_path / "file")
    torch.testing.assert_close(made(X, SCALE), scaled()(X, SCALE))
    assert "an engine was not kept" in caplog.text and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_engines_of_tensorrt_rtx(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    scripted = torch.jit.script(scaled())
    settings = {"inputs": [(2, 4), (1,)], "backend": "tensorrt_rtx", "cache_dir": tmp_path}
    first, second = (bridge.convert_method_to_trt_engine(scripted, "forward", settings) for _ in range(2))
    assert first == second and len(list(tmp_path.iterdir())) == 1
