"""TensorRT's Python bindings, either of the two, loaded by name; and its messages in Python's logging."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any

from bridge._about import DISTRIBUTION
from bridge.errors import BridgeError

log = logging.getLogger("bridge.tensorrt")

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}

_HARMLESS = ("has Int64 binding.",)  # bindings take the dtype that the plan says
_said: set[str] = set()


def bindings(name: str) -> ModuleType:
    """The module ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        BridgeError: it is not installed, or its libraries do not load; with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise BridgeError(
            f"{TITLES[name]} is not installed here",
            why=str(error),
            hint=f'pip install "{DISTRIBUTION}[{EXTRAS[name]}]"',
        ) from error


@cache
def logger(name: str) -> Any:
    """The one logger that these bindings get: they keep the first for the whole process."""
    trt = bindings(name)
    result = _logger_class(trt)()
    with suppress(RuntimeError):  # without a GPU there are no plugins to load
        trt.init_libnvinfer_plugins(result, "")
    return result


def pass_on(level: int, message: str) -> None:
    """Gives a message of TensorRT to the logger ``bridge.tensorrt``; what was said before goes to its debug level."""
    if message in _said or message.endswith(_HARMLESS):
        level = logging.DEBUG
    elif level >= logging.WARNING:
        _said.add(message)
    log.log(level, "%s", message)


def _levels(trt: ModuleType) -> dict[Any, int]:
    severities = trt.ILogger.Severity
    return {
        severities.INTERNAL_ERROR: logging.ERROR,
        severities.ERROR: logging.ERROR,
        severities.WARNING: logging.WARNING,
        severities.INFO: logging.INFO,
        severities.VERBOSE: logging.DEBUG,
    }


def _logger_class(trt: ModuleType) -> type[Any]:
    levels = _levels(trt)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Passes messages to the logger ``bridge.tensorrt``."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._listeners: dict[int, list[str]] = {}

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                for heard in list(self._listeners.values()):
                    heard.append(message)
                level = logging.INFO if self._listeners else level  # whoever listens raises it
            pass_on(level, message)

        @contextmanager
        def errors(self) -> Iterator[list[str]]:
            """The errors said while it lasts, from any thread: a builder says them from its own."""
            heard: list[str] = []
            key = id(heard)
            self._listeners[key] = heard
            try:
                yield heard
            finally:
                del self._listeners[key]

    return Logger
