"""What shares memory with what, and what is written to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bridge
from bridge import torch_private as tp
from bridge.frontend.alias import Memory


def memory_of(body: str) -> tuple[Memory, dict[str, tp.Value]]:
    """The memory of ``forward(self, x, y)`` and its values by name without the compiler's suffix."""
    module = tp.shell(nn.Module(), f"def forward(self, x: Tensor, y: Tensor):\n{body}\n")
    graph = tp.graph_of(module)
    memory = Memory(graph)
    _KEPT.append((module, graph))
    return memory, {value.debugName().split(".")[0]: value for value in tp.values(graph)}


_KEPT: list[object] = []


def test_views_share() -> None:
    memory, values = memory_of("    a = x.t()\n    b = x + 1\n    print(b)\n    return a")
    assert memory.shared(values["x"], values["a"])
    assert not memory.shared(values["x"], values["b"])


def test_writing_through_a_view_writes_the_base() -> None:
    memory, values = memory_of("    a = x[0]\n    a.add_(1)\n    return y + 1")
    assert memory.written(values["x"])
    assert not memory.written(values["y"])


def test_branches_and_loops_join() -> None:
    memory, values = memory_of(
        "    a = x\n    for i in range(3):\n        if i > 1:\n            a = y\n    a.mul_(2)\n    return a"
    )
    assert memory.written(values["x"])
    assert memory.written(values["y"])


def test_appending_writes_the_list_and_not_the_tensors() -> None:
    memory, values = memory_of("    l = [x]\n    l.append(y)\n    return l")
    assert memory.written(values["l"])
    assert not memory.written(values["x"])
    assert not memory.written(values["y"])


def test_writing_a_tensor_out_of_a_list_writes_what_was_put_in() -> None:
    memory, values = memory_of("    l = [x]\n    l[0].zero_()\n    return y")
    assert memory.written(values["x"])
    assert not memory.written(values["y"])


def test_attributes_are_one_memory_however_often_read() -> None:
    root = nn.Module()
    root.register_buffer("state", torch.zeros(2))
    module = tp.shell(root, "def forward(self, x: Tensor):\n    self.state.add_(1)\n    return self.state + x\n")
    graph = tp.graph_of(module)
    reads = [node.output() for node in graph.nodes() if node.kind() == "prim::GetAttr"]
    memory = Memory(graph)
    assert len(reads) == 2
    assert all(memory.written(value) for value in reads)


@pytest.mark.parametrize("norm", [torch.nn.functional.batch_norm, torch.nn.functional.instance_norm])
def test_running_statistics_of_the_caller_are_updated(norm):
    class Norm(torch.nn.Module):
        def forward(self, x, mean, variance):
            return norm(x, mean, variance, None, None, True, 0.5), mean + variance

    def given():
        return torch.arange(24.0).view(2, 3, 4), torch.ones(3), torch.full((3,), 2.0)

    module, ours, theirs = Norm().eval(), given(), given()
    compiled = bridge.compile(torch.jit.trace(module, given(), check_trace=False), list(given()), backend="onnxruntime")
    for _ in range(2):
        torch.testing.assert_close(compiled(*ours), module(*theirs))
        torch.testing.assert_close(ours, theirs)
