"""Any module that PyTorch runs, runs compiled with the same results: one call after another, saved and loaded."""

from __future__ import annotations

import copy
import importlib
import io
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import bridge
from bridge import torch_private as tp
from bridge.runtime.calls import engine_calls
from tests.modules import CASES, Case
from tests.modules.control import UP
from tests.modules.fewest import fewest
from tests.modules.fresh import outcomes

warnings.filterwarnings("ignore", message=".*deprecated.*")


def original(case: Case) -> torch.jit.ScriptModule:
    torch.manual_seed(3)
    module = case.make()
    if case.name != "InTraining":
        module.eval()
    if case.trace:
        return torch.jit.trace(module, copy.deepcopy(case.calls[0]), strict=False, check_trace=False)
    return torch.jit.script(module)


def spec_of(case: Case) -> list[Any]:
    if case.spec is not None:
        return list(case.spec)
    return [_merged([call[i] for call in case.calls]) for i in range(len(case.calls[0]))]


def _merged(values: list[Any]) -> Any:
    """One argument: tensors whose sizes differ between calls become dynamic inputs."""
    first = values[0]
    if isinstance(first, torch.Tensor):
        shapes = [tuple(v.shape) for v in values]
        if len(set(shapes)) == 1:
            return first
        low, high = (tuple(map(pick, *shapes)) for pick in (min, max))
        return bridge.Input(min_shape=low, opt_shape=shapes[0], max_shape=high, example=first)
    if isinstance(first, dict):
        return {key: _merged([v[key] for v in values]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_merged([v[i] for v in values]) for i in range(len(first)))
    return first


def results(module: torch.nn.Module, case: Case) -> list[Any]:
    """What each call gives and leaves in its arguments, twice over: state goes on from call to call."""
    return outcomes(module, case.calls)


def assert_same(found: Any, expected: Any, tolerance: float) -> None:
    left, right = pytree.tree_flatten(found), pytree.tree_flatten(expected)
    assert len(left[0]) == len(right[0])
    for a, b in zip(left[0], right[0], strict=True):
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            assert type(a) is type(b)
            assert a == b


def in_float(case: Case) -> Case:
    """The case as eager runs it: half inputs stand for the module's own dtype."""
    if "precision" not in case.settings:
        return case
    calls = pytree.tree_map(
        lambda v: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v, list(case.calls)
    )
    return Case(case.name, case.make, calls, case.engines, case.trace, case.settings, case.spec, case.tolerance)


def outputs_of(outcomes: list[Any], case: Case) -> list[Any]:
    return [result for result, _ in outcomes] if "precision" in case.settings else outcomes


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for compiled modules and their results; in the end a fresh process loads and runs them all."""
    folder = tmp_path_factory.mktemp("saved")
    yield folder
    here = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "tests.modules.fresh", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        cwd=here,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For each compilation, the segments that it came to and the fewest that its graph allows."""
    found: list[tuple[int, int]] = []
    street = importlib.import_module("bridge.compile")
    divide_and_build = street.divide_and_build

    def counting(loaded: Any, backend: Any) -> Any:
        partition, calls = divide_and_build(loaded, backend)
        found.append((len(partition.segments), fewest(loaded.program.graph, partition.roles)))
        return partition, calls

    monkeypatch.setattr(street, "divide_and_build", counting)
    return found


def scripted_around(inner: torch.nn.Module) -> torch.nn.Module:
    """A scripted module whose one statement calls ``inner``."""
    holder = torch.nn.Module().eval()
    holder.inner = inner
    arguments = tp.schema_of(inner).arguments[1:]
    declared = "".join(f", {a.name}: {a.type.annotation_str}" for a in arguments)
    called = ", ".join(a.name for a in arguments)
    return tp.shell(holder, f"def forward(self{declared}):\n    return self.inner({called})\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_results(case: Case, shelf: Path, counted: list[tuple[int, int]]) -> None:
    module = original(case)
    before = copy.deepcopy(module.state_dict())
    compiled = bridge.compile(module, spec_of(case), backend="onnxruntime", **case.settings)
    assert_same(module.state_dict(), before, 0)
    file = io.BytesIO()
    torch.jit.save(compiled, file)
    torch.jit.save(compiled, shelf / f"{case.name}.ts")
    copied, composed = copy.deepcopy(compiled), scripted_around(copy.deepcopy(compiled))
    expected = outputs_of(results(original(case).eval(), in_float(case)), case)
    assert_same(outputs_of(results(compiled, case), case), expected, case.tolerance)
    assert_same(module.state_dict(), before, 0)
    assert_same(outputs_of(results(copied, case), case), expected, case.tolerance)
    assert_same(outputs_of(results(composed, case), case), expected, case.tolerance)
    file.seek(0)
    assert_same(outputs_of(results(torch.jit.load(file), case), case), expected, case.tolerance)
    kept = (list(case.calls), pytree.tree_leaves(expected), case.tolerance, "precision" in case.settings)
    torch.save(kept, shelf / f"{case.name}.pt")
    least, most = case.engines
    assert least <= len(engine_calls(compiled)) <= most
    ((segments, possible),) = counted
    assert segments <= possible + 1


class _Around(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * 2


@pytest.mark.parametrize(
    "compose", [torch.jit.script, lambda m: torch.jit.trace(m, UP, check_trace=False)], ids=["script", "trace"]
)
def test_inside_another_module(compose: Any) -> None:
    case = next(case for case in CASES if case.name == "IfOnData")
    module = original(case)
    compiled = bridge.compile(module, spec_of(case), backend="onnxruntime")
    expected = module(UP) * 2
    assert_same(compose(_Around(compiled))(UP), expected, 1e-4)
