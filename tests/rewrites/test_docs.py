"""Every Python block of docs/writing-rules.md runs, and the rules in it pass the tests made from their examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rewrites.rule import Rule
from rewrites.testing import Case, cases, check

_TEXT = (Path(__file__).parents[2] / "docs" / "writing-rules.md").read_text()
_BLOCKS = re.findall(r"```python\n(.*?)```", _TEXT, re.S)


def _rules() -> list[Rule]:
    found: list[Rule] = []
    for block in _BLOCKS:
        names: dict[str, object] = {"__name__": "docs"}
        exec(block, names)
        found += [v for v in names.values() if isinstance(v, Rule)]
    return found


@pytest.mark.parametrize("case", cases(_rules()), ids=str)
def test_block(case: Case) -> None:
    check(case)


def test_every_kind_is_shown() -> None:
    assert {type(r).__name__ for r in _rules()} == {"ClassRule", "Lowering", "Plugin", "GraphPass"}
