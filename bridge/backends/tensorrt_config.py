"""Build settings and profiles in TensorRT's terms."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from bridge.backends.base import BuildSettings, Progress
from bridge.errors import BuildError, SpecError
from bridge.runtime.plan import Profile

_LOG = logging.getLogger("bridge.backends")


def configure(
    trt: ModuleType,
    builder: Any,
    network: Any,
    profiles: Sequence[Profile],
    settings: BuildSettings,
    progress: Progress | None,
) -> tuple[Any, list[str]]:
    """The builder's configuration, and a note for each setting that this TensorRT does not have."""
    config = builder.create_builder_config()
    notes: list[str] = []
    if settings.workspace_size is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_size)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.max_aux_streams is not None:
        config.max_aux_streams = settings.max_aux_streams
    if settings.disable_tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    config.profiling_verbosity = getattr(trt.ProfilingVerbosity, settings.profiling_verbosity.upper())
    config.engine_capability = getattr(trt.EngineCapability, settings.engine_capability.upper())
    _set_flags(trt, config, settings, notes)
    _load_timing_cache(config, settings)
    for profile in profiles:
        if config.add_optimization_profile(_profile(builder, network, profile, settings)) < 0:
            raise BuildError("TensorRT does not take a profile", why=f"its shapes (min, opt, max): {profile}")
    if not profiles:
        _require_static(network)
    if progress is not None:
        config.progress_monitor = _monitor(trt, progress)
    return config, notes


def _set_flags(trt: ModuleType, config: Any, settings: BuildSettings, notes: list[str]) -> None:
    wanted = {
        "VERSION_COMPATIBLE": settings.version_compatible,
        "STRIP_PLAN": settings.strip_plan,
        "REFIT": settings.refittable,
        "SPARSE_WEIGHTS": settings.sparse_weights,
    }
    for name, is_wanted in wanted.items():
        flag = getattr(trt.BuilderFlag, name, None)
        if is_wanted and flag is None:
            notes.append(f"{trt.__name__} {trt.__version__} has no builder flag {name}; the setting did nothing")
        elif is_wanted:
            config.set_flag(flag)


def _profile(builder: Any, network: Any, profile: Profile, settings: BuildSettings) -> Any:
    result = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor and tensor.name in settings.shape_values:
            result.set_shape_input(tensor.name, *settings.shape_values[tensor.name])
        if -1 in tuple(tensor.shape):
            if tensor.name not in profile:
                raise _without_range(tensor)
            result.set_shape(tensor.name, *profile[tensor.name])
    return result


def _require_static(network: Any) -> None:
    for index in range(network.num_inputs):
        if -1 in tuple(network.get_input(index).shape):
            raise _without_range(network.get_input(index))


def _without_range(tensor: Any) -> BuildError:
    return BuildError(
        f"input {tensor.name!r} of shape {tuple(tensor.shape)} has dynamic dimensions without a range",
        where=tensor.name,
        hint="give its min, opt and max shape",
    )


def _load_timing_cache(config: Any, settings: BuildSettings) -> None:
    if settings.timing_cache is None:
        return
    path = Path(settings.timing_cache)
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise SpecError(f"timing_cache: {path} cannot be read", why=error.strerror, hint="name a file") from error
    config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=True)


def save_timing_cache(config: Any, settings: BuildSettings) -> None:
    """Writes what the build learnt, whole or not at all: builds may share the file. The engine does without."""
    cache = config.get_timing_cache() if settings.timing_cache is not None else None
    if cache is None:
        return
    path = Path(str(settings.timing_cache))
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(memoryview(cache.serialize()))
        draft.replace(path)
    except OSError as error:
        _LOG.warning("timing_cache: %s cannot be written (%s): the next build takes as long", path, error.strerror)


def _monitor(trt: ModuleType, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Tells ``progress`` about the outermost phase; Ctrl-C ends the build at the next step."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._stopped = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps
                self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                self._tell(phase_name, step + 1)
            return not self._stopped

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self._steps:
                self._tell(phase_name, self._steps.pop(phase_name))

        def _tell(self, phase: str, step: int) -> None:
            try:
                progress(phase, step, self._steps.get(phase, step))
            except KeyboardInterrupt:
                self._stopped = True
            except Exception as error:  # the user's own
                _LOG.warning("progress: %s failed, and is told no more", progress, exc_info=error)
                self._steps.clear()

    return Monitor()
