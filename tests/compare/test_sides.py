"""What can be compared, and with which inputs: evaluators, other processes, engines, shapes in the corners, loaders."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from polygraphy.common import TensorMetadata
from polygraphy.comparator import DataLoader

import bridge
from bridge.compare import compare
from bridge.compare.runners import Contender, _kinds, needs_own_process
from tests.compare.encoders import Encoder, encoder
from tests.compare.planted import IDS


@pytest.fixture(scope="module")
def model() -> Encoder:
    return encoder()


def test_the_reference_evaluator_runs_onnx_models(model: Encoder) -> None:
    half = bridge.to_onnx(model, [IDS], precision=torch.float16)
    runtime = compare(model, half, (IDS,), rtol=2e-2)
    reference = compare(model, half, (IDS,), rtol=2e-2, evaluator="reference")
    assert runtime.passed and reference.passed
    errors = [report.outputs[0].figures.relative for report in (runtime, reference)]
    assert 1e-5 < errors[0] < errors[1] < 5e-3  # half precision is computed in half precision there


def test_the_reference_evaluator_as_a_stage(model: Encoder) -> None:
    report = compare(model, model, (IDS,), layers=("rewritten", "reference"), precision=torch.float16)
    assert report.stages == ["rewritten", "reference"] and report.first_divergence is None
    assert all(set(row.stages) == {"rewritten", "reference"} for row in report.layers)
    with pytest.raises(bridge.SpecError, match="no stage 'engines'"):
        compare(model, model, (IDS,), layers=("engines",))


def test_half_shows_what_pytorch_itself_loses(model: Encoder) -> None:
    report = compare(model, model, (IDS,), layers=("rewritten", "half"), precision=torch.bfloat16)
    errors = [row.stages["half"].figures.relative for row in report.layers]
    assert 1e-4 < max(errors) < 0.1 and not any(row.stages["half"].guilty for row in report.layers)
    told = compare(model, model, (IDS,), layers=("rewritten", "half")).notes
    assert told == ["half: the spec's precision is float32"]


def test_half_is_left_out_where_pytorch_cannot() -> None:
    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x + torch.ones(4, 4).sum(0, keepdim=True))

    report = compare(Mixed(), Mixed(), torch.randn(2, 4), layers=("rewritten", "half"), precision=torch.float16)
    assert report.stages == ["rewritten"] and "PyTorch does not run the module in float16" in report.notes[0]
    assert "note: half" in str(report)


def test_one_side_in_a_process_of_its_own(model: Encoder, tmp_path: Path) -> None:
    compiled = bridge.compile(model, [IDS], backend="onnxruntime")
    other = bridge.compile(encoder(epsilon=0.1), [IDS], backend="onnxruntime")
    report = compare(model, compiled, (IDS,), python=sys.executable)
    assert report.passed and [row.name for row in report.outputs] == ["logits", "best"]
    assert not compare(model, other, (IDS,), python=sys.executable, rtol=1e-4).passed
    onnx.save(bridge.to_onnx(model, [IDS]), tmp_path / "model.onnx")
    assert compare(model, tmp_path / "model.onnx", (IDS,), python=sys.executable).passed
    with pytest.raises(bridge.SpecError, match="cannot run in a process of its own"):
        compare(model, model, (IDS,), python=sys.executable)
    (tmp_path / "bad.ts").write_bytes(b"no module")
    with pytest.raises(bridge.BridgeError, match="process failed"):
        compare(model, tmp_path / "bad.ts", (IDS,), python=sys.executable)


def test_nested_inputs_reach_the_other_process() -> None:
    class Nested(torch.nn.Module):
        def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return x + state[0] - state[1]

    inputs = torch.ones(2), (torch.full((2,), 5.0), torch.full((2,), 3.0))
    compiled = bridge.compile(Nested(), list(inputs), backend="onnxruntime")
    assert compare(Nested(), compiled, inputs, python=sys.executable).passed


def test_the_two_tensorrts_do_not_share_a_process() -> None:
    pytest.importorskip("tensorrt_rtx")
    module = torch.nn.Linear(3, 4).eval()
    engine = bridge.convert_method_to_trt_engine(module, "forward", [torch.rand(2, 3)], backend="tensorrt_rtx")
    compiled = bridge.compile(module, [torch.rand(2, 3)], backend="tensorrt_rtx")
    assert _kinds(engine) == _kinds(compiled) == {"tensorrt_rtx"} and _kinds(module) == set()
    assert _kinds(b"ftrt....") == {"tensorrt"}
    side = Contender(compiled, "reference")
    assert needs_own_process(side, b"ftrt....") and not needs_own_process(side, engine)


def test_every_corner_of_the_profile() -> None:
    class Pool(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.mean(-1) + y

    x = bridge.Input(min_shape=(1, 2), opt_shape=(2, 4), max_shape=(4, 9))
    y = bridge.Input(shape=(1,))
    compiled = bridge.compile(Pool(), [x, y], backend="onnxruntime")
    report = compare(Pool(), compiled, spec=[x, y])
    assert report.passed and [row.inputs for row in report.outputs] == list(range(9))
    assert {row.shape for row in report.outputs} == {(1,), (2,), (4,)}
    with pytest.raises(bridge.SpecError, match="nothing to compare"):
        compare(Pool(), compiled)


def test_many_corners_are_not_all_combined() -> None:
    class Add(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    x = bridge.Input(min_shape=(1, 1, 1, 1), opt_shape=(2, 2, 2, 2), max_shape=(3, 3, 3, 3))
    shapes = [row.shape for row in compare(Add(), Add(), spec=[x]).outputs]
    assert shapes[:3] == [(2,) * 4, (1,) * 4, (3,) * 4] and len(shapes) == 3 + 2 * 4 and (2, 3, 2, 2) in shapes


def test_data_loaders_and_generators(model: Encoder) -> None:
    metadata = TensorMetadata().add("ids", np.int64, (2, 7))
    loader = DataLoader(iterations=3, input_metadata=metadata, val_range={"": (0, 29)})
    assert [row.inputs for row in compare(model, model, loader).outputs] == [0, 0, 1, 1, 2, 2]
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randint(0, 30, (10, 7))), batch_size=2)
    assert len(compare(model, model, data, limit=2).outputs) == 4
    assert len(compare(model, model, ({"ids": (IDS + i) % 30} for i in range(2))).outputs) == 4


def test_integers_and_bools_are_equal_or_not() -> None:
    class Ids(torch.nn.Module):
        def __init__(self, shift: int) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return x.argsort() + self.shift, x > 0, x.to(torch.uint8)

    x = torch.tensor([3.0, -1.0, 200.0])
    assert compare(Ids(0), bridge.compile(Ids(0), [x], backend="onnxruntime"), x, layers=True).passed
    wrong = compare(Ids(0), Ids(1), x)
    assert [row.passed for row in wrong.outputs] == [False, True, True]
    assert wrong.outputs[0].figures is not None and wrong.outputs[0].figures.max_absolute == 1
