"""Small modules that no exporter takes whole, each with calls to make and the number of engines that it may have."""

from . import containers, control, layers, regions, sequences, state, tensors
from .case import CASES, Case

__all__ = ["CASES", "Case", "containers", "control", "layers", "regions", "sequences", "state", "tensors"]
