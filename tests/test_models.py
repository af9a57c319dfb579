"""Whole networks, down the whole street: against eager PyTorch, and into TensorRT's engines."""

from __future__ import annotations

import warnings

import pytest
import torch

import bridge
from tests.networks import FORMS, NETWORKS, in_form, inputs_of, made, spec_of, tensors

warnings.filterwarnings("ignore", message=".*deprecated.*")
_TOLERANCE = 1e-4
_HEAVY = ("resnet50", "efficientnet_b0", "inception_v3", "vgg16")
# torch.export keeps the length that an LSTM saw; that of 2.9 also which sizes before a strided pooling were even
_KEPT = {("tagger", "exported", True)}
if torch.__version__.startswith("2.9."):
    _KEPT.add(("inception_v3", "exported", True))


def _cases() -> list[object]:
    """Every network in every form, static and dynamic; of the heavy ones, each form once."""
    every = [(name, form, dynamic) for name in NETWORKS for form in FORMS for dynamic in (False, True)]
    return [
        pytest.param(name, form, dynamic, id=f"{name}-{form}-{'dynamic' if dynamic else 'static'}")
        for name, form, dynamic in every
        if (NETWORKS[name].scripts or form != "scripted")
        and (name, form, dynamic) not in _KEPT
        and (name not in _HEAVY or (form, dynamic) in (("traced", True), ("scripted", False), ("exported", True)))
    ]


@pytest.mark.parametrize(("name", "form", "dynamic"), _cases())
def test_results_are_those_of_eager_in_one_engine(name: str, form: str, dynamic: bool) -> None:
    network, model = NETWORKS[name], made(name)
    subject = in_form(model, form, inputs_of(network, 1), dynamic)
    compiled = bridge.compile(subject, spec_of(network, dynamic), backend="onnxruntime", require_full_compilation=True)
    assert len(bridge.inspect(compiled, layers=False).engines) == 1
    for size in (0, 1) if dynamic else (1,):
        inputs = inputs_of(network, size)
        with torch.no_grad():
            expected, found = model(*inputs), compiled(*inputs)
        for a, b in zip(tensors(found), tensors(expected), strict=True):
            assert b.abs().max() > 1e-3 and b.std() > 1e-5
            torch.testing.assert_close(a, b, rtol=_TOLERANCE, atol=_TOLERANCE)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_engine_of_tensorrt_holds_it_all(name: str, dynamic: bool) -> None:
    pytest.importorskip("tensorrt_rtx")
    traced = in_form(made(name), "traced", inputs_of(NETWORKS[name], 1), dynamic)
    engine = bridge.convert_method_to_trt_engine(
        traced, "forward", spec_of(NETWORKS[name], dynamic), backend="tensorrt_rtx"
    )
    weights = sum(p.numel() for p in traced.parameters())
    assert len(engine) > weights  # in FP32 four bytes each, less what folds away
