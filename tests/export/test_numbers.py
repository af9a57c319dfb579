"""Arithmetic on sizes: in engines as in Python, where quotients round down and int() drops the fraction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bridge
from bridge.runtime.calls import engine_calls

pytestmark = pytest.mark.filterwarnings("ignore")


def rounded_up(n: int) -> int:
    return -(n // -3)


def below_zero(n: int) -> int:
    return (n - 8) // 3 + (n - 8) % 3


def of_fractions(n: int) -> int:
    return int(n / 2) + int(-n / 2 - 0.25) * 10 + int(n * 1.5) * 100


def halved(n: int) -> int:
    return int(n / 2)


def of_roots(n: int) -> int:
    return int(math.sqrt(n)) + int((n * 1.0) // -2)


def apart(n: int) -> bool:
    return abs(6 - n) // 2 + float(n) > 7.4


class Times(nn.Module):
    def __init__(self, number) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.arange(3) * self.number(x.shape[0]) + x.sum(0).exp()


ROWS = bridge.Input(min_shape=(4, 3), opt_shape=(7, 3), max_shape=(12, 3))


SCRIPTED = [(number, False) for number in (rounded_up, below_zero, of_fractions, of_roots, apart)]


@pytest.mark.parametrize(("number", "exported"), [*SCRIPTED, (rounded_up, True), (below_zero, True)])
def test_numbers_made_of_sizes_are_what_python_has(number, exported: bool) -> None:
    module: object = torch.jit.script(Times(torch.jit.script(number)))
    if exported:
        rows = torch.export.Dim("rows", min=4, max=12)
        module = torch.export.export(Times(number), (torch.zeros(7, 3),), dynamic_shapes=({0: rows},))
    compiled = bridge.compile(module, [ROWS], backend="onnxruntime")
    assert len(engine_calls(compiled)) == 1
    for count in range(4, 13):
        x = torch.randn(count, 3)
        torch.testing.assert_close(compiled(x), Times(number)(x))


class Ceiled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = math.ceil(x.shape[1] / 2) - x.shape[1] // 2
        after = -(-(x.shape[1] + before) // 4) * 4 - x.shape[1] - before
        return nn.functional.pad(x, [before, after]).reshape(x.shape[0], -1, 4).exp()


def test_shapes_made_of_them_are_built() -> None:
    module = torch.jit.script(Ceiled())
    ranges = [bridge.Input(min_shape=(1, 3), opt_shape=(2, 6), max_shape=(4, 9))]
    bridge.compile(module, ranges, backend="tensorrt_rtx", require_full_compilation=True)
    compiled = bridge.compile(module, ranges, backend="onnxruntime")
    for size in (3, 4, 9):
        x = torch.randn(2, size)
        torch.testing.assert_close(compiled(x), Ceiled()(x))


def test_what_an_exported_program_kept_of_its_example_is_refused_elsewhere() -> None:
    rows = torch.export.Dim.DYNAMIC(min=4, max=12)
    program = torch.export.export(Times(halved), (torch.zeros(7, 3),), dynamic_shapes=({0: rows},))
    with pytest.raises(bridge.SpecError, match=r"does not hold for x \(4, 3\)"):
        bridge.compile(program, [ROWS], backend="onnxruntime")
    compiled = bridge.compile(program, [(7, 3)], backend="onnxruntime")
    x = torch.randn(7, 3)
    torch.testing.assert_close(compiled(x), Times(halved)(x))
