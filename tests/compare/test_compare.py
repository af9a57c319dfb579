"""Comparing: equal models pass; planted errors are found, and the layer and the rule are named."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import bridge
from bridge.compare import compare
from rewrites import example, rule
from tests.compare.encoders import Encoder, encoder
from tests.compare.planted import IDS, SoftmaxTooLarge


@pytest.fixture(scope="module")
def model() -> Encoder:
    return encoder()


@pytest.fixture(scope="module")
def exported(model: Encoder) -> onnx.ModelProto:
    return bridge.to_onnx(model, [IDS])


def with_epsilon(model: onnx.ModelProto, module: str, epsilon: float) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (node,) = [n for n in changed.graph.node if n.op_type == "LayerNormalization" and n.name.startswith(f"{module}/")]
    next(a for a in node.attribute if a.name == "epsilon").f = epsilon
    return changed


def test_a_compiled_module_agrees(model: Encoder) -> None:
    compiled = bridge.compile(model, [IDS], backend="onnxruntime")
    report = bridge.compare(model, compiled, (IDS,), layers=True)
    assert report.passed and report.first_divergence is None
    assert [row.name for row in report.outputs] == ["logits", "best"]
    assert all(row.figures.relative < 1e-5 for row in report.layers) and len(report.layers) > 40
    assert "The outputs agree" in str(report) and "No layer diverges" in str(report)


def test_a_wrong_rule_is_named(model: Encoder) -> None:
    wrong = bridge.to_onnx(model, [IDS], rules=[SoftmaxTooLarge])
    rtol = {"logits": 1e-5, "": 0}
    report = compare(model, wrong, (IDS,), layers=True, rtol=rtol, atol=1e-6, rules=[SoftmaxTooLarge])
    first = report.first_divergence
    assert not report.passed and first is not None
    assert (first.origin.module_path, first.origin.operator) == ("layers.1", "aten::softmax")
    assert first.rules == ("test/softmax-too-large",)
    assert first.origin.source.endswith("encoders.py:16 in forward")
    assert first.figures.relative == pytest.approx(1e-2, rel=1e-3) and first.arriving < 1e-5
    assert first.exported is not None and first.exported.relative < 1e-5
    assert "test/softmax-too-large" in report.verdict and "before rewriting" in report.verdict
    assert [row.order for row in report.layers if row.guilty] == [first.order]


def test_the_spec_that_compiled_finds_the_rule(model: Encoder) -> None:
    compiled = bridge.compile(model, [IDS], backend="onnxruntime", rules=[SoftmaxTooLarge])
    report = compare(model, compiled, (IDS,), layers=True, rtol=1e-5, atol=1e-6, rules=[SoftmaxTooLarge])
    assert not report.passed and report.first_divergence is not None
    assert report.first_divergence.rules == ("test/softmax-too-large",)


def test_a_wrong_epsilon_is_named_though_the_outputs_pass(model: Encoder, exported: onnx.ModelProto) -> None:
    wrong = with_epsilon(exported, "layers.1.norm1", 1e-3)
    report = compare(model, wrong, (IDS,), layers=True, rtol=0.1)
    first = report.first_divergence
    assert report.passed and first is not None
    assert (first.origin.module_path, first.origin.module_type, first.rules) == ("layers.1.norm1", "LayerNorm", ())


def test_an_overflow_in_float16_is_named() -> None:
    model = encoder()
    with torch.no_grad():
        for linear in (model.layers[1].query, model.layers[1].key):
            linear.weight *= 600
    report = compare(model, model, (IDS,), layers=True, precision=torch.float16)
    first = report.first_divergence
    assert first is not None and (first.origin.module_path, first.origin.operator) == ("layers.1", "aten::matmul")
    assert "infinite" in report.verdict and first.exported is not None and first.exported.relative < 1e-5


def test_bfloat16_is_compared_within_its_noise(model: Encoder) -> None:
    class Narrow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.bfloat16() * 3

    assert compare(Narrow(), Narrow(), torch.randn(4, 4), layers=True).passed
    report = compare(model, model, (IDS,), layers=True, precision=torch.bfloat16)
    assert report.passed and report.first_divergence is None
    assert 1e-4 < max(row.figures.relative for row in report.layers) < 5e-2


def test_a_folded_norm_is_compared_and_its_convolution_is_not(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
    module[1].running_mean.normal_(), module[1].running_var.uniform_(0.5, 4)
    report = compare(module, module, torch.rand(2, 3, 16, 16), layers=True, precision=torch.float16)
    assert report.first_divergence is None
    both = ["exported", "rewritten"]
    assert [sorted(row.stages) for row in report.layers] == [both[:1], both, both]
    assert 'class="none"' in report.save(tmp_path / "report.html").read_text()


def test_exported_programs() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval()
    program = torch.export.export(module, (torch.randn(2, 3),))
    report = compare(program, module, torch.randn(2, 3), layers=True)
    assert report.passed and [row.origin.operator for row in report.layers] == ["aten::linear", "aten::relu"]


def test_onnx_before_and_after_a_wrong_rewrite(model: Encoder, exported: onnx.ModelProto) -> None:
    wrong = bridge.to_onnx(model, [IDS], rules=[SoftmaxTooLarge])
    first = compare(exported, wrong, (IDS,), layers=True, rtol=1e-5, atol=0).first_divergence
    assert first is not None and first.origin.module_path == "layers.1"
    assert first.origin.operator == "aten::softmax" and first.rules[0].endswith("softmax-too-large")


def test_onnx_of_others_is_matched_by_tensor_names(tmp_path: Path, exported: onnx.ModelProto) -> None:
    plain = onnx.ModelProto()
    plain.CopyFrom(exported)
    del plain.metadata_props[:]
    onnx.save(plain, tmp_path / "right.onnx")
    onnx.save(with_epsilon(plain, "layers.0.norm2", 1e-2), tmp_path / "wrong.onnx")
    report = compare(tmp_path / "right.onnx", str(tmp_path / "wrong.onnx"), {"ids": IDS}, layers=True)
    assert report.first_divergence is not None and report.first_divergence.origin.operator == "LayerNormalization"
    assert report.first_divergence.origin.module_path.startswith("layers.0.norm2/")


def test_operators_that_stay_in_pytorch_are_fed() -> None:
    class Inverse(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x @ x.transpose(-1, -2)).relu().cumsum(-1)

    report = compare(Inverse(), Inverse(), torch.eye(3) + 1, layers=True)
    assert report.passed and report.first_divergence is None
    assert "aten::matmul" in {row.origin.operator for row in report.layers}
    assert "aten::cumsum" in {row.origin.operator for row in report.layers}


class Unrolled(torch.nn.Module):
    """Reads its weights more than once, branches, and keeps its state in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden, cell = state
        for _ in range(2):
            x = torch.tanh(self.linear(x) + cell)
        if bool(x.sum() > 0):
            x = x * 2
        while bool(x.abs().max() > 0.1):
            x = self.dropout(x * 0.5)
        return {"x": x + hidden, "cell": cell * x}


