"""Every rule on examples drawn from its own: it refuses them, or gives the original's numbers."""

from __future__ import annotations

import hypothesis
import pytest

from rewrites import example, rule
from rewrites.drawing import check_variation, variations
from rewrites.lowering import Lowering
from rewrites.registry import library
from rewrites.rule import Rule

_EXAMPLES = {True: 1, False: 4}  # an export each takes a lowering seconds


@pytest.mark.slow
@pytest.mark.parametrize("one", [r for r in library() if r.examples], ids=lambda one: one.name)
def test_variations(one: Rule) -> None:
    @hypothesis.settings(
        max_examples=_EXAMPLES[isinstance(one, Lowering)],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(variations(one))
    def holds(drawn: object) -> None:
        check_variation(one, drawn)

    holds()


def test_a_wrong_rule_is_caught() -> None:
    @rule(name="t/wrong", matches="Softmax", examples=[example(input=(2, 3), axis=1)])
    class Wrong:
        """Softmax -> Exp Div: forgets the axis."""

        def rewrite(op, input):
            powers = op.Exp(input)
            return op.Div(powers, op.ReduceSum(powers, [1], keepdims=1))

    with pytest.raises(AssertionError, match="output 0"):
        check_variation(Wrong, example(input=(2, 3), axis=0))
    assert check_variation(Wrong, example(input=(4, 3), axis=1))
    assert not check_variation(Wrong, example(input=(4, 3), axis=7))
