"""bridge check: which operators of a module have no way into an engine."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.cli import options


def check_module(
    model: options.Module,
    inputs: options.Inputs = None,
    minima: options.Minima = None,
    optima: options.Optima = None,
    maxima: options.Maxima = None,
    dtypes: options.Dtypes = None,
    backend: options.Backend = "auto",
    settings: options.Settings = None,
    method: Annotated[str, typer.Option(help="The method to check.")] = "forward",
) -> None:
    """Tells, without building, which operators no engine takes; exit code 1 when there are any.

    bridge check model.ts --input x:1x3x224x224
    """
    import bridge
    from bridge.cli.files import load_module

    module = load_module(model)
    shapes = (inputs, minima, optima, maxima, dtypes)
    spec = options.described_spec(module, shapes, "float32", backend, settings, method=method)
    options.needs_inputs(module, spec, method)
    report = bridge.check_method_op_support(module, method, spec)
    typer.echo(str(report))
    if not report.supported:
        raise typer.Exit(1)
