"""How long each layer of each engine takes in a call of a compiled module, and each operator that stayed in PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bridge.runtime.op import run_through
from bridge.runtime.plan import Plan
from bridge.runtime.session import LayerTime, RunOptions, Session, TimedSession, load, session_device
from bridge.torch_private import DispatchMode


@dataclass
class Span:
    """Something that ran: an engine or an operator of PyTorch.

    Attributes:
        name: the engine's digest, or the operator's name.
        run: which call of the module it belongs to, from 0.
        start: milliseconds from the start of the recording.
        ms: how long it took; engines and operators are waited for.
        layers: an engine's layers; None for an operator.
    """

    name: str
    run: int
    start: float
    ms: float
    layers: list[LayerTime] | None = None


class Recorder(DispatchMode):
    """Times every engine and every operator that is called while it is entered, in this thread.

    It stands between the dispatcher and the kernels, so that it does not matter which implementation of the engine's
    operator the module calls, nor whether it was loaded or compiled here.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run = 0
        self._begin = time.perf_counter()
        self._spans: list[Span] = []
        self._sessions: dict[tuple[str, torch.device], tuple[Session, TimedSession, list[Span]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.bridge.execute_engine.default:
            return self._engine(*args)
        span, result = self._timed(str(func), lambda: func(*args, **(kwargs or {})))
        self._spans.append(span)
        return result

    def close(self) -> list[Span]:
        """What ran, in order."""
        for _, timed, spans in self._sessions.values():
            for span, layers in zip(spans, timed.close(), strict=True):
                span.layers = layers
        return self._spans

    def _engine(self, inputs: list[torch.Tensor], plan: torch.Tensor, signature: str) -> list[torch.Tensor]:
        view = Plan.from_tensor(plan)
        session, timed, spans = self._session(view, session_device(view.header.backend, inputs))
        around: Any = _Around(session, timed)
        span, outputs = self._timed(view.digest, lambda: run_through(around, inputs, plan, signature))
        self._spans.append(span)
        spans.append(span)
        return list(outputs)

    def _session(self, plan: Plan, device: torch.device) -> tuple[Session, TimedSession, list[Span]]:
        key = plan.digest, device
        if key not in self._sessions:
            session = load(plan, device)
            self._sessions[key] = session, session.timed(), []
        return self._sessions[key]

    def _timed(self, name: str, call: Callable[[], Any]) -> tuple[Span, Any]:
        _wait()
        start = time.perf_counter()
        result = call()
        _wait()
        return Span(name, self.run, (start - self._begin) * 1e3, (time.perf_counter() - start) * 1e3), result


class _Around:
    """A session in all but the run, which is the timed one's."""

    def __init__(self, session: Session, timed: TimedSession) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self.device, self.input_devices = session.device, session.input_devices
        self.input_formats = session.input_formats
        self.run, self.describe = timed.run, session.describe

    def prepare(
        self, shapes: Sequence[torch.Size], options: RunOptions
    ) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
        return partial(self.run, options=options)


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
