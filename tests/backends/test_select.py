import logging

import pytest
import torch

from bridge.backends import NAMES, BuildSettings, base, get, select
from bridge.errors import BridgeError, SpecError


def test_every_name_is_a_backend():
    assert [get(name).name for name in NAMES] == list(NAMES)


def test_an_unknown_name_is_refused():
    with pytest.raises(SpecError, match="tensorflow"):
        select("tensorflow")


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a machine with a GPU, auto may be TensorRT")
def test_auto_says_once_which_and_why(caplog):
    base._automatic.cache_clear()
    with caplog.at_level(logging.INFO, "bridge"):
        assert select("auto").name == select().name == "onnxruntime"
    assert [record.getMessage() for record in caplog.records] == ["backend onnxruntime: there is no GPU"]


def test_what_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(BridgeError, match=r'pip install "bridge-trt\[tensorrt\]"'):
        select("tensorrt")


def test_settings_tell_what_was_changed(tmp_path):
    assert BuildSettings().changed() == {}
    settings = BuildSettings(workspace_size=1 << 30, timing_cache=tmp_path)
    assert settings.changed() == {"workspace_size": 1 << 30, "timing_cache": str(tmp_path)}
