"""Modules in files: opened, or refused with what the file is instead."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch

from bridge.errors import BridgeError
from bridge.logging import quiet_exporter

_HOW = "save one by torch.jit.save(torch.jit.script(module), path), or an ExportedProgram as .pt2"


def open_module(path: str | Path) -> torch.jit.ScriptModule | torch.export.ExportedProgram:
    """The ScriptModule in a file, or in one named .pt2 the ExportedProgram; on the CPU.

    Raises:
        BridgeError: there is no such file, or it holds neither; with what it is, as far as that can be seen.
    """
    path = Path(path)
    if not path.is_file():
        raise BridgeError(f"there is no file {path}", why="that is a folder" if path.is_dir() else None)
    kind = "exported program" if path.suffix == ".pt2" else "TorchScript module"
    try:
        with quiet_exporter():
            if path.suffix == ".pt2":
                return torch.export.load(path)
            module: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu")
            return module
    except (RuntimeError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile, OSError) as error:
        raise BridgeError(f"{path} is no {kind}", why=_why(path, error), hint=_HOW) from error


def _why(path: Path, error: Exception) -> str:
    """What is wrong with the file; PyTorch's own words only where nothing better is known."""
    try:
        if not path.stat().st_size:
            return "it is empty"
        if path.suffix == ".onnx":
            return "it is an ONNX model: bridge.compare, bridge.diff and `bridge rules explain` read those"
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return "it is cut short" if file.read(4) == b"PK\x03\x04" else "it is no zip archive"
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except OSError as failed:
        return failed.strerror or str(failed)
    if "data.pkl" in names and "constants.pkl" not in names:
        return "it holds values saved by torch.save, such as a state_dict, and no code"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].partition(" This is an internal")[0]
