"""Backends: what turns an ONNX graph into a plan."""

from bridge.backends.base import NAMES, Backend, BuildSettings, Progress, Refusal, get, select
from bridge.runtime.plan import Plan, Profile

__all__ = ["NAMES", "Backend", "BuildSettings", "Plan", "Profile", "Progress", "Refusal", "get", "select"]
