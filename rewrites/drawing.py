"""Further examples drawn from a rule's own: other sizes, other values of small attributes, static axes made dynamic.

Needs hypothesis, which only tests have::

    @hypothesis.given(variations(my_rule))
    def test_variations(example): check_variation(my_rule, example)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rewrites.example import Example, TensorSpec
from rewrites.modelling import Model, model_of
from rewrites.rewriting import rewrite
from rewrites.rule import Rule

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

_LARGEST = 9
_FLAGS = """
    align_corners ceil_mode count_include_pad exclusive fmod inverse keepdims largest noop_with_empty_axes onesided
    reverse select_last_index sorted"""
# Other integers are left: counts of heads or groups that do not fit end the process in some kernels.
_INTEGERS = {"axis": range(-3, 3), "dim": range(-3, 3), **{flag: range(2) for flag in _FLAGS.split()}}


def variations(rule: Rule) -> SearchStrategy[Example]:
    """Examples like those of the rule; not all make sense, which `check_variation` finds out.

    Equal sizes stay equal, so that what belongs together still fits together.
    """
    from hypothesis import strategies as st

    @st.composite
    def draw_one(draw: DrawFn) -> Example:
        return _vary(draw, draw(st.sampled_from([e for e in rule.examples if e.because is None])))

    return draw_one()


def _vary(draw: DrawFn, example: Example) -> Example:
    from hypothesis import strategies as st

    dims = {d for shape in _shapes(example.arguments) for d in shape}
    kept = {
        d for v in example.arguments.values() if isinstance(v, TensorSpec) and v.values is not None for d in v.shape
    }
    changed: dict[Any, Any] = {}
    for dim in sorted((d for d in dims - kept if type(d) is int and d > 1), key=int):
        size = draw(st.just(dim) | st.integers(1, max(dim, _LARGEST)))
        changed[dim] = draw(st.sampled_from([size, size, f"size{dim}"]))
    names = [d for d in dims if isinstance(d, str)] + [d for d in changed.values() if isinstance(d, str)]
    arrays = [len(v) for v in example.arguments.values() if isinstance(v, np.ndarray) and v.ndim]
    least = min(max([1, *arrays]), _LARGEST)  # constant indices and conditions stay within what they choose from
    sizes = {name: draw(st.integers(least, _LARGEST)) for name in sorted(names)}
    arguments = {name: _varied(draw, name, value, changed) for name, value in example.arguments.items()}
    return replace(example, arguments=arguments, sizes={**example.sizes, **sizes} if draw(st.booleans()) else sizes)


def _shapes(arguments: dict[str, Any]) -> list[tuple[Any, ...]]:
    values = [v for a in arguments.values() for v in (a if isinstance(a, list) else [a])]
    return [v.shape if isinstance(v, TensorSpec) else v for v in values if isinstance(v, (tuple, TensorSpec))]


def _varied(draw: DrawFn, name: str, value: Any, changed: dict[Any, Any]) -> Any:
    from hypothesis import strategies as st

    if isinstance(value, tuple):
        return tuple(changed.get(d, d) for d in value)
    if isinstance(value, TensorSpec):
        return value if value.values is not None else replace(value, shape=_varied(draw, name, value.shape, changed))
    if isinstance(value, list) and any(isinstance(v, (tuple, TensorSpec)) for v in value):
        return [_varied(draw, name, v, changed) for v in value]
    if isinstance(value, bool):
        return draw(st.booleans())
    if isinstance(value, int):
        return draw(st.just(value) | st.sampled_from(_INTEGERS.get(name, [value])))
    if isinstance(value, float):
        return draw(st.just(value) | st.sampled_from([0.5 * value, -value, 2.0 * value]))
    return value


def check_variation(rule: Rule, example: Example) -> bool:
    """Whether the rule fired on a drawn example; what it makes must agree with the original.

    Examples that make no valid model are passed over, and the rule may refuse.

    Raises:
        AssertionError: when the numbers differ, or a second pass fires.
        RewriteError: when the rule breaks.
    """
    from rewrites import testing

    found = _original(rule, example)
    if found is None:
        return False
    model, inputs, expected = found
    result = rewrite(model.proto, target="any", rules=[rule])
    if not result.report.fired:
        return False
    onnx.checker.check_model(result.model)
    testing.compare(testing.run(result.model, inputs), expected, max(example.rtol, 1e-3), max(example.atol, 1e-4))
    again = rewrite(result.model, target="any", rules=[rule])
    assert not again.report.fired, f"a second pass fired:\n{again.report}"
    return True


def _original(rule: Rule, example: Example) -> tuple[Model, dict[str, Any], list[Any]] | None:
    """The model, inputs, and what it gives; None when the example makes no model that runs to numbers."""
    from rewrites import testing

    try:
        model = model_of(rule, example)
        inputs = model.sample(np.random.default_rng(0))
        if model.reference is None:
            onnx.checker.check_model(model.proto, full_check=True)
        expected = model.reference(inputs) if model.reference else testing.run(model.proto, inputs)
    except Exception:
        return None
    return (model, inputs, expected) if all(e.dtype.kind in "fiub" for e in expected) else None
