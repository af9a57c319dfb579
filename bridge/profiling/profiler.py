"""Running a compiled module with every layer timed."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bridge.compare.inputs import one_set
from bridge.errors import BridgeError, EngineError, SpecError, told_by_torch
from bridge.profiling.results import Engine, Part, ProfileReport
from bridge.runtime.calls import engine_calls
from bridge.runtime.module import checked_module
from bridge.runtime.plan import Plan
from bridge.runtime.record import OriginRecord, records_of
from bridge.runtime.session import load, session_device
from bridge.runtime.timing import Recorder, Span

_IDENTITY = re.compile(r"#(\d+)")


def profile(module: torch.nn.Module, inputs: Any, *, runs: int = 10, warm_up: int = 3) -> ProfileReport:
    """Times every layer of every engine of a compiled module, and every operator that stayed in PyTorch.

    Layers carry the names of the modules and the source lines that they came from, also after loading. The times come
    from the backend's own profiler (TensorRT's ``IProfiler``, ONNX Runtime's), in runs where one layer waits for the
    next; `ProfileReport.call_ms` is a call without it.

    Args:
        module: what ``bridge.compile`` or ``torch.jit.load`` gave, on the device where it is to run.
        inputs: the arguments of a call: a tensor, a tuple of arguments, or a dict of them by name.
        runs: calls that are timed.
        warm_up: calls before them.

    Raises:
        SpecError: there is nothing to call the module with, or nothing to time.
        EngineError: an engine cannot run here, or not on these inputs.
    """
    checked_module(module, "profile")
    for field, count, least in (("runs", runs, 1), ("warm_up", warm_up, 0)):
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            told = f"{field}: expected a whole number of at least {least}, got {count!r} ({type(count).__name__})"
            raise SpecError(told)
    given = one_set(inputs)
    args, kwargs = given.args, given.kwargs
    with torch.no_grad():
        for _ in range(max(warm_up, 1)):
            _called(module, args, kwargs)
        call_ms = _median_ms(module, args, kwargs, runs)
        spans = _recorded(module, args, kwargs, runs)
    return ProfileReport(call_ms, runs, _engines(module, spans), _parts(spans, _Origins(module), runs), spans)


def _called(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    try:
        module(*args, **kwargs)
    except (RuntimeError, TypeError) as error:
        if isinstance(error, BridgeError):
            raise
        told = told_by_torch(error).partition(" Declaration: ")[0]
        raise EngineError("the module does not run on these inputs", where="profile", why=told) from error


def _median_ms(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], runs: int) -> float:
    times = []
    for _ in range(runs):
        _wait()
        start = time.perf_counter()
        module(*args, **kwargs)
        _wait()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _recorded(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], runs: int) -> list[Span]:
    """What ran in ``runs`` calls, after one that is not counted: the timed engines are new."""
    recorder = Recorder()
    with recorder:
        for run in range(-1, runs):
            recorder.run = run
            module(*args, **kwargs)
    spans = [span for span in recorder.close() if span.run >= 0]
    for span in reversed(spans):
        span.start -= spans[0].start
    return spans


class _Origins:
    """What layers and operators came from, read from the module's own record of its compilation."""

    def __init__(self, module: torch.nn.Module) -> None:
        records = records_of(module)
        self._told: dict[str, dict[str, str]] = {}
        self._tables: dict[str, Mapping[int, OriginRecord]] = {}
        for call in engine_calls(module):
            plan = Plan.from_tensor(call.plan)
            self._tables[plan.digest] = next((r.origins for r in records if r.engine(plan.digest)), {})
            layers = load(plan, session_device(plan.header.backend, [])).describe()
            self._told[plan.digest] = {layer["name"]: layer.get("from", "") for layer in layers}
        self._in_torch = [record.origins[identity] for record in records for identity in record.in_torch]

    def of_layer(self, engine: str, name: str) -> tuple[OriginRecord, ...]:
        """Those of all the nodes that were fused into a layer."""
        table = self._tables[engine]
        text = f"{name} {self._told[engine].get(name, '')}"
        identities = dict.fromkeys(int(number) for number in _IDENTITY.findall(text))
        return tuple(table[identity] for identity in identities if identity in table)

    def of_operator(self, name: str) -> tuple[OriginRecord, ...]:
        """That of an operator of PyTorch, where the module has only one of its kind."""
        kind = "::".join(name.split(".")[:2])
        found = [origin for origin in self._in_torch if origin.operator == kind]
        return tuple(found) if len(found) == 1 else ()


def _engines(module: torch.nn.Module, spans: Sequence[Span]) -> list[Engine]:
    order = dict.fromkeys(span.name for span in spans if span.layers is not None)
    headers = {plan.digest: plan.header for plan in (Plan.from_tensor(call.plan) for call in engine_calls(module))}
    return [Engine(digest, headers[digest].backend, headers[digest].version) for digest in order]


def _parts(spans: Sequence[Span], origins: _Origins, runs: int) -> list[Part]:
    """One part a layer and one an operator of PyTorch, each with its mean time in a call, longest first."""
    times: dict[tuple[str | None, str, str], float] = {}
    for span in spans:
        if span.layers is None:
            times[None, span.name, "PyTorch"] = times.get((None, span.name, "PyTorch"), 0.0) + span.ms
        for layer in span.layers or ():
            key = span.name, layer.name, layer.type
            times[key] = times.get(key, 0.0) + layer.ms
    parts = []
    for (engine, name, kind), ms in times.items():
        known = origins.of_operator(name) if engine is None else origins.of_layer(engine, name)
        parts.append(Part(engine, name, kind, ms / runs, known))
    return sorted(parts, key=lambda part: -part.ms)
