"""One stream's way through a TensorRT engine: what its context was told, and what therefore need not be said again."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

from bridge import torch_private as tp
from bridge.errors import EngineError
from bridge.runtime.context import CallKind, Context
from bridge.runtime.cuda_graphs import CapturedCall, why_not_captured
from bridge.runtime.memory import lasting
from bridge.runtime.repeats import Repeats
from bridge.runtime.streams import shared_stream

if TYPE_CHECKING:
    from bridge.runtime.context import Key
    from bridge.runtime.session_tensorrt import TensorRTSession

log = logging.getLogger("bridge.runtime")

_MOST_GRAPHS = 8


class Lane:
    """The calls of one engine from one stream, one at a time; the stream's lock is held while a call is enqueued."""

    def __init__(self, session: TensorRTSession, stream: torch.cuda.Stream) -> None:
        # the session owns its lanes, and must be freed at once with the last module
        self._session = weakref.ref(session)
        self.street = shared_stream(session.device, stream)
        self.context: Context | None = None
        self._graphs: OrderedDict[Key, CapturedCall | None] = OrderedDict()
        self._captured: dict[Key, Context] = {}
        self._repeats = None if session.why_not_repeated else Repeats(self.street, session.errors)

    def run(self, inputs: list[torch.Tensor], kind: CallKind) -> list[torch.Tensor]:
        """See :meth:`bridge.runtime.session.Session.run`; the inputs are of this kind."""
        street = self.street
        with street.lock:
            if tp.is_capturing():
                return self._recorded_by_caller(inputs, kind)
            if kind.cuda_graphs is False:
                context = self.context
                return (self.own_context() if context is None else context).run(inputs, kind, street)
            if self._repeats is not None:
                return self._repeats.run(self, inputs, kind)
            return self.run_anew(inputs, kind)

    def run_anew(
        self, inputs: list[torch.Tensor], kind: CallKind, outputs: list[torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """Runs a call that is not launched as one that repeats; the stream's lock is held.

        Args:
            outputs: where the results go; None: new tensors.
        """
        if kind.cuda_graphs:
            captured = self._graph(inputs, kind)
            if captured is not None:
                return captured.replay(inputs, outputs)
        return self.own_context().run(inputs, kind, self.street, outputs)

    def own_context(self) -> Context:
        """The context of the calls that no graph runs."""
        if self.context is None:
            self.context = self._new_context()
        return self.context

    def give_away(self, key: Key) -> Context | None:
        """A context that has run these shapes; the lane makes itself another."""
        context = self.context
        if context is not None and context.told == key:
            self.context = None
            return context
        return None if self._repeats is None else self._repeats.give_away(key)

    def _graph(self, inputs: list[torch.Tensor], kind: CallKind) -> CapturedCall | None:
        """The CUDA graph for these shapes, captured on first use; None where that was impossible."""
        key = kind.key
        if key not in self._graphs:
            if len(self._graphs) >= _MOST_GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[key] = self._capture(inputs, kind)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _capture(self, inputs: list[torch.Tensor], kind: CallKind) -> CapturedCall | None:
        context = self._new_context()  # a graph needs one that nothing else changes
        context.tell(inputs, kind, self.street.handle)
        why = why_not_captured(context)
        if why is None:
            try:
                return CapturedCall(context, inputs, kind, self.street)
            except RuntimeError as error:
                why = str(error)
        log.warning("an engine runs without CUDA graphs: %s", why)
        return None

    def _recorded_by_caller(self, inputs: list[torch.Tensor], kind: CallKind) -> list[torch.Tensor]:
        """A call inside the caller's own capture.

        The graph needs a context that no later call changes, one that has run these shapes before (TensorRT prepares in
        the first run, which cannot be captured): that of the warm-up is given to the graph, and stays with the engine.
        Its scratch memory comes from the graph's own pool.
        """
        session, key = self._owner(), kind.key
        context = session.give_away(key, self) or self._captured.get(key)
        if context is None:
            raise EngineError(
                "this engine has not run these shapes yet, so that its call cannot be captured into a CUDA graph",
                why="TensorRT prepares in the first run with new shapes",
                hint="call the module once with inputs of these shapes before the capture",
            )
        self._captured[key] = context
        session.keep(context)
        scratch = torch.empty(context.scratch_size, dtype=torch.uint8, device=session.device)  # until all is enqueued
        return context.run(inputs, kind, self.street, scratch=scratch)

    def _new_context(self) -> Context:
        session = self._owner()
        return lasting(session.device, self.street.stream, lambda: Context(session))

    def _owner(self) -> TensorRTSession:
        session = self._session()
        if session is None:
            raise EngineError("this engine was closed")
        return session
