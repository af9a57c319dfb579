"""Python values as arguments: part of the compiled module, which refuses any others."""

from typing import Any

import pytest
import torch

import bridge

pytestmark = pytest.mark.filterwarnings("ignore")

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
NO_AXES: list[int] = []


class Sum(torch.nn.Module):
    def forward(self, x, dims: list[int]):
        return x.sum(dims) * 2


class MaybeSum(torch.nn.Module):
    def forward(self, x, dims: list[int] | None = None):
        return x.sum(dims) * 2 if dims is not None else x * 3


class Add(torch.nn.Module):
    def forward(self, x, number: float):
        return (x + number) * 2


class MaybeTimes(torch.nn.Module):
    def forward(self, x, number: int | None = None):
        return x * number + 1 if number is not None else x * 3


class Line(torch.nn.Module):
    def forward(self, x, line: list[float]):
        return x * line[0] + line[1]


class Pair(torch.nn.Module):
    def forward(self, x, pair: tuple[int, float]):
        return x * pair[0] + pair[1]


class Named(torch.nn.Module):
    def forward(self, x, named: dict[str, int]):
        return x * named["a"] + len(named)


class Words(torch.nn.Module):
    def forward(self, x, words: list[str]):
        return x * len(words) + 1


class Dropped(torch.nn.Module):
    def forward(self, x, p: float):
        return torch.nn.functional.dropout(x, p) + 1


class Attended(torch.nn.Module):
    def forward(self, x, training: bool):
        p = 0.5
        if not training:
            p = 0.0
        return torch.nn.functional.dropout(x, p) * 2


CASES: list[tuple[type[torch.nn.Module], Any, Any]] = [
    (Sum, [0], [1]),
    (Sum, (0,), [1]),
    (Sum, torch.Size([1]), [0]),
    (Sum, NO_AXES, [0]),
    (MaybeSum, [1], None),
    (MaybeSum, (1,), [0]),
    (MaybeSum, NO_AXES, [1]),
    (MaybeSum, None, [0]),
    (Add, 1, 2),
    (Add, 1.5, 2.5),
    (MaybeTimes, 3, 4),
    (MaybeTimes, 3, None),
    (MaybeTimes, None, 3),
    (Line, [1, 2], [1.0, 3.0]),
    (Line, (1.0, 2.0), [1.0, 2.0, 0.0]),
    (Pair, (2, 1.0), (2, 1.5)),
    (Named, {"a": 2, "b": 1}, {"a": 2, "b": 2}),
    (Named, {"a": 2, "b": 1}, {"a": 2}),
    (Words, ["a"], ["b"]),
    (Dropped, 0.0, 0.5),
    (Attended, False, True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__} {case[1]} {case[2]}")
def test_a_value_is_taken_as_declared_and_no_other_at_calls(case) -> None:
    module, value, other = case
    scripted = torch.jit.script(module().eval())
    compiled = bridge.compile(scripted, [X, bridge.Constant(value)], backend="onnxruntime")
    torch.testing.assert_close(compiled(X, value), scripted(X, value))
    with pytest.raises(Exception, match="this module was compiled for .*; compile it again for another value"):
        compiled(X, other)


def test_a_value_that_is_left_out_is_its_default() -> None:
    compiled = bridge.compile(torch.jit.script(MaybeTimes().eval()), [X], backend="onnxruntime")
    torch.testing.assert_close(compiled(X), X * 3)
    with pytest.raises(Exception, match="number: this module was compiled for None"):
        compiled(X, 3)


class Masked(torch.nn.Module):
    def forward(self, x, mask: torch.Tensor = torch.ones(4)):  # noqa: B008 - what is tested
        return torch.relu(x * mask) + x.exp()


def test_a_tensor_that_is_left_out_may_be_another_at_calls() -> None:
    scripted = torch.jit.script(Masked().eval())
    compiled = bridge.compile(scripted, [X], backend="onnxruntime")
    for arguments in ((X,), (X, torch.zeros(4)), (X * 2, torch.arange(4.0))):
        torch.testing.assert_close(compiled(*arguments), scripted(*arguments))
    with pytest.raises(Exception, match="has shape 1"):
        compiled(X, torch.ones(1))
    assert [value.name for value in bridge.to_onnx(scripted, [X]).graph.input] == ["x"]
    assert bridge.compare(scripted, compiled, (X,), layers=True).passed
