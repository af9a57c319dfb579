"""bridge bench: latency, throughput and memory of a module, beside the original's."""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli import options

if TYPE_CHECKING:
    import torch

_PERCENTILES = (50, 90, 95, 99)
_FEWEST = 20  # calls


def bench_module(
    model: options.Module,
    inputs: options.Inputs = None,
    load: options.Load = None,
    reference: Annotated[
        Path | None, typer.Option(help="The original, measured with the same inputs.", exists=True)
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long each of the two is measured.", min=0.01)] = 3.0,
    cuda_graphs: Annotated[bool, typer.Option("--cuda-graphs", help="Replay the engines as CUDA graphs.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Where the figures go.", callback=options.writable)] = None,
    seed: options.Seed = 0,
    device: options.Device = "",
) -> None:
    """Measures a module: latency of single calls, throughput of calls that follow each other, memory.

    bridge bench model_trt.ts --reference model.ts --json bench.json
    """
    import torch

    import bridge
    from bridge.cli.files import load_callable
    from bridge.cli.run import called, prepared
    from bridge.report.writing import write_text

    module, place, args, kwargs = prepared(model, inputs, load, seed, device)
    if cuda_graphs:
        bridge.configure(module, cuda_graphs=True)
    modules = {"compiled": module, **({"reference": load_callable(reference)} if reference else {})}
    found = {}
    with torch.no_grad():
        for name, one in modules.items():
            called(one.to(place), args, kwargs)
            found[name] = measured(partial(one, *args, **kwargs), place, seconds)
    typer.echo(_summary(found))
    if out:
        told = {"device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"}
        told |= {"bridge": bridge.__version__, "torch": torch.__version__}
        largest = {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        write_text(out, json.dumps({**told, **largest, **found}, indent=1))


def measured(call: Callable[[], object], place: torch.device, seconds: float) -> dict[str, float]:
    """Latencies in milliseconds, calls a second, and on a GPU the most memory in bytes.

    A latency is the time of one call that is waited for; in throughput calls follow each other without waiting. Device
    memory is PyTorch's, engines included.
    """
    import torch

    on_gpu = place.type == "cuda"
    for _ in range(5):
        call()
    if on_gpu:
        torch.cuda.synchronize(place)
        torch.cuda.reset_peak_memory_stats(place)
    times = _latencies(call, place, seconds * 2 / 3)
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    row = {f"p{which}_ms": cuts[which - 1] for which in _PERCENTILES}
    row |= {"mean_ms": statistics.fmean(times), "least_ms": min(times), "calls": len(times)}
    row["calls_per_s"] = _throughput(call, place, seconds / 3, row["p50_ms"] / 1e3)
    if on_gpu:
        row["device_bytes"] = torch.cuda.max_memory_allocated(place)
    return row


def _latencies(call: Callable[[], object], place: torch.device, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < _FEWEST:
        start = time.perf_counter()
        call()
        _wait(place)
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _throughput(call: Callable[[], object], place: torch.device, seconds: float, latency: float) -> float:
    count = max(_FEWEST, int(seconds / latency))
    start = time.perf_counter()
    for _ in range(count):
        call()
    _wait(place)
    return count / (time.perf_counter() - start)


def _wait(place: torch.device) -> None:
    import torch

    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _summary(found: dict[str, dict[str, float]]) -> str:
    from bridge.report import amount
    from bridge.report import seconds as duration
    from bridge.report.terminal import grid, to_text

    def shown(key: str, value: Any) -> str:
        if key.endswith("_ms"):
            return duration(value / 1e3)
        return amount(value) if key.endswith("_bytes") else f"{value:.4g}"

    rows = [
        (key.replace("_", " ").removesuffix(" ms"), *(shown(key, row[key]) for row in found.values()))
        for key in next(iter(found.values()))
    ]
    text = to_text(grid("", ("", *found), rows))
    if len(found) == 2:
        ratio = found["reference"]["p50_ms"] / found["compiled"]["p50_ms"]
        text += f"\nthe reference takes {ratio:.2f} times as long (median)"
    return text
