"""What is found out without building: support of one method, and a dry run of the whole."""

import json
import pathlib
import re
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

import bridge
from bridge.report.support import to_html

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.nextafter(x + 2, x + 1)
        return self.last(x)

    @torch.jit.export
    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(x))


@pytest.fixture(scope="module")
def mixed() -> torch.jit.ScriptModule:
    return torch.jit.script(Mixed().eval())


ROWS = bridge.Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(8, 64))


def test_support_of_a_method(mixed: torch.jit.ScriptModule) -> None:
    found = bridge.check_method_op_support(mixed, spec=[(4, 64)])
    assert not found.supported
    (operator,) = found.unsupported
    assert operator.operator == "aten::nextafter" and operator.schema.startswith("aten::nextafter(Tensor self")
    assert re.match(r"test_support.py:\d+ in forward", operator.source_line) and operator.reason
    assert "1 of" in str(found) and "nextafter" in str(found)
    other = bridge.check_method_op_support(mixed, "plain", [(4, 64)])
    assert other.supported and other.operators == 2 and "all 2 operators" in str(other)


def test_a_dry_run_decides_as_compile_does(mixed: torch.jit.ScriptModule) -> None:
    found = bridge.dryrun(mixed, [ROWS], backend="onnxruntime")
    compiled = bridge.compile(mixed, [ROWS], backend="onnxruntime")
    assert len(found.segments) == len(bridge.inspect(compiled, layers=False).engines) == 2
    first, last = found.segments
    assert first.operators["aten::linear"] == 1 and first.weights == 4 * (64 * 64 + 64)
    assert [(t.name, t.dtype, t.shape[1:]) for t in first.inputs] == [("x", "float32", (64,))]
    assert first.ranges["x"] == ((1, 64), (4, 64), (8, 64))
    assert [t.name for t in last.outputs] == ["output"] and "last" in last.nodes[0]
    assert [step for step, _ in found.steps] == ["engine", "PyTorch", "engine"]


def test_settings_are_reasons_with_their_remedy(mixed: torch.jit.ScriptModule) -> None:
    found = bridge.dryrun(mixed, [(4, 64)], method_name="plain", torch_executed_ops=["aten::tanh"])
    (operator,) = found.unsupported
    assert operator.operator == "aten::tanh" and operator.remedy == "take it out of torch_executed_ops"
    assert not operator.starter


def test_a_dry_run_as_text_data_and_page(mixed: torch.jit.ScriptModule, tmp_path) -> None:
    found = bridge.dryrun(mixed, [ROWS], backend="onnxruntime")
    text = str(found)
    assert all(
        word in text for word in ("2 engines", "1 in PyTorch", "aten::nextafter", "test_support.py", "x: float32")
    )
    data = json.loads(json.dumps(found.to_dict()))
    assert data["unsupported"][0]["operator"] == "aten::nextafter" and len(data["segments"]) == 2
    found.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count('id="engine-') == 2 and "<svg" in page and "aten::nextafter" in page
    assert not re.search(r'(src|href)="(?!#)', page), "the page loads nothing"


class Branch(nn.Module):
    """The example takes neither branch: one can be derived from what came before, one needs numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x[0, 0] > 10):
            x = torch.sin(self.layer(x))
        if bool(x[0, 0] < -10):
            x = torch.sin(self.layer(x[x < 0].view(-1, 3)))
        return x


def test_branches_that_the_example_did_not_run_are_told() -> None:
    found = bridge.dryrun(torch.jit.script(Branch()), [torch.ones(2, 3)], backend="onnxruntime")
    (engine,) = found.segments
    assert engine.operators["prim::If"] == engine.operators["aten::linear"] == engine.operators["aten::sin"] == 1
    assert engine.block.startswith("graph, with a body of prim::If") and "the example did not run" in engine.block
    assert "which the example did not run" in " ".join(str(found).split())
    reasons = {(item.operator, item.reason) for item in found.unsupported}
    assert ("aten::linear", "it is in a branch that the example did not run") in reasons


def test_branches_that_the_example_did_not_run_give_the_same_results() -> None:
    torch.manual_seed(0)
    module = torch.jit.script(Branch())
    compiled = bridge.compile(module, [torch.ones(2, 3)], backend="onnxruntime")
    for value in (1.0, 20.0, -20.0):
        x = torch.full((2, 3), value)
        torch.testing.assert_close(compiled(x), module(x))


def test_a_report_of_thousands_of_nodes_is_a_page_within_a_second() -> None:
    node = bridge.dryrun(torch.jit.script(Branch().eval()), [torch.ones(2, 3)], backend="onnxruntime")
    many = replace(
        node,
        segments=node.segments * 500,
        unsupported=node.unsupported * 200,
        steps=tuple(step for i in range(500) for step in (("engine", i), ("PyTorch", "aten::nonzero"))),
    )
    assert many.operators > 2000
    start = time.process_time()
    page = to_html(many)
    assert time.process_time() - start < 1
    assert "and 600 more steps" in page
    assert page.count('id="engine-') == 500
    assert len(page) < 4e6


def test_a_traced_module_needs_no_inputs(tmp_path: pathlib.Path) -> None:
    """TRTorch's call takes none: a trace knows the shapes and types that it was made with."""
    embedding, ids = torch.nn.Embedding(8, 3).eval(), torch.tensor([[3, 4, 7]])
    traced = torch.jit.trace(embedding, ids, check_trace=False)
    assert bridge.check_method_op_support(traced, "forward").supported
    compiled = bridge.compile(traced, backend="onnxruntime")
    assert torch.equal(compiled(ids), embedding(ids))
    traced.save(str(tmp_path / "traced.ts"))
    with pytest.raises(bridge.SpecError, match="inputs: not given"):  # a file does not keep them
        bridge.compile(torch.jit.load(tmp_path / "traced.ts"), backend="onnxruntime")
