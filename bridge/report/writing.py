"""Files that are either written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge.errors import BridgeError, SpecError
from bridge.report.terminal import amount


def refuse_unwritable(path: str | Path, size: int = 0) -> None:
    """Finds out, before any work is done, whether a file can be written.

    Args:
        path: the file.
        size: how many bytes it will have at least.

    Raises:
        BridgeError: its folder is not there or takes no files, there is no room, or it is something else than a file.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        why = "there is no such folder" if not folder.exists() else "that is no folder"
        raise BridgeError(f"{path} cannot be written", why=f"{folder}: {why}")
    if path.exists() and not path.is_file():
        raise BridgeError(f"{path} cannot be written", why="it is a folder" if path.is_dir() else "it is no plain file")
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise BridgeError(f"{path} cannot be written", why="permission denied")
    free = shutil.disk_usage(folder).free
    if size > free:
        raise BridgeError(f"{path} cannot be written", why=f"it needs {amount(size)}; {amount(free)} are free")


def refuse_unwritable_folder(path: str | Path) -> None:
    """Finds out, before any work is done, whether a folder can be made and filled.

    Raises:
        BridgeError: it cannot.
    """
    path = Path(path)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise BridgeError(f"{path} cannot be a folder", why=f"{there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BridgeError(f"{path} cannot be written", why="permission denied")


@contextmanager
def replacing(path: str | Path, size: int = 0) -> Iterator[Path]:
    """A file beside ``path`` to write to; when all went well it takes the place of ``path``, else it is removed.

    Raises:
        BridgeError: see `refuse_unwritable`; or writing failed.
    """
    path = Path(path)
    refuse_unwritable(path, size)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise BridgeError(f"{path} cannot be written", why=error.strerror) from error
    partial = Path(name)
    try:
        yield partial
        partial.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_mask())
        partial.replace(path)
    except OSError as error:
        raise BridgeError(f"{path} cannot be written", why=error.strerror or str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file, whole or not at all.

    Raises:
        BridgeError: it cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def write_report(path: str | Path, data: Callable[[], Any], page: Callable[[], str]) -> Path:
    """Writes a report: its data as JSON where the name ends in .json, else its page.

    Raises:
        SpecError: that is no name.
        BridgeError: it cannot be written.
    """
    if not isinstance(path, str | Path):
        raise SpecError(f"save: expected a file's name, got {path!r} ({type(path).__name__})", hint='"report.html"')
    path = Path(path)
    return write_text(path, json.dumps(data(), indent=1) if path.suffix == ".json" else page())


def _mask() -> int:
    """What new files are not allowed in this process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
