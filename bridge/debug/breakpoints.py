"""Where a run is to stop: at an operator, in a module, at a source line."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.errors import SpecError
from bridge.frontend.provenance import Origin

_LINE = re.compile(r"(?P<file>[^:]+\.py):(?P<line>\d+)")


@dataclass(frozen=True)
class Breakpoint:
    """Says of a node's origin whether to stop there.

    Attributes:
        text: as the user wrote it: an operator (``aten::softmax``, ``aten::*norm``), a line (``model.py:12``) or a
            module path (``encoder.layer.0``, with all inside it; ``*.attention``).
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise SpecError(
                f"breakpoints: {self.text!r} is none",
                hint='an operator "aten::softmax", a module path "encoder.layer.0" or a line "model.py:12"',
            )

    def hits(self, origin: Origin) -> bool:
        """Whether the node is one of those meant."""
        line = _LINE.fullmatch(self.text)
        if line:
            file = line["file"].replace("\\", "/").rsplit("/", 1)[-1]
            return origin.source.partition(" in ")[0] == f"{file}:{line['line']}"
        if "::" in self.text:
            return fnmatch.fnmatchcase(origin.operator, self.text)
        inside = [origin.module_path]
        while "." in inside[-1]:
            inside.append(inside[-1].rpartition(".")[0])
        return any(path and fnmatch.fnmatchcase(path, self.text) for path in inside)


def parsed(texts: str | Sequence[str], origins: Sequence[Origin]) -> list[Breakpoint]:
    """The breakpoints in these texts.

    Raises:
        SpecError: one of them is at no node; it names the nearest place where one is.
    """
    if not isinstance(texts, str | Sequence):
        told = f"breakpoints: expected places, got {texts!r} ({type(texts).__name__})"
        raise SpecError(told, hint='"aten::softmax", or a list of such')
    found = [Breakpoint(text) for text in ([texts] if isinstance(texts, str) else texts)]
    for one in found:
        if not any(one.hits(origin) for origin in origins):
            places = {place for o in origins for place in _places(o)}
            near = difflib.get_close_matches(one.text, sorted(places), 3, 0.5)
            raise SpecError(
                f"breakpoints: nothing runs at {one.text!r}",
                hint=f"did you mean {' or '.join(map(repr, near))}?"
                if near
                else f"there is, for one, {min(places, default='nothing')!r}",
            )
    return found


def _places(origin: Origin) -> list[str]:
    return [place for place in (origin.operator, origin.module_path, origin.source.partition(" in ")[0]) if place]
