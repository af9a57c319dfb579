"""Engines that are loaded: one session per plan and device, shared by every module that holds an equal plan."""

from __future__ import annotations

import importlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch

from bridge.errors import EngineError
from bridge.runtime.plan import Binding, Plan

_MODULES = {
    "onnxruntime": "bridge.runtime.session_onnxruntime",
    "tensorrt": "bridge.runtime.session_tensorrt",
    "tensorrt_rtx": "bridge.runtime.session_tensorrt",
}


@dataclass(frozen=True)
class RunOptions:
    """How an engine runs.

    Attributes:
        profile: index of the optimisation profile to use; None: the first that fits the shapes.
        cuda_graphs: True: a call replays a CUDA graph that was captured for its shapes, with copies of inputs and
            outputs; where that is impossible, the engine runs as without it, and the log says why. None: a call that
            comes again with the same addresses, of inputs and of what was allocated for it, is launched as a CUDA graph
            of these: see :mod:`bridge.runtime.repeats`. False: neither.
    """

    profile: int | None = None
    cuda_graphs: bool | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RunOptions:
        """Those of a signature's options that say how to run."""
        return cls(**{item.name: options[item.name] for item in fields(cls) if item.name in options})


PLAIN = RunOptions()


@dataclass(frozen=True)
class LayerTime:
    """One layer in one run.

    Attributes:
        name: the backend's name for it.
        type: the backend's word for what it does.
        start: milliseconds from the start of its engine's run.
        ms: how long it took, in milliseconds.
    """

    name: str
    type: str
    start: float
    ms: float


class TimedSession(Protocol):
    """A session beside the one that serves calls; it times its layers, one run after the other."""

    def run(self, inputs: list[torch.Tensor], options: RunOptions = PLAIN) -> list[torch.Tensor]:
        """See :meth:`Session.run`; waits for the end."""
        ...

    def close(self) -> list[list[LayerTime]]:
        """The layers of each run, in the order of the runs; afterwards the session is of no use."""
        ...


class Session(Protocol):
    """A loaded engine, ready to run; safe to call from several threads at once.

    Attributes:
        device: where it runs, and where its outputs are.
        input_devices: where each input must be: ``device``, but the CPU for one from whose values shapes are computed.
        input_formats: how each input must lie in memory: `torch.contiguous_format` or `torch.channels_last`.
    """

    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    device: torch.device
    input_devices: list[torch.device]
    input_formats: list[torch.memory_format]

    def prepare(
        self, shapes: Sequence[torch.Size], options: RunOptions
    ) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
        """What :meth:`run` does with inputs of these shapes: for calls that repeat."""
        ...

    def run(self, inputs: list[torch.Tensor], options: RunOptions = PLAIN) -> list[torch.Tensor]:
        """Runs the engine.

        Args:
            inputs: of ``self.input_formats``, on ``self.input_devices``, of the engine's dtypes, in the order of
                ``self.inputs``.
            options: how; backends pass over what has no meaning for them.

        Returns:
            New tensors on ``self.device``, in the order of ``self.outputs``.
        """
        ...

    def describe(self) -> list[dict[str, Any]]:
        """The engine's layers, as far as the backend tells; each a JSON-able dict with at least ``name``."""
        ...

    def timed(self) -> TimedSession:
        """A twin that times its layers."""
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
    """Where an engine of this backend runs for these inputs: the CPU for ONNX Runtime, else the first GPU of them."""
    if backend == "onnxruntime":
        return torch.device("cpu")
    for tensor in inputs:
        if tensor.is_cuda:
            return tensor.device
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
