"""Every error that bridge raises on purpose.

A message says what went wrong, where (the user's own source line when there is one), why, and what to try.
"""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path


class BridgeError(Exception):
    """Base of all errors of this package.

    Args:
        what: what went wrong, in one sentence.
        where: the user's source line, an input's name or a file.
        why: the cause, when it is not in ``what``.
        hint: what to try.
    """

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.why, self.hint = what, where, why, hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  {label}: {text}" for label, text in (("at", self.where), ("because", self.why)) if text]
        if self.hint:
            lines.append(f"  -> {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.why, self.hint)


def _rebuild(kind: type[BridgeError], what: str, where: str | None, why: str | None, hint: str | None) -> BridgeError:
    return kind(what, where=where, why=why, hint=hint)


def told_by_torch(error: BaseException) -> str:
    """What an error says without what TorchScript wraps around it: tracebacks, its own and Python's names for it."""
    text = str(error).split("\nAt:\n")[0].strip()
    for kind in ("RuntimeError: ", "EngineError: ", "SpecError: "):
        text = text.rpartition(kind)[2]
    return text.strip() or type(error).__name__


def users_line(error: BaseException) -> str | None:
    """``model.py:12 in forward``: the innermost line that an error came by and that is the user's own.

    None where there is none: modules of PyTorch's alone, TorchScript.
    """
    ours = [str(Path(str(sys.modules[name].__file__)).parent) for name in ("bridge", "torch") if name in sys.modules]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*ours, "<")):
            return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return None


_SCRIPTED = re.compile(r'^\s*File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_TRACED = re.compile(r"^(\S+)\((\d+)\): (.+)$", re.MULTILINE)


def scripts_line(error: BaseException) -> str | None:
    """The same of an error that TorchScript raised, from the lines of the user's that it keeps; None without any."""
    text = str(error).rpartition("Traceback of TorchScript")[2]  # of a saved module: serialized code, then the original
    scripted, traced = _SCRIPTED.findall(text), _TRACED.findall(text)  # innermost last, innermost first
    for path, line, name in (*reversed(scripted), *traced):
        if "-packages/torch/" not in path and not path.startswith("<"):
            return f"{Path(path).name}:{line} in {name}"
    return None


class SpecError(BridgeError, ValueError):
    """A setting or an input description that cannot be meant: names the field and the nearest right one."""


class ExportError(BridgeError):
    """The module could not be brought into a graph."""


class UnsupportedOperatorError(BridgeError):
    """An operator has no way into an engine, and the spec asks for a whole one."""


class BuildError(BridgeError):
    """The backend did not build an engine from the graph it was given."""


class EngineError(BridgeError, RuntimeError):
    """A compiled module cannot be loaded here, or was called with inputs that its engine does not take."""
