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
    from bridge.cli.files import argument_names
    from bridge.cli.run import called, prepared

    module, _, args, kwargs = prepared(model, inputs, load, seed, device)
    with torch.no_grad():
        called(module, args, kwargs)  # errors in the engine's own words
    named = {**dict(zip(argument_names(module), args, strict=False)), **kwargs} if kwargs else None
    report = bridge.profile(module, named or tuple(args), runs=runs)
    typer.echo(str(report))
    for path, suffix in ((html, ".html"), (trace, ".json")):
        if path:
            report.save(path if path.suffix == suffix else path.with_name(path.name + suffix))
