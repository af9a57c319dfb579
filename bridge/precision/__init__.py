"""Numeric precision of an ONNX graph: FP16 and BF16 by strong typing."""

from bridge.precision.accumulation import accumulate_in_fp32
from bridge.precision.casting import CastReport, Kept, cast
from bridge.precision.double import truncate
from bridge.precision.edges import narrow_inputs
from bridge.precision.heads import widen_heads
from bridge.precision.policy import Predicate, as_predicate, final_layers
from bridge.precision.types import CONTROL_FLOW
from bridge.precision.widening import widen_refused

__all__ = [
    "CONTROL_FLOW",
    "CastReport",
    "Kept",
    "Predicate",
    "accumulate_in_fp32",
    "as_predicate",
    "cast",
    "final_layers",
    "narrow_inputs",
    "truncate",
    "widen_heads",
    "widen_refused",
]
