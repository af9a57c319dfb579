"""Every example of every rule in the library. One family: pytest tests/rewrites/test_library.py -k fft"""

from __future__ import annotations

import pytest

from rewrites.registry import library
from rewrites.testing import Case, cases, check


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=f"{c.rule.module.rsplit('.', 1)[-1]}:{c}") for c in cases(library())]
)
def test_example(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("rule", list(library()), ids=lambda rule: rule.name)
def test_carries_examples_and_says_what_it_does(rule: object) -> None:
    assert len(rule.examples) >= 2, "a rule carries at least two examples"
    assert "->" in rule.doc.splitlines()[0], 'a docstring begins "before -> after"'
