"""Running what a backend built: plans, their signatures, and the operator `bridge::execute_engine`."""

from bridge.runtime.op import execute_engine
from bridge.runtime.plan import Binding, Plan, PlanHeader, Profile
from bridge.runtime.session import Session, load
from bridge.runtime.signature import InputSignature, OutputSignature, Range, Signature

__all__ = [
    "Binding",
    "InputSignature",
    "OutputSignature",
    "Plan",
    "PlanHeader",
    "Profile",
    "Range",
    "Session",
    "Signature",
    "execute_engine",
    "load",
]
