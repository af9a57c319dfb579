"""Engines that are loaded: one session per plan and device, shared by every module that holds an equal plan."""

from __future__ import annotations

import importlib
import threading
import weakref
from typing import Any, Protocol

import torch

from bridge.errors import EngineError
from bridge.runtime.plan import Binding, Plan

_MODULES = {
    "onnxruntime": "bridge.runtime.session_onnxruntime",
    "tensorrt": "bridge.runtime.session_tensorrt",
    "tensorrt_rtx": "bridge.runtime.session_tensorrt",
}


class Session(Protocol):
    """A loaded engine, ready to run; safe to call from several threads at once.

    Attributes:
        device: where it runs, and where its outputs are.
        input_devices: where each input must be: ``device``, but the CPU for one whose values TensorRT computes shapes from.
    """

    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    device: torch.device
    input_devices: list[torch.device]

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Runs the engine.

        Args:
            inputs: contiguous tensors on ``self.input_devices``, of the engine's own dtypes, in the order of ``self.inputs``.

        Returns:
            New tensors on ``self.device``, in the order of ``self.outputs``.
        """
        ...

    def describe(self) -> list[dict[str, Any]]:
        """The engine's layers, as far as the backend tells; each a JSON-able dict with at least ``name``."""
        ...


_sessions: weakref.WeakValueDictionary[tuple[str, torch.device], Any] = weakref.WeakValueDictionary()
_lock = threading.RLock()


def load(plan: Plan, device: torch.device) -> Session:
    """The session of this plan on this device, loaded once however many hold it, and freed with the last.

    Raises:
        EngineError: the plan's backend is not installed here, or cannot use this plan or device.
    """
    key = (plan.digest, device)
    with _lock:
        session: Session | None = _sessions.get(key)
        if session is None:
            session = _sessions[key] = _open(plan, device)
        return session


def _open(plan: Plan, device: torch.device) -> Session:
    module = _MODULES.get(plan.header.backend)
    if module is None:
        raise EngineError(
            f"this plan is for the backend {plan.header.backend!r}, which this bridge does not know",
            hint=f"known: {', '.join(_MODULES)}",
        )
    session: Session = importlib.import_module(module).open_session(plan, device)
    return session


def session_device(backend: str, inputs: list[torch.Tensor]) -> torch.device:
    """Where an engine of this backend runs for these inputs: the CPU for ONNX Runtime, else the first GPU among them."""
    if backend == "onnxruntime":
        return torch.device("cpu")
    for tensor in inputs:
        if tensor.is_cuda:
            return tensor.device
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
