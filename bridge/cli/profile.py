"""bridge profile: where the time of a compiled module goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge.cli import options


def profile_module(
    model: options.Module,
    inputs: options.Inputs = None,
    load: options.Load = None,
    runs: Annotated[int, typer.Option(help="Calls to time.", min=1)] = 10,
    html: Annotated[
        Path | None, typer.Option(help="Where a page with a flame graph goes.", callback=options.writable)
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Where a Chrome trace goes (.json).", callback=options.writable)
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "",
) -> None:
    """Times every layer of a compiled module, and says which module and source line it came from.

    bridge profile model_trt.ts --html profile.html --trace profile.json
    """
    import torch

    import bridge
    from bridge.cli.files import load_module
    from bridge.cli.run import arguments_of, called, moved, place_of

    module = load_module(model)
    place = place_of(device, module)
    args, kwargs = arguments_of(module, inputs or (), load, seed)
    module = module.to(place)
    given = moved(kwargs, place) if kwargs else moved(tuple(args), place)
    with torch.no_grad():
        called(module, () if kwargs else given, given if kwargs else {})  # errors in the engine's own words
    report = bridge.profile(module, given, runs=runs)
    typer.echo(str(report))
    for path, suffix in ((html, ".html"), (trace, ".json")):
        if path:
            report.save(path if path.suffix == suffix else path.with_name(path.name + suffix))
