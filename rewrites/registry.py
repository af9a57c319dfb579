"""Rule sets: the library, the rules of other packages, and how sets are put together."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

from rewrites.errors import RewriteError
from rewrites.rule import Rule

GROUP = "rewrites.rules"


class RuleSet:
    """Rules in the order in which they are tried: by priority, then as given.

    Raises:
        RewriteError: when something is no rule, or two rules have one name: then it names both owners.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules: dict[str, Rule] = {}
        for rule in _listed(rules):
            known = self._rules.setdefault(rule.name, rule)
            if known is not rule:
                raise RewriteError(
                    f"two rules are named {rule.name!r}: one of {known.owner}, one of {rule.owner}",
                    hint="rename one, or turn the other off with RuleSet.without",
                )
        self._rules = {r.name: r for r in sorted(self._rules.values(), key=lambda r: r.priority)}

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def __len__(self) -> int:
        return len(self._rules)

    def __getitem__(self, name: str) -> Rule:
        if name not in self._rules:
            raise RewriteError(f"no rule is named {name!r}", hint=self._nearest(name))
        return self._rules[name]

    def __add__(self, other: Iterable[Rule]) -> RuleSet:
        return RuleSet([*self, *other])

    def without(self, *names: str) -> RuleSet:
        """These rules but the named ones; a name that is not there is an error."""
        missing = [n for n in names if n not in self._rules]
        if missing:
            raise RewriteError(f"no rule is named {missing[0]!r}", hint=self._nearest(missing[0]))
        return RuleSet(r for r in self if r.name not in names)

    def _nearest(self, name: object) -> str:
        near = difflib.get_close_matches(str(name), self._rules, n=3)
        return f"did you mean {' or '.join(near)}?" if near else f"{len(self)} rules are there; list(rules) has them"


def _listed(rules: object) -> list[Rule]:
    given: list[Any] = list(rules) if isinstance(rules, Iterable) and not isinstance(rules, str) else [rules]
    for one in given:
        if not isinstance(one, Rule):
            hint = "what @rule, @lowering, @plugin or @graph_pass made, in a list"
            raise RewriteError(f"rules: expected a rule, got {one!r} ({type(one).__name__})", hint=hint)
    return given


def rules_in(module: ModuleType) -> list[Rule]:
    """The rules that a module defines, alone or in lists, in order; those it imports from elsewhere are left out."""
    found = [rule for value in vars(module).values() for rule in (value if isinstance(value, list) else [value])]
    return [rule for rule in found if isinstance(rule, Rule) and rule.module == module.__name__]


@lru_cache(maxsize=1)
def library() -> RuleSet:
    """The rules that ship with this package."""
    package = importlib.import_module("rewrites.library")
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return RuleSet(r for module in modules for r in rules_in(module))


def default_rules() -> RuleSet:
    """The library, and what installed packages add through the entry-point group `rewrites.rules`.

    An entry point names a module that defines rules, one rule, or a list of rules.
    """
    found = list(library())
    for entry in importlib.metadata.entry_points(group=GROUP):
        found += _loaded(entry)
    return RuleSet(found)


def _loaded(entry: importlib.metadata.EntryPoint) -> list[Rule]:
    try:
        loaded = entry.load()
    except Exception as error:
        raise RewriteError(
            f"the rules of the entry point {entry.name!r} ({entry.value}) cannot be loaded: {error}",
            hint="mend or uninstall the package that brings it",
        ) from error
    if isinstance(loaded, ModuleType):
        return rules_in(loaded)
    return [loaded] if isinstance(loaded, Rule) else list(loaded)
