"""`rewrites.rewrite`: a model in, the engine over it, a model out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import onnx
import onnx_graphsurgeon as gs

from rewrites import model as models
from rewrites.engine import Engine
from rewrites.errors import RewriteError
from rewrites.registry import RuleSet, default_rules
from rewrites.report import Report
from rewrites.rule import Rule
from rewrites.targets import Target

_LOG = logging.getLogger("rewrites")
_MODERN = 18  # the opset that most rules are written for
M = TypeVar("M", onnx.ModelProto, gs.Graph)


@dataclass(frozen=True)
class RewriteResult(Generic[M]):
    """The rewritten model, of the kind that was given, and the report of what was done."""

    model: M
    report: Report


def rewrite(
    model: M, *, target: str = "tensorrt", rules: Iterable[Rule] | None = None, limit: int | None = None
) -> RewriteResult[M]:
    """Turn a model that the target refuses into one that it takes.

    Args:
        model: an `onnx.ModelProto`, which is left as it is, or an `onnx_graphsurgeon.Graph`, which is changed in place.
        target: "tensorrt", "tensorrt_rtx" or "onnxruntime", with a version as "tensorrt==10.6" if not the installed
            one; "any" applies every rule.
        rules: the rules to apply, `default_rules()` when left out.
        limit: stop after so many applications (those of one graph pass count as one): the model is
            whole, but may hold what the target refuses. For finding the application that went wrong by halving.

    Raises:
        RewriteError: when the model is broken, or its opset cannot be made one that the target reads; when a rule
            raises, loops, or would break the graph: then it names the rule, and `.model` is the model as it was
            before the application at fault.
    """
    started, wanted = time.perf_counter(), Target.parse(target)
    rule_set = rules if isinstance(rules, RuleSet) else default_rules() if rules is None else RuleSet(rules)
    _check(model, limit)
    graph = model if isinstance(model, gs.Graph) else None
    engine = _best(model, wanted, rule_set, limit) if graph is None else _run(graph, wanted, rule_set, limit)
    result, report = engine.editor.finish(), engine.report
    report.total_seconds = time.perf_counter() - started
    _LOG.info(report.line())
    return RewriteResult(models.save(result, model) if graph is None else result, report)


def _check(model: object, limit: object) -> None:
    if not isinstance(model, onnx.ModelProto | gs.Graph):
        hint = "onnx.load(path) reads a model from a file" if isinstance(model, str | os.PathLike) else None
        told = f"model: expected an onnx.ModelProto or an onnx_graphsurgeon.Graph, got {type(model).__name__}"
        raise RewriteError(told, hint=hint)
    if isinstance(model, onnx.ModelProto) and not model.HasField("graph"):
        raise RewriteError("the model has no graph", hint="an ONNX file that is empty or damaged reads like that")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise RewriteError(f"limit: expected a whole number from 0, got {limit!r}")


def _best(model: onnx.ModelProto, target: Target, rules: RuleSet, limit: int | None) -> Engine:
    """A run at the model's opset, or at a newer one where rules do something that needs one, limited or not."""
    try:
        engine = _run(model, target, rules)
    except RewriteError:
        if limit is None:
            raise
        return _run(model, target, rules, limit)
    newer = _raised(model, target, rules, engine) if engine.waiting else None
    if limit is not None:
        return _run(model, target, rules, limit, 0 if newer is None else _MODERN)
    return newer or engine


def _raised(model: onnx.ModelProto, target: Target, rules: RuleSet, engine: Engine) -> Engine | None:
    """A run at a newer opset; None where that is not to be had, or brings nothing."""
    try:
        newer = _run(model, target, rules, least=_MODERN)
    except RewriteError as error:
        _LOG.debug("the opset is not raised: %s", error)
        return None
    found = sorted(engine.waiting & newer.report.counts.keys())
    newer.report.notes.append(f"the opset was raised for {', '.join(found)}")
    return newer if found else None


def _run(model: M, target: Target, rules: RuleSet, limit: int | None = None, least: int = 0) -> Engine:
    report = Report(str(target))
    if isinstance(model, gs.Graph):
        graph = model
        models.complete(graph)
    else:
        graph = models.load(model, target, report.notes, least)
    engine = Engine(graph, target, rules, report, limit)
    try:
        engine.run()
    except RewriteError as error:
        kept = engine.editor.finish()
        error.model = kept if isinstance(model, gs.Graph) else models.save(kept, model)
        raise
    return engine
