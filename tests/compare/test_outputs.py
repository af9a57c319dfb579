"""How outputs are told to differ, and how a comparison is called wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import bridge
from bridge.compare.figures import wrong_elements

X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Returns(torch.nn.Module):
    def __init__(self, call: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(x)


def reason(left: Callable[[torch.Tensor], Any], right: Callable[[torch.Tensor], Any], **how: Any) -> str:
    report = bridge.compare(Returns(left), Returns(right), X, **how)
    row = report.outputs[0]
    assert row.passed != bool(row.reason)
    return row.reason


def test_wrong_elements_are_counted_and_the_worst_is_shown() -> None:
    shifted = torch.zeros(3, 4).index_put((torch.tensor([1, 2]), torch.tensor([3, 0])), torch.tensor([0.5, 2.0]))
    assert reason(lambda x: x, lambda x: x + shifted) == (
        "2 of 12 elements, at worst 2.45455 at [2, 0] in the place of 0.454545"
    )
    assert reason(lambda x: x.argmax(-1), lambda x: x.argmax(-1) + 1) == (
        "3 of 3 elements, at worst 4 at [0] in the place of 3"
    )
    assert "at worst nan at [0, 0] in the place of" in reason(lambda x: x, torch.log)
    assert reason(lambda x: x.sum(), lambda x: x.sum() + 1).startswith("1 of 1 element, at worst 1 in the place of ")
    assert "1+2j" in reason(lambda x: torch.complex(x, x) * 0, lambda x: torch.complex(x, x) * 0 + 1 + 2j)
    assert "at [2, 3]" in reason(lambda x: x.bfloat16(), lambda x: x.bfloat16() + 2 * (x == 1))
    assert reason(lambda x: x, lambda x: x * 1.0001) == ""


def test_wrong_elements_agree_with_the_tolerances() -> None:
    right = np.array([1.0, np.inf, np.nan, 0.0])
    assert wrong_elements(right, right.copy(), 0, 0) is None
    assert wrong_elements(right, np.array([1.1, np.inf, np.nan, 0.0]), 0.11, 0) is None
    assert wrong_elements(right, np.array([1.0, np.inf, np.nan, 0.1]), 0, 0.11) is None
    for other in ([1.0, -np.inf, np.nan, 0.0], [1.0, np.inf, 0.0, 0.0], [1.0, 5.0, np.nan, 0.0]):
        found = wrong_elements(right, np.array(other), 1.0, 1.0)
        assert found is not None and found.count == 1


def test_a_dtype_of_another_kind_fails_and_another_width_does_not() -> None:
    assert reason(lambda x: (x > 0).float(), lambda x: (x > 0).long()) == "its dtype is int64"
    assert reason(lambda x: x > 0, lambda x: (x > 0).float()) == "its dtype is float32"
    assert reason(lambda x: (x > 0).long(), lambda x: (x > 0).int()) == ""
    assert reason(lambda x: x.double(), lambda x: x) == ""


def test_outputs_in_another_order_are_recognised() -> None:
    report = bridge.compare(Returns(lambda x: (x, x * 2)), Returns(lambda x: (x * 2, x)), X)
    assert [row.reason.rpartition("; ")[2] for row in report.outputs] == [
        "what was expected came out as 'output_1'", "what was expected came out as 'output_0'",
    ]  # fmt: skip
    assert "came out as 'output_1'" in report.verdict
    assert "came out" not in reason(lambda x: (x, x * 2), lambda x: (x * 3, x * 2))


def test_inputs_from_files(tmp_path: Path) -> None:
    torch.save((X,), tmp_path / "one.pt")
    np.savez(tmp_path / "one.npz", x=X.numpy())
    module = Returns(torch.tanh)
    bridge.compare(module, module, [(X,), (X + 1,)], save_inputs=tmp_path / "two.json")
    for name, sets in (("one.pt", 1), ("one.npz", 1), ("two.json", 2)):
        report = bridge.compare(module, module, str(tmp_path / name))
        assert report.passed and len(report.outputs) == sets
    with pytest.raises(bridge.SpecError, match="2 sets of inputs"):
        bridge.debug(module, tmp_path / "two.json")


def model_of(*names: str) -> onnx.ModelProto:
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (3, 4)) for name in (*names, "sum")]
    node = onnx.helper.make_node("Sum", list(names), ["sum"])
    graph = onnx.helper.make_graph([node], "sum", values[:-1], values[-1:])
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])


SAME = Returns(torch.tanh)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a stage that is none": ({"layers": "rewriten"}, "layers: there is no stage 'rewriten'.*exported, rewritten"),
    "stages as a number": ({"layers": 3}, "layers: there is no stage 3"),
    "an evaluator": ({"evaluator": "ort"}, "evaluator: 'ort' is not known.*onnxruntime, reference"),
    "no interpreter": ({"python": "/no/python"}, "python: there is no interpreter /no/python"),
    "no sets": ({"limit": 0}, "limit: expected a whole number of at least 1, got 0"),
    "sets as text": ({"limit": "3"}, "limit: expected a whole number of at least 1, got '3'"),
    "a place that is not there": ({"save_inputs": "/no/such/in.json"}, "in.json cannot be written.*no such folder"),
    "a folder as a file": ({"save_inputs": "/"}, "/ cannot be written.*it is a folder"),
    "a file as a folder": ({"bisect": __file__}, "cannot be a folder.*is a file"),
    "a folder as a flag": ({"bisect": True}, r"bisect: expected a path, got True \(bool\)"),
    "a tolerance of two": ({"rtol": [1, 2]}, r"rtol: expected a number.*got \[1, 2\]"),
    "inputs as a number": ({"inputs": 3}, r"inputs: expected tensors, got 3 \(int\)"),
    "inputs of no file": ({"inputs": "missing.pt"}, "there is no file missing.pt"),
    "a setting": ({"rtl": 1}, "no field 'rtl'"),
    "an engine of nothing": ({"compiled": b""}, "an engine of no bytes"),
    "an empty ONNX model": ({"compiled": onnx.ModelProto()}, "ONNX Runtime does not run compiled: ONNX"),
    "ONNX inputs misspelt": (
        {"reference": model_of("a", "b"), "compiled": model_of("a", "b"), "inputs": {"b": X, "aa": X}},
        "takes a, b; given: b, aa",
    ),
    "more than ONNX takes": (
        {"reference": model_of("a"), "compiled": model_of("a"), "inputs": {"a": X, "c": X}},
        "neither of the two takes 'c'.*the inputs: a",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("how", "told"), WRONG.values(), ids=WRONG)
def test_wrong_calls(how: dict[str, Any], told: str) -> None:
    with pytest.raises(bridge.BridgeError, match=f"(?s){told}"):
        bridge.compare(**{"reference": SAME, "compiled": SAME, "inputs": X, **how})


def test_it_is_the_reference_that_is_said_not_to_run() -> None:
    with pytest.raises(bridge.BridgeError, match="reference: Returns does not run"):
        bridge.compare(SAME, SAME, (X, X))


def test_tolerances_follow_the_precision_that_is_known() -> None:
    """Outputs keep the module's dtype, whatever its engines compute in."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.GELU(), torch.nn.Linear(64, 1)).eval()
    half = bridge.compile(module, [X], backend="onnxruntime", precision=torch.float16)
    assert [row.rtol for row in bridge.compare(module, half, X).outputs] == [2e-2]
    assert [row.rtol for row in bridge.compare(module, half, X, rtol=1e-4).outputs] == [1e-4]
    assert [row.rtol for row in bridge.compare(module, module, X).outputs] == [1e-3]
    assert [row.rtol for row in bridge.compare(module, module, X, precision=torch.bfloat16).outputs] == [5e-2]