def test_control_flow_and_nested_inputs_in_training_mode() -> None:
    module = Unrolled()
    x, state = torch.ones(2, 4), (torch.ones(2, 4), torch.ones(2, 4))
    compiled = bridge.compile(module, [x, state], backend="onnxruntime")
    report = compare(module, compiled, {"x": x, "state": state}, layers=True)
    assert report.passed and report.first_divergence is None and module.dropout.training
    assert {"prim::If", "prim::Loop", "aten::tanh"} <= {row.origin.operator for row in report.layers}


class Halves(torch.nn.Module):
    """Two engines, with an operator between them that stays in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.before(x))
        return torch.softmax(self.after(torch.cumsum(x @ x.transpose(-1, -2), -1)), -1)


def test_several_engines_with_pytorch_between() -> None:
    module, x = Halves().eval(), torch.randn(2, 64, 64)
    settings = {"backend": "onnxruntime", "torch_executed_ops": ["aten::cumsum"]}
    compiled = bridge.compile(module, [x], **settings)
    assert len(bridge.inspect(compiled).engines) == 2
    report = compare(module, compiled, x, layers=("exported", "rewritten", "engine"), **settings)
    assert report.passed and report.first_divergence is None and not report.notes
    told = {row.origin.operator for row in report.layers if "engine" in row.stages}
    assert told >= {"aten::linear", "aten::tanh", "aten::matmul", "aten::softmax"} and "aten::cumsum" not in told


class Branches(torch.nn.Module):
    """A branch and a loop with something to see inside."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            y = torch.softmax(x, -1)
            y = y * 2
        else:
            y = torch.tanh(x) * 3
        for i in range(x.size(0) + 1):
            if bool(y.sum() > 100):
                y = torch.cos(y) + i
            y = torch.sin(y) + i
        return y


@rule(name="test/tanh-too-large", matches="Tanh", examples=[example(input=(2, 3))])
class TanhTooLarge:
    """Tanh -> Sub Sigmoid Mul: one percent too large."""

    def rewrite(op, input):
        double = op.Sigmoid(op.Mul(input, np.float32(2)))
        return op.Mul(op.Sub(op.Mul(double, np.float32(2)), np.float32(1)), np.float32(1.01))


