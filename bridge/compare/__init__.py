"""Comparison of a module with what it was compiled to: outputs by Polygraphy, and layer by layer."""

from bridge.compare.comparing import compare
from bridge.compare.results import ComparisonReport

__all__ = ["ComparisonReport", "compare"]
