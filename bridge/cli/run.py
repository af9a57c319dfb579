"""bridge run: call a module, look at what comes out, compare and time it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli import options

if TYPE_CHECKING:
    import torch


def run_module(
    model: options.Module,
    inputs: options.Inputs = None,
    load: options.Load = None,
    save: Annotated[Path | None, typer.Option(help="Where the outputs go (.pt).", callback=options.writable)] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Another module, called with the same inputs; exit code 1 when outputs differ.", exists=True),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="|a - b| <= tolerance (1 + |b|) is equal.")] = 1e-3,
    runs: Annotated[int, typer.Option(help="Calls to time.", min=1)] = 10,
    seed: options.Seed = 0,
    device: options.Device = "",
) -> None:
    """Calls a module and prints its outputs and the median time of a call.

    Inputs are random unless they are loaded. A compiled module with one engine knows their shapes.

    bridge run model_trt.ts --reference model.ts
    """
    import torch

    from bridge.cli.files import load_callable, tensors_in
    from bridge.errors import SpecError
    from bridge.report import seconds
    from bridge.report.writing import replacing

    if not tolerance >= 0:
        raise SpecError(f"--tolerance: expected a number from 0, got {tolerance}")
    other = load_callable(reference) if reference else None
    module, place, args, kwargs = prepared(model, inputs, load, seed, device)
    with torch.no_grad():
        result = called(module, args, kwargs)
        found = tensors_in(result)
        typer.echo(_summary(found))
        times = _timed(lambda: module(*args, **kwargs), runs, place)
        typer.echo(f"median of {runs} calls: {seconds(statistics.median(times))}, fastest {seconds(min(times))}")
        if save:
            with replacing(save) as partial:
                torch.save(result, partial)
        if other is not None:
            expected = tensors_in(called(other.to(place), args, kwargs))
            _compare(found, expected, tolerance)


def prepared(
    model: Path, inputs: Sequence[str] | None, load: Path | None, seed: int, device: str
) -> tuple[Any, torch.device, Any, dict[str, Any]]:
    """A file's module where it is to run, that device, and the (args, kwargs) of one call there."""
    from bridge.cli.files import load_callable

    module = load_callable(model)
    place = place_of(device, module)
    args, kwargs = arguments_of(module, inputs or (), load, seed)
    return module.to(place), place, moved(args, place), moved(kwargs, place)


def place_of(device: str, module: Any) -> torch.device:
    """The device that an option names, else where a module's engines run.

    Raises:
        SpecError: there is no such device here.
    """
    import torch

    from bridge.errors import SpecError
    from bridge.spec.device import as_device

    place = as_device("--device", device or home_of(module))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device and place.type == "cuda" and (place.index or 0) >= count:
        raise SpecError(
            f"--device: {device} is not here", hint=f"there are {count} GPUs" if count else "there is no GPU: cpu"
        )
    return place


def home_of(module: Any) -> str:
    """Where a module's engines run: "cuda" or "cpu"."""
    import bridge

    kinds = {engine.header.backend for engine in bridge.inspect(module, layers=False).engines}
    return "cuda" if kinds & {"tensorrt", "tensorrt_rtx"} else "cpu"


def arguments_of(module: Any, inputs: Sequence[str], load: Path | None, seed: int) -> tuple[Any, dict[str, Any]]:
    """(args, kwargs) of one call: from a file, an exported program's own, else random in the shapes given or known."""
    import torch

    from bridge.cli.arguments import described, spec_inputs
    from bridge.cli.files import argument_names
    from bridge.compare.inputs import one_set
    from bridge.spec import CompileSpec

    if load:
        given = one_set(load)
        return given.args, given.kwargs
    if not inputs and isinstance(module, torch.export.ExportedProgram) and module.example_inputs is not None:
        args, kwargs = module.example_inputs
        return args, kwargs
    found = described(inputs) if inputs else _known(module)
    return CompileSpec(**spec_inputs(found, argument_names(module))).example_inputs(seed=seed)


def _known(module: Any) -> list[Any]:
    """The inputs as the module's one engine knows them."""
    import torch

    import bridge
    from bridge.cli.arguments import Described
    from bridge.cli.files import argument_names
    from bridge.errors import SpecError

    engines = bridge.inspect(module, layers=False).engines if isinstance(module, torch.nn.Module) else ()
    signature = engines[0].signature if len(engines) == 1 else None
    inputs = signature.inputs if signature is not None else ()
    if not inputs or len(inputs) != len(argument_names(module)) or any(one.dims is None for one in inputs):
        raise SpecError("the shapes of the inputs are not known", hint="give --input NAME:SHAPE, or --load FILE")
    return [
        Described(name, {"shape": tuple(getattr(size, "opt", size) for size in one.dims or ()), "dtype": one.dtype})
        for name, one in zip(argument_names(module), inputs, strict=True)
    ]


def moved(value: Any, place: torch.device) -> Any:
    """A nest of values with its tensors on a device."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(place)
    if isinstance(value, dict):
        return {key: moved(child, place) for key, child in value.items()}
    return type(value)(moved(child, place) for child in value) if isinstance(value, list | tuple) else value


def called(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The outputs; TorchScript wraps every error into one of its own, which holds its text."""
    from bridge.errors import BridgeError, EngineError, told_by_torch

    try:
        return module(*args, **kwargs)
    except BridgeError:
        raise
    except Exception as error:  # the module's own among them
        hint = "give --input NAME:SHAPE[:DTYPE] once per argument, or --load FILE" if "argument" in str(error) else None
        raise EngineError(told_by_torch(error).partition(" Declaration: ")[0], hint=hint) from error


def _timed(call: Callable[[], object], runs: int, place: torch.device) -> list[float]:
    import torch

    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        times.append(time.perf_counter() - start)
    return times


def _summary(found: dict[str, torch.Tensor]) -> str:
    from bridge.report.terminal import grid, to_text

    rows = []
    for name, value in found.items():
        wide = value.double() if value.numel() and not value.is_complex() else None
        figures = ("", "", "") if wide is None else (float(wide.min()), float(wide.mean()), float(wide.max()))
        rows.append((name, str(value.dtype).removeprefix("torch."), str(tuple(value.shape)), *figures))
    return to_text(grid("", ("output", "dtype", "shape", "min", "mean", "max"), rows))


def _compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    from bridge.errors import BridgeError

    worst = 0.0
    for name, value in expected.items():
        if name not in found or found[name].shape != value.shape:
            got = tuple(found[name].shape) if name in found else "nothing"
            raise BridgeError(f"{name}: the reference gives {tuple(value.shape)}, the module {got}")
        if value.numel():
            error = (found[name].double() - value.double()).abs() / (1 + value.double().abs())
            worst = max(worst, float(error.max()))
    typer.echo(f"largest difference from the reference: {worst:.3g} (1 + |reference|)")
    if not worst <= tolerance:
        raise BridgeError(f"the outputs differ by {worst:.3g}, more than the tolerance of {tolerance:.3g}")
