"""Lowerings: what fails is a refusal with its reason, exports are checked before use, and made once."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch

import rewrites
from rewrites import torch_domain
from rewrites.exporting import WAYS, Exporter, Way, by_torchscript
from rewrites.library.any_operator import AnyOperator, any_operator
from rewrites.testing import run
from rewrites.trials import Operand, run_trials

CUMSUM = "aten::cumsum(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor"


def cumsum_graph(*shape: int | str, dim: int = 1, count: int = 1) -> gs.Graph:
    x = gs.Variable("x", np.float32, list(shape))
    outputs = [gs.Variable(f"y{i}", np.float32, list(shape)) for i in range(count)]
    nodes = [
        torch_domain.encode(CUMSUM, {"self": x, "dim": dim}, [y], name=f"aten::cumsum#{i}")
        for i, y in enumerate(outputs)
    ]
    return gs.Graph(nodes, [x], outputs, opset=20, ir_version=10)


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError, ValueError])
def test_a_function_that_raises_refuses_and_the_node_stays(error: type[Exception]) -> None:
    @rewrites.lowering("aten::cumsum", examples=[])
    def cumsum(x, dim, *, dtype=None):
        raise error("not for these")

    result = rewrites.rewrite(cumsum_graph(2, 3), rules=[cumsum])
    assert "not for these" in result.report.refused[0].reason
    assert [n.domain for n in result.model.nodes] == ["torch.aten"]


def test_a_function_that_no_exporter_takes_refuses() -> None:
    @rewrites.lowering("aten::cumsum", examples=[])
    def cumsum(x, dim, *, dtype=None):
        return x.cumsum(dim) + torch.digamma(x)

    report = rewrites.rewrite(cumsum_graph(2, 3), rules=[cumsum]).report
    assert not report.fired and "digamma" in report.refused[0].reason


def test_a_result_of_another_type_refuses() -> None:
    @rewrites.lowering("aten::cumsum", examples=[])
    def cumsum(x, dim, *, dtype=None):
        return x.cumsum(dim).to(torch.int32)

    report = rewrites.rewrite(cumsum_graph(2, 3), rules=[cumsum]).report
    assert "int32" in report.refused[0].reason


def test_a_wrong_export_is_found() -> None:
    def frozen(x):
        return x / float(x.shape[0])

    exporter = Exporter((Way("TorchScript", by_torchscript),), trusted=False)
    with pytest.raises(rewrites.Refusal, match="TorchScript"):
        exporter.export(frozen, "frozen", [Operand("float32", ("n", 2))], 20)
    model = exporter.export(frozen, "frozen", [Operand("float32", (4, 2))], 20)
    np.testing.assert_allclose(run(model, {"in0": np.ones((4, 2), np.float32)})[0], np.full((4, 2), 0.25))


def test_many_nodes_of_one_kind_are_exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*arguments):
        calls.append(1)
        return by_torchscript(*arguments)

    monkeypatch.setattr(AnyOperator, "exporting", Exporter((Way("counted", counted), *WAYS)))
    result = rewrites.rewrite(cumsum_graph("n", 3, count=30), rules=[any_operator])
    assert len(result.report.fired) == 30 and len(calls) == 1


def test_what_failed_is_not_tried_again() -> None:
    tried: list[int] = []

    def failing(*arguments):
        tried.append(1)
        raise RuntimeError("no")

    exporter = Exporter((Way("failing", failing),), trusted=False)
    for _ in range(3):
        with pytest.raises(rewrites.Refusal, match="failing: RuntimeError: no"):
            exporter.export(torch.exp, "exp", [Operand("float32", ("n",))], 20)
    assert len(tried) == 1


def test_any_operator_comes_after_every_other_rule() -> None:
    @rewrites.lowering("aten::cumsum", examples=[])
    def cumsum(x, dim, *, dtype=None):
        return x.cumsum(dim)

    fired = rewrites.rewrite(cumsum_graph(2, 3), rules=[any_operator, cumsum]).report.fired
    assert [f.rule for f in fired] == ["aten::cumsum"]


def test_a_spliced_body_may_give_an_outer_value() -> None:
    class Choose(torch.nn.Module):
        def forward(self, x, positive: torch.Tensor):
            y = x * 2.0
            return choose(y, positive)

    @torch.jit.script
    def choose(y, positive):
        if bool(positive):
            return y
        return torch.neg(y) + 1.0

    buffer = io.BytesIO()
    arguments = (torch.ones(2, 3), torch.tensor(True))
    torch.onnx.export(torch.jit.script(Choose()), arguments, buffer, opset_version=17, dynamo=False)
    spliced = onnx.load_from_string(buffer.getvalue())

    body = {"pattern": lambda op, x, c: op.Where(c, x, x), "__module__": __name__}
    body["rewrite"] = lambda op, x, c: op.splice(spliced, [x, c])[0]
    rule = rewrites.rule(name="t/splice", examples=[])(type("Splice", (), body))
    graph = onnx.parser.parse_graph("g (float[2,3] x, bool c) => (float[2,3] y) { y = Where(c, x, x) }")
    imports = [onnx.helper.make_opsetid("", 17)]
    result = rewrites.rewrite(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10), rules=[rule]).model
    onnx.checker.check_model(result, full_check=True)
    x = np.ones((2, 3), np.float32)
    for flag, expected in ((True, 2.0), (False, -1.0)):
        np.testing.assert_allclose(run(result, {"x": x, "c": np.array(flag)})[0], expected * x)


class Summed(torch.nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[: self.rows].float() * 50).sum(0).half()


def one_by_one(x: torch.Tensor) -> torch.Tensor:
    """What a processor may do that adds sixteen bits up in sixteen bits."""
    total = torch.zeros_like(x[0])
    for row in x * 50:
        total = total + row
    return total


@pytest.mark.parametrize(("rows", "right"), [(300, True), (290, False)])
def test_sixteen_bits_may_err_as_much_as_the_function_itself(rows: int, right: bool) -> None:
    way = Way("another order", lambda module, *rest: by_torchscript(Summed(rows).eval(), *rest))
    exporter, operand = Exporter([way]), Operand("float16", (300, 4), frozenset([0]))
    if right:
        exporter.export(one_by_one, rows, [operand], 20)
    else:
        with pytest.raises(rewrites.Refusal, match="Not equal"):
            exporter.export(one_by_one, rows, [operand], 20)


def test_an_operator_of_another_package_that_means_the_same_is_lowered_alike() -> None:
    schema = "transformers::grouped_mm_fallback(Tensor input, Tensor weight, Tensor offs) -> Tensor"
    x, y = gs.Variable("x", np.float32, ["n", 4]), gs.Variable("y", np.float32, ["n", 3])
    weight = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    given = {"input": x, "weight": gs.Constant("w", weight), "offs": gs.Constant("o", np.array([2, 5], np.int32))}
    node = torch_domain.encode(schema, given, [y], name="grouped")
    result = rewrites.rewrite(gs.export_onnx(gs.Graph([node], [x], [y], opset=20, ir_version=10)))
    rows = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    (found,) = run(result.model, {"x": rows})
    np.testing.assert_allclose(found, np.concatenate([rows[:2] @ weight[0], rows[2:] @ weight[1]]), rtol=1e-5)


def test_examples_have_the_relations_that_a_run_had_where_one_side_knows_its_sizes() -> None:
    whole = Operand("float32", ("a", "b", 9), seen=(2, 128, 9))
    part = Operand("float32", ("c", 128, 8), seen=(2, 128, 8))
    trials = run_trials(lambda x, y: torch.slice_scatter(x, y, 2, 1), [whole, part], frozen=False, trusted=False)
    assert len({trial.samples[0].shape[1] for trial in trials}) == 2
