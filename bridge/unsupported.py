"""Operators that no engine takes: what they are, where they stand in the user's code, and what would change it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bridge import torch_private as tp
from bridge.errors import UnsupportedOperatorError
from bridge.frontend.program import Program
from bridge.frontend.provenance import TAG

_REFUSED = re.compile(r"^\w+ refuses (?P<operator>\w+): ")
_REMEDIES = (
    (r"an engine already", "compile the module that it was made from"),
    (r"torch_executed_ops", "take it out of torch_executed_ops"),
    (r"torch_executed_modules", "take its module out of torch_executed_modules"),
    (r"min_block_size", "set min_block_size lower"),
    (r"float64", "set truncate_double=True, or compute in float32"),
    (r"branch that the example did not run", "give an example that runs it: bridge.Input(example=...)"),
    (r"range of a shape", "give the inputs that it depends on a range: bridge.Input(min_shape=..., max_shape=...)"),
    (r"random numbers", "nothing: random numbers are drawn in PyTorch, so that they are random in every call"),
    (r"updated in place|in place", "write its result to a new tensor, not in place"),
    (r"shares memory", "return a copy: .clone()"),
    (r"depends? on the data|Python value", "compute it from shapes, or with tensors of fixed shape and torch.where"),
    (r"refuses \w+", "write a rewrite rule for the ONNX operator"),
    (r"lowers it|torch\.onnx|exporter|wrong numbers|translation", "write a lowering"),
)
_REASONS_WITH_RULES = re.compile(
    r"lowers it|torch\.onnx|wrong numbers|translation|refuses \w+|symbolic|opset", re.IGNORECASE
)


@dataclass(frozen=True)
class UnsupportedOperator:
    """An operator that stays in PyTorch.

    Attributes:
        operator: ``aten::searchsorted``.
        schema: all of its arguments and results; empty for TorchScript's own constructs (``prim::If``).
        source_line: ``model.py:12 in forward``; empty where PyTorch kept none.
        reason: why no engine takes it.
        module_path: the submodule that it runs in; empty for the outermost.
        remedy: what would change it.
    """

    operator: str
    schema: str
    source_line: str
    reason: str
    module_path: str
    remedy: str

    def __str__(self) -> str:
        inside = f" in {self.module_path}" if self.module_path else ""
        lines = [f"{self.operator}{inside}" + (f" ({self.source_line})" if self.source_line else "")]
        lines += [f"  schema:  {self.schema}"] if self.schema else []
        return "\n".join([*lines, f"  because: {self.reason}", f"  -> {self.remedy}"])

    def to_dict(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return asdict(self)

    @property
    def starter(self) -> str:
        """Ten lines of Python that start a rule or a lowering for it; empty where no rule can help."""
        refused = _REFUSED.match(self.reason)
        if refused:
            return _rule(refused["operator"])
        return _lowering(self.operator, self.schema) if self.schema and _REASONS_WITH_RULES.search(self.reason) else ""


def unsupported(program: Program, reasons: Mapping[int, str], *, constructs: bool = False) -> list[UnsupportedOperator]:
    """The operators among the nodes that stay in PyTorch, in the order of the identities.

    Args:
        reasons: why each node stays, by identity.
        constructs: whether TorchScript's own constructs (``prim::If``) count.
    """
    schemas = {
        node.i(TAG): node.schema() for node in tp.walk(program.graph) if node.hasAttribute(TAG) and tp.has_schema(node)
    }
    checks = _checks(program.graph)
    found = []
    for identity, reason in sorted(reasons.items()):
        origin = program.provenance[identity]
        if identity in checks or (origin.operator.startswith("prim::") and not constructs):
            continue
        schema = schemas.get(identity, "")
        found.append(
            UnsupportedOperator(origin.operator, schema, origin.source, reason, origin.module_path, remedy(reason))
        )
    return found


def _checks(graph: tp.Graph) -> set[int]:
    """Identities of branches that only raise, and of what makes their message: no result comes from them."""
    found: set[int] = set()
    for node in tp.walk(graph):
        if node.kind() != "prim::If" or node.outputsSize():
            continue
        inside = [list(block.nodes()) for block in node.blocks()]
        if all(not nodes or any(n.kind() == "prim::RaiseException" for n in nodes) for nodes in inside):
            found.update(n.i(TAG) for n in (node, *inside[0], *inside[1]) if n.hasAttribute(TAG))
    return found


def remedy(reason: str) -> str:
    """What would change it, in a few words."""
    return next(
        (text for pattern, text in _REMEDIES if re.search(pattern, reason)), "write a lowering, or leave it to PyTorch"
    )


def error_of(found: list[UnsupportedOperator], hint: str) -> UnsupportedOperatorError:
    """The error that names each operator with its schema, its line and the reason, and starts a rule for the first."""
    starter = next((item.starter for item in found if item.starter), "")
    start = f"\n  To start a rule:\n\n{_indented(starter)}" if starter else ""
    names = ", ".join(sorted({o.operator for o in found}))
    return UnsupportedOperatorError(
        f"{len(found)} operator{'s' if len(found) > 1 else ''} cannot be in an engine: {names}",
        where=found[0].source_line or found[0].module_path or None,
        why="".join(f"\n{_indented(str(item))}" for item in found[:10])
        + (f"\n    and {len(found) - 10} more" if len(found) > 10 else ""),
        hint=hint + start,
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


def _lowering(operator: str, schema: str) -> str:
    arguments = tp.arguments_of(schema)
    shapes = ", ".join(f"{a.name}=(2, 3)" for a in arguments if str(a.type) == "Tensor")
    names = {a.name: "self_" if a.name == "self" else a.name for a in arguments}
    words = [names[a.name] + (f"={a.default_value!r}" if a.has_default_value() else "") for a in arguments]
    passed = [f"{a.name}={a.name}" if a.kwarg_only else names[a.name] for a in arguments]
    first_keyword = next((i for i, a in enumerate(arguments) if a.kwarg_only), None)
    if first_keyword is not None:
        words.insert(first_keyword, "*")
    plain = operator.partition("::")[2].rstrip("_")
    return (
        "import rewrites\n\n\n"
        f'@rewrites.lowering("{operator}", examples=[rewrites.example({shapes})])\n'
        f"def {plain}({', '.join(words)}):\n"
        f'    """{plain} -> operators that torch.onnx translates: say which, and why they do the same."""\n'
        "    import torch\n\n"
        f"    return torch.{plain}({', '.join(passed)})  # put it in other operators here\n\n\n"
        f"compiled = bridge.compile(module, spec, rules=[{plain}])\n"
    )


def _rule(operator: str) -> str:
    return (
        "import rewrites\n\n\n"
        f'@rewrites.rule(name="mine/{operator.lower()}", matches="{operator}",\n'
        '               needed_by={"tensorrt": "all versions"}, examples=[rewrites.example((2, 3))])\n'
        f"class Lower{operator}:\n"
        f'    """{operator} -> operators that the target takes: say which, and why it needs them."""\n\n'
        "    def rewrite(op, node):\n"
        f"        return op.{operator}(*node.inputs)  # put it in other operators here\n\n\n"
        f"compiled = bridge.compile(module, spec, rules=[Lower{operator}])\n"
    )
