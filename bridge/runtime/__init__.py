"""Running what a backend built: plans, their signatures, and the operator `bridge::execute_engine`."""

from bridge.runtime.inspection import EngineInspection, Inspection, inspect
from bridge.runtime.module import as_module, configure, embed_engine_in_new_module, plan_signature
from bridge.runtime.native import implementation
from bridge.runtime.op import execute_engine
from bridge.runtime.plan import Binding, Plan, PlanHeader, Profile
from bridge.runtime.session import RunOptions, Session, load
from bridge.runtime.signature import InputSignature, OutputSignature, Range, Signature

__all__ = [
    "Binding",
    "EngineInspection",
    "InputSignature",
    "Inspection",
    "OutputSignature",
    "Plan",
    "PlanHeader",
    "Profile",
    "Range",
    "RunOptions",
    "Session",
    "Signature",
    "as_module",
    "configure",
    "embed_engine_in_new_module",
    "execute_engine",
    "implementation",
    "inspect",
    "load",
    "plan_signature",
]
