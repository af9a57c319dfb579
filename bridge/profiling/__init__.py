"""Where the time of a compiled module goes: by layer, by module, by source line."""

from bridge.profiling.profiler import profile
from bridge.profiling.results import Part, ProfileReport

__all__ = ["Part", "ProfileReport", "profile"]
