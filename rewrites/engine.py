"""The engine: node rules run to a fixed point over a worklist, then passes, until nothing fires."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from rewrites import torch_domain
from rewrites.builder import Builder
from rewrites.errors import NewerOpset, Refusal, RewriteError
from rewrites.graph import Editor, Node, Value, bodies
from rewrites.passes import PassGraph
from rewrites.pattern import Match
from rewrites.registry import RuleSet
from rewrites.report import Firing, Refused, Report
from rewrites.rule import GraphPass, NodeRule, Rule
from rewrites.targets import Target

_LONGEST_CHAIN = 60
_MOST_ROUNDS = 20


@dataclass(frozen=True)
class _Lineage:
    """Which applications a node comes from: the last rule, how many, and the nodes they added on balance."""

    rule: str
    depth: int
    balance: int
    parent: _Lineage | None

    def recent(self) -> list[str]:
        names, at = [self.rule], self.parent
        while at is not None and len(names) < _LONGEST_CHAIN // 2:
            names.append(at.rule)
            at = at.parent
        return sorted(set(names))


class Engine:
    """One run of a rule set over one graph.

    Args:
        graph: changed in place.
        target: rules that it does not need are left out.
        rules: tried in their order at every node; the first that fires wins.
        report: gets what happens.
        limit: after how many applications to stop.

    Attributes:
        waiting: after a run, the rules for nodes of the graph that need a newer opset than it has.
    """

    def __init__(
        self, graph: gs.Graph, target: Target, rules: RuleSet, report: Report, limit: int | None = None
    ) -> None:
        self.editor, self.target, self.report, self.limit = Editor(graph), target, report, limit
        needed, opset = [r for r in rules if target.needs(r.needed_by)], self.editor.opset
        fitting = [r for r in needed if r.opsets[0] <= opset <= r.opsets[1]]
        self._late = [r for r in needed if r.opsets[0] > opset and isinstance(r, NodeRule)]
        self.waiting: set[str] = set()
        self.passes = [r for r in fitting if isinstance(r, GraphPass)]
        self._index: dict[tuple[str, str], list[NodeRule]] = {}
        for rule in fitting:
            if isinstance(rule, NodeRule):
                for key in rule.keys():  # noqa: SIM118
                    self._index.setdefault(key, []).append(rule)
        self._fitting: dict[tuple[str, str], list[NodeRule]] = {}
        self._lineage: dict[int, _Lineage] = {}
        self._refused: dict[tuple[str, str], Refused] = {}
        self.report.seconds.update(dict.fromkeys((r.name for r in fitting), 0.0))

    def run(self) -> None:
        """Apply everything until nothing fires.

        Raises:
            RewriteError: as `rewrite`.
        """
        for _ in range(_MOST_ROUNDS):
            before = len(self.report.fired)
            self._refused.clear()
            self._run_rules(deque(self.editor.nodes()))
            if len(self.report.fired) == before:
                for graph_pass in self.passes:
                    if not self._spent():
                        self._run_pass(graph_pass)
            if len(self.report.fired) == before:
                break
        else:
            names = sorted({f.rule for f in self.report.fired[before:]})
            raise RewriteError(f"the rules do not come to an end: {', '.join(names)}", rule=names[0])
        self.report.refused = list(self._refused.values())
        there = {_operator(node) for node in self.editor.nodes()}
        self.waiting |= {rule.name for rule in self._late if not there.isdisjoint(rule.keys())}

    def _run_rules(self, work: deque[gs.Node]) -> None:
        while work and not self._spent():
            node = work.popleft()
            if self._index and self.editor.is_live(node):
                work.extend(self._visit(node))

    def _spent(self) -> bool:
        return self.limit is not None and len(self.report.fired) >= self.limit

    def _rules_for(self, node: gs.Node) -> list[NodeRule]:
        key = domain, _ = _operator(node)
        if key not in self._fitting:
            keys = [key]
            if domain.startswith(torch_domain.PREFIX):
                keys += [(domain, node.op.partition(".")[0]), torch_domain.ANY]
            rules = {r.name: r for k in dict.fromkeys(keys) for r in self._index.get(k, [])}
            self._fitting[key] = sorted(rules.values(), key=lambda r: r.priority)
        return self._fitting[key]

    def _visit(self, node: gs.Node) -> list[gs.Node]:
        """Apply the first rule that fires at the node; the nodes to look at again."""
        rules = self._rules_for(node)
        makers = {maker.op for t in node.inputs if (maker := self.editor.producer(t)) is not None} if rules else set()
        for rule in rules:
            if rule.makers is not None and rule.makers.isdisjoint(makers):
                continue
            started = time.perf_counter()
            try:
                changed = self._attempt(rule, node)
            finally:
                self.report.seconds[rule.name] += time.perf_counter() - started
            if changed is not None:
                return changed
        return []

    def _attempt(self, rule: NodeRule, node: gs.Node) -> list[gs.Node] | None:
        builder: Builder | None = None
        try:
            match = rule.match(self.editor, node)
            if match is None:
                return None
            rule.check(match)
            builder = self._builder(rule, node)
            made = rule.rewrite(builder, match)
            values = self._values(rule, match, made if isinstance(made, (tuple, list)) else (made,), builder)
        except Refusal as refusal:
            _undo(builder)
            self._refused[rule.name, _where(node)] = Refused(rule.name, _where(node), node.op, refusal.reason)
            if isinstance(refusal, NewerOpset):
                self.waiting.add(rule.name)
            return None
        except Exception as error:
            _undo(builder)
            what = error.what if isinstance(error, RewriteError) else f"{type(error).__name__}: {error}"
            if rule.forgiving:
                self._refused[rule.name, _where(node)] = Refused(rule.name, _where(node), node.op, what)
                return None
            hint = getattr(error, "hint", None) or f"turn it off with RuleSet.without({rule.name!r})"
            raise RewriteError(what, rule=f"{rule.name} ({rule.owner})", node=_where(node), hint=hint) from error
        return self._commit(rule, match, values, builder)

    def _builder(self, rule: Rule, node: gs.Node) -> Builder:
        base = node.name or (node.outputs[0].name if node.outputs else node.op)
        return Builder(self.editor, self.editor.owner[id(node)], f"{base}/{rule.short_name}", self.target.name)

    def _values(self, rule: Rule, match: Match, made: Any, op: Builder) -> list[Value | None]:
        """The replacement, checked against what it replaces."""
        values = [v if v is None or isinstance(v, Value) else op.constant(v) for v in made]
        values += [None] * (len(match.outputs) - len(values))
        for i, (old, new) in enumerate(zip(match.outputs, values, strict=False)):
            if new is None:
                if self.editor.is_used(old):
                    raise Refusal(f"output {i} ({old.name}) is used, and the rule does not make it")
                continue
            problem = _difference(Value(old, self.editor), new)
            if problem:
                raise RewriteError(f"the replacement of {old.name!r} {problem}")
        if len(values) > len(match.outputs):
            raise RewriteError(f"the rule gives {len(values)} values for {len(match.outputs)} outputs")
        return values

    def _commit(self, rule: Rule, match: Match, values: list[Value | None], op: Builder) -> list[gs.Node]:
        editor, made, where = self.editor, {id(n) for n in op.created}, _where(match.root)
        again = [n for t in match.outputs for n in editor.consumers(t)]
        taken: dict[int, gs.Tensor] = {}  # one value may replace several outputs
        for old, new in zip(match.outputs, values, strict=False):
            if new is None or new.tensor is old:
                continue
            tensor = taken.get(id(new.tensor), new.tensor)
            maker = editor.producer(tensor)
            if maker is not None and id(maker) in made and not _one_of(tensor, match.outputs):
                editor.take_over(old, tensor)
                taken[id(tensor)] = old
            elif id(old) in editor.outputs:
                editor.take_over(old, op.Identity(Value(tensor, editor)).tensor)
            else:
                editor.redirect(old, tensor)
        removed = editor.remove_unused(match.nodes)
        editor.remove_unused(op.created)
        created = [n for n in op.created if editor.is_live(n)]
        self._descend(rule, match.nodes, created, len(created) - len(removed))
        self.report.fired.append(Firing(rule.name, where, match.root.op, len(removed), len(created)))
        return [*created, *again, *self._settle(again, op)]

    def _settle(self, nodes: list[gs.Node], op: Builder) -> list[gs.Node]:
        """Infer what these nodes give, where an unknown operator had hidden it so far; the nodes that read it."""
        reached: list[gs.Node] = []
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if bodies(node) or not any(t.name and t.dtype is None for t in node.outputs):
                continue
            try:
                types = op.infer(node, [Value(t, self.editor) if t.name else None for t in node.inputs])
            except RewriteError:
                continue
            for tensor, (dtype, dims) in zip(node.outputs, types, strict=False):
                if tensor.dtype is None and dtype is not None:
                    tensor.dtype, tensor.shape = dtype, None if dims is None else list(dims)
                    pending += self.editor.consumers(tensor)
                    reached += self.editor.consumers(tensor)
        return reached

    def _descend(self, rule: Rule, sources: list[gs.Node], created: list[gs.Node], balance: int) -> None:
        known = [self._lineage[id(n)] for n in sources if id(n) in self._lineage]
        parent = max(known, key=lambda line: line.depth, default=None)
        depth, total = (parent.depth + 1, parent.balance + balance) if parent else (1, balance)
        line = _Lineage(rule.name, depth, total, parent)
        if depth > _LONGEST_CHAIN and total >= 0:
            names = line.recent()
            raise RewriteError(
                f"these rules undo each other's work without end: {', '.join(names)}",
                rule=rule.name,
                node=_where(sources[0]),
                hint="turn one of them off, or let its check refuse what the other makes",
            )
        self._lineage.update({id(n): line for n in created})

    def _run_pass(self, graph_pass: GraphPass) -> None:
        started = time.perf_counter()

        def commit(node: Node, op: Builder, made: tuple[Value, ...]) -> None:
            match = Match(node.raw, [node.raw], [t for t in node.raw.outputs if t.name])
            self._commit(graph_pass, match, self._values(graph_pass, match, made, op), op)

        try:
            graph_pass.run(PassGraph(self.editor, lambda node: self._builder(graph_pass, node.raw), commit))
        except Refusal as refusal:
            self._refused[graph_pass.name, ""] = Refused(graph_pass.name, "", "graph", refusal.reason)
        except Exception as error:
            what = error.what if isinstance(error, RewriteError) else f"{type(error).__name__}: {error}"
            raise RewriteError(what, rule=f"{graph_pass.name} ({graph_pass.owner})") from error
        self.report.seconds[graph_pass.name] += time.perf_counter() - started


def _undo(builder: Builder | None) -> None:
    if builder is not None:
        builder.undo()


def _one_of(tensor: gs.Tensor, tensors: list[gs.Tensor]) -> bool:
    return any(tensor is t for t in tensors)


def _operator(node: gs.Node) -> tuple[str, str]:
    return "" if node.domain in (None, "ai.onnx") else str(node.domain), str(node.op)


def _where(node: gs.Node) -> str:
    return str(node.name or (node.outputs[0].name if node.outputs else node.op))


def _difference(old: Value, new: Value) -> str | None:
    """Why a value cannot take another's place; None when it can as far as both are known."""
    if old.known_dtype is not None and new.known_dtype is not None and old.known_dtype != new.known_dtype:
        return f"is {new.known_dtype} where it was {old.known_dtype}"
    if old.dims is None or new.dims is None:
        return None
    if len(old.dims) != len(new.dims):
        return f"has rank {len(new.dims)} where it was {len(old.dims)}"
    clash = any(type(a) is int and type(b) is int and a != b for a, b in zip(old.dims, new.dims, strict=False))
    return f"has shape {list(new.dims)} where it was {list(old.dims)}" if clash else None
