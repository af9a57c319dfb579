"""One place for messages: the loggers ``bridge`` and ``rewrites`` with everything below them.

Warnings and errors are shown, nothing else. More, or less, for a while::

    with bridge.logging.info():
        bridge.compile(module, spec)

``bridge.tensorrt`` has what TensorRT says, ``bridge.polygraphy`` what Polygraphy says. A message that comes again and
again is shown once, and at the end how often it was repeated.

Every context acts on the whole process, from any thread, and gives back what it found; of contexts that overlap, the
one entered last counts. Programs that configure `logging` themselves keep their handlers: the contexts then change
levels only. The root logger is never touched.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
import threading
import warnings as python_warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import ClassVar

from bridge.errors import SpecError

ROOTS = ("bridge", "rewrites")
GRAPHS = 5
"""The level of whole graphs, below DEBUG."""
_EXPORTERS = ("torch.onnx", "torch.jit", "torch.export", "onnxscript", "onnx_ir", "onnxruntime")
_FORMAT = "%(levelname)s %(name)s: %(message)s"
_LEVELS = {
    "internal_error": logging.CRITICAL, "error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO,
    "debug": logging.DEBUG, "graph": GRAPHS,
}  # fmt: skip
_REMEMBERED = 32

logging.addLevelName(GRAPHS, "GRAPH")


class FoldingHandler(logging.Handler):
    """Passes each message on once, and in the place of its repetitions one line that counts them.

    Messages are the same when logger, level and text are; the last 32 different ones are remembered. The count comes
    when a message leaves that memory, or with `close`.

    Args:
        emit: what takes the records.
    """

    def __init__(self, emit: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._pass_on = emit
        self._seen: OrderedDict[tuple[str, int, str], tuple[logging.LogRecord, int]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        key = record.name, record.levelno, record.getMessage()
        if key in self._seen:
            first, count = self._seen.pop(key)
            self._seen[key] = first, count + 1
            return
        self._pass_on(record)
        self._seen[key] = record, 0
        if len(self._seen) > _REMEMBERED:
            self._tell(*self._seen.popitem(last=False)[1])

    def close(self) -> None:
        """Tells the counts that are still due."""
        with self.lock or contextlib.nullcontext():
            while self._seen:
                self._tell(*self._seen.popitem(last=False)[1])
        super().close()

    def _tell(self, record: logging.LogRecord, count: int) -> None:
        if count:
            again = copy.copy(record)
            again.msg = f"{_shortened(record.getMessage())} (repeated {count} time{'s' * (count != 1)})"
            again.args = ()
            self._pass_on(again)


def _shortened(text: str, most: int = 100) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _to_stderr(record: logging.LogRecord) -> None:
    """Writes to what sys.stderr is at the moment, so that captured and redirected output stays so."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(logging.Formatter(_FORMAT).format(record) + "\n")


class _Contexts:
    """The contexts that are entered at the moment, in any thread, and what was there before the first of them."""

    lock = threading.RLock()
    entered: ClassVar[list[tuple[object, int]]] = []
    before: ClassVar[list[int]] = []
    handler: ClassVar[FoldingHandler | None] = None
    lasting: ClassVar[object] = None
    """What `set_level` entered."""

    @classmethod
    def enter(cls, level: int, *, outermost: bool = False) -> object:
        token = object()
        with cls.lock:
            if not cls.entered:
                cls.before[:] = [logger.level for logger in _roots()]
                cls.handler = None if logging.getLogger().handlers else FoldingHandler(_to_stderr)
                for logger in _roots() if cls.handler else ():
                    logger.addHandler(cls.handler)  # type: ignore[arg-type]
            cls.entered.insert(0 if outermost else len(cls.entered), (token, level))
            cls._apply()
        return token

    @classmethod
    def leave(cls, token: object) -> None:
        with cls.lock:
            cls.entered[:] = [entry for entry in cls.entered if entry[0] is not token]
            if cls.entered:
                cls._apply()
                return
            for logger, level in zip(_roots(), cls.before, strict=True):
                logger.setLevel(level)
                if cls.handler:
                    logger.removeHandler(cls.handler)
            handler, cls.handler = cls.handler, None
        if handler:
            handler.close()

    @classmethod
    def _apply(cls) -> None:
        for logger in _roots():
            logger.setLevel(cls.entered[-1][1])


