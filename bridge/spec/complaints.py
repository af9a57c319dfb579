"""How a SpecError names the field it is about and the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from bridge.errors import SpecError


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be, or None."""
    lowered = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return lowered[found[0]] if found else None


def unknown(field: str, name: str, known: Iterable[str], *, hint: str | None = None) -> SpecError:
    """The error for a name that is not among the known ones."""
    known = list(known)
    guess = nearest(name, known)
    meant = f"did you mean {guess!r}?" if guess else "known: " + ", ".join(sorted(known))
    return SpecError(f"{field}: {name!r} is not known", hint=f"{meant} {hint}" if hint else meant)


def wrong(field: str, given: object, expected: str, *, hint: str | None = None) -> SpecError:
    """The error for a value that a field cannot take."""
    kind = type(given).__name__
    return SpecError(f"{field}: expected {expected}, got {_short(given)} ({kind})", hint=hint)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
