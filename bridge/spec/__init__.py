"""Every setting of a compilation, its check and its error."""

from bridge.spec.compile_spec import FIELDS, CompileSpec
from bridge.spec.device import Device
from bridge.spec.inputs import Input
from bridge.spec.structure import Constant, Leaf

__all__ = ["FIELDS", "CompileSpec", "Constant", "Device", "Input", "Leaf"]
