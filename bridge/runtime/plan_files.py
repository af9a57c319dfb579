"""Plans in files in the place of memory: an engine that is loaded does not read its plan any more."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from bridge.errors import BridgeError
from bridge.runtime.plan import Plan


def move_to_file(plan: torch.Tensor, folder: Path) -> Path:
    """Lets a plan's tensor be backed by a file that the system reads in parts when somebody asks for them.

    The tensor stays what it is: the module can be saved, copied and loaded on further GPUs. Memory is given back where
    nothing uses the plan in place, as ONNX Runtime does with its weights.

    Args:
        plan: as a module holds it; changed in place.
        folder: made when it is not there; the file, named after the plan's digest, must stay while the module lives.

    Returns:
        The file, a plan that `bridge.inspect` and `bridge.embed_engine_in_new_module` read.

    Raises:
        BridgeError: the plan is on a GPU, or the file cannot be written.
    """
    if not plan.is_cpu:
        raise BridgeError("this plan is on a GPU", hint="load the module with map_location='cpu'")
    path = folder / f"{Plan(plan).digest}.plan"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            plan.contiguous().view(-1).numpy().tofile(draft)
            draft.replace(path)
    except OSError as error:
        raise BridgeError("a plan could not be written", where=str(path), why=str(error)) from error
    storage = torch.UntypedStorage.from_file(str(path), False, plan.numel())
    with torch.no_grad():
        plan.set_(storage, 0, plan.shape)  # type: ignore[call-overload]
    return path
