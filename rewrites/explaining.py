"""Why a compiler still refuses a model: for each refused node, which rules came close and why they let it be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from rewrites import torch_domain
from rewrites.parsing import Unsupported, label, unsupported
from rewrites.registry import RuleSet, default_rules
from rewrites.report import Report
from rewrites.rewriting import rewrite
from rewrites.rule import NodeRule, Rule


@dataclass(frozen=True)
class Explanation:
    """One node that the target refuses.

    Attributes:
        node, operator: its name, and its operator with the domain.
        reason: the parser's words; None where no parser is installed.
        refused: (rule, reason) of the rules that looked at it and refused.
        silent: rules for the operator whose pattern is another, or that the target's version is said not to need.
    """

    node: str
    operator: str
    reason: str | None
    refused: list[tuple[str, str]]
    silent: list[str]

    def __str__(self) -> str:
        lines = [f"{self.operator} {self.node}"]
        lines += [f"  the parser: {self.reason}"] if self.reason else []
        lines += [f"  {rule} refused: {reason}" for rule, reason in self.refused]
        lines += [f"  {rule} does not apply here" for rule in self.silent]
        if not self.refused and not self.silent:
            lines.append("  no rule knows this operator -> bridge rules new my_rules/what-it-does")
        return "\n".join(lines)


def explain(
    model: onnx.ModelProto, *, target: str = "tensorrt", rules: Iterable[Rule] | None = None
) -> tuple[list[Explanation], Report]:
    """Rewrite a model, and say for every node that the target's parser still refuses what the rules had to say.

    Without an installed parser the nodes are those of PyTorch's operators and those that a rule refused.

    Args:
        model: left as it is.
        target: as for `rewrite`.
        rules: as for `rewrite`.

    Raises:
        RewriteError: as `rewrite`.
    """
    known = default_rules() if rules is None else RuleSet(rules)
    result = rewrite(model, target=target, rules=known)
    found = unsupported(result.model)
    nodes = _suspects(result.model, result.report) if found is None else found
    return [_explanation(n, known, result.report) for n in nodes], result.report


def _suspects(model: onnx.ModelProto, report: Report) -> list[Unsupported]:
    refused = {r.node for r in report.refused}
    nodes = (n for n in model.graph.node if label(n) in refused or n.domain.startswith(torch_domain.PREFIX))
    return [Unsupported(label(n), n.op_type, n.domain, None) for n in nodes]


def _explanation(node: Unsupported, rules: RuleSet, report: Report) -> Explanation:
    refused = [(r.rule, r.reason) for r in report.refused if r.node == node.name]
    keys = {(node.domain, node.op), (node.domain, node.op.partition(".")[0])}
    concerned = [r.name for r in rules if isinstance(r, NodeRule) and keys.intersection(r.keys())]
    named = {rule for rule, _ in refused}
    operator = f"{node.domain}::{node.op}" if node.domain else node.op
    return Explanation(node.name, operator, node.reason, refused, [n for n in concerned if n not in named])
