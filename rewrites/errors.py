"""What rewriting raises: `RewriteError` to the user, `Refusal` between a rule and the engine."""

from __future__ import annotations

from typing import Any


class RewriteError(Exception):
    """A rule, a rule set or a model that rewriting cannot go on with.

    Args:
        what: what went wrong, in one sentence.
        rule: the rule at fault.
        node: the node it was working on.
        hint: what to try.

    Attributes:
        model: the model as it was before the rule at fault, when there is one.
    """

    def __init__(self, what: str, *, rule: str | None = None, node: str | None = None, hint: str | None = None) -> None:
        self.what, self.rule, self.node, self.hint = what, rule, node, hint
        self.model: Any = None
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  {label}: {text}" for label, text in (("rule", self.rule), ("at", self.node)) if text]
        if self.hint:
            lines.append(f"  -> {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.what, self.rule, self.node, self.hint)


def _rebuild(what: str, rule: str | None, node: str | None, hint: str | None) -> RewriteError:
    return RewriteError(what, rule=rule, node=node, hint=hint)


class Refusal(Exception):
    """A rule does not apply here, and says why. Raised by `require`, caught by the engine."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class NewerOpset(Refusal):
    """A rule that the model's opset is too old for."""


def require(condition: object, reason: str) -> None:
    """Refuse the match, with `reason`, unless `condition` holds. For `check` and `rewrite` functions.

    Raises:
        Refusal: when the condition is false.
    """
    if not condition:
        raise Refusal(reason)