def _roots() -> list[logging.Logger]:
    return [logging.getLogger(name) for name in ROOTS]


def graphs() -> contextlib.AbstractContextManager[None]:
    """Everything, and the graph at every station: as folded, as exported, as rewritten and typed, as compiled."""
    return _level(GRAPHS)


def debug() -> contextlib.AbstractContextManager[None]:
    """Everything but graphs, also what TensorRT and Polygraphy say at their most talkative."""
    return _level(logging.DEBUG)


def info() -> contextlib.AbstractContextManager[None]:
    """One line a step: what is exported, rewritten, built, and how long it took."""
    return _level(logging.INFO)


def warnings() -> contextlib.AbstractContextManager[None]:
    """Warnings and errors, as without any context."""
    return _level(logging.WARNING)


def errors() -> contextlib.AbstractContextManager[None]:
    """Errors only."""
    return _level(logging.ERROR)


def quiet() -> contextlib.AbstractContextManager[None]:
    """Errors only: another name of `errors`."""
    return errors()


def internal_errors() -> contextlib.AbstractContextManager[None]:
    """What must never happen only."""
    return _level(logging.CRITICAL)


def set_level(level: int | str) -> None:
    """Sets what is shown from now on, until a context says otherwise.

    Args:
        level: one of ``"internal_error"``, ``"error"``, ``"warning"``, ``"info"``, ``"debug"``, ``"graph"``, or a
            number of Python's `logging`.

    Raises:
        SpecError: there is no such level.
    """
    known = _LEVELS.get(level.lower().rstrip("s")) if isinstance(level, str) else level
    if not isinstance(known, int) or isinstance(known, bool) or known < 0:
        raise SpecError(f"level: there is no level {level!r}", hint=f"one of {', '.join(_LEVELS)}")
    with _Contexts.lock:
        before, _Contexts.lasting = _Contexts.lasting, _Contexts.enter(known, outermost=True)
        if before is not None:
            _Contexts.leave(before)


@contextlib.contextmanager
def _level(level: int) -> Iterator[None]:
    token = _Contexts.enter(level)
    try:
        yield
    finally:
        _Contexts.leave(token)


def show_graph(log: logging.Logger, title: str, graph: Callable[[], object]) -> None:
    """Logs a whole graph, which is turned into text only if it is shown."""
    if log.isEnabledFor(GRAPHS):
        log.log(GRAPHS, "%s\n%s", title, graph())


@contextlib.contextmanager
def recorded(level: int = logging.DEBUG) -> Iterator[list[str]]:
    """Keeps every message from this level on while it lasts; what else is shown, and where, stays as it was."""
    lines: list[str] = []
    formatter = logging.Formatter(_FORMAT)
    keeper = FoldingHandler(lambda record: lines.append(formatter.format(record)))
    loggers = _roots()
    with _Contexts.lock:
        before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
        for logger, (shown, _, handlers) in zip(loggers, before, strict=True):
            logger.handlers = [keeper, *(_OnlyFrom(shown, handler) for handler in handlers)]
            logger.addHandler(_OnlyFrom(shown, logging.getLogger()))
            logger.propagate = False
            logger.setLevel(min(level, shown))
    try:
        yield lines
    finally:
        keeper.close()
        with _Contexts.lock:
            for logger, (shown, propagate, handlers) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(shown)


class _OnlyFrom(logging.Handler):
    """Passes on what would have been shown before."""

    def __init__(self, level: int, target: logging.Handler | logging.Logger) -> None:
        super().__init__(level)
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(self._target, logging.Logger):
            self._target.callHandlers(record)
        elif record.levelno >= self._target.level:
            self._target.handle(record)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keeps from our users what PyTorch's exporters say to theirs: deprecations, and their own progress."""
    loggers = [logging.getLogger(name) for name in _EXPORTERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with python_warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
                python_warnings.simplefilter("ignore", category)
            python_warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx|onnxscript")
            python_warnings.filterwarnings("ignore", message=r".*torch\.jit\.\w+.* is (deprecated|not supported)")
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
