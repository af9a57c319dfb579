"""Calls that come again with the same addresses, launched as CUDA graphs.

Memory for outputs is allocated before it is known who runs a call: the context, or, where inputs, outputs and scratch
memory are where they were in calls before, the CUDA graph of those. Steady callers get the same addresses from the
allocator again and again. A graph that writes where this call's outputs are needs no copies, and the outputs are the
caller's as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bridge import torch_private as tp
from bridge.runtime.cudart import Graph
from bridge.runtime.memory import ALIGNMENT, refused

if TYPE_CHECKING:
    from bridge.runtime.context import CallKind, Context, Form, Key
    from bridge.runtime.lane import Lane
    from bridge.runtime.streams import SharedStream

log = logging.getLogger("bridge.runtime")

# how often a call runs before it is captured; graphs at once; sets of addresses that are watched; for how many calls a
# graph that is not launched keeps its place, and how many there are to each capture but the first ones: a capture takes
# about as long as a call
_TIMES, _MOST_GRAPHS, _MOST_WATCHED, _PATIENCE, _FIRST_CAPTURES = 3, 2, 8, 32, 4
_MOST_SHAPES = 64

_Place = tuple[Any, ...]
"""The kind of a call, and all its addresses."""


@dataclass
class _Replay:
    """A graph, the context that belongs to it, and which call launched it last."""

    graph: Graph
    context: Context
    last: int


class Repeats:
    """The repeating calls of one lane; its stream's lock is held.

    Args:
        errors: while it is entered, TensorRT's errors are details.
    """

    def __init__(self, street: SharedStream, errors: Callable[[], AbstractContextManager[Any]]) -> None:
        self._street, self._errors = street, errors
        self._stream = int(street.stream.cuda_stream)
        self._empty = tp.empty_cuda if street.device.type == "cuda" else tp.empty_cpu
        self._forms: dict[CallKind, list[Form] | None] = {}
        self._graphs: dict[_Place, _Replay] = {}
        self._watched: dict[_Place, int] = {}
        self._spent: list[_Replay] = []  # they may still be running
        self._calls = self._captures = 0
        self._works = True

    def run(self, lane: Lane, inputs: list[torch.Tensor], kind: CallKind) -> list[torch.Tensor]:
        """See :meth:`bridge.runtime.session.Session.run`."""
        try:
            forms = self._forms[kind]
        except KeyError:
            forms = self._forms_of(lane.own_context(), inputs, kind)
        if forms is None or not self._works:
            return lane.run_anew(inputs, kind)
        empty = self._empty
        outputs = [empty(*form) for form in forms]
        key: _Place = (kind, self._street.scratch_address, *[tensor.data_ptr() for tensor in inputs + outputs])
        self._calls += 1
        replay = self._graphs.get(key)
        if replay is not None:
            replay.last = self._calls
            replay.graph.launch(self._stream)
            return outputs
        if not self._is_due(key, key[2 : 2 + len(inputs)]):
            return lane.run_anew(inputs, kind, outputs)
        context = lane.own_context()
        context.run(inputs, kind, self._street, outputs)
        if not context.scratch_size or context.scratch_address == key[1]:
            self._capture(lane, context, key)
        return outputs

    def _forms_of(self, context: Context, inputs: list[torch.Tensor], kind: CallKind) -> list[Form] | None:
        if len(self._forms) >= _MOST_SHAPES:
            self._forms.clear()
        context.tell(inputs, kind, self._street.handle)
        self._street.scratch(context.scratch_size)  # its address is part of a call's place
        forms = self._forms[kind] = context.forms
        return forms

    def _is_due(self, key: _Place, addresses: Iterable[int]) -> bool:
        """Whether a call has come often enough to be captured once it has run, and there is room for its graph."""
        if any(address % ALIGNMENT for address in addresses):
            return False
        times = self._watched[key] = self._watched.pop(key, 0) + 1
        if len(self._watched) > _MOST_WATCHED:
            del self._watched[next(iter(self._watched))]
        if times < _TIMES:
            return False
        del self._watched[key]
        return self._has_room()

    def _capture(self, lane: Lane, context: Context, key: _Place) -> None:
        """Captures the call that the context has just run."""
        try:
            with self._errors(), refused():
                graph = Graph(context.repeat)
        except RuntimeError as error:
            self._works = False
            log.debug("an engine's calls are not captured: %s", error)
        else:
            self._captures += 1
            self._graphs[key] = _Replay(graph, context, self._calls)
        lane.context = None  # it is the graph's, or in no known state

    def _has_room(self) -> bool:
        """Whether there may be one more graph, with the place of one that was not launched for long."""
        if self._captures >= _FIRST_CAPTURES + self._calls // _PATIENCE:
            return False
        if len(self._graphs) < _MOST_GRAPHS:
            return True
        oldest = min(self._graphs, key=lambda key: self._graphs[key].last)
        if self._calls - self._graphs[oldest].last < _PATIENCE or not self._street.stream.query():
            return False
        del self._graphs[oldest]
        return True

    def give_away(self, key: Key) -> Context | None:
        """The context of a graph that has run these shapes; the graph is launched no more."""
        for place, replay in self._graphs.items():
            if replay.context.told == key:
                self._spent.append(self._graphs.pop(place))
                return replay.context
        return None