def test_inside_branches_and_loops(tmp_path: Path) -> None:
    x = torch.rand(3, 4)
    inputs = bridge.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(5, 4))
    module = torch.jit.script(Branches())
    for values, taken in ((x, "aten::softmax"), (-x, "aten::tanh")):
        report = compare(module, module, (values,), layers=True, spec=[inputs])
        shapes = {row.origin.operator: row.shape for row in report.layers}
        assert report.first_divergence is None and shapes[taken] == (3, 4) and shapes["aten::sin"] == (4, 3, 4)
        assert len(shapes.keys() & {"aten::softmax", "aten::tanh"}) == 1 and "aten::cos" not in shapes
    wrong = compare(module, module, (-x,), layers=True, spec={"inputs": [inputs], "rules": [TanhTooLarge]})
    first = wrong.first_divergence
    assert first is not None and (first.origin.operator, first.rules) == ("aten::tanh", ("test/tanh-too-large",))
    assert first.origin.source.startswith("test_compare.py:")
    spec = {"inputs": [inputs], "rules": [TanhTooLarge]}
    found = compare(module, module, (-x,), spec=spec, bisect=tmp_path).bisection
    assert found is not None and found.culprit is not None and found.culprit.name == "test/tanh-too-large"


def test_several_inputs_and_tolerances_by_output(model: Encoder) -> None:
    sets = [(IDS,), (IDS[:1, :3],), {"ids": IDS[:, :2]}]
    other = encoder(epsilon=1e-4)
    strict = compare(model, other, sets, rtol=1e-7, atol=0)
    assert not strict.passed and [row.inputs for row in strict.outputs] == [0, 0, 1, 1, 2, 2]
    assert strict.outputs[2].shape == (1, 3, 4)
    loose = compare(model, other, sets, rtol={"logits": 0.5}, atol={"logits": 0.5, "": 0})
    assert loose.passed and (loose.outputs[0].rtol, loose.outputs[1].rtol) == (0.5, 0)
    with pytest.raises(bridge.SpecError, match="no output 'logit'"):
        compare(model, other, sets, rtol={"logit": 1})


def test_what_cannot_be_compared_fails_with_a_reason(model: Encoder) -> None:
    class Fewer(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": ids.float()}

    report = compare(model, Fewer(), IDS)
    assert not report.passed
    assert [row.reason for row in report.outputs] == ["its shape is (2, 7)", "it is missing"]


def test_not_finite_is_equal_only_to_itself() -> None:
    class Returns(torch.nn.Module):
        def __init__(self, *values: float) -> None:
            super().__init__()
            self.values = torch.tensor(values)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.values

    inf, nan = float("inf"), float("nan")
    assert compare(Returns(1, inf, nan), Returns(1, inf, nan), torch.ones(1)).passed
    for other in (Returns(1, -inf, nan), Returns(1, inf, 0), Returns(nan, inf, nan)):
        assert not compare(Returns(1, inf, nan), other, torch.ones(1)).passed


def test_reports_are_whole_pages_and_data(tmp_path: Path, model: Encoder, exported: onnx.ModelProto) -> None:
    wrong = with_epsilon(exported, "layers.2.norm1", 0.1)
    report = compare(model, wrong, (IDS,), layers=True, save_inputs=tmp_path / "in.json")
    page = report.save(tmp_path / "report.html").read_text()
    assert page.index("verdict bad") < page.index("<table>") and "layers.2.norm1" in page
    assert torch.__version__.split("+")[0] in page
    assert "http" not in page and page.count('<tr id="row-') == len(report.layers)
    data = json.loads(report.save(tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    first = data["layers"][data["first_divergence"]]
    assert data["passed"] is False and first["origin"]["module_path"] == "layers.2.norm1"
    from bridge.compare.inputs import from_json

    (again,) = from_json(tmp_path / "in.json")
    assert torch.equal(again["ids"], IDS)


def test_models_that_do_not_belong_together(model: Encoder, exported: onnx.ModelProto) -> None:
    report = compare(encoder(depth=2), exported, IDS, layers=True)
    assert not report.passed and not report.layers and "not made from this module" in report.notes[0]
    with pytest.raises(bridge.BridgeError, match="not made from this module"):
        compare(encoder(depth=2), exported, IDS, layers=True, rtol=1e9)
    with pytest.raises(bridge.SpecError, match="cannot be compared"):
        compare(model, 3, IDS)
    with pytest.raises(bridge.SpecError, match="nothing to compare"):
        compare(model, model, [])


class Numbers(torch.nn.Module):
    """Numbers as a trace holds them: tensors without dimensions, of which the exporter makes new operators."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.linear(x + 1) * 2 - 3) / 4


def test_arithmetic_with_numbers_in_a_trace() -> None:
    x = torch.rand(2, 4)
    module = torch.jit.trace(Numbers().eval(), x, check_trace=False)
    report = compare(module, module, x, layers=True)
    assert report.first_divergence is None
    operators = ["aten::add", "aten::linear", "aten::mul", "aten::sub", "aten::div"]
    assert [row.origin.operator for row in report.layers] == operators
