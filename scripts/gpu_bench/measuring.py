"""How long calls take: figures are taken in turns, so that a clock that drifts changes all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

Call = Callable[[], Any]
Place = Callable[[], AbstractContextManager[Any]]
ON_GPU = torch.cuda.is_available()
_ROUNDS = 6


@dataclass(frozen=True)
class Figure:
    """A call to be timed.

    Attributes:
        call: what is timed.
        place: the stream, and whatever else must be set, while it is called.
        in_series: calls follow one another without being waited for; microseconds a call, else milliseconds.
    """

    call: Call
    place: Place = nullcontext
    in_series: bool = False


def wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


@cache
def _own_stream() -> Any:
    return torch.cuda.Stream()


def own_stream() -> AbstractContextManager[Any]:
    """The same stream of its own for all figures."""
    return torch.cuda.stream(_own_stream()) if ON_GPU else nullcontext()


def in_turns(figures: Mapping[str, Figure], seconds: float) -> dict[str, float]:
    """Each figure's median over rounds in which all take their turn; ``seconds`` of each in all."""
    times: dict[str, list[float]] = {name: [] for name in figures}
    for _ in range(_ROUNDS):
        for name, figure in figures.items():
            with figure.place():
                times[name] += (_series if figure.in_series else _single)(figure.call, seconds / _ROUNDS)
    return {name: statistics.median(found) for name, found in times.items()}


def median_ms(call: Call, seconds: float) -> float:
    """Median milliseconds of one synchronised call."""
    return in_turns({"ms": Figure(call)}, seconds)["ms"]


def _single(call: Call, seconds: float) -> list[float]:
    for _ in range(5):
        call()
    wait()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        wait()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _series(call: Call, seconds: float) -> list[float]:
    def microseconds(count: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        return (time.perf_counter() - start) / count * 1e6

    return [microseconds(max(10, int(seconds * 1e6 / microseconds(10))))]


def call_figures(call: Call, prefix: str = "", place: Place = nullcontext) -> dict[str, Figure]:
    """Synchronised calls on the default stream and on one of their own, and there one call after the other."""

    @contextmanager
    def placed_on_own() -> Iterator[None]:
        with place(), own_stream():
            yield

    return {
        f"{prefix}ms": Figure(call, place),
        f"{prefix}own_stream_ms": Figure(call, placed_on_own),
        f"{prefix}us_back_to_back": Figure(call, placed_on_own, in_series=True),
    }


def kernels(call: Call, calls: int = 5, most: int = 25) -> list[dict[str, Any]]:
    """The kernels that take longest: name, how often in a call, microseconds in a call."""
    from torch.profiler import ProfilerActivity, profile

    call()
    wait()
    with profile(activities=[ProfilerActivity.CUDA if ON_GPU else ProfilerActivity.CPU]) as found:
        for _ in range(calls):
            call()
        wait()
    key = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, key))[:most]
    return [{"name": e.key[:240], "count": e.count / calls, "us": getattr(e, key) / calls} for e in events]
