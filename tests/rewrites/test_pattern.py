"""What patterns can say: operand order, optional and variadic inputs, several outputs, alternatives, attributes."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

import rewrites
from rewrites import example, rule


def count(text: str, pattern, rewrite=lambda op, x: x, opset: int = 20) -> int:
    body = {"pattern": pattern, "rewrite": rewrite, "__module__": __name__}
    made = rule(name="t/rule", examples=[example()])(type("R", (), body))
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=imports, ir_version=10)
    result = rewrites.rewrite(model, rules=[made])
    onnx.checker.check_model(result.model, full_check=True)
    return len(result.report.fired)


TWO = "g (float[2] a, float[2] b) => (float[2] y) { n = Neg(a) y = %s }"


@pytest.mark.parametrize("call, fired", [("Add(n, b)", 1), ("Add(b, n)", 1), ("Sub(n, b)", 0)])
def test_commutative_operands(call: str, fired: int) -> None:
    assert count(TWO % call, lambda op, x, y: op.Add(op.Neg(x), y), lambda op, x, y: op.Sub(y, x)) == fired


@pytest.mark.parametrize("call, fired", [("Add(n, n)", 1), ("Add(n, b)", 0)])
def test_a_repeated_variable_is_one_value(call: str, fired: int) -> None:
    assert count(TWO % call, lambda op, x: op.Add(x, x), lambda op, x: op.Mul(x, 2.0)) == fired


@pytest.mark.parametrize("attributes, fired", [("", 1), ("<axis = -1>", 1), ("<axis = 0>", 0)])
def test_an_attribute_left_out_equals_its_default(attributes: str, fired: int) -> None:
    text = f"g (float[2,2] x) => (float[2,2] y) {{ y = Softmax{attributes}(x) }}"
    assert count(text, lambda op, x: op.Softmax(x), lambda op, x: op.Exp(op.LogSoftmax(x))) == fired


@pytest.mark.parametrize("axis, fired", [(0, 1), (1, 0)])
def test_an_attribute_is_tested_by_a_function(axis: int, fired: int) -> None:
    text = f"g (float[2,2] x) => (float[2,2] y) {{ y = Softmax<axis={axis}>(x) }}"
    assert count(text, lambda op, x: op.Softmax(x, axis=lambda a: a == 0)) == fired


def test_an_optional_input_may_be_missing() -> None:
    pattern = lambda op, x, low=None: op.Clip(x, low)  # noqa: E731
    rewrite = lambda op, x, low: x if low is None else op.Max(x, low)  # noqa: E731
    assert count("g (float[2] x) => (float[2] y) { y = Clip(x) }", pattern, rewrite) == 1
    assert count("g (float[2] x, float l) => (float[2] y) { y = Clip(x, l) }", pattern, rewrite) == 1
    assert count("g (float[2] x, float l) => (float[2] y) { y = Clip(x, l, l) }", pattern, rewrite) == 0


def test_variadic_inputs() -> None:
    text = "g (float[2] a, float[2] b, float[2] c) => (float[2] y) { y = Sum(a, b, c) }"

    def add_up(op, *xs):
        return op.Add(op.Add(xs[0], xs[1]), xs[2])

    assert count(text, lambda op, *xs: op.Sum(*xs), add_up) == 1


def test_several_outputs_of_one_node() -> None:
    text = "g (float[4] x) => (float[2] a, float[2] b) { a, b = Split<num_outputs=2>(x) }"

    def halves(op, x):
        return op.Slice(x, [0], [2]), op.Slice(x, [2], [4])

    assert count(text, lambda op, x: op.Split(x, num_outputs=2, _outputs=2), halves) == 1


def test_several_outputs_of_two_nodes() -> None:
    text = "g (float[4] x) => (float[4] a, float[4] b) { n = Neg(x) a = Sin(n) b = Cos(n) }"

    def pattern(op, x):
        n = op.Neg(x)
        return op.Sin(n), op.Cos(n)

    assert count(text, pattern, lambda op, x: (op.Neg(op.Sin(x)), op.Cos(x))) == 1


@pytest.mark.parametrize("name, fired", [("Relu", 1), ("Tanh", 1), ("Exp", 0)])
def test_alternatives(name: str, fired: int) -> None:
    text = f"g (float[2] x) => (float[2] y) {{ a = {name}(x) y = Abs(a) }}"
    assert count(text, lambda op, x: op.Abs(op.one_of("Relu", "Tanh")(x))) == fired
    assert count(text, lambda op, x: op.Abs(op.any_of(op.Relu(x), op.Tanh(x)))) == fired


@pytest.mark.parametrize("value, fired", [("1.0", 1), ("2.0", 0)])
def test_numbers_match_constants(value: str, fired: int) -> None:
    text = f"g (float[2] x) => (float[2] y) {{ c = Constant<value_float={value}>() y = Mul(c, x) }}"
    assert count(text, lambda op, x: op.Mul(x, 1.0)) == fired


def test_loops_and_scans_are_built_with_types() -> None:
    def loop(op, x):
        last, every = op.Loop(3, None, x, body=lambda op, i, go, v: (op.Identity(go), op.Add(v, 1.0), op.Neg(v)))
        assert last.shape == (2,) and every.rank == 2
        return op.Add(last, op.ReduceSum(every, [0], keepdims=0))

    assert count("g (float[2] x) => (float[2] y) { y = Exp(x) }", lambda op, x: op.Exp(x), loop) == 1
