"""Reports in the terminal: rich's tables, as text where they are kept, and figures as people read them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB")


def grid(title: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table for the terminal; numbers go to the right."""
    from rich import box
    from rich.table import Table

    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[column]) for row in cells) for column in range(len(headers))]
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for header, right in zip(headers, numeric, strict=True):
        made.add_column(header, justify="right" if right and cells else "left", overflow="fold")
    for row in cells:
        made.add_row(*row)
    return made


def to_text(*parts: object, width: int = 120) -> str:
    """What the parts look like in a terminal of that width, without colour."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def amount(size: float) -> str:
    """Bytes as people read them: 1536 -> "1.5 KiB"."""
    for unit in _BYTES[:-1]:
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_BYTES[-1]}"


def seconds(time: float) -> str:
    """A duration as people read it: 0.00042 -> "420 us"."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if time * factor >= 1:
            return f"{time * factor:.3g} {unit}"
    return f"{time * 1e9:.0f} ns"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else "" if value is None else str(value)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?[\d,]+(\.\d+)?(e[+-]\d+)?", text))
