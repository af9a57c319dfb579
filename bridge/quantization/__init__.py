"""Quantization after training: ranges from calibration, and what rounds to INT8 put into a module."""

from bridge.quantization.quantizing import quantize

__all__ = ["quantize"]
