"""Tests made from the examples that rules carry, and `builds`, the proof that TensorRT takes a model.

from rewrites.testing import cases, check
@pytest.mark.parametrize("case", cases(my_rules), ids=str)
def test_rules(case): check(case)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from rewrites.drawing import check_variation, variations
from rewrites.example import Example
from rewrites.infer import numpy_type
from rewrites.modelling import Model, model_of
from rewrites.parsing import builds
from rewrites.registry import rules_in
from rewrites.rewriting import RewriteResult, rewrite
from rewrites.rule import Rule

Arrays = list[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Case:
    """One example of one rule."""

    rule: Rule
    example: Example

    def __str__(self) -> str:
        kind = "refuses " if self.example.because else ""
        return f"{self.rule.name} {kind}{self.example}"


def cases(rules: Iterable[Rule] | ModuleType) -> list[Case]:
    """Every example and refusal of the rules, or of the rules that a module defines."""
    found = rules_in(rules) if isinstance(rules, ModuleType) else list(rules)
    return [Case(r, e) for r in found for e in (*r.examples, *r.refuses)]


def check(case: Case) -> None:
    """Whether the rule does with the example what it says.

    It fires as often as said and a second pass fires nothing; the numbers agree with the original's in ONNX Runtime;
    TensorRT-RTX, where installed, parses and builds the result. For a refusal: nothing fires and the reason is given.

    Raises:
        AssertionError: when it does not.
    """
    model = model_of(case.rule, case.example)
    onnx.checker.check_model(_without_torch(model.proto))
    result = rewrite(model.proto, target="any", rules=[case.rule])
    if case.example.because is not None:
        assert not result.report.fired, f"fired: {result.report}"
        reasons = [r.reason for r in result.report.refused]
        assert any(case.example.because in r for r in reasons), f"refused with {reasons}, not {case.example.because!r}"
        return
    assert len(result.report.fired) == case.example.fires, f"fired {len(result.report.fired)} times:\n{result.report}"
    _check_result(case, model, result)


def _check_result(case: Case, model: Model, result: RewriteResult[onnx.ModelProto]) -> None:
    onnx.checker.check_model(result.model, full_check=True)
    again = rewrite(result.model, target="any", rules=[case.rule])
    assert not again.report.fired, f"a second pass fired:\n{again.report}"
    inputs = model.sample(np.random.default_rng(0))
    expected = model.reference(inputs) if model.reference else run(model.proto, inputs)
    compare(run(result.model, inputs), expected, case.example.rtol, case.example.atol)
    if case.example.builds:
        reason = builds(result.model, inputs)
        assert reason is None, f"TensorRT-RTX does not build the result: {reason}"


def _without_torch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes of torch domains are unknown to ONNX's checker: it checks the rest."""
    if not any(n.domain.startswith("torch.") for n in model.graph.node):
        return model
    known = [n for n in model.graph.node if not n.domain.startswith("torch.")]
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.graph.node[:], rest.graph.output[:]
    rest.graph.node.extend(known)
    return rest


def compare(actual: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float) -> None:
    """Same number of outputs, same types and shapes, and values within the tolerances.

    Raises:
        AssertionError: when they differ.
    """
    assert len(actual) == len(expected)
    for i, (a, e) in enumerate(zip(actual, expected, strict=False)):
        assert a.dtype == e.dtype and a.shape == e.shape, f"output {i}: {a.dtype}{a.shape}, expected {e.dtype}{e.shape}"
        np.testing.assert_allclose(
            a.astype(np.float64), e.astype(np.float64), rtol=rtol, atol=atol, err_msg=f"output {i}"
        )


def run(model: onnx.ModelProto, inputs: dict[str, Any]) -> Arrays:
    """The model's outputs in ONNX Runtime without optimizations, or in ONNX's reference where that cannot run it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(o) for o in session.run(None, inputs)]
    except Exception as error:
        try:
            found = ReferenceEvaluator(model).run(None, inputs)
            types = [numpy_type(o.type.tensor_type.elem_type) for o in model.graph.output]
            return [np.asarray(o).astype(t, copy=False) for o, t in zip(found, types, strict=True)]
        except Exception as second:
            raise AssertionError(f"ONNX Runtime: {error}; ONNX reference: {second!r}") from second


__all__ = ["Case", "builds", "cases", "check", "check_variation", "compare", "run", "variations"]
