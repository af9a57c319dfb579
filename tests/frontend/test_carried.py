"""Loops and branches that carry tuples, lists and dictionaries, and loops over dimensions that never vary: engines."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import bridge
from bridge.runtime.calls import engine_calls

pytestmark = pytest.mark.filterwarnings("ignore")


class State(NamedTuple):
    h: Tensor
    c: Tensor


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = (torch.zeros(x.shape[1], 4), torch.zeros(x.shape[1], 4))
        for i in range(x.shape[0]):
            state = self.cell(x[i], state)
        return state[0]


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> State:
        state = State(torch.zeros(x.shape[1], 4), torch.zeros(x.shape[1], 4))
        for i in range(x.shape[0]):
            a, b = self.layer(torch.cat([x[i], state.h], 1)).chunk(2, 1)
            c = state.c * a.sigmoid() + b.tanh()
            state = State(c.tanh(), c)
        return state


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x)
        found = ((y.relu(), x), self.layer(y)) if bool(y.sum() > 0) else ((y.sigmoid(), y), self.layer(x).tanh())
        return found[0][0] + found[1], found[0][1] * 2


class Early(nn.Module):
    """A tuple that one way through the code never makes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x)
        if bool(y.sum() > 0):
            return y.relu(), y
        z = self.layer(y).tanh()
        return z, z + 1


class Until(nn.Module):
    """As many turns as the data want, and what two results share stays shared."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = (x * 1, torch.zeros(()))
        while bool(state[1] < 3.0):
            state = (self.layer(state[0]).tanh(), state[1] + state[0].abs().mean() + 0.5)
        return state


class Swapped(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pair = (x.softmax(-1), x.sin())
        for i in range(x.shape[0]):
            pair = (pair[1] @ pair[1].mT, pair[0] @ pair[0].mT) if i == 0 else (pair[1] * 0.5, pair[0].softmax(-1))
        return pair


class Filled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows: list[Tensor] = []
        sums = {"h": torch.zeros(x.shape[1], 4), "n": torch.zeros(1)}
        for i in range(x.shape[0]):
            sums["h"] = (self.layer(x[i]) + sums["h"]).tanh()
            sums["n"] = sums["n"] + 1
            rows.append(sums["h"] * float(i))
        return torch.stack(rows) * sums["n"]


def compiled(module: nn.Module, shape: bridge.Input, sizes: list[tuple[int, ...]]) -> torch.nn.Module:
    torch.manual_seed(0)
    scripted = torch.jit.script(module.eval())
    found = bridge.compile(scripted, [shape], backend="onnxruntime")
    for scale in (1.0, -3.0):
        for size in sizes:
            x = torch.randn(size) * scale
            torch.testing.assert_close(found(x), scripted(x), rtol=1e-4, atol=1e-5)
    return found


@pytest.mark.parametrize("module", [Cell, Named, Nested, Early, Until, Swapped, Filled])
def test_loops_over_what_never_varies_are_one_engine(module: type[nn.Module]) -> None:
    found = compiled(module(), bridge.Input((5, 3, 4)), [(5, 3, 4)])
    assert len(engine_calls(found)) == 1
    assert "prim::Loop" not in str(found.inlined_graph)


@pytest.mark.parametrize("module", [Cell, Named, Nested, Early, Until])
def test_loops_and_branches_that_carry_tuples_are_one_engine(module: type[nn.Module]) -> None:
    rows = bridge.Input(("t", "b", 4), min_shape=(1, 1, 4), opt_shape=(5, 3, 4), max_shape=(9, 6, 4))
    found = compiled(module(), rows, [(5, 3, 4), (1, 1, 4), (9, 2, 4)])
    assert len(engine_calls(found)) == 1
    assert not {"prim::Loop", "prim::If"} & {node.kind() for node in found.inlined_graph.nodes()}


@pytest.mark.parametrize("module", [Swapped, Filled])
def test_what_no_loop_of_an_engine_carries_stays_right(module: type[nn.Module]) -> None:
    rows = bridge.Input(("t", "b", 4), min_shape=(1, 1, 4), opt_shape=(5, 4, 4), max_shape=(9, 6, 4))
    compiled(module(), rows, [(5, 4, 4), (1, 4, 4), (9, 4, 4)])


class Alike(nn.Module):
    """Two results of a loop that are one tensor when it does not turn."""

    def forward(self, x: Tensor, turns: int) -> tuple[Tensor, Tensor]:
        start = x.softmax(-1)
        a, b = start, start
        for _ in range(turns):
            a, b = a @ a.mT, b.cos() @ b.mT
        return a, b


@pytest.mark.parametrize("turns", [0, 2])
def test_results_share_memory_where_eagers_do(turns: int) -> None:
    scripted = torch.jit.script(Alike().eval())
    found = bridge.compile(scripted, [bridge.Input((3, 3)), turns], backend="onnxruntime")
    x = torch.randn(3, 3)
    (a, b), (c, d) = found(x, turns), scripted(x, turns)
    torch.testing.assert_close((a, b), (c, d), rtol=1e-4, atol=1e-5)
    assert (a.data_ptr() == b.data_ptr()) == (c.data_ptr() == d.data_ptr())
