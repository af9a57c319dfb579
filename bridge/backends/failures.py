"""Builds that gave no engine, remembered: none is tried twice on the same graph by the same backend.

In the process always, and beside the timing cache where the spec names one. What another moment may change, as memory
that ran out, is not remembered.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
import torch

from bridge.backends.base import Backend, BuildSettings
from bridge.backends.weights import detach_weights
from bridge.errors import BuildError
from bridge.runtime.plan import Profile

_LOG = logging.getLogger("bridge.backends")
_PASSING = re.compile(r"memory|alloc|cuda runtime|cuda error|driver|no space|disk", re.IGNORECASE)
_Told = dict[str, str | None]
_remembered: dict[str, _Told] = {}


def file_of(settings: BuildSettings) -> Path | None:
    """Where failed builds are kept from one process to the next; None without a timing cache."""
    return None if settings.timing_cache is None else Path(f"{settings.timing_cache}.failed.json")


def known_failure(
    graph: gs.Graph, profiles: Sequence[Profile], settings: BuildSettings, backend: Backend
) -> BuildError | None:
    """How an earlier build of this graph failed, None where there was none; weights may have had other values."""
    known = {**_read(file_of(settings)), **_remembered}
    told = known.get(_digest(graph, profiles, settings, backend)) if known else None
    return None if told is None else BuildError(str(told["what"]), where=told.get("where"), why=told.get("why"))


def remember_failure(
    graph: gs.Graph, profiles: Sequence[Profile], settings: BuildSettings, backend: Backend, error: BuildError
) -> None:
    """Keeps how a build failed, unless another attempt may do better."""
    if _PASSING.search(str(error)):
        return
    digest, path = _digest(graph, profiles, settings, backend), file_of(settings)
    _remembered[digest] = {"what": error.what, "where": error.where, "why": error.why}
    if path is None:
        return
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps({**_read(path), digest: _remembered[digest]}, indent=1))
        part.replace(path)
    except OSError as problem:
        _LOG.warning("%s: a failed build was not kept: %s", path, problem)


def forget_failures() -> None:
    """Forgets those of this process; the files stay."""
    _remembered.clear()


def _read(path: Path | None) -> dict[str, _Told]:
    if path is None or not path.is_file():
        return {}
    try:
        read = json.loads(path.read_text())
        return {digest: {key: told.get(key) for key in ("what", "where", "why")} for digest, told in read.items()}
    except (OSError, ValueError, AttributeError) as problem:
        _LOG.warning("%s: no list of failed builds: %s", path, problem)
        return {}


def _digest(graph: gs.Graph, profiles: Sequence[Profile], settings: BuildSettings, backend: Backend) -> str:
    model, _ = detach_weights(graph)
    return digest_of(model, profiles, settings, backend)


def digest_of(
    model: onnx.ModelProto, profiles: Sequence[Profile], settings: BuildSettings, backend: Backend, *others: str
) -> str:
    """What names a build: the graph but for its weights, and all that decides what becomes of it; ``others`` too."""
    del model.metadata_props[:]
    changed = {name: value for name, value in settings.changed().items() if name != "timing_cache"}
    device = torch.cuda.get_device_name(settings.device) if torch.cuda.is_available() else ""
    key = [backend.name, backend.version(), device, changed, [sorted(profile.items()) for profile in profiles], *others]
    text = json.dumps(key, sort_keys=True, default=str).encode()
    return hashlib.sha256(text + model.SerializeToString(deterministic=True)).hexdigest()
