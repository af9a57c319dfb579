"""A module's graph node by node in PyTorch, beside the ONNX graph or the engine that it is compiled to."""

from bridge.debug.breakpoints import Breakpoint
from bridge.debug.debugger import Debugger, debug
from bridge.debug.steps import DebugStep

__all__ = ["Breakpoint", "DebugStep", "Debugger", "debug"]
