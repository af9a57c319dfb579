"""PyTorch models as TensorRT engines, through ONNX: the public names, nothing else.

What a name needs is imported when the name is first used, so that ``import bridge`` stays quick. The operator that
saved modules call is registered at once: a process that loads one needs nothing but this import.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

import bridge.runtime.op  # noqa: F401 - registers the operator
from bridge._about import __version__

if TYPE_CHECKING:
    from bridge import logging
    from bridge.bundle import Bundle, report_bundle
    from bridge.compare import ComparisonReport, compare
    from bridge.compile import compile
    from bridge.debug import debug
    from bridge.diff import DiffReport, diff
    from bridge.errors import (
        BridgeError,
        BuildError,
        EngineError,
        ExportError,
        SpecError,
        UnsupportedOperatorError,
    )
    from bridge.interface import convert_method_to_trt_engine, to_onnx
    from bridge.profiling import ProfileReport, profile
    from bridge.quantization import quantize
    from bridge.rebuild import rebuild
    from bridge.runtime.inspection import inspect
    from bridge.runtime.module import as_module, configure, embed_engine_in_new_module
    from bridge.spec import CompileSpec, Constant, Device, Input
    from bridge.support import check_method_op_support, dryrun

_ERRORS = ("BridgeError", "BuildError", "EngineError", "ExportError", "SpecError", "UnsupportedOperatorError")
_HOMES = {
    "compile": "bridge.compile",
    **dict.fromkeys(("ComparisonReport", "compare"), "bridge.compare"),
    "debug": "bridge.debug",
    **dict.fromkeys(("Bundle", "report_bundle"), "bridge.bundle"),
    **dict.fromkeys(("DiffReport", "diff"), "bridge.diff"),
    **dict.fromkeys(("CompileSpec", "Constant", "Device", "Input"), "bridge.spec"),
    "inspect": "bridge.runtime.inspection",
    "quantize": "bridge.quantization",
    "rebuild": "bridge.rebuild",
    **dict.fromkeys(("ProfileReport", "profile"), "bridge.profiling"),
    **dict.fromkeys(("convert_method_to_trt_engine", "to_onnx"), "bridge.interface"),
    **dict.fromkeys(("check_method_op_support", "dryrun"), "bridge.support"),
    **dict.fromkeys(("as_module", "configure", "embed_engine_in_new_module"), "bridge.runtime.module"),
    **dict.fromkeys(_ERRORS, "bridge.errors"),
}

__all__ = [
    "BridgeError",
    "BuildError",
    "Bundle",
    "ComparisonReport",
    "CompileSpec",
    "Constant",
    "Device",
    "DiffReport",
    "EngineError",
    "ExportError",
    "Input",
    "ProfileReport",
    "SpecError",
    "UnsupportedOperatorError",
    "__version__",
    "as_module",
    "check_method_op_support",
    "compare",
    "compile",
    "configure",
    "convert_method_to_trt_engine",
    "debug",
    "diff",
    "dryrun",
    "embed_engine_in_new_module",
    "inspect",
    "logging",
    "profile",
    "quantize",
    "rebuild",
    "report_bundle",
    "to_onnx",
]


def _lazy(name: str) -> property:
    def get(_: types.ModuleType) -> Any:
        return getattr(importlib.import_module(_HOMES[name]), name)

    def keep(_: types.ModuleType, value: object) -> None:
        """Importing bridge/compile.py would put that module in the function's place."""
        if not isinstance(value, types.ModuleType):
            raise AttributeError(f"bridge.{name} is not to be replaced")

    return property(get, keep)


class _Package(types.ModuleType):
    """The package itself, with its public names as properties."""

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})

    def __getattr__(self, name: str) -> Any:
        if name == "logging":
            return importlib.import_module("bridge.logging")
        raise AttributeError(f"module 'bridge' has no attribute {name!r}")


for _name in _HOMES:
    setattr(_Package, _name, _lazy(_name))
sys.modules[__name__].__class__ = _Package
