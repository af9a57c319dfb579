"""Engines that were built before, in a folder: the same graph with the same weights is not built twice.

A file is named after all that decides what is in it. One that is damaged is built anew; any may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from bridge._about import __version__
from bridge.backends.base import Backend, BuildSettings, Progress
from bridge.backends.failures import digest_of
from bridge.backends.weights import Array, detach_weights
from bridge.errors import EngineError
from bridge.runtime.plan import Plan, Profile

_LOG = logging.getLogger("bridge.backends")


def built(
    graph: gs.Graph,
    profiles: Sequence[Profile],
    settings: BuildSettings,
    backend: Backend,
    progress: Progress | None,
    folder: Path | str | None,
) -> Plan:
    """The graph's engine, from the folder or built and put there; built where there is no folder.

    Args:
        folder: made when it is not there. One that cannot be written is warned about.

    Raises:
        BuildError: the backend gave no engine.
    """
    if folder is None:
        return backend.build(graph, profiles, settings, progress)
    model, weights = detach_weights(graph)
    path = Path(folder) / f"{digest_of(model, profiles, settings, backend, __version__, _digest(weights))}.plan"
    plan = _read(path)
    if plan is None:
        plan = backend.build(graph, profiles, settings, progress)
        _write(plan, path)
    return plan


def _digest(weights: Mapping[str, Array]) -> str:
    """Of every weight its name, type, shape and bytes."""
    hasher = hashlib.sha256()
    for name, array in weights.items():
        hasher.update(f"{name} {array.dtype} {array.shape} ".encode())
        hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


def _read(path: Path) -> Plan | None:
    if not path.is_file():
        return None
    try:
        plan = Plan.from_bytes(bytearray(path.read_bytes()))
    except (OSError, ValueError, EngineError) as error:
        _LOG.warning("%s: built again: %s", path, error)
        return None
    _LOG.info("an engine was built before: %s", path)
    return plan


def _write(plan: Plan, path: Path) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plan.to_tensor().numpy().tofile(part)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        _LOG.warning("%s: an engine was not kept: %s", path, error)
