"""A target's parser that says what it refuses piece by piece, or of nothing that is there, or not at all."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import onnx_graphsurgeon as gs
import pytest
import torch

import bridge
from bridge.backends.base import BuildSettings, Refusal

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")
DEPTH = 20


class Chain(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(DEPTH):
            x = torch.erf(x @ x.t()) @ x
        return x


class Target:
    name = "a target"

    def __init__(self, refuses: Callable[[gs.Graph], list[Refusal]]) -> None:
        self.refuses = refuses

    def refusals(self, graph: gs.Graph, then: BuildSettings | None) -> list[Refusal]:
        return self.refuses(graph)

    def version(self) -> str:
        return "1"


def first_erf(graph: gs.Graph) -> list[Refusal]:
    return [Refusal(node.name, node.op, "no") for node in graph.nodes if node.op == "Erf"][:1]


def cannot_read(graph: gs.Graph) -> list[Refusal]:
    if sum(node.op == "Erf" for node in graph.nodes) > DEPTH - 2:
        raise bridge.BuildError("the parser could not read this graph")
    return []


def nothing_there(graph: gs.Graph) -> list[Refusal]:
    return [Refusal("of another graph#999999", "Erf", "no")]


@pytest.mark.parametrize(("refuses", "engines"), [(first_erf, True), (cannot_read, True), (nothing_there, False)])
def test_the_rest_runs_and_nothing_is_wrong(
    monkeypatch: pytest.MonkeyPatch, refuses: Callable[[gs.Graph], list[Refusal]], engines: bool
) -> None:
    asked = []

    def counted(graph: gs.Graph) -> list[Refusal]:
        asked.append(graph)
        return refuses(graph)

    monkeypatch.setattr(importlib.import_module("bridge.compile"), "_parser", lambda spec: Target(counted))
    x = torch.eye(3) / 2
    traced = torch.jit.trace(Chain(), x, check_trace=False)
    compiled = bridge.compile(traced, [x], backend="onnxruntime", min_block_size=1)
    torch.testing.assert_close(compiled(x), traced(x))
    assert bool(bridge.inspect(compiled, layers=False).engines) == engines
    assert len(asked) < 5 * DEPTH
