"""Rule sets: the library, the rules of other packages, and how sets are put together."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import ModuleType

from rewrites.errors import RewriteError
from rewrites.rule import Rule

GROUP = "rewrites.rules"


class RuleSet:
    """Rules in the order in which they are tried: by priority, then as given.

    Raises:
        RewriteError: when two rules have one name; it names both owners.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules: dict[str, Rule] = {}
        for rule in rules:
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
            raise RewriteError(f"no rule is named {name!r}", hint="`rewrites.default_rules()` lists those there are")
        return self._rules[name]

    def __add__(self, other: Iterable[Rule]) -> RuleSet:
        return RuleSet([*self, *other])

    def without(self, *names: str) -> RuleSet:
        """These rules but the named ones; a name that is not there is an error."""
        missing = [n for n in names if n not in self._rules]
        if missing:
            raise RewriteError(f"no rule is named {missing[0]!r}", hint=f"there are {', '.join(self._rules) or 'none'}")
        return RuleSet(r for r in self if r.name not in names)


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
