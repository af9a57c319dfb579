"""Dataclasses that PyTorch knows nothing of, as arguments and as results."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bridge
from bridge.compare.inputs import tensors_in


@dataclasses.dataclass
class Batch:
    image: torch.Tensor
    mask: torch.Tensor
    times: int = 3


@dataclasses.dataclass(frozen=True)
class Doubled:
    value: torch.Tensor
    double: torch.Tensor = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "double", self.value * 2)


@dataclasses.dataclass(slots=True)
class Outer:
    batch: Batch
    several: list[Any]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, batch: Any) -> Any:
        scores = self.head(batch.image) * batch.times
        return {"all": (Outer(batch, [scores, Doubled(scores)]), batch.mask)}


class Traced(Encoder):
    def forward(self, batch: Any, scale: Any) -> Any:
        exec("pass")  # neither scripting nor exporting gets past this
        return Batch(self.head(batch["image"]), scale, 7)


def compiled_of(module: nn.Module, inputs: list[Any], **settings: Any) -> nn.Module:
    return bridge.compile(module.eval(), inputs, backend="onnxruntime", **settings)


@pytest.mark.parametrize("dynamic", [False, True])
def test_arguments_and_results(dynamic: bool) -> None:
    x = torch.rand(2, 4)
    ranged = bridge.Input(("n", 4), min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    module = Encoder()
    compiled = compiled_of(module, [Batch(ranged, ranged) if dynamic else Batch(x, x)])
    batch = Batch(torch.rand(5 if dynamic else 2, 4), torch.rand(5 if dynamic else 2, 4))
    with torch.no_grad():
        outer, mask = module(batch)["all"]
    found, found_mask = compiled(batch)["all"]
    assert type(found) is Outer and type(found.batch) is Batch and type(found.several[1]) is Doubled
    torch.testing.assert_close(found.several[0], outer.several[0])
    torch.testing.assert_close(found.several[1].double, outer.several[1].double)
    torch.testing.assert_close((found.batch.image, found_mask), (batch.image, mask))


def test_a_python_value_in_a_dataclass_may_not_change() -> None:
    x = torch.rand(2, 4)
    compiled = compiled_of(Encoder(), [Batch(x, x)])
    with pytest.raises(bridge.EngineError, match=r"(?s)compiled for 3 where it is given 4.*inputs\[0\]\['times'\]"):
        compiled(Batch(x, x, 4))


def test_results_of_a_trace_and_names_of_submodules() -> None:
    x, module = torch.rand(2, 4), Traced()
    compiled = compiled_of(module, [{"image": x}, x], torch_executed_modules=["head"])
    with torch.no_grad():
        expected = module({"image": 2 * x}, 3 * x)
    found = compiled({"image": 2 * x}, 3 * x)
    torch.testing.assert_close(found.image, expected.image)
    assert torch.equal(found.mask, 3 * x) and found.times == 7


class AddsDouble(nn.Module):
    def forward(self, first: Any, *, second: Any) -> torch.Tensor:
        return first.value + first.double - second.image


def test_fields_that_a_constructor_fills_are_inputs() -> None:
    x = torch.rand(2, 4)
    compiled = compiled_of(AddsDouble(), [Doubled(x)], kwarg_inputs={"second": Batch(x, x)})
    torch.testing.assert_close(compiled(Doubled(2 * x), second=Batch(x, x)), 5 * x)


def test_other_ways_to_look_at_such_modules() -> None:
    x = torch.rand(2, 4)
    module = AddsDouble()
    described = {"inputs": [Doubled(x)], "kwarg_inputs": {"second": Batch(x, x)}}
    assert bridge.check_method_op_support(module, spec=described).supported
    inputs = [value.name for value in bridge.to_onnx(module, described).graph.input]
    assert inputs == ["first_value", "first_double", "second_image"]
    encoder = Encoder().eval()
    report = bridge.compare(encoder, compiled_of(encoder, [Batch(x, x)]), (Batch(x, x),))
    assert report.passed


class Unlike(nn.Module):
    """A dict of unlike values: no dataclass, and nothing that TorchScript has a word for."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.twice = nn.Linear(4, 3), lambda one: one * 2

    def forward(self, batch: Any) -> Any:
        return {"scores": self.twice(self.head(batch["image"])), "number": 3}


