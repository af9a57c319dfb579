"""min_block_size, torch_executed_ops, torch_executed_modules and require_full_compilation, on awkward modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bridge
from bridge.backends.failures import forget_failures
from bridge.backends.onnxruntime import OnnxRuntime
from bridge.errors import BuildError
from bridge.runtime.calls import engine_calls
from tests.modules.regions import ROWS, IfOfAnyRows, SidesOfOtherShapes

pytestmark = pytest.mark.filterwarnings("ignore")
SPEC = [bridge.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(9, 8), example=ROWS[0][0])]


def compiled(module: nn.Module, **settings: Any) -> torch.nn.Module:
    """The module compiled, after its results were held against eager's."""
    torch.manual_seed(0)
    scripted = torch.jit.script(module.eval())
    found = bridge.compile(scripted, SPEC, backend="onnxruntime", **settings)
    for call in ROWS:
        torch.testing.assert_close(found(*call), scripted(*call), rtol=1e-4, atol=1e-4)
    return found


def test_an_operator_left_out_inside_a_branch_leaves_the_branch_out() -> None:
    whole, split = compiled(IfOfAnyRows()), compiled(IfOfAnyRows(), torch_executed_ops=["aten::sigmoid"])
    assert len(engine_calls(whole)) == 1
    assert "prim::If" not in str(whole.inlined_graph)
    assert len(engine_calls(split)) > 1
    assert "aten::sigmoid" in str(split.inlined_graph)


def test_in_place_forms_and_constructs_are_named_too() -> None:
    split = compiled(IfOfAnyRows(), torch_executed_ops=["prim::If"])
    assert "prim::If" in str(split.inlined_graph)
    assert len(engine_calls(split)) == 4


def test_modules_left_out_by_path_and_by_type() -> None:
    by_path = compiled(IfOfAnyRows(), torch_executed_modules=["second"])
    assert str(by_path.inlined_graph).count("aten::linear") == 2
    by_type = compiled(IfOfAnyRows(), torch_executed_modules=["Linear"])
    assert str(by_type.inlined_graph).count("aten::linear") == 4
    by_class = compiled(IfOfAnyRows(), torch_executed_modules=[nn.Linear])
    assert str(by_class.inlined_graph).count("aten::linear") == 4


def test_a_name_that_only_begins_like_a_module_is_none() -> None:
    assert "aten::linear" not in str(compiled(IfOfAnyRows(), torch_executed_modules=["sec", "second.x"]).inlined_graph)


@pytest.mark.parametrize(("size", "engines"), [(1, 1), (10, 1), (100, 0)])
def test_the_smallest_block_counts_operators_in_bodies(size: int, engines: int) -> None:
    assert len(engine_calls(compiled(IfOfAnyRows(), min_block_size=size))) == engines


def test_a_branch_may_be_part_of_a_full_compilation() -> None:
    assert len(engine_calls(compiled(IfOfAnyRows(), require_full_compilation=True))) == 1


def test_a_branch_that_no_engine_takes_ends_a_full_compilation() -> None:
    module = torch.jit.script(SidesOfOtherShapes().eval())
    with pytest.raises(bridge.UnsupportedOperatorError) as caught:
        bridge.compile(module, SPEC, backend="onnxruntime", require_full_compilation=True)
    assert "depends on the data" in str(caught.value)
    assert "regions.py:" in str(caught.value)


def test_a_branch_that_is_not_built_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    build = OnnxRuntime.build
    tried: list[bool] = []

    def refusing(self: Any, graph: Any, *arguments: Any, **settings: Any) -> Any:
        tried.append(any(node.op == "If" for node in graph.nodes))
        if tried[-1]:
            raise BuildError("no branches today")
        return build(self, graph, *arguments, **settings)

    monkeypatch.setattr(OnnxRuntime, "build", refusing)
    found = compiled(IfOfAnyRows())
    assert tried.count(True) == 1
    assert len(engine_calls(found)) == 4
    assert "prim::If" in str(found.inlined_graph)


def failing(monkeypatch: pytest.MonkeyPatch, reason: Callable[[Any], str | None]) -> list[str | None]:
    """Lets builds fail for a reason found in the graph; what became of each is told."""
    build = OnnxRuntime.build
    tried: list[str | None] = []

    def refusing(self: Any, graph: Any, *arguments: Any, **settings: Any) -> Any:
        tried.append(reason(graph))
        if tried[-1] is not None:
            raise BuildError("not today", why=tried[-1])
        return build(self, graph, *arguments, **settings)

    monkeypatch.setattr(OnnxRuntime, "build", refusing)
    forget_failures()
    return tried


def of_operator(operator: str) -> Callable[[Any], str | None]:
    return lambda graph: next((f"no kernel for {node.name}" for node in graph.nodes if node.op == operator), None)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x)).sort(1)[0].softmax(1)
        return torch.erf(x @ x.t())


def test_the_node_that_a_failed_build_names_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, of_operator("Erf"))
    found = compiled(Layers())
    assert [reason is None for reason in tried] == [False, True]
    assert len(engine_calls(found)) == 1
    assert str(found.inlined_graph).count("aten::erf") == 1


def test_builds_that_fail_end_after_two_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, of_operator("Softmax"))  # four, of which a failed build names the first
    found = compiled(Layers())
    assert [reason is None for reason in tried] == [False, True, False]
    assert len(engine_calls(found)) == 1
    assert str(found.inlined_graph).count("aten::softmax") == 4


def test_segments_whose_failed_build_names_no_node_stay_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, lambda graph: "it is too much" if any(n.op == "Erf" for n in graph.nodes) else None)
    found = compiled(Layers(), torch_executed_ops=["aten::sort"])
    assert [reason is None for reason in tried] == [True, True, True, True, False]
    assert len(engine_calls(found)) == 4


def test_what_failed_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = failing(monkeypatch, of_operator("Erf"))
    cache = tmp_path / "timing.cache"
    compiled(Layers(), timing_cache=cache)
    tried.clear()
    again = compiled(Layers())
    assert tried == [None] and len(engine_calls(again)) == 1
    forget_failures()  # as a new process
    tried.clear()
    compiled(Layers(), timing_cache=cache)
    assert tried == [None]
    with pytest.raises(BuildError):  # who asks for one engine gets the error, not a memory of it
        compiled(Layers(), timing_cache=cache, require_full_compilation=True)
    assert len(tried) == 2
    Path(f"{cache}.failed.json").write_text("no JSON")
    forget_failures()
    compiled(Layers(), timing_cache=cache)
    assert len(tried) == 4


def test_memory_that_ran_out_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, lambda graph: "out of memory")
    compiled(Layers())
    compiled(Layers())
    assert len(tried) == 2


class Logged(nn.Module):
    """A module with effects: they keep their order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x))
        if bool(y.sum() > 0):
            self.calls += 1
            y = torch.relu(self.layer(y))
        return y * self.calls


def test_a_branch_that_writes_stays_in_pytorch() -> None:
    found = compiled(Logged())
    assert "prim::If" in str(found.inlined_graph)
