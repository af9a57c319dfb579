"""Files that the commands read and write."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.errors import BridgeError

if TYPE_CHECKING:
    import torch


def load_module(path: Path) -> Any:
    """A ScriptModule (.ts, .pt) or an ExportedProgram (.pt2).

    Raises:
        BridgeError: it is neither.
    """
    import torch

    import bridge  # noqa: F401 - registers the operator that compiled modules call
    from bridge.logging import quiet_exporter

    if not path.is_file():
        raise BridgeError(f"there is no file {path}")
    try:
        with quiet_exporter():
            if path.suffix == ".pt2":
                return torch.export.load(path)
            return torch.jit.load(path, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise BridgeError(
            f"{path} is no TorchScript module",
            why=str(error).strip().splitlines()[0],
            hint="save one by torch.jit.save(torch.jit.script(module), path), or an ExportedProgram as .pt2",
        ) from error


def argument_names(module: Any, method: str = "forward") -> list[str]:
    """The names of a module's arguments, without self."""
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        return [str(name) for name in module.graph_signature.user_inputs]
    return [argument.name for argument in getattr(module, method).schema.arguments[1:]]


def load_values(path: Path) -> Any:
    """Inputs or outputs kept in a file: a tensor or a nest of them (.pt), or named arrays (.npz)."""
    import numpy
    import torch

    if path.suffix == ".npz":
        with numpy.load(path) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    try:
        return torch.load(path, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise BridgeError(f"{path} holds no tensors", why=str(error).splitlines()[0]) from error


def tensors_in(value: Any, name: str = "output") -> dict[str, torch.Tensor]:
    """Every tensor in a nest, by a dotted name."""
    import torch

    if isinstance(value, torch.Tensor):
        return {name: value}
    if not isinstance(value, dict | list | tuple):
        return {}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: found for part, child in pairs for key, found in tensors_in(child, f"{name}.{part}").items()}
