"""Who runs what, and why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bridge
from bridge import torch_private as tp
from bridge.frontend.alias import Memory
from bridge.frontend.facts import Argument, Fact, Varies
from bridge.frontend.program import prepare
from bridge.frontend.provenance import TAG
from bridge.partition.roles import Policy, Role, Roles


def roles_of(
    body: str, policy: Policy | None = None, example: torch.Tensor | None = None
) -> dict[str, tuple[Role, str]]:
    """Role and reason of each operator of ``forward(self, x)``."""
    example = torch.rand(3, 4) if example is None else example
    module = tp.shell(nn.Module(), f"def forward(self, x: Tensor):\n    {body}\n")
    program = prepare(
        module,
        "forward",
        (example,),
        [Argument(Fact(content=Varies.WITH_DATA), tuple(example.shape))],
        torch.device("cpu"),
    )
    roles = Roles(program, Memory(program.graph), policy or Policy())
    return {node.kind(): (roles.of(node), roles.reasons.get(node.i(TAG), "")) for node in tp.walk(program.graph)}


def test_arithmetic_goes_into_engines() -> None:
    found = roles_of("return torch.tanh(x) + 1")
    assert found["aten::tanh"][0] is Role.ENGINE
    assert found["aten::add"][0] is Role.ENGINE


@pytest.mark.parametrize(
    ("body", "operator", "reason"),
    [
        ("return x + torch.rand_like(x)", "aten::rand_like", "random"),
        ("return torch.nonzero(x)", "aten::nonzero", "shape of a tensor depends on the data"),
        ("return x.double().tanh()", "aten::tanh", "float64"),
        ("return int(x.sum()) + 1", "aten::Int", "Python value"),
        ("x.add_(1)\n    return x.tanh()", "aten::tanh", "updated in place"),
        ("return torch.complex(x, x).real.tanh()", "aten::complex", "complex64"),
    ],
)
def test_what_stays_says_why(body: str, operator: str, reason: str) -> None:
    role, why = roles_of(body)[operator]
    assert role is Role.TORCH
    assert reason in why


def test_users_leave_operators_to_pytorch() -> None:
    found = roles_of("return torch.tanh(x).relu()", Policy(executed_ops={"aten::tanh"}))
    assert found["aten::tanh"] == (Role.TORCH, "torch_executed_ops names it")
    assert found["aten::relu"][0] is Role.ENGINE


def test_what_is_empty_in_every_call_is_a_constant() -> None:
    assert "aten::tanh" not in roles_of("return torch.tanh(x)", example=torch.rand(0, 4))


def test_parts_of_a_list_whose_shapes_depend_on_the_data_stay_in_pytorch() -> None:
    class Where(torch.nn.Module):
        def forward(self, x):
            rows, columns = torch.nonzero(x, as_tuple=True)
            return rows, columns, torch.softmax(x @ x.t(), -1)

    x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    report = bridge.check_method_op_support(torch.jit.trace(Where(), x, check_trace=False), spec=[x])
    assert [(o.operator, "depends on the data" in o.reason) for o in report.unsupported] == [
        ("aten::nonzero_numpy", True)
    ]
    compiled = bridge.compile(torch.jit.trace(Where(), x, check_trace=False), [x], backend="onnxruntime")
    for given in (x, x.flip(1), torch.ones(2, 3)):
        torch.testing.assert_close(compiled(given), Where()(given))
