"""Rewriting of ONNX graphs into graphs that a compiler takes. See docs/writing-rules.md."""

from rewrites import torch_domain
from rewrites.errors import Refusal, RewriteError, require
from rewrites.example import example, tensor
from rewrites.graph import Node, Shape, Value
from rewrites.lowering import lowering
from rewrites.registry import RuleSet, default_rules
from rewrites.report import Report
from rewrites.rewriting import RewriteResult, rewrite
from rewrites.rule import graph_pass, plugin, rule
from rewrites.targets import Target

__all__ = [
    "Node",
    "Refusal",
    "Report",
    "RewriteError",
    "RewriteResult",
    "RuleSet",
    "Shape",
    "Target",
    "Value",
    "default_rules",
    "example",
    "graph_pass",
    "lowering",
    "plugin",
    "require",
    "rewrite",
    "rule",
    "tensor",
    "torch_domain",
]
