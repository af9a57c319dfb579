"""One place for messages: the loggers ``bridge`` and ``rewrites`` with everything below them.

Warnings and errors are shown, nothing else. More, for a while::

    with bridge.logging.info():
        bridge.compile(module, spec)

Every context acts on the whole process and gives back what it found. Programs that configure `logging` themselves keep
their handlers: the contexts then change levels only.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

ROOTS = ("bridge", "rewrites")
_EXPORTERS = ("torch.onnx", "torch.jit", "torch.export", "onnxscript", "onnx_ir", "onnxruntime")
_FORMAT = "%(levelname)s %(name)s: %(message)s"


class FoldDuplicates(logging.Filter):
    """Lets each message through once; the next different one is told how many were folded."""

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[int, str] | None = None
        self._folded = 0
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is news."""
        said = (record.levelno, record.getMessage())
        with self._lock:
            if said == self._last:
                self._folded += 1
                return False
            if self._folded:
                record.msg, record.args = f"{said[1]} (the message before came {self._folded + 1} times)", ()
            self._last, self._folded = said, 0
        return True


class _ErrorStream(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what sys.stderr is at the moment, so that captured and redirected output stays so."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter(_FORMAT))
        self.addFilter(FoldDuplicates())

    @property
    def stream(self) -> object:
        return sys.stderr


def debug() -> contextlib.AbstractContextManager[None]:
    """Everything, also what TensorRT and Polygraphy say at their most talkative."""
    return _level(logging.DEBUG)


def info() -> contextlib.AbstractContextManager[None]:
    """One line a step: what is exported, rewritten, built, and how long it took."""
    return _level(logging.INFO)


def quiet() -> contextlib.AbstractContextManager[None]:
    """Errors only."""
    return _level(logging.ERROR)


@contextlib.contextmanager
def _level(level: int) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ROOTS]
    before = [logger.level for logger in loggers]
    handler = None if logging.getLogger().handlers else _ErrorStream()
    for logger in loggers:
        logger.setLevel(level)
        if handler:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)
            if handler:
                logger.removeHandler(handler)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keeps from our users what PyTorch's exporters say to theirs: deprecations, and their own progress."""
    loggers = [logging.getLogger(name) for name in _EXPORTERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx|onnxscript")
            warnings.filterwarnings("ignore", message=r".*torch\.jit\.\w+.* is (deprecated|not supported)")
            yield
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)


@contextlib.contextmanager
def silenced(name: str) -> Iterator[None]:
    """Keeps what another package's logger says of errors that are expected, and handled."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _set_up() -> None:
    for name in ROOTS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


_set_up()
