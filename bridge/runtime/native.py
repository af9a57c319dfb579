"""Which implementation of the operator runs: the library in C++ where one was built, else Python.

The library defines and implements `bridge::execute_engine` for TensorRT engines, without the interpreter and its lock;
what it leaves to Python, plans of other backends, it calls as `bridge::execute_engine_in_python`. It is built by
``python -m bridge.runtime.build``, and found at ``BRIDGE_RUNTIME_LIBRARY`` or where that command puts it.
``BRIDGE_RUNTIME=python`` leaves it out, ``BRIDGE_RUNTIME=native`` makes it an error that there is none.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bridge.errors import EngineError
from bridge.runtime.bindings import pass_on

log = logging.getLogger("bridge.runtime")

SOURCES = Path(__file__).parent / "csrc"
LIBRARY = "libbridge_runtime.so"
BUILD = "python -m bridge.runtime.build"

_CHOICES = ("auto", "native", "python")
# nvinfer1::ILogger::Severity, from 0
_LEVELS = (logging.ERROR, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
_OWN = {5: logging.WARNING, 6: logging.DEBUG}  # the library's, not TensorRT's
_Sink = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)
_library: ctypes.CDLL | None = None


def implementation() -> str:
    """What runs TensorRT engines in this process: ``"native"``, the library in C++, or ``"python"``."""
    return "native" if is_loaded() else "python"


def is_loaded() -> bool:
    """Whether the library is in this process, and the operator its own."""
    return hasattr(torch.ops.bridge, "configure_engine")


def default_path() -> Path:
    """Where a library for this PyTorch and from these sources is built to, and looked for."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache_home / "bridge" / "runtime" / f"torch-{torch.__version__}-{_sources_digest()}" / LIBRARY


@cache
def _sources_digest() -> str:
    hasher = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()[:12]


def load() -> bool:
    """Loads the library if there is one and it is wanted; whether it is in the process afterwards.

    Raises:
        EngineError: it is asked for by name, and is not there or does not load.
    """
    if is_loaded():  # by a C++ program around this interpreter
        return True
    wanted = os.environ.get("BRIDGE_RUNTIME", "auto")
    if wanted not in _CHOICES:
        raise EngineError(f"BRIDGE_RUNTIME is {wanted!r}", hint=f"it may be {', '.join(_CHOICES)}")
    if wanted == "python":
        return False
    named = os.environ.get("BRIDGE_RUNTIME_LIBRARY")
    path = Path(named) if named else default_path()
    if not path.is_file():
        if named or wanted == "native":
            raise EngineError(f"the runtime library is not at {path}", hint=f"build it: {BUILD}")
        return False
    _load(path)
    return True


def _load(path: Path) -> None:
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise EngineError(
            f"the runtime library at {path} does not load",
            why=str(error),
            hint=f"build it anew for this PyTorch ({torch.__version__}): {BUILD}; BRIDGE_RUNTIME=python does without",
        ) from error
    global _library
    _library = library = ctypes.CDLL(str(path))
    tensorrt = _tensorrt_library(_headers_version(library))
    if tensorrt is not None:
        library.bridge_runtime_set_tensorrt(str(tensorrt).encode())
    library.bridge_runtime_set_log(_sink)
    atexit.register(library.bridge_runtime_set_log, _Sink(0))
    atexit.register(library.bridge_runtime_close)


def _headers_version(library: ctypes.CDLL) -> str:
    library.bridge_runtime_info.restype = ctypes.c_char_p
    return str(json.loads(library.bridge_runtime_info())["tensorrt"])


def _tensorrt_library(version: str) -> Path | None:
    """TensorRT's library in the package that PyPI has of it; found without importing it."""
    spec = importlib.util.find_spec("tensorrt_libs")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place) / f"libnvinfer.so.{version.partition('.')[0]}"
        if path.is_file():
            return path
    return None


def _pass_on(severity: int, message: bytes) -> None:
    if severity in _OWN:
        log.log(_OWN[severity], "%s", message.decode(errors="replace"))
        return
    level = _LEVELS[severity] if 0 <= severity < len(_LEVELS) else logging.DEBUG
    pass_on(level, message.decode(errors="replace"))


_sink = _Sink(_pass_on)  # kept: the library calls it for as long as the process runs


def engines() -> int:
    """How many engines the library has loaded."""
    return 0 if _library is None else int(_library.bridge_runtime_engines())


def graphs() -> int:
    """How many calls that repeat the library launches as CUDA graphs."""
    return 0 if _library is None else int(_library.bridge_runtime_graphs())


def set_options(plan: torch.Tensor, options: Mapping[str, Any]) -> None:
    """Tells the library how the calls of this plan run from now on; without it there is nothing to tell."""
    if is_loaded():
        torch.ops.bridge.configure_engine(plan, json.dumps(dict(options)))