@pytest.mark.parametrize(("module", "batch"), [(Encoder(), Batch), (Unlike(), dict), (Traced(), None)], ids=str)
def test_such_modules_are_saved_whole(module: nn.Module, batch: Any, tmp_path: Path) -> None:
    x = torch.rand(2, 4)
    arguments = ({"image": x}, x) if batch is None else (batch(image=x, mask=x),)
    compiled = compiled_of(module, list(arguments))
    torch.save(compiled, tmp_path / "whole.pt")
    loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
    for again in (loaded, copy.deepcopy(compiled)):
        found, expected = (tensors_in(one(*arguments)) for one in (again, compiled))
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(bridge.BridgeError, match="(?s)TorchScript cannot hold this module.*torch.save"):
        torch.jit.save(compiled, tmp_path / "whole.ts")
    inside = compiled.compiled
    torch.jit.save(getattr(inside, "compiled", inside), tmp_path / "inside.ts")
    assert bridge.inspect(tmp_path / "inside.ts").engines


@pytest.mark.parametrize(("module", "batch"), [(Encoder(), Batch), (Unlike(), dict)], ids=str)
def test_such_modules_are_debugged_and_compared_layer_by_layer(module: nn.Module, batch: Any) -> None:
    x = torch.rand(2, 4)
    arguments = (batch(image=x, mask=x),)
    compiled = compiled_of(module, list(arguments))
    debugger = bridge.debug(module, arguments)
    assert debugger.run() is None and debugger.first_difference is None and debugger.history
    report = bridge.compare(module, compiled, arguments, layers=True)
    assert report.passed and report.layers
    again = bridge.compile(compiled, list(arguments), backend="onnxruntime")
    torch.testing.assert_close(tensors_in(again(*arguments)), tensors_in(compiled(*arguments)))


def test_a_dataclass_that_its_fields_do_not_make_is_refused() -> None:
    @dataclasses.dataclass
    class Made:
        value: torch.Tensor
        of: dataclasses.InitVar[int]

    class Makes(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return Made(x * 2, 3)

    with pytest.raises(bridge.ExportError, match="(?s)Made, a dataclass, cannot be made of its fields.*InitVar 'of'"):
        compiled_of(Makes(), [(2, 4)])


class WithWords(nn.Module):
    """Numbers, words, dtypes and None among the tensors, in what can only be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Any, dtype: Any, *, more: Any, way: str = "up") -> Any:
        exec("pass")
        return {"scores": self.head(x).to(dtype) * more["times"] + more["bias"], "way": way}


@pytest.mark.parametrize("dynamic", [False, True])
def test_values_that_are_no_tensors_are_part_of_a_trace(dynamic: bool, caplog: pytest.LogCaptureFixture) -> None:
    ranged = bridge.Input(("n", 4), min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    described = ranged if dynamic else torch.rand(2, 4)
    module, x = WithWords(), torch.rand(5 if dynamic else 2, 4)
    named = {"more": {"times": 3, "bias": described}, "way": "down"}
    compiled = compiled_of(module, [described, torch.float64], kwarg_inputs=named, torch_executed_modules=["head"])
    assert "no module of this module" not in caplog.text
    named["more"]["bias"] = 2 * x
    found, expected = compiled(x, torch.float64, **named), module(x, torch.float64, **named)
    torch.testing.assert_close(found["scores"], expected["scores"].detach())
    assert found["way"] == "down"
    for arguments, changed in (((x, torch.float32), {}), ((x, torch.float64), {"way": "up"})):
        with pytest.raises(bridge.EngineError, match="this module was compiled for .* where it is given"):
            compiled(*arguments, **{**named, **changed})
    with pytest.raises(bridge.EngineError, match=r"(?s)compiled for 3 where it is given 4.*\['more'\]\['times'\]"):
        compiled(x, torch.float64, more={**named["more"], "times": 4}, way="down")
